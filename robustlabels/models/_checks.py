"""Checks of what users hand to a model factory."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from torch import nn

from robustlabels.errors import BadValueError

Shape = tuple[int, int, int]
ACTIVATIONS: dict[str, type[nn.ReLU | nn.SiLU]] = {"relu": nn.ReLU, "silu": nn.SiLU}


def is_count(value: Any, low: int = 1) -> bool:
    """Whether ``value`` is an integer of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return False
    return int(value) >= low


def check_count(name: str, value: Any, low: int = 1) -> int:
    """An integer of at least ``low``."""
    if not is_count(value, low):
        raise BadValueError(f"{name} must be an integer of at least {low}, not {value!r}")
    return int(value)


def check_io(num_classes: int, input_shape: Sequence[int], smallest: int = 1) -> Shape:
    """The input shape (C, H, W), with both sides of at least ``smallest`` pixels."""
    check_count("num_classes", num_classes, 2)
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if len(shape) != 3 or not all(map(is_count, shape)):
        raise BadValueError(
            f"input_shape must be three positive integers (C, H, W), not {input_shape!r}"
        )
    if min(shape[1:]) < smallest:
        raise BadValueError(
            f"input_shape: this model needs images of at least {smallest}x{smallest} pixels, "
            f"not {shape[1]}x{shape[2]}"
        )
    return int(shape[0]), int(shape[1]), int(shape[2])


def check_dropout(dropout: float, name: str = "dropout") -> float:
    """A share in [0, 1)."""
    number = isinstance(dropout, int | float) and not isinstance(dropout, bool)
    if not number or not 0.0 <= dropout < 1.0:
        raise BadValueError(f"{name} must be a number in [0, 1), not {dropout!r}")
    return float(dropout)


def check_activation(activation: str) -> type[nn.ReLU | nn.SiLU]:
    """The module class of one of :data:`ACTIVATIONS`."""
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise BadValueError(f"activation must be 'relu' or 'silu', not {activation!r}")
    return ACTIVATIONS[activation]
