"""``robustlabels submit``: what it refuses, all at once, and that nothing is written then. What it
writes is tested with RobustBench itself, in integration_tests/test_submit.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Cli = Callable[..., Any]


@pytest.fixture
def judged(cli: Cli, run: Path) -> Path:
    """A real run on the digits, and its evaluation, by another attack than AutoAttack."""
    assert cli("evaluate", "run", "--n", "20", "--attacks", "fgsm").code == 0
    return run / "evaluation.json"


def test_every_lint_is_told_of(cli: Cli, judged: Path, disk: Callable[[], dict[str, str]]) -> None:
    """One at a time would mean as many runs as failures; and each is one line with a way out."""
    before = disk()
    ran = cli("submit", "run/evaluation.json", "--out", "out")
    assert (ran.code, ran.err) == (2, "")
    *lines, last = ran.out.splitlines()
    rules = [line.split(": ")[1] for line in lines]
    assert rules == [
        *("data", "id", "title", "authors", "link", "extra data", "synthetic data", "licence"),
        *("architecture", "adversarial", "venue"),
    ]
    assert all("; " in line for line in lines)
    assert last == "not written: 10 lints fail, 1 to look at"
    assert disk() == before


def test_json(cli: Cli, judged: Path) -> None:
    """A script reads rules, and whether they fail."""
    ran = cli("submit", "run/evaluation.json", "--out", "out", "--json")
    assert ran.code == 2
    found = json.loads(ran.out)
    assert found["written"] is None
    assert [set(f) for f in found["findings"]] == [{"rule", "value", "remedy", "fails"}] * 11
    assert [f["rule"] for f in found["findings"] if not f["fails"]] == ["venue"]


def test_what_is_declared_counts(cli: Cli, judged: Path) -> None:
    """Each option must reach its lint."""
    options = ["--id", "Doe2026Labels", "--title", "T", "--authors", "J. Doe", "--venue", "ICML"]
    options += ["--link", "https://example.org", "--extra-data", "--synthetic", "none"]
    options += ["--license", "MIT"]
    ran = cli("submit", "run/evaluation.json", "--out", "out", *options, "--json")
    rules = [f["rule"] for f in json.loads(ran.out)["findings"]]
    assert rules == ["data", "architecture", "adversarial"]


def test_other_weights_than_those_judged(cli: Cli, judged: Path, run: Path) -> None:
    """Training that went on after the evaluation gives another model under the old figure."""
    found = cli("submit", "run/evaluation.json", "--out", "out").out
    assert "weights: " not in found
    facts = json.loads(judged.read_text())
    judged.write_text(json.dumps({**facts, "weights": "last", "weights_sha256": "0" * 64}))
    found = cli("submit", "run/evaluation.json", "--out", "out").out
    assert "FAILS: weights: last.safetensors has sha256 " in found


def test_an_evaluation_away_from_its_run(cli: Cli, judged: Path, run: Path) -> None:
    """Its figures alone are no submission; the rest of the lints is told all the same."""
    facts = json.loads(judged.read_text())
    Path("alone.json").write_text(json.dumps({**facts, "run": "nowhere"}))
    ran = cli("submit", "alone.json", "--out", "out")
    assert "FAILS: model: no RUN folder is beside the evaluation" in ran.out
    assert "FAILS: licence: not given" in ran.out
    Path("alone.json").write_text(json.dumps(facts))  # with the RUN that it names
    assert "no RUN folder" not in cli("submit", "alone.json", "--out", "out").out


def test_the_runs_audit_counts(cli: Cli, judged: Path, run: Path) -> None:
    """`robustlabels audit` writes a file of its own, which may be of other weights."""
    facts = {**json.loads(judged.read_text()), "dataset": "cifar10"}
    judged.write_text(json.dumps(facts))

    def told(**changes: Any) -> list[str]:
        audit = {"consistent": True, "verdict": "consistent"}
        audit |= {k: facts[k] for k in ("weights_sha256", "dataset", "norm", "eps")}
        (run / "audit.json").write_text(json.dumps({**audit, **changes}))
        lines = cli("submit", "run/evaluation.json", "--out", "out").out.splitlines()
        return [line for line in lines if line.startswith("FAILS: audit: ")]

    assert told() == []
    (line,) = told(consistent=False, verdict="masked: PGD 62.0 %, worst 41.0 % (Square)")
    assert "masked: PGD 62.0 %" in line
    for other in ({"weights_sha256": "0"}, {"eps": 0.5}, {"norm": "L2"}, {"dataset": "digits"}):
        not_run, foreign = told(**other)
        assert "not run" in not_run
        assert "is not of these weights, data, norm and eps" in foreign


def test_adversarial_images_are_read_safely(cli: Cli, judged: Path, run: Path) -> None:
    """A ``.pt`` file can hold code, a foreign tensor, or nothing of the kind."""
    torch.save({"pgd": torch.zeros(1)}, "pgd.pt")
    torch.save(Path, "code.pt")
    for name, said in (
        ("nowhere.pt", "there is no nowhere.pt"),
        ("pgd.pt", "holds neither a tensor nor one of the name of its attack"),
        ("code.pt", "is not a readable file of tensors"),
    ):
        ran = cli("submit", "run/evaluation.json", "--out", "out", "--adversarial", name)
        (line,) = (line for line in ran.out.splitlines() if "FAILS: adversarial" in line)
        assert said in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.json", "--out", "out"], "cannot read nowhere.json"),
        (["run/run.json", "--out", "out"], "is not an evaluation of robustlabels"),
        (["run/evaluation.json", "--out", "run"], "run is there already: name another folder"),
        (["run/evaluation.json", "--out", "no/out"], "there is no folder"),
        (["run/evaluation.json"], "--out"),
        (["run/evaluation.json", "--out", "out", "--code", "net.py"], "FILE.py:Class"),
        (["run/evaluation.json", "--out", "out", "--device", "tpu9"], "'tpu9' is not available"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, judged: Path, arguments: list[str], said: str) -> None:
    """Before anything is judged."""
    ran = cli("submit", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1
