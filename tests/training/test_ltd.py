"""LTD as its paper trains it: with TRADES, with weight perturbation, on the digits."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from robustlabels.errors import RobustLabelsWarning
from robustlabels.factories import make_dataset
from robustlabels.loading import load_run
from robustlabels.training import FitResult, fit

QUICK = {"epochs": 1, "batch_size": 64, "validation": 100, "device": "cpu", "eps": 0.1}
ATTACK = {"name": "pgd", "steps": 2}
TRADES = {"name": "trades", "inner": "ce"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    fit("linear", "digits", trainer="standard", out=out, **{**QUICK, "epochs": 4})
    return out


def student(teacher: Path, temperature: float = 5.0, **options: Any) -> FitResult:
    scheme = {"name": "ltd", "temperature": temperature}
    usual = {"trainer": TRADES, "attack": ATTACK, "model": "linear", **QUICK}
    return fit(data="digits", scheme=scheme, teacher=teacher, **{**usual, **options})


def mean_entropy(result: FitResult) -> float:
    ((x, _),) = (
        make_dataset("digits").test_split().batches([torch.arange(200)], torch.device("cpu"))
    )
    with torch.no_grad():
        return float(torch.special.entr(result.model(x).softmax(1)).sum(1).mean())


@pytest.mark.parametrize("awp", [None, 0.005], ids=["", "awp"])
@pytest.mark.parametrize("inner", ["ce", "kl"])
def test_it_trains(teacher: Path, inner: str, awp: float | None) -> None:
    """The rows of the paper's tables 1 and 2 are TRADES + LTD and AWP + LTD: a student that learns
    nothing, or a teacher that is trained along, would be neither."""
    before = load_run(teacher).model.state_dict()
    result = student(teacher, trainer={"name": "trades", "inner": inner}, awp=awp, epochs=4)
    assert result.test_accuracy is not None
    assert result.test_accuracy > 0.6
    after = load_run(teacher).model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_both_attacks_and_awp_are_others(teacher: Path) -> None:
    """Options that change nothing would be ignored ones."""
    found = [
        student(teacher, trainer={"name": "trades", "inner": inner}, awp=awp).model.state_dict()
        for inner in ("ce", "kl")
        for awp in (None, 0.005)
    ]
    for i, one in enumerate(found):
        assert not any(all(torch.equal(one[k], other[k]) for k in one) for other in found[i + 1 :])


def test_the_temperature_softens_the_student(teacher: Path) -> None:
    """Its own temperature is 1, so it must become as soft as its labels."""
    soft = [mean_entropy(student(teacher, t, epochs=4)) for t in (1.0, 3.0, 9.0)]
    assert soft == sorted(soft)
    assert soft[2] > soft[0] + 0.1


def test_a_masking_temperature_is_warned_of(teacher: Path) -> None:
    """From 15 on, the paper's models looked robust to PGD and AutoAttack broke them all; below,
    a warning would be noise. Within vs too."""
    for scheme in ("ltd", "vs"):
        table = {"name": "ltd", "temperature": 15.0}
        given = table if scheme == "ltd" else {"name": "vs", "inner": table}
        with pytest.warns(RobustLabelsWarning, match=r"temperature 15: from 15 on .* AutoAttack"):
            fit("linear", "digits", given, "standard", teacher=teacher, **QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheme = {"name": "ltd", "temperature": 12.0}
        fit("linear", "digits", scheme, "standard", teacher=teacher, **QUICK)
