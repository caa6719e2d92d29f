"""``robustlabels temperature``: LTD's search, from a teacher's run to a table and a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

QUICK = ("--epochs", "2", "--trials", "2", "--temperatures", "1,2,400", "--eps", "0.1")


def test_a_search(cli: Any, run: Path) -> None:
    """The table, the plot and the JSON are one search; --set reaches the LTD trainings only."""
    pytest.importorskip("optuna")
    out = ("--out", "found", "--set", "attack.steps=1", "--set", "trainer.beta=2")
    ran = cli("temperature", "run", *QUICK, *out)
    assert (ran.code, ran.err) == (0, ""), ran.err
    found = json.loads(Path("found/search.json").read_text())
    assert found["student"]["attack"]["steps"] == 1
    assert found["student"]["trainer"] == {"name": "trades", "inner": "ce", "beta": 2}
    best = f"{found['best']['temperature']:.2f}"
    assert f"best by loss: T = {best}" in ran.out
    assert f"labels.temperature={best} --teacher run" in ran.out
    png = Path("found/temperature.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    more = cli("temperature", "run", *QUICK[:2], "--trials", "3", *QUICK[4:], *out, "--resume")
    assert more.code == 0, more.err
    again = json.loads(Path("found/search.json").read_text())
    assert again["trials"][:2] == found["trials"]
    assert len(again["trials"]) == 3
    shown = cli("temperature", "run", *QUICK[:2], "--trials", "3", *QUICK[4:], *out)
    assert shown.code == 2
    assert "already holds files" in shown.err
    assert Path("found/temperature.png").read_bytes() != png


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--temperatures", "1,x"), "--temperatures takes 1,2,5, not '1,x'"),
        (("run", "--temperatures", "2,3"), "temperatures must rise from 1, not [2.0, 3.0]"),
        (("run", "--objective", "x"), "objective must be loss or robust_accuracy, not 'x'"),
        (("nowhere",), "nowhere is not a run: it has no config.toml"),
    ],
)
def test_bad_input(cli: Any, run: Path, arguments: tuple[str, ...], message: str) -> None:
    """One line, and nothing is written."""
    ran = cli("temperature", *arguments, "--out", "found")
    assert (ran.code, ran.err) == (2, f"robustlabels: {message}\n")
    assert not Path("found").exists()
