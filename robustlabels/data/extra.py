"""Extra images beside a training split, with or without labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustlabels.data import _files
from robustlabels.data.arrays import LAYOUTS, PAIRS, _channels_first, _resolve
from robustlabels.data.checks import check_images, check_labels
from robustlabels.data.splits import DataSet, Split, TensorSplit
from robustlabels.data.user import as_dataset
from robustlabels.errors import BadValueError, DataError

IMAGE_KEYS = ("x_train", *(images for images, _ in PAIRS))
LABEL_KEYS = ("y_train", *(labels for _, labels in PAIRS))


@dataclass(frozen=True)
class ExtraData:
    """Extra images.

    Attributes:
        name: as registered, or "user".
        split: the images; without labels, each batch's y is -1.
        input_shape: (C, H, W).
        labelled: whether the labels mean anything.
        num_classes: K of their labels as far as it is known, or None.
    """

    name: str
    split: Split
    input_shape: tuple[int, ...]
    labelled: bool
    num_classes: int | None = None

    def __len__(self) -> int:
        return len(self.split)

    def with_labels(self, y: Tensor) -> ExtraData:
        """The same images with other labels, int64 (N,)."""
        split: Split = Relabelled(self.split, y)
        if isinstance(self.split, TensorSplit):
            split = TensorSplit(self.split.x, y)
        return ExtraData(self.name, split, self.input_shape, labelled=True)


class Relabelled:
    """A split with other labels.

    Args:
        split: where the images are.
        y: int64 (N,).
    """

    def __init__(self, split: Split, y: Tensor) -> None:
        self.split, self.y = split, y

    def __len__(self) -> int:
        return len(self.split)

    def batches(
        self, indices: Iterable[Tensor], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`robustlabels.data.Split`."""
        listed = list(indices)
        for index, (x, _) in zip(listed, self.split.batches(listed, device), strict=True):
            yield x, self.y[index.cpu()].to(device)


def as_extra(data: Any) -> ExtraData:
    """Extra data from what a user brings.

    Args:
        data: images alone (a tensor or an array), a pair (images, labels), or whatever else
            :func:`robustlabels.data.as_dataset` takes, of which the training split counts.

    Raises:
        DataError: images or labels of an impossible shape, type or value.
        ValueError: something else.
    """
    if isinstance(data, Tensor | np.ndarray):
        return _unlabelled("user", check_images(data, "the extra images"))
    arrays = isinstance(data, tuple | list) and len(data) == 2
    if arrays and isinstance(data[0], Tensor | np.ndarray):
        x = check_images(data[0], "the extra images")
        y = check_labels(data[1], None, "the extra labels")
        if len(x) != len(y):
            raise DataError(f"extra data have {len(x)} images and {len(y)} labels")
        return ExtraData("user", TensorSplit(x, y), tuple(x.shape[1:]), True, int(y.max()) + 1)
    try:
        return of_dataset(as_dataset(data))
    except (BadValueError, DataError) as error:
        raise type(error)(f"extra data: {error}") from error


def of_dataset(data: DataSet) -> ExtraData:
    """A data set's training split as extra data."""
    return ExtraData(data.name, data.train_split(), data.input_shape, True, data.num_classes)


def unlabelled_npz(
    path: str, root: str | Path | None = None, layout: str = "auto"
) -> ExtraData | None:
    """The images of an .npz file without labels; None if it has some (``npz:PATH`` reads it).

    The images are ``x_train``, ``images`` or ``image``.

    Args:
        path: the file; where it isn't there, ROOT/path is tried.
        root: a folder for relative paths.
        layout: "NCHW", "NHWC" or "auto", as of ``npz:PATH``.
    """
    if layout not in LAYOUTS:
        raise BadValueError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}")
    file = _files.Npz(_resolve(path, root))
    try:
        keys = [key for key in IMAGE_KEYS if key in file.keys]
        if not keys or set(LABEL_KEYS) & set(file.keys):
            return None
        what = f"{keys[0]} of {path}"
        images = check_images(_channels_first(file[keys[0]], layout, what), what)
    finally:
        file.close()
    return _unlabelled(f"npz:{path}", images)


def _unlabelled(name: str, images: Tensor) -> ExtraData:
    nothing = torch.full((len(images),), -1)
    return ExtraData(name, TensorSplit(images, nothing), tuple(images.shape[1:]), labelled=False)
