"""CIFAR-10 as JPEG files of quality 75, packed in two .npz files."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from robustlabels.data import _files
from robustlabels.data.checks import check_labels
from robustlabels.data.splits import DataSet, TensorSplit
from robustlabels.errors import DataError

NAME = "cifar10-jpeg75"
NOTE = (
    "The pixels are JPEG copies (quality 75) of CIFAR-10's, not the original images: no figure on "
    "them is comparable with the leaderboard's."
)
SIDE = 32


def cifar10_jpeg75(root: str | Path | None = None) -> DataSet:
    """The 60,000 CIFAR-10 images as JPEG copies of quality 75, sorted by class.

    Args:
        root: the folder that holds cifar10-jpeg75-train.npz and cifar10-jpeg75-test.npz, each
            with ``jpeg`` (uint8, all files end to end), ``offsets`` (N + 1), ``labels`` (N) and
            ``classes`` (the names).

    Raises:
        DataError: not there, or corrupt.
    """
    files = [f"{NAME}-train.npz", f"{NAME}-test.npz"]
    folder = _files.find(NAME, root, files)
    train, classes = _read(folder / files[0])
    test, test_classes = _read(folder / files[1])
    if classes != test_classes:
        raise DataError(f"{folder}: the training and the test file name different classes")
    return DataSet(
        name=NAME,
        train=train,
        test=test,
        num_classes=len(classes),
        input_shape=(3, SIDE, SIDE),
        mean=(0.4913, 0.4821, 0.4465),  # measured on these copies
        std=(0.2452, 0.2428, 0.2606),
        classes=classes,
        flip=True,
        note=NOTE,
    )


def _read(path: Path) -> tuple[TensorSplit, tuple[str, ...]]:
    npz = _files.Npz(path)
    jpeg, offsets, names = npz["jpeg"], npz["offsets"], npz["classes"]
    labels = npz["labels"]
    npz.close()
    classes = tuple(str(name) for name in names.ravel())
    y = check_labels(labels, len(classes), f"the labels of {path}")
    whole = jpeg.dtype == np.uint8 and jpeg.ndim == 1 and offsets.shape == (len(y) + 1,)
    if not whole or offsets.dtype.kind not in "iu":
        raise DataError(f"{path}: jpeg must be uint8 bytes, with one more offset than labels")
    if offsets[0] != 0 or offsets[-1] != len(jpeg) or (np.diff(offsets.astype(np.int64)) < 1).any():
        raise DataError(f"{path}: the offsets must rise from 0 to the length of jpeg")
    return TensorSplit(torch.from_numpy(_decode(jpeg, offsets, path)), y), classes


def _decode(
    jpeg: np.ndarray[tuple[int], np.dtype[np.uint8]],
    offsets: np.ndarray[tuple[int], np.dtype[np.int64]],
    path: Path,
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """All images, (N, 3, 32, 32), on all cores: PIL decodes outside the interpreter lock."""
    from PIL import Image

    count = len(offsets) - 1
    pixels = np.empty((count, 3, SIDE, SIDE), dtype=np.uint8)

    def decode(first: int, last: int) -> None:
        for i in range(first, last):
            data = io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes())
            try:
                with Image.open(data, formats=["JPEG"]) as image:
                    array = np.asarray(image.convert("RGB"))
            except (OSError, ValueError, SyntaxError) as error:
                raise DataError(
                    f"{path}: image {i} is not a readable JPEG file ({_files.one_line(error)})"
                ) from error
            if array.shape != (SIDE, SIDE, 3):
                raise DataError(f"{path}: image {i} must be 32x32, not {array.shape[:2]}")
            pixels[i] = array.transpose(2, 0, 1)

    step = 1000
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        jobs = [
            pool.submit(decode, first, min(first + step, count)) for first in range(0, count, step)
        ]
        for job in jobs:
            job.result()
    return pixels
