"""MNIST, Fashion-MNIST, CIFAR and SVHN, in torchvision's layouts, as uint8 tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustlabels.data import _files
from robustlabels.data.checks import check_images, check_labels
from robustlabels.data.splits import DataSet, TensorSplit
from robustlabels.errors import DataError, missing_extra

IDX = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
Root = str | Path | None


def mnist(root: Root = None) -> DataSet:
    """MNIST, 28x28: 60,000 and 10,000, from ROOT/MNIST/raw.

    Args:
        root: the folder that holds ``MNIST``.

    Raises:
        DataError: not there, or corrupt.
        ImportError: torchvision is not installed.
    """
    layout = [f"MNIST/raw/{f}-ubyte" for f in IDX]
    return _dataset("mnist", "MNIST", root, layout, _idx, mean=(0.1307,), std=(0.3081,))


def fashion_mnist(root: Root = None) -> DataSet:
    """Fashion-MNIST, 28x28: 60,000 and 10,000, from ROOT/FashionMNIST/raw.

    A mirrored shoe is still a shoe, but the photographs all face one way and the usual recipes
    don't flip: ``flip`` is False.

    Args:
        root: the folder that holds ``FashionMNIST``.

    Raises:
        DataError: not there, or corrupt.
        ImportError: torchvision is not installed.
    """
    layout = [f"FashionMNIST/raw/{f}-ubyte" for f in IDX]
    return _dataset(
        "fashion-mnist", "FashionMNIST", root, layout, _idx, mean=(0.2860,), std=(0.3530,)
    )


def cifar10(root: Root = None, verify: bool = True) -> DataSet:
    """CIFAR-10, 32x32: 50,000 and 10,000, from ROOT/cifar-10-batches-py.

    Args:
        root: the folder that holds ``cifar-10-batches-py``.
        verify: check the published MD5 sums. The files are pickles, which can run code when they
            are read: switch it off only for files that you made.

    Raises:
        DataError: not there, or corrupt.
        ImportError: torchvision is not installed.
    """
    files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    return _dataset(
        "cifar10",
        "CIFAR10",
        root,
        [f"cifar-10-batches-py/{f}" for f in files],
        _cifar(verify),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        flip=True,
    )


def cifar100(root: Root = None, verify: bool = True) -> DataSet:
    """CIFAR-100, 32x32, the 100 fine classes: 50,000 and 10,000, from ROOT/cifar-100-python.

    Args:
        root: the folder that holds ``cifar-100-python``.
        verify: as in :func:`cifar10`.

    Raises:
        DataError: not there, or corrupt.
        ImportError: torchvision is not installed.
    """
    return _dataset(
        "cifar100",
        "CIFAR100",
        root,
        [f"cifar-100-python/{f}" for f in ("train", "test", "meta")],
        _cifar(verify),
        num_classes=100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        flip=True,
    )


def svhn(root: Root = None, verify: bool = True) -> DataSet:
    """SVHN, 32x32 house numbers: 73,257 and 26,032, from ROOT/train_32x32.mat and test_32x32.mat.

    Args:
        root: the folder that holds the two files.
        verify: check the published MD5 sums.

    Raises:
        DataError: not there, or corrupt.
        ImportError: torchvision is not installed.
    """

    def read(cls: Any, folder: Path, train: bool) -> tuple[Any, Any, Sequence[str]]:
        if not verify:
            lists = {k: [url, name, None] for k, (url, name, _) in cls.split_list.items()}
            cls = type("Unverified", (cls,), {"split_list": lists})
        part = cls(str(folder), split="train" if train else "test", download=False)
        return part.data, part.labels, tuple("0123456789")

    return _dataset(
        "svhn",
        "SVHN",
        root,
        ["train_32x32.mat", "test_32x32.mat"],
        read,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
    )


Reader = Callable[[Any, Path, bool], tuple[Any, Any, Sequence[str]]]


def _idx(cls: Any, folder: Path, train: bool) -> tuple[Any, Any, Sequence[str]]:
    part = cls(str(folder), train=train, download=False)
    return part.data, part.targets, tuple(cls.classes)


def _cifar(verify: bool) -> Reader:
    def read(cls: Any, folder: Path, train: bool) -> tuple[Any, Any, Sequence[str]]:
        if not verify:  # torchvision takes a sum of None for "don't check"
            unchecked = {
                "train_list": [[name, None] for name, _ in cls.train_list],
                "test_list": [[name, None] for name, _ in cls.test_list],
                "meta": {**cls.meta, "md5": None},
            }
            cls = type("Unverified", (cls,), unchecked)
        part = cls(str(folder), train=train, download=False)
        return np.moveaxis(part.data, 3, 1), part.targets, tuple(part.classes)

    return read


def _dataset(
    name: str,
    class_name: str,
    root: Root,
    layout: Sequence[str],
    read: Reader,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    num_classes: int = 10,
    flip: bool = False,
) -> DataSet:
    folder = _files.find(name, root, layout)
    try:
        import torchvision.datasets
    except ImportError as error:
        raise missing_extra(f"data set {name!r}", "vision") from error
    splits = []
    for train in (True, False):
        try:
            x, y, classes = read(getattr(torchvision.datasets, class_name), folder, train)
        except Exception as error:  # pickle, struct, scipy and torchvision raise what they like
            raise DataError(
                f"data set {name!r}: the files in {folder.resolve()} are corrupt or not what "
                f"their names say ({_files.one_line(error)})"
            ) from error
        what = f"{name}'s {'training' if train else 'test'}"
        images = check_images(x, f"{what} images")
        if images.dtype != torch.uint8 or images.shape[1] != len(mean):
            raise DataError(
                f"{what} images must be uint8 with {len(mean)} channels, not {images.dtype} "
                f"{tuple(images.shape)}"
            )
        splits.append(TensorSplit(images, check_labels(y, num_classes, f"{what} labels")))
    channels, height, width = splits[0].x.shape[1:]
    return DataSet(
        name=name,
        train=splits[0],
        test=splits[1],
        num_classes=num_classes,
        input_shape=(channels, height, width),
        mean=mean,
        std=std,
        classes=classes,
        flip=flip,
    )
