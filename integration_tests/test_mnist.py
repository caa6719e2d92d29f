"""Real data: a whole run as the README shows it, and every method on part of MNIST. With plugins
installed their trainers are among them (their own integration tests run this file again)."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustlabels as rl
from robustlabels.testing import compose
from robustlabels.testing.composition import OPTIONS

DATA = Path(os.environ["ROBUSTLABELS_TEST_DATA"])
pytestmark = pytest.mark.skipif(
    not (DATA / "MNIST").exists(), reason="needs MNIST in ROBUSTLABELS_TEST_DATA"
)
SCHEMES: dict[str, Any] = {name: name for name in rl.list_schemes()} | {
    f"vs({inner})": {"name": "vs", "inner": inner}
    for inner in ("ls", "ltd", "adr", "alps", "mixup")
}
RATES = {"kd": 0.02}  # at tau 30, see its README


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


@functools.cache
def mnist() -> tuple[Tensor, Tensor]:
    """1,600 images: half to train on, a quarter to test, a quarter extra data or outliers."""
    split = rl.make_dataset("mnist", str(DATA)).train_split()
    ((x, y),) = split.batches([torch.arange(1600)], torch.device("cpu"))
    return x, y


@functools.cache
def teacher() -> nn.Module:
    """Naturally trained on the images that the students are trained on."""
    x, y = (part[:800] for part in mnist())
    return rl.fit("mlp", (x, y), trainer="standard", epochs=5, batch_size=64, device="cpu").model


def tried(trainer: str, scheme: str, options: Mapping[str, Any]) -> None:
    """Refused in one line, or trained, better than chance and resumed to the bit."""
    rate = {"lr": RATES.get(trainer, 0.1)}
    given = {"teacher": teacher(), "batch_size": 64, "validation": 64, "optimizer": rate, **options}
    found = compose(trainer, SCHEMES[scheme], data=mnist(), **given)
    if trainer == "ssl" and "ltd" in scheme:
        assert "a frozen teacher knows the data's 10 classes" in str(found.refused)
        return
    assert found.refused is None
    assert found.exact
    assert found.accuracy > 0.25


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("trainer", [pytest.param(t, id=f"{t}+") for t in rl.list_trainers()])
def test_trainer_and_scheme(trainer: str, scheme: str) -> None:
    """What goes together on 40 digits may diverge, or learn nothing, on other images."""
    tried(trainer, scheme, {})


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("trainer", [pytest.param(t, id=f"{t}+") for t in rl.list_trainers()])
def test_trainer_and_option(trainer: str, option: str) -> None:
    """Likewise weight perturbation, extra data, averages and batches in parts."""
    tried(trainer, "vs", OPTIONS[option])
