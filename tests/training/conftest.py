"""What the tests of training share: tiny data, and models and attacks that write down what happens.

Fixtures give classes, because test files can't import each other (``--import-mode=importlib``).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

TINY = {"epochs": 1, "batch_size": 16, "validation": 0, "device": "cpu"}


@pytest.fixture
def tiny() -> tuple[Tensor, Tensor]:
    """48 images (1, 4, 4) of 3 classes; the class is where the bright quarter is."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(48) % 3
    x = torch.rand(48, 1, 4, 4, generator=generator) * 0.4
    for k in range(3):
        x[y == k, :, 2 * (k // 2) : 2 * (k // 2) + 2, 2 * (k % 2) : 2 * (k % 2) + 2] += 0.5
    return x, y


class Tally(Counter):
    """Counts that copies of a model share."""

    def __deepcopy__(self, memo: Any) -> Tally:
        return self


class _CountBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, tally: Tally) -> Tensor:
        ctx.tally = tally
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.tally["backward"] += 1
        return grad, None


class CountedModel(nn.Module):
    """Counts forward and backward passes, of its copies too."""

    def __init__(self, outputs: int = 3, tally: Tally | None = None) -> None:
        super().__init__()
        self.tally = Tally() if tally is None else tally
        self.fc1 = nn.Linear(16, 8)
        self.fc = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        self.tally["forward"] += 1
        self.tally["samples"] += len(x)
        live = any(p.requires_grad for p in self.parameters())
        if torch.is_grad_enabled() and not live:
            self.tally["frozen forward"] += 1
        return _CountBackward.apply(self.fc(self.fc1(x.flatten(1)).tanh()), self.tally)


class Recorder:
    """An attack that moves every pixel by a fixed amount and keeps what it was given."""

    takes_soft_labels = True

    def __init__(self, by: float = 0.03) -> None:
        self.by = by
        self.x: list[Tensor] = []
        self.y: list[Tensor] = []

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        self.x.append(x.clone())
        self.y.append(y.clone())
        return (x + self.by).clamp(0, 1).detach()


@pytest.fixture
def counted() -> type[CountedModel]:
    return CountedModel


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def options() -> dict[str, Any]:
    """Of the shortest run: one epoch, no validation."""
    return dict(TINY)
