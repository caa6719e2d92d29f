"""channels_last="auto": on where it pays, off where something could refuse such images."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from robustlabels.training import PGDTraining, fit


class Viewing(nn.Module):
    """Two convolutions, and a ``view`` that needs the usual order in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv2(self.conv1(x)).view(len(x), -1))


def flattening() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip


def patches() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.Flatten(), nn.Linear(16, 3))


class Foreign:
    """A trainer that is not ours, with a ``view`` of its own."""

    def setup(self, run: Any) -> None:
        pass

    def inputs(self, step: Any) -> None:
        step.x_adv = step.x

    def loss(self, step: Any) -> Tensor:
        return step.ce(step.model(step.x)) + 0 * step.x.view(len(step.x), -1).sum()


def foreign_attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (x.view(len(x), -1) + 0.01).clamp(0, 1).view(x.shape)


@pytest.mark.parametrize(
    ("make", "how", "expected"),
    [
        (flattening, {}, True),
        (flattening, {"trainer": "trades"}, True),
        (Viewing, {}, False),
        (patches, {}, False),
        (flattening, {"trainer": Foreign()}, False),
        (flattening, {"trainer": PGDTraining(), "attack": foreign_attack}, False),
        (flattening, {"channels_last": False}, False),
        (patches, {"channels_last": True}, True),
    ],
)
def test_what_auto_means(tiny: Any, options: Any, make: Any, how: Any, expected: bool) -> None:
    """A model, a trainer or an attack that uses ``view`` would stop with torch's message about
    strides, in a run that worked before; and a convolutional net would be a fifth slower."""
    x, y = tiny
    model = make()
    conv = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    seen: list[bool] = []

    def look(*_: Any) -> None:
        seen.append(conv.weight.is_contiguous(memory_format=torch.channels_last))

    result = fit(model, (x.expand(-1, 3, -1, -1), y), progress=look, **{**options, **how})
    assert result.config.channels_last is expected
    assert set(seen) == {expected}


def test_a_trained_model_has_the_usual_order(tiny: Any, options: Any) -> None:
    """torchattacks' PGDL2 takes gradients apart by ``view``, which another order refuses."""
    x, y = tiny
    model = flattening()
    result = fit(model, (x.expand(-1, 3, -1, -1), y), weight_averaging=0.9, **options)
    assert result.config.channels_last
    assert result.average is not None
    kept = (*model.parameters(), *result.last.values(), *result.average.values())
    assert all(tensor.is_contiguous() for tensor in kept)
    with pytest.raises(TypeError):
        fit(model, (x.expand(-1, 3, -1, -1), y), progress=_broken, **options)
    assert all(p.is_contiguous() for p in model.parameters()), "after a failure, too"


class Teacher(nn.Module):
    """Writes down how its weights lie when it is asked."""

    orders: ClassVar[list[bool]] = []

    def __init__(self) -> None:
        super().__init__()
        self.net = flattening()

    def forward(self, x: Tensor) -> Tensor:
        self.orders.append(self.net[0].weight.is_contiguous(memory_format=torch.channels_last))
        out: Tensor = self.net(x)
        return out


@pytest.mark.parametrize("last", [True, False])
def test_a_teacher_has_the_images_order(tiny: Any, options: Any, last: bool) -> None:
    """Each of its convolutions would turn its weights around, every step; the caller's module
    stays as it was."""
    x, y = tiny
    teacher = Teacher()
    data = (x.expand(-1, 3, -1, -1), y)
    Teacher.orders.clear()
    fit(flattening(), data, "ltd", teacher=teacher, **{**options, "channels_last": last})
    assert Teacher.orders[-1] is last
    assert teacher.net[0].weight.is_contiguous()


def _broken(*_: Any) -> None:
    raise TypeError
