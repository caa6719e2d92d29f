"""A whole run on real data, as the README shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.skipif(not (DATA / "MNIST").exists(), reason="needs MNIST in ../shared/data")
def test_lenet_with_als_reaches_its_accuracy(tmp_path: Path) -> None:
    """Defaults that do not train LeNet would make the README's command a disappointment."""
    run = tmp_path / "run"
    options = [
        "--dataset",
        "mnist",
        "--model",
        "lenet",
        "--labels",
        "als",
        "--set",
        "labels.alpha=0.1",
        "--trainer",
        "standard",
        "--epochs",
        "3",
    ]
    command = [sys.executable, "-m", "robustlabels", "train", *options]
    finished = subprocess.run(
        [*command, "--data-root", str(DATA), "--out", str(run)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads((run / "run.json").read_text())["test_accuracy"] >= 0.985
