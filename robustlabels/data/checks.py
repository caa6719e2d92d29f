"""Checks of images and labels, once, when they are loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustlabels.errors import DataError

CHUNK = 4096
"""Images that are looked at together, to spare memory."""

ROUNDING = 1e-5
"""Distance from [0, 1] that counts as rounding: 85 times the rounding error of float32."""


def check_labels(y: Any, num_classes: int | None, what: str) -> Tensor:
    """Class indices as int64 (N,).

    Args:
        y: a tensor, an array or a list of integers, (N,) or (N, 1).
        num_classes: K; without it, any index of 0 or more will do.
        what: what the labels are called in messages, e.g. "the training labels".

    Raises:
        DataError: not integers, not one per sample, or one of them outside [0, K).
    """
    try:
        labels = y.detach().cpu() if isinstance(y, Tensor) else _tensor(np.asarray(y))
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} must be class indices: {_one_line(error)}") from error
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"{what} must be integers (class indices), not {labels.dtype}")
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if labels.dim() != 1:
        raise DataError(f"{what} must have shape (N,), not {tuple(labels.shape)}")
    if not len(labels):
        raise DataError(f"{what} are empty")
    labels = labels.long()
    wrong = labels < 0 if num_classes is None else (labels < 0) | (labels >= num_classes)
    if bool(wrong.any()):
        index = int(wrong.nonzero()[0])
        allowed = "0 or more" if num_classes is None else f"in [0, {num_classes - 1}]"
        raise DataError(f"{what} must be {allowed}, but number {index} is {int(labels[index])}")
    return labels


def check_images(x: Any, what: str) -> Tensor:
    """Images as uint8 or float32 (N, C, H, W).

    Args:
        x: a tensor or an array, (N, C, H, W) or, with one channel, (N, H, W); uint8, or floating
            in [0, 1].
        what: what the images are called in messages, e.g. "the training images".

    Raises:
        DataError: another shape or type, or a pixel that is not finite or outside [0, 1] by more
            than rounding.
    """
    try:
        images = x.detach() if isinstance(x, Tensor) else _tensor(np.asarray(x))
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} must be numbers: {_one_line(error)}") from error
    if images.dim() == 3:
        images = images.unsqueeze(1)
    if images.dim() != 4 or not images.numel():
        raise DataError(f"{what} must have shape (N, C, H, W), not {tuple(images.shape)}")
    if images.shape[3] in (1, 3, 4) and images.shape[1] > 4:
        raise DataError(
            f"{what} must have shape (N, C, H, W), and {tuple(images.shape)} looks like "
            "(N, H, W, C): move the channels to the second place"
        )
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise DataError(f"{what} must be uint8, or floating in [0, 1], not {images.dtype}")
    clamped = False
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK]
        clamped |= check_range(chunk, what) is not chunk
    return images.float().clamp(0.0, 1.0) if clamped else images.float()


def check_range(x: Tensor, what: str) -> Tensor:
    """Check that every pixel is finite and in [0, 1]; clamp what rounding put outside.

    Normalising an image and undoing it leaves pixels such as -3e-8.

    Args:
        x: Floating tensor, not empty.
        what: Name of the images in the message.

    Returns:
        ``x`` itself, or a clamped copy where a pixel is outside by at most :data:`ROUNDING`.

    Raises:
        DataError: A pixel is NaN, infinite or further outside.
    """
    low, high = (float(v) for v in torch.aminmax(x))
    if low >= 0.0 and high <= 1.0:
        return x
    if low >= -ROUNDING and high <= 1.0 + ROUNDING:
        return x.clamp(0.0, 1.0)
    raise DataError(
        f"{what} must be finite and in [0, 1], but lie in [{low:.9g}, {high:.9g}]: divide "
        "uint8-like values by 255, and leave normalisation to the model (mean, std)"
    )


def count_classes(num_classes: int | None, *labels: Tensor | None) -> int:
    """K: as given, or the greatest label + 1.

    Raises:
        DataError: fewer than 2, or not an integer.
    """
    if num_classes is None:
        num_classes = 1 + max(int(y.max()) for y in labels if y is not None)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise DataError(f"num_classes must be an integer of at least 2, not {num_classes!r}")
    return num_classes


def channel_stats(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of images in [0, 1]; a std of 0 is shown as 1.

    Args:
        x: (N, C, H, W), uint8 or floating in [0, 1].
    """
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    squares = torch.zeros_like(total)
    scale = 255.0 if x.dtype == torch.uint8 else 1.0
    for start in range(0, len(x), CHUNK):
        # one channel's sum over one image at a time in float32, the rest in float64
        pixels = x[start : start + CHUNK].float().flatten(2) / scale
        total += pixels.sum(dim=2).double().sum(dim=0)
        squares += pixels.square().sum(dim=2).double().sum(dim=0)
    count = x.numel() / x.shape[1]
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std < 1e-4, 1.0, std)
    return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        array = array.astype(np.int64)  # torch lacks arithmetic on uint16 and its like
    elif array.dtype.kind == "f":
        array = array.astype(np.float32)
    elif array.dtype.kind not in "bu":
        raise TypeError(f"their type is {array.dtype}")
    return torch.from_numpy(np.array(array, order="C"))  # a copy: writable, no negative strides


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
