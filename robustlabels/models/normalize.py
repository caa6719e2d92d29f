"""Normalisation as a layer inside the model, so that attacks work on images in [0, 1]."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels.errors import BadValueError


class Normalize(nn.Module):
    """``(x - mean) / std``, channel by channel. Both are buffers: weights are saved with them.

    Args:
        mean: C numbers.
        std: C numbers above 0.

    Raises:
        ValueError: not C finite numbers each, or a std of 0 or less.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        means, stds = _numbers("mean", mean), _numbers("std", std)
        if len(means) != len(stds):
            raise BadValueError(
                f"mean and std must have one number per channel each, not {len(means)} and "
                f"{len(stds)}"
            )
        if min(stds) <= 0:
            raise BadValueError(f"std must be above 0, not {stds}")
        self.register_buffer("mean", torch.tensor(means).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(stds).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def normalized(
    model: nn.Module,
    channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> nn.Module:
    """``model`` behind a :class:`Normalize` layer; as it is without mean and std.

    Returns:
        The model, or a ``Sequential`` of ``normalize`` and ``model``.

    Raises:
        ValueError: one is given without the other, or not one number per channel.
    """
    if mean is None and std is None:
        return model
    if mean is None or std is None:
        raise BadValueError("mean and std go together: give both or neither")
    layer = Normalize(mean, std)
    if len(layer.mean) != channels:
        raise BadValueError(
            f"mean and std must have {channels} numbers, one per channel, not {len(layer.mean)}"
        )
    return nn.Sequential(OrderedDict(normalize=layer, model=model))


def _numbers(name: str, values: Any) -> list[float]:
    try:
        numbers = [] if isinstance(values, str) else [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise BadValueError(f"{name} must be a finite number per channel, not {values!r}")
    return numbers
