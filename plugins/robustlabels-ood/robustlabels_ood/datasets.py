"""Outliers, to train with and to be judged on, in the layouts that they are distributed in.

Their classes don't matter, so each is of one class: no one can train a classifier on it. SVHN is
among robustlabels's own data sets.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustlabels.data import DataSet, MapSplit, Split, TensorSplit
from robustlabels.data.image_folders import ImageFiles
from robustlabels.errors import BadValueError, DataError, missing_extra
from robustlabels.hookspecs import Factory

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
RANDOM_IMAGES = "300K_random_images.npy"
NOISES = ("gaussian", "rademacher", "uniform")
FOLDERS: dict[str, tuple[str, ...]] = {
    "textures": ("dtd/dtd/images", "dtd/images"),
    "places365": ("val_256", "places365/val_256", "val_large", "places365"),
    "isun": ("iSUN", "iSUN_patches"),
    "lsun-crop": ("LSUN/test", "LSUN_C"),
    "lsun-resize": ("LSUN_resize", "LSUN_R"),
}
"""Test sets, and where in ROOT each may lie: as its authors' (for iSUN and LSUN: ODIN's) archive
unpacks, as torchvision lays it out, or as OOD repositories name it."""


def images(
    path: str | Path,
    root: str | Path | None = None,
    size: int | None = None,
    grayscale: bool = False,
    num_workers: int | None = None,
) -> DataSet:
    """Every image file under a folder, however it is divided: as training and as test split.

    Args:
        path: the folder; where it isn't there, ROOT/path is tried.
        root: a folder for relative paths.
        size: pixels a side: the shorter side is resized to it and the centre cropped. Without it,
            all images must have one size.
        grayscale: read the images as one channel.
        num_workers: processes that read; by default one per core, at most 4.

    Raises:
        DataError: not there, or no image in it.
        ValueError: a bad argument.
        ImportError: torchvision is not installed, and a size is asked for.
    """
    place = Path(path).expanduser()
    if root is not None and not place.exists() and not place.is_absolute():
        place = Path(root).expanduser() / place
    name = f"images:{path}"
    split, shape = _image_split(name, place, size, grayscale, num_workers)
    return _dataset(name, shape, train=split, test=split)


def image_test_set(
    name: str,
    root: str | Path | None = None,
    size: int = 32,
    grayscale: bool = False,
    num_workers: int | None = None,
) -> DataSet:
    """A test set of image files, all of them; see :data:`FOLDERS` for where it may lie.

    Args:
        name: one of :data:`FOLDERS`.
        root: the folder that holds it.
        size, grayscale, num_workers: as of :func:`images`; 32 pixels are CIFAR's.

    Raises:
        DataError: not there, or no image in it.
        ValueError: a bad argument.
        ImportError: torchvision is not installed.
    """
    layouts = FOLDERS[name]
    found = [place for at in layouts if (place := _root(name, root, layouts[0]) / at).is_dir()]
    if not found:
        raise DataError(f"data set {name!r}: {root} must hold {' or '.join(layouts)}")
    split, shape = _image_split(name, found[0], size, grayscale, num_workers)
    return _dataset(name, shape, test=split)


def random_images(root: str | Path | None = None) -> DataSet:
    """300K Random Images (Hendrycks et al. 2019), 32x32, from ROOT/300K_random_images.npy.

    Args:
        root: the folder that holds the file.

    Raises:
        DataError: not there, corrupt, or of another shape or type.
    """
    name = "random-images"
    file = _root(name, root, RANDOM_IMAGES) / RANDOM_IMAGES
    try:
        array = np.load(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"data set {name!r}: {root} must hold {RANDOM_IMAGES}") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} can't be read as .npy: {' '.join(str(error).split())}") from error
    given = (getattr(array, "dtype", None), getattr(array, "shape", ())[1:])
    if given != (np.dtype(np.uint8), (32, 32, 3)) or not len(array):
        raise DataError(f"{file} must hold uint8 images (N, 32, 32, 3), not {given[0]} {given[1]}")
    x = torch.from_numpy(array).permute(0, 3, 1, 2)  # a view: 300,000 images are 0.9 GB
    return _dataset(name, (3, 32, 32), train=_of_one_class(x))


def noise(
    kind: str,
    root: str | Path | None = None,
    n: int = 2000,
    size: int = 32,
    channels: int = 3,
    seed: int = 0,
) -> DataSet:
    """Images of noise, pixel by pixel: as training split, and others as test split.

    Args:
        kind: "gaussian", N(0.5, 0.5) clipped to [0, 1], and "rademacher", 0 or 1, as Hendrycks et
            al. 2019 have them; or "uniform" in [0, 1].
        root: ignored; they are drawn here.
        n: images of each split.
        size: pixels a side.
        channels: 1 or more.
        seed: of the noise.

    Raises:
        ValueError: a bad argument.
    """
    del root
    if kind not in NOISES:
        raise BadValueError(f"noise must be one of {', '.join(NOISES)}, not {kind!r}")
    for what, value in (("n", n), ("size", size), ("channels", channels)):
        _check_count(what, value)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise BadValueError(f"seed must be an integer of at least 0, not {seed!r}")
    draw = torch.Generator().manual_seed(seed)
    shape = (channels, size, size)
    train, test = (_noise(kind, (n, *shape), draw) for _ in range(2))
    return _dataset(f"noise:{kind}", shape, train=_of_one_class(train), test=_of_one_class(test))


noise.members = NOISES  # type: ignore[attr-defined]


def _noise(kind: str, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    if kind == "gaussian":
        return (torch.randn(shape, generator=draw) * 0.5 + 0.5).clamp(0, 1)
    drawn = torch.rand(shape, generator=draw)
    return drawn if kind == "uniform" else drawn.round()


DATASETS: dict[str, Factory] = {
    **{name: functools.partial(image_test_set, name) for name in FOLDERS},
    "random-images": random_images,
    "images:": images,
    "noise:": noise,
}


def _image_split(
    name: str, folder: Path, size: int | None, grayscale: bool, num_workers: int | None
) -> tuple[Split, tuple[int, int, int]]:
    if num_workers is None:
        num_workers = min(4, os.cpu_count() or 1)
    if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 0:
        raise BadValueError(f"num_workers must be an integer of at least 0, not {num_workers!r}")
    if not folder.is_dir():
        raise DataError(f"data set {name!r}: there is no folder {folder}")
    samples = [(str(file), 0) for file in sorted(_image_files(folder))]
    if not samples:
        raise DataError(f"data set {name!r}: there is no image under {folder}")
    channels = 1 if grayscale else 3
    if size is None:
        _, height, width = _probe(samples[0][0], channels)
        shape, transform = (channels, height, width), None
    else:
        _check_count("size", size)
        shape, transform = (channels, size, size), _resized(name, size)
    return MapSplit(ImageFiles(samples, shape, transform), num_workers, num_classes=1), shape


def _image_files(folder: Path) -> Iterator[Path]:
    """Those of all folders beneath; hidden ones are the unpackers' (macOS's ``._name``)."""
    for at, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(at) / name


def _probe(path: str, channels: int) -> tuple[int, int, int]:
    """An image file's shape (C, H, W)."""
    from robustlabels.data.image_folders import read_image

    image = read_image(path, channels)
    return channels, image.height, image.width


def _resized(name: str, size: int) -> Any:
    try:
        from torchvision import transforms
    except ImportError as error:
        raise missing_extra(f"data set {name!r}", "vision") from error
    return transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size)])


def _of_one_class(x: Tensor) -> TensorSplit:
    return TensorSplit(x, torch.zeros(len(x), dtype=torch.int64))


def _dataset(
    name: str, shape: tuple[int, int, int], train: Split | None = None, test: Split | None = None
) -> DataSet:
    return DataSet(name, train, test, num_classes=1, input_shape=shape)


def _root(name: str, root: str | Path | None, layout: str) -> Path:
    if root is None:
        raise DataError(
            f"data set {name!r} is read from disk ({layout}, ...): root= or --data-root names the "
            "folder that holds it; nothing is downloaded"
        )
    return Path(root).expanduser()


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadValueError(f"{name} must be an integer of at least 1, not {value!r}")
