"""Common corruptions (Hendrycks & Dietterich 2019), in the layouts that are distributed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustlabels.data import _files
from robustlabels.data.checks import check_labels
from robustlabels.data.image_folders import ImageFiles, list_classes, read_image
from robustlabels.data.splits import MapSplit, Split, TensorSplit
from robustlabels.errors import BadValueError, DataError

CORRUPTIONS = (
    "shot_noise",
    "motion_blur",
    "snow",
    "pixelate",
    "gaussian_noise",
    "defocus_blur",
    "brightness",
    "fog",
    "zoom_blur",
    "frost",
    "glass_blur",
    "impulse_noise",
    "contrast",
    "jpeg_compression",
    "elastic_transform",
)
"""The fifteen that RobustBench takes the mean of."""

SEVERITIES = (1, 2, 3, 4, 5)


class Corrupted:
    """A corrupted test set on disk.

    Args:
        root: holds ``NAME.npy``, uint8 (5 N, H, W, C), the severities one after the other, and
            ``labels.npy`` (CIFAR-10-C and its like); or ``NAME/SEVERITY/CLASS/*`` (ImageNet-C).

    Raises:
        DataError: it is not there, or not complete.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = _files.find("corruptions", root, [])
        if not self.root.is_dir():
            raise DataError(f"corruptions: {self.root} is not a folder")
        self.in_arrays = (self.root / "labels.npy").exists()

    def images(
        self, corruption: str, severity: int, num_classes: int, classes: Sequence[str] = ()
    ) -> Split:
        """Return the images of one corruption.

        Args:
            corruption: Name of the corruption.
            severity: Severity, 1 to 5.
            num_classes: Number of classes K.
            classes: Names of the data set's classes, by index, which folders are compared with;
                without them, there must be K folders.

        Raises:
            ValueError: Another severity.
            DataError: The images do not exist, are corrupt, or are of other classes.
        """
        if severity not in SEVERITIES:
            raise BadValueError(f"severity must be one of 1 to 5, not {severity!r}")
        if self.in_arrays:
            return self._rows(corruption, severity, num_classes)
        folder = self.root / corruption / str(severity)
        if not folder.is_dir():
            raise DataError(
                f"corruptions: {self.root} holds neither {corruption}.npy and labels.npy nor "
                f"{corruption}/{severity}: {_files.HOW}"
            )
        samples, folders = list_classes(folder)
        indices = _class_indices(folder, folders, num_classes, classes)
        samples = [(path, indices[label]) for path, label in samples]
        first = read_image(samples[0][0], 3)
        files = ImageFiles(samples, (3, first.height, first.width))
        return MapSplit(files, min(4, os.cpu_count() or 1))

    def _rows(self, corruption: str, severity: int, num_classes: int) -> Split:
        images, labels = self._array(f"{corruption}.npy"), self._array("labels.npy")
        if images.ndim != 4 or images.dtype != np.uint8 or len(images) != len(labels):
            raise DataError(
                f"{self.root / corruption}.npy must be uint8 (N, H, W, C) with as many rows as "
                f"labels.npy has, {len(labels)}, and not {images.dtype} {images.shape}"
            )
        if len(images) % len(SEVERITIES):
            raise DataError(f"{self.root / corruption}.npy has {len(images)} rows: not five parts")
        size = len(images) // len(SEVERITIES)
        part = slice((severity - 1) * size, severity * size)
        y = check_labels(labels, num_classes, f"labels in {self.root / 'labels.npy'}")
        x = torch.from_numpy(np.ascontiguousarray(images[part].transpose(0, 3, 1, 2)))
        return TensorSplit(x, y[part])

    def _array(self, name: str) -> Any:
        path = self.root / name
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise DataError(f"corruptions: {self.root.resolve()} lacks {name}") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not readable ({_files.one_line(error)})") from error


def _class_indices(
    folder: Path, folders: Sequence[str], num_classes: int, classes: Sequence[str]
) -> list[int]:
    """Return each folder's class index: a missing folder must not shift the labels of the rest."""
    if not classes:
        if len(folders) != num_classes:
            raise DataError(
                f"{folder} has {len(folders)} class folders, and the data set {num_classes} "
                "classes without names: which folder is missing is not known"
            )
        return list(range(num_classes))

    index = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in folders if name not in index]
    if unknown:
        raise DataError(
            f"{folder / unknown[0]} is not a class of the data set, whose classes are "
            f"{', '.join(classes[:3])}, ...: it belongs to another data set"
        )
    return [index[name] for name in folders]
