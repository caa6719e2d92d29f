"""Labels as ART's users bring them, and labels that carry their sample's number through ART.

ART shuffles, splits and attacks batches on its own, so that the loss no longer knows which clean
input a row came from. The trainers are therefore fed *numbered* labels: rows that ART reads as
class y (the argmax), and that hold the sample's number in a column that is no maximum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from robustlabels.errors import BadValueError

Array = npt.NDArray[Any]

_TOP = 1.5  # not an integer: else ART takes the row for one-hot and keeps the argmax alone
_LIMIT = 2**24  # numbers / 2**24 are exact in float32, ART's dtype, and below _TOP
_TOLERANCE = 1e-3


def read_labels(y: Any, num_classes: int, what: str = "y") -> tuple[Array, Array | None]:
    """Class indices, and the soft labels where ``y`` has any.

    Args:
        y: class indices (N,) or (N, 1), or one-hot or soft labels (N, K).
        num_classes: K.
        what: its name in messages.

    Returns:
        int64 (N,), the most probable class where ``y`` is soft; and float32 (N, K), or None where
        every row is one-hot.

    Raises:
        ValueError: another shape, a class outside [0, K), or rows that are no distributions.
    """
    y = np.asarray(y)
    if y.dtype == bool:  # two classes, or one-hot
        y = y.astype(np.int64)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 1:
        if not np.issubdtype(y.dtype, np.number) or not np.array_equal(y, np.floor(y)):
            raise BadValueError(f"{what} must be class indices, or labels (N, {num_classes})")
        if len(y) and not 0 <= y.min() <= y.max() < num_classes:
            raise BadValueError(
                f"{what} must be in [0, {num_classes - 1}], not from {y.min()} to {y.max()}"
            )
        return y.astype(np.int64), None
    if y.ndim != 2 or y.shape[1] != num_classes:
        raise BadValueError(
            f"{what} must have shape (N,), (N, 1) or (N, {num_classes}), not {y.shape}"
        )
    if not np.isfinite(y).all() or y.min(initial=0) < 0 or np.abs(y.sum(1) - 1).max() > _TOLERANCE:
        raise BadValueError(f"{what} (N, {num_classes}) must have rows of at least 0 that sum to 1")
    one_hot = bool(((y == 0) | (y == 1)).all())
    return y.argmax(axis=1), None if one_hot else y.astype(np.float32)


def encode(y: Array, numbers: Array, num_classes: int) -> Array:
    """Numbered labels, float32 (N, K).

    Args:
        y: int64 (N,), classes.
        numbers: int64 (N,), in [0, 2**24).
        num_classes: K, at least 2.

    Raises:
        ValueError: a number is too great for ART's float32.
    """
    if len(numbers) and numbers.max() >= _LIMIT:
        raise BadValueError(f"at most {_LIMIT} samples at a time, not {numbers.max() + 1}")
    rows = np.arange(len(y))
    labels = np.zeros((len(y), num_classes), dtype=np.float32)
    labels[rows, (y + 1) % num_classes] = numbers / _LIMIT
    labels[rows, y] = _TOP
    return labels


def decode(labels: Any) -> tuple[Array, Array] | None:
    """Classes and numbers, int64 (N,) each; None where ``labels`` are not numbered ones."""
    labels = np.asarray(labels)
    if labels.ndim != 2 or not len(labels) or not (labels.max(axis=1) == _TOP).all():
        return None
    y = labels.argmax(axis=1)
    rest = labels[np.arange(len(y)), (y + 1) % labels.shape[1]]
    return y, np.rint(rest.astype(np.float64) * _LIMIT).astype(np.int64)
