"""Checkpoint files as teachers: what they reveal of their outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustlabels.errors import RobustLabelsWarning, RunError
from robustlabels.training import fit
from robustlabels.training.teachers import load_teacher


def student(outputs: int) -> nn.Module:
    torch.manual_seed(outputs)
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3), nn.Linear(3, outputs))


def saved(model: nn.Module, folder: Path) -> Path:
    torch.save(model.state_dict(), folder / "teacher.pt")
    return folder / "teacher.pt"


def test_virtual_classes_are_cut_off_and_said(tmp_path: Path) -> None:
    """A teacher trained with ``vs`` was no teacher; and one of other classes, which looks the same,
    must not pass in silence. K is 3, as is the width of a hidden layer."""
    wide = student(5).eval()
    with pytest.warns(RobustLabelsWarning, match="has 5 outputs; the first 3 are taken"):
        teacher = load_teacher(saved(wide, tmp_path), 3, student)
    x = torch.rand(4, 1, 4, 4)
    assert torch.equal(teacher(x), wide(x)[:, :3])
    assert torch.equal(teacher.model(x), wide(x))
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize(
    "broken",
    [
        {"3.weight": torch.zeros(5, 4)},
        {"3.weight": torch.zeros(2, 3), "3.bias": torch.zeros(2)},
        {"3.weight": torch.zeros(5, 3), "3.bias": torch.zeros(6)},
        {"2.bias": torch.zeros(5), "3.weight": torch.zeros(5, 3), "3.bias": torch.zeros(5)},
        {"1.running_mean": torch.zeros(17)},
    ],
)
def test_other_shapes_are_refused(tmp_path: Path, broken: dict[str, Any]) -> None:
    """What is not a wider head is another model."""
    model = student(3)
    torch.save({**model.state_dict(), **broken}, tmp_path / "teacher.pt")
    with pytest.raises(RunError, match="not a checkpoint of this"):
        load_teacher(tmp_path / "teacher.pt", 3, student)


def test_a_wrapped_checkpoint_is_a_teacher_and_a_start(
    tiny: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    """Both look at the head's rows before they load, and so must know its name."""
    source = student(5)
    state = {f"_orig_mod.module.{k}": v for k, v in source.state_dict().items()}
    torch.save({"ema": state}, tmp_path / "w.pt")
    with pytest.warns(RobustLabelsWarning, match="has 5 outputs"):
        teacher = load_teacher(tmp_path / "w.pt", 3, student)
    x = tiny[0]
    assert torch.equal(teacher(x), source.eval()(x)[:, :3])

    still = {**options, "optimizer": {"lr": 1e-12}}
    with pytest.warns(RobustLabelsWarning, match="has 5 outputs"):
        result = fit(student(3), tiny, "one-hot", "standard", init=tmp_path / "w.pt", **still)
    for name in ("2.weight", "3.weight", "3.bias"):
        torch.testing.assert_close(result.last[name], source.state_dict()[name][:3])
