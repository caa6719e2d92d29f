"""``robustlabels audit``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import robustlabels as rl

QUICK = ("--n", "20", "--eps", "8/255", "--seed", "1")


def test_audit(cli: Any, run: Path) -> None:
    """audit.json and --json say the same; the images are those that evaluate would draw."""
    ran = cli("audit", "run", *QUICK, "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert json.loads((run / "audit.json").read_text()) == found
    judged = rl.evaluate(run, attacks=(), n=20, seed=1)
    assert found["indices"] == judged["indices"]
    assert found["clean_accuracy"] == judged["clean"]["top1"]
    assert (found["n"], found["eps"], found["norm"], found["seed"]) == (20, 8 / 255, "Linf", 1)
    assert {"consistent", "verdict", "worst", "checks", "failed", "attacks"} <= set(found)
    assert found["weights"] == "best"
    assert len(found["weights_sha256"]) == 64


def test_the_table(cli: Any, run: Path) -> None:
    """Every check is in it, and the verdict is the last line but the file's name."""
    ran = cli("audit", "run", *QUICK, "--out", "elsewhere.json")
    found = json.loads(Path("elsewhere.json").read_text())
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].strip() == "run: 20 test images of digits, Linf eps 0.03137"
    assert lines[-2:] == [found["verdict"], "written: elsewhere.json"]
    for check in found["checks"]:
        (line,) = [line for line in lines if line.strip().startswith(check["name"] + "  ")]
        assert ("pass" if check["passed"] else "FAIL") in line
        assert check["threshold"] in line
    assert not (run / "audit.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere", "nowhere is not a run"),
        ("run --n 0", "n must be an integer from 1 to 360"),
        ("run --eps 8", "eps must be at most 1"),
        ("run --norm L1", "norm must be one of Linf, L2"),
        ("run --weights bets", "weights must be one of best, last, average"),
        ("run --device gpu", "device 'gpu' is not available"),
        ("run --out no/where.json", "there is no folder no"),
        ("run --out run/run.json", "run/run.json is there already"),
    ],
)
def test_mistakes(
    cli: Any, run: Path, disk: Callable[[], dict[str, str]], arguments: str, message: str
) -> None:
    """Exit code 2, one line, and nothing written or overwritten."""
    before = disk()
    ran = cli("audit", *arguments.split())
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("robustlabels: ")
    assert message in ran.err
    assert len(ran.err.splitlines()) == 1
    assert disk() == before


def test_it_does_not_overwrite(cli: Any, run: Path) -> None:
    """A second audit with other settings must not replace the first's figures."""
    (run / "audit.json").write_text("mine")
    ran = cli("audit", "run", *QUICK)
    assert (ran.code, ran.out) == (2, "")
    assert "run/audit.json is there already; --out FILE writes another" in ran.err
    assert (run / "audit.json").read_text() == "mine"
