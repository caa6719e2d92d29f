"""The demo, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "robustlabels", "demo", "--out", str(folder)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return folder, finished


def test_results_have_the_contracted_form(demo) -> None:
    """Scripts that read results.json would break on a missing field or a percentage."""
    results = json.loads((demo[0] / "results.json").read_text())
    assert results["dataset"] == "digits"
    assert results["eps"] == 0.12
    assert results["n"] == 64
    assert results["seed"] == 0
    assert results["versions"]["torch"]
    rows = {(r["labels"], r["trainer"]): r for r in results["rows"]}
    assert {("one-hot", "standard"), *((s, "pgd-at") for s in ("one-hot", "sls", "vs", "adr"))} <= (
        set(rows)
    )
    for row in rows.values():
        figures = [row["clean_accuracy"], row["ece"], *row["robust_accuracy"].values()]
        assert all(0 <= f <= 1 for f in figures), row
        assert set(row["robust_accuracy"]) == {"pgd", "autoattack"}
        # On the same 64 images every share is a multiple of 1/64, and no attack can add accuracy.
        assert (row["clean_accuracy"] * 64).is_integer()
        assert (row["robust_accuracy"]["autoattack"] * 64).is_integer()
        assert row["robust_accuracy"]["autoattack"] <= row["clean_accuracy"]
        assert row["seconds"] > 0
        assert row["audit"]["consistent"] == (row["audit"]["verdict"] == "consistent")


def test_adversarial_training_helps(demo) -> None:
    """A demo in which training or attack did nothing would show equal rows."""
    rows = json.loads((demo[0] / "results.json").read_text())["rows"]
    natural = next(r for r in rows if r["trainer"] == "standard")
    trained = [r for r in rows if r["trainer"] == "pgd-at"]
    assert natural["robust_accuracy"]["autoattack"] < 0.4
    assert all(r["robust_accuracy"]["autoattack"] > 0.5 for r in trained)
    assert all(r["clean_accuracy"] > 0.9 for r in rows)


def test_nothing_in_the_demo_is_masked(demo) -> None:
    """All are trained honestly: an audit that cries wolf here would not be believed elsewhere."""
    rows = json.loads((demo[0] / "results.json").read_text())["rows"]
    assert [r["audit"] for r in rows if not r["audit"]["consistent"]] == []
    assert demo[1].stdout.count("consistent") == len(rows)


def test_files_and_table(demo) -> None:
    """The report, the plots and the runs must be there, and the honesty note in both places."""
    folder, finished = demo
    for name in ("report.html", "accuracy.png", "training.png"):
        assert (folder / name).stat().st_size > 2000, name
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    assert "AA+" in page
    assert "AA+" in finished.stdout
    assert "adr" in finished.stdout
    assert (folder / "runs" / "vs-pgd-at" / "weights.safetensors").exists()


def test_does_not_overwrite(demo) -> None:
    """A second demo into the same folder would mix two sets of figures."""
    before = (demo[0] / "results.json").read_bytes()
    command = [sys.executable, "-m", "robustlabels", "demo", "--out", str(demo[0])]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    assert (demo[0] / "results.json").read_bytes() == before
