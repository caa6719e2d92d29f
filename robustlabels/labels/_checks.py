"""Checks of what users hand to a label scheme. Shapes are free; values cost a look at the data."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robustlabels.errors import BadValueError

Schedule = tuple[float, float]


def check_count(name: str, value: Any, low: int) -> int:
    """An integer of at least ``low``."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < low:
        raise BadValueError(f"{name} must be an integer of at least {low}, not {value!r}")
    return int(value)


def check_integer(name: str, value: Any) -> int:
    """Check that ``value`` is an integer, numpy's included, and return it as an int."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise BadValueError(f"{name} must be an integer, not {value!r}")
    return int(value)


def check_share(name: str, value: float) -> float:
    """A number in [0, 1]."""
    if not _is_number(value) or not 0.0 <= value <= 1.0:
        raise BadValueError(f"{name} must be a number in [0, 1], not {value!r}")
    return float(value)


def check_positive(name: str, value: float, *, infinite: bool = False) -> float:
    """A number above 0, finite unless ``infinite``; at least 1e-30, where float32 can divide."""
    if not _is_number(value) or not value >= 1e-30 or (math.isinf(value) and not infinite):
        allowed = "a number above 0" + (" (inf is allowed)" if infinite else "")
        raise BadValueError(f"{name} must be {allowed}, not {value!r}")
    return float(value)


def check_choice(name: str, value: str, allowed: Sequence[str]) -> str:
    """One of ``allowed``."""
    if value not in allowed:
        raise BadValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def check_schedule(name: str, value: float | Sequence[float]) -> Schedule:
    """A pair (start, end) of training, or one number for both."""
    if _is_number(value):
        return float(value), float(value)  # type: ignore[arg-type]
    if isinstance(value, Sequence) and len(value) == 2 and all(map(_is_number, value)):
        return float(value[0]), float(value[1])
    raise BadValueError(f"{name} must be a number or a pair (start, end), not {value!r}")


def check_progress(progress: float) -> float:
    """How far training is, in [0, 1]."""
    return check_share("progress", progress)


def looks(check_values: bool) -> bool:
    """Return whether values may be read now: reading them breaks a compiled graph."""
    return check_values and not torch.compiler.is_compiling()


def is_soft(y: Any) -> bool:
    """Return whether ``y`` holds distributions over classes (N, K, ...), not class indices."""
    return isinstance(y, Tensor) and y.is_floating_point() and y.dim() >= 2


def check_soft_targets(y: Tensor, num_classes: int, check_values: bool) -> None:
    """Check that ``y`` is floating (N, num_classes) with non-negative rows that sum to 1."""
    if y.dim() != 2 or y.shape[1] != num_classes:
        raise BadValueError(f"soft y must have shape (N, {num_classes}), not {tuple(y.shape)}")
    if looks(check_values):
        sums = y.sum(dim=1, dtype=torch.float64)
        if not bool(((sums - 1).abs() < 0.01).all() & (y >= 0).all()):
            raise BadValueError("soft y must have non-negative rows that sum to 1")


def check_targets(y: Tensor, num_classes: int, check_values: bool, name: str = "y") -> None:
    """``y`` is int64 (N,) with values in [0, num_classes)."""
    check_indices(name, y, None)
    if looks(check_values) and y.numel():
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= num_classes:
            raise BadValueError(
                f"{name} must be in [0, {num_classes - 1}] for {num_classes} classes, "
                f"but has values from {low} to {high}"
            )


def check_indices(name: str, value: Tensor, batch: int | None) -> None:
    """``value`` is int64 (N,), N the ``batch`` where that is known."""
    if not isinstance(value, Tensor):
        raise BadValueError(f"{name} must be a torch.Tensor, not {type(value).__name__}")
    if value.dtype != torch.int64:
        raise BadValueError(
            f"{name} must hold integers as torch.int64, not {value.dtype} ({name}.long() converts)"
        )
    if value.dim() != 1 or batch not in (None, len(value)):
        shape = "(N,)" if batch is None else f"({batch},)"
        raise BadValueError(f"{name} must have shape {shape}, not {tuple(value.shape)}")


def check_logits(
    name: str,
    logits: Tensor,
    batch: int,
    widths: Sequence[int],
    check_values: bool,
    allow_masked: bool = False,
) -> None:
    """Check that ``logits`` is a finite floating tensor (batch, one of widths).

    With ``allow_masked``, values may be -inf, as those of classes that a model rules out.
    """
    if not isinstance(logits, Tensor):
        raise BadValueError(f"{name} must be a torch.Tensor, not {type(logits).__name__}")
    if not logits.is_floating_point():
        raise BadValueError(f"{name} must be floating point, not {logits.dtype}")
    if logits.dim() != 2 or logits.shape[0] != batch or logits.shape[1] not in widths:
        allowed = " or ".join(str((batch, w)) for w in dict.fromkeys(widths))
        raise BadValueError(f"{name} must have shape {allowed}, not {tuple(logits.shape)}")
    if not looks(check_values):
        return
    allowed_values = logits < torch.inf if allow_masked else torch.isfinite(logits)
    if not bool(allowed_values.all()):
        raise BadValueError(f"{name} must be finite, but has NaN or infinite values")


def _is_number(value: Any) -> bool:
    # numbers.Real: numpy's scalars too.
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and not math.isnan(value)
