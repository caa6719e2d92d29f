"""The figures' data and drawings."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from robustlabels.theory import figures, last_layers

PNG = b"\x89PNG\r\n\x1a\n"


def test_figure_2() -> None:
    """Dots, simulated on 20,000 samples, are on the lines: within five standard errors, .018."""
    data = figures.fading_data()
    for curve in data["curves"].values():
        assert curve["simulated"] == pytest.approx(curve["accuracy"], abs=0.018)
        assert max(curve["weights"]) == 1
    assert data["curves"]["als"]["accuracy"] == pytest.approx(data["curves"]["bayes"]["accuracy"])
    assert figures.draw_fading(data).startswith(PNG)


def test_discrepancies() -> None:
    """All of it can be written as JSON, which knows no infinity."""
    data = figures.discrepancy_data()
    json.dumps(data, allow_nan=False)
    assert figures.draw_discrepancy(data).startswith(PNG)


def test_templates() -> None:
    """Each kind of labels has its plot; the numbers can be written as JSON."""
    layers = last_layers(epochs=1)
    json.dumps([layer.figures() for layer in layers], allow_nan=False)
    assert figures.draw_templates(layers).startswith(PNG)


def test_matplotlib_is_imported_to_draw_only() -> None:
    """Who computes need not wait for it."""
    code = "import robustlabels.theory.figures, sys; print('matplotlib' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
