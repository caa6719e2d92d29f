"""Progress bars, and how results are shown in a terminal and a notebook."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustlabels as rl
from robustlabels import display


def data() -> tuple[Tensor, Tensor]:
    x = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(48) % 3


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


class Cells(HTMLParser):
    """Collects the texts of a page, and checks that its tags are balanced."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def check_short(result: Any, *parts: str) -> None:
    lines = repr(result).splitlines()
    assert 3 <= len(lines) <= 20
    assert max(map(len, lines)) <= 160
    cells = Cells(result._repr_html_()).texts
    for part in parts:
        assert part in repr(result)
        assert any(part in cell for cell in cells)


def test_a_fit_result_fits_on_a_screen(tmp_path: Path) -> None:
    """It printed every weight: thousands of lines in a notebook."""
    out = tmp_path / "<run>"
    result = rl.fit(model(), data(), trainer="standard", epochs=2, validation=9, out=out)
    accuracy = f"clean {result.best['validation_accuracy']:.1%}"
    check_short(result, "Sequential, 3 classes", "2 of 2 epochs", accuracy, "<run>")
    check_short(rl.fit(model(), data(), trainer="standard", epochs=1, validation=0), "not measured")


def test_an_audit_report_fits_on_a_screen() -> None:
    """It printed thirteen checks with all their figures on one line."""
    report = rl.audit(model(), *data(), eps=0.1)
    check_short(report, report.verdict, "48, within Linf 0.1", f"{report.clean_accuracy:.1%}")


def test_dir_shows_public_names_only() -> None:
    """Completion offers what dir() lists: importlib, Any and TYPE_CHECKING are no part of it."""
    names = dir(rl)
    assert {"audit", "evaluate", "fit", "make_scheme", "__version__"} <= set(names)
    assert set(names) == set(rl.__all__)
    assert all(hasattr(rl, name) for name in names)


SCRIPT = """
import torch, robustlabels as rl
x, y = torch.rand(48, 1, 8, 8), torch.arange(48) % 3
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
rl.fit(net, (x, y), trainer="standard", epochs=1, validation=9, progress=True)
rl.evaluate(net, (x, y), attacks=["fgsm"], num_classes=3, progress=True)
rl.audit(net, x, y, eps=0.1, progress=True)
rl.fit(net, (x, y), trainer="standard", epochs=1, validation=9, progress=False)
"""


def test_progress_true_shows_bars_on_stderr() -> None:
    """progress=True was called as a function: TypeError: 'bool' object is not callable."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    for title in ("training", "evaluating", "auditing"):
        (line,) = [line for line in done.stderr.splitlines() if line.startswith(title)]
        assert "100%" in line
    assert "epoch 1: loss" in done.stderr


@pytest.mark.parametrize("progress", [1, "yes"])
def test_other_progress_is_refused(progress: Any) -> None:
    """One line instead of a TypeError from inside of training."""
    message = "progress must be True for a progress bar, or a callback, not"
    with pytest.raises(ValueError, match=message):
        rl.fit(model(), data(), trainer="standard", epochs=1, progress=progress)
    with pytest.raises(ValueError, match=message):
        rl.evaluate(model(), data(), attacks=["fgsm"], num_classes=3, progress=progress)
    with pytest.raises(ValueError, match=message):
        rl.audit(model(), *data(), eps=0.1, progress=progress)


def test_a_notebook_gets_one_output_that_changes() -> None:
    """Rich's own bar needs ipywidgets there, and shows nothing without it."""
    pytest.importorskip("IPython")
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.kernel = object()  # as ipykernel sets it
    shell.display_pub = CapturingDisplayPublisher()
    try:
        rl.fit(model(), data(), trainer="standard", epochs=2, validation=9, progress=True)
    finally:
        InteractiveShell.clear_instance()
    sent = [(out["data"]["text/html"], out["update"]) for out in shell.display_pub.outputs]
    assert [update for _, update in sent] == [False] + [True] * (len(sent) - 1)
    assert "100% epoch 2: loss" in sent[-1][0]
    assert len({page for page, _ in sent}) == len(sent)
    assert not display._in_notebook()
