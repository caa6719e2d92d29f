"""``robustlabels reproduce``: a number that was never measured, or by another setting without a
word, would be the worst that a table of published figures can have."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SMALL = ("dataset=digits", "model=linear", "epochs=1", "validation=100")
HOW = (*(word for setting in SMALL for word in ("--set", setting)), "--n", "20", "--device", "cpu")
TWO = ("reproduce", "goibert-mnist", "--rows", "normal,als-0.1", *HOW)


def test_the_list(cli: Callable[..., Any]) -> None:
    """Without a name one sees which there are."""
    ran = cli("reproduce")
    assert (ran.code, ran.err) == (0, "")
    (line,) = [line for line in ran.out.splitlines() if "vs-table-6" in line]
    assert "table 6, section 4.2" in line
    assert line.split()[-1] == "6"
    tables = {each["name"]: each for each in json.loads(cli("reproduce", "--json").out)}
    assert tables["adr-table-1"]["rows"] == 12


def test_nothing_is_measured(cli: Callable[..., Any], disk: Callable[[], Any]) -> None:
    """Published figures, no others, and the command lines; looking writes nothing."""
    ran = cli("reproduce", "adr-table-1", "--rows", "cifar10-at", "--data-root", "my data")
    assert (ran.code, ran.err, disk()) == (0, "", {})
    (row,) = [line for line in ran.out.splitlines() if "CIFAR-10, AT" in line]
    assert " ".join(row.split()) == "cifar10-at CIFAR-10, AT clean 82.52 - - not measured"
    train, evaluate = (line.strip() for line in ran.out.splitlines()[-2:])
    assert train == (
        "robustlabels train --config recipe:adr-cifar10 --set labels=one-hot "
        "--set weight_averaging=false --data-root 'my data' --out runs/adr-table-1/cifar10-at"
    )
    assert evaluate == (
        "robustlabels evaluate runs/adr-table-1/cifar10-at --attacks autoattack --n 10000 "
        "--data-root 'my data' --resume"
    )


def test_measure(cli: Callable[..., Any], disk: Callable[[], Any]) -> None:
    """Both rows are trained and judged, the figures are their evaluations', nothing is done twice,
    and what is not the paper's setting is told."""
    ran = cli(*TWO, "--measure", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    for row in found["rows"]:
        judged = json.loads((Path(row["run"]) / "evaluation.json").read_text())
        assert judged["n"] == 20
        assert row["state"] == "another setting"
        assert row["commands"] == []
        assert "dataset is digits, the row's is mnist" in row["notes"]
        assert row["figures"]["clean"]["measured"] == judged["clean"]["top1"]
        # In the order in which they were asked for: names, then tables.
        attacks = [judged["attacks"][name] for name in ("fgsm", "fgsm-2", "fgsm-3")]
        assert [a["params"]["step_size"] for a in attacks] == [0.4, 0.05, 0.2]
        shown = [row["figures"][f"FGSM {eps}"]["measured"] for eps in (".4", ".05", ".2")]
        assert shown == [a["robust_accuracy"] for a in attacks]
    before = disk()
    again = cli(*TWO, "--measure")
    assert (again.code, again.err, disk()) == (0, "", before)
    (line,) = [x for x in again.out.splitlines() if x.startswith(" normal")]
    clean = found["rows"][0]["figures"]["clean"]
    shown = f"clean 0.990 {clean['measured']:.3f} {clean['difference']:+.3f} another setting"
    assert " ".join(line.split()) == f"normal Normal classifier {shown}"
    assert "every row: dataset is digits, the row's is mnist" in again.out
    assert "to measure the rest" not in again.out


def test_the_printed_command_lines_measure(cli: Callable[..., Any], disk: Any) -> None:
    """Copied from the screen they give what --measure gives."""
    lines = [x for x in cli(*TWO).out.splitlines() if x.startswith("  robustlabels")]
    assert len(lines) == 4
    for line in lines:
        ran = cli(*shlex.split(line)[1:])
        assert ran.code == 0, ran.err
    before = disk()
    assert "to measure the rest" not in cli(*TWO, "--measure").out
    assert disk() == before


def test_going_on(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between training and judging: the trained run is judged, not trained again."""
    from robustlabels.cli import evaluate

    with monkeypatch.context() as stopped:

        def interrupt(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        stopped.setattr(evaluate, "_judge", interrupt)
        assert cli(*TWO, "--measure").code == 130
    ran = cli(*TWO)
    rows = [line.strip() for line in ran.out.splitlines() if line.startswith((" normal", " als"))]
    assert rows[0].endswith("not judged")
    assert rows[1].endswith("not measured")
    weights = Path("runs/goibert-mnist/normal/weights.safetensors")
    written = weights.stat().st_mtime_ns
    ran = cli(*TWO, "--measure")
    assert ran.code == 0, ran.err
    assert weights.stat().st_mtime_ns == written
    assert ran.out.count("another setting") == 2


def test_without_the_data(cli: Callable[..., Any], disk: Callable[[], Any]) -> None:
    """Found when the first row is to be trained: one line, and no half-made run."""
    ran = cli("reproduce", "goibert-mnist", "--measure")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
    assert "data set 'mnist' is read from disk" in ran.err
    assert not [path for path in disk() if "normal" in path]
