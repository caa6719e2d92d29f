"""AutoAttack's own code with a small budget, for what is tested is what stands around it; and a
checkpoint of RobustBench's zoo."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pyautoattack
import pytest
import torch
from torch import nn

from robustlabels._compat.robustbench_package import robustbench
from robustlabels._compat.robustbench_zoo import ZooModel

SMALL = "cifar10/L2/Rice2020Overfitting"  # a PreActResNet-18


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every version of pyautoattack is APGD-CE, APGD-T and Square of a few steps."""

    def set_version(self: Any, version: str = "standard") -> None:
        self.attacks_to_run = ["apgd-ce", "apgd-t", "square"]
        for apgd in (self.apgd, self.apgd_targeted):
            apgd.n_restarts, apgd.n_iter = 1, 10
        self.apgd_targeted.n_target_classes = 2
        self.square.n_queries = 30

    monkeypatch.setattr(pyautoattack.AutoAttack, "_set_version", set_version)


@pytest.fixture(scope="session")
def zoo_package() -> Any:
    """The real RobustBench, mended."""
    try:
        importlib.metadata.version("robustbench")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("RobustBench is not installed: pip install 'robustlabels[robustbench]'")
    return robustbench()


@pytest.fixture
def staged(
    zoo_package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[nn.Module, Path]:
    """A small model of the zoo with random weights, and its checkpoint where RobustBench looks for
    it: below the working folder, wrapped as authors do."""
    torch.manual_seed(0)
    model = ZooModel.by_name(SMALL).architecture()
    path = tmp_path / "models" / f"{SMALL}.pt"
    path.parent.mkdir(parents=True)
    # RobustBench knows that this one has no mean and std.
    state = {f"module.{k}": v for k, v in model.state_dict().items() if k not in ("mu", "sigma")}
    torch.save({"epoch": 3, "state_dict": state}, path)
    monkeypatch.chdir(tmp_path)
    return model, path
