"""Data sets of image files, read batch by batch: Tiny-ImageNet, ImageNet and ``folder:PATH``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustlabels.data import _files
from robustlabels.data.splits import DataSet, MapSplit
from robustlabels.errors import BadValueError, DataError, missing_extra

IMAGENET_STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TINY_STATS = ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821))
Sample = tuple[str, int]


class ImageFiles(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Image files and their classes, as uint8 tensors (C, H, W) that must all have one shape.

    Args:
        samples: (path, class index).
        shape: (C, H, W); with C = 1 images are read as grey.
        transform: from a PIL image to a PIL image.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        shape: tuple[int, int, int],
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.samples = samples
        self.shape = shape
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image and its class; a DataError if the file is unreadable or of another size."""
        path, label = self.samples[index]
        image = read_image(path, self.shape[0])
        if self.transform is not None:
            image = self.transform(image)
        array = np.array(image).reshape(image.height, image.width, self.shape[0])
        if array.shape != (*self.shape[1:], self.shape[0]):
            raise DataError(
                f"{path} has {image.height}x{image.width} pixels and not {self.shape[1]}x"
                f"{self.shape[2]} as the others: give size= to resize them all"
            )
        return torch.from_numpy(array.transpose(2, 0, 1).copy()), label


def read_image(path: str, channels: int) -> Any:
    """Read a PIL image with 8 bits a channel: RGB, or grey for one channel.

    Raises:
        DataError: The file cannot be read, or its pixels have no known range.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return _eight_bit(image, path).convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} is not a readable image ({_files.one_line(error)})") from error


def _eight_bit(image: Any, path: str) -> Any:
    """Scale 16-bit and float pixels to 8 bits, because PIL's ``convert`` cuts them off at 255.

    Args:
        image: PIL image; 16 bits a pixel count from 0 to 65535, floats from 0 to 1.
        path: File name for the message.

    Raises:
        DataError: A pixel is outside that range.
    """
    from PIL import Image

    if image.mode != "F" and not image.mode.startswith("I"):
        return image

    highest = 1.0 if image.mode == "F" else 65535.0
    pixels = np.asarray(image, dtype=np.float64)
    if not (pixels.min() >= 0 and pixels.max() <= highest):  # NaN fails both
        raise DataError(
            f"{path} has pixels from {pixels.min():g} to {pixels.max():g}, and {image.mode} images "
            f"must be in [0, {highest:g}]: convert it to 8 bits"
        )
    return Image.fromarray((pixels * (255 / highest)).round().astype(np.uint8))


def tiny_imagenet(root: str | Path | None = None, num_workers: int | None = None) -> DataSet:
    """Tiny-ImageNet, 64x64, 200 classes: 100,000 and, as test split, the 10,000 of ``val``.

    Args:
        root: the folder that holds ``tiny-imagenet-200`` (or is it), as it is distributed:
            wnids.txt, train/WNID/images/*.JPEG, val/images and val/val_annotations.txt. The labels
            of its own ``test`` were never published.
        num_workers: processes that read; by default one per core, at most 4.

    Raises:
        DataError: not there, or corrupt.
    """
    name = "tiny-imagenet"
    if root is not None and not (Path(root).expanduser() / "wnids.txt").exists():
        root = Path(root).expanduser() / "tiny-imagenet-200"
    layout = ["wnids.txt", "train", "val/images", "val/val_annotations.txt"]
    folder = _files.find(name, root, layout)
    wnids = sorted((folder / "wnids.txt").read_text().split())
    index = {wnid: i for i, wnid in enumerate(wnids)}
    train = [
        (str(file), i)
        for wnid, i in index.items()
        for file in sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
    ]
    test: list[Sample] = []
    for line in (folder / "val" / "val_annotations.txt").read_text().splitlines():
        file, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if wnid not in index:
            raise DataError(f"{folder}/val/val_annotations.txt: {wnid!r} is not in wnids.txt")
        test.append((str(folder / "val" / "images" / file), index[wnid]))
    empty = sorted(set(range(len(wnids))) - {i for _, i in train})
    if empty or not test:
        what = f"train/{wnids[empty[0]]}/images" if empty else "val"
        raise DataError(f"data set {name!r}: {folder.resolve()}/{what} has no images")
    return _dataset(
        name,
        (ImageFiles(train, (3, 64, 64)), ImageFiles(test, (3, 64, 64))),
        wnids,
        num_workers,
        stats=TINY_STATS,
        expected=200,
    )


def imagenet(
    root: str | Path | None = None,
    train_crop: str = "random",
    num_workers: int | None = None,
    subset: str | None = None,
) -> DataSet:
    """ImageNet-1k at 224x224, from ROOT/train/WNID/* and, as test split, ROOT/val/WNID/*.

    Test images are resized to 256 (the shorter side) and cropped in the centre.

    Args:
        root: the folder that holds ``train`` and ``val``.
        train_crop: "random" (torchvision's ``RandomResizedCrop``, whenever a training image is
            read, drawn from torch's global generator) or "center", as for testing.
        num_workers: processes that read; by default one per core, at most 4.
        subset: "robustbench" for a test split of the 5,000 images that RobustBench judges on, in
            its order. All 1,000 classes count, also the three that have none of these images;
            ``train`` may be missing, and other images in ``val`` don't matter.

    Raises:
        DataError: not there, or corrupt.
        ValueError: a bad argument.
        ImportError: torchvision is not installed, or RobustBench, which has the subset's list.
    """
    if train_crop not in ("random", "center"):
        raise BadValueError(f"train_crop must be 'random' or 'center', not {train_crop!r}")
    if subset not in (None, "robustbench"):
        raise BadValueError(f"subset must be 'robustbench', or not be given, not {subset!r}")
    folder = _files.find("imagenet", root, ["val"] if subset else ["train", "val"])
    t = _torchvision("imagenet").transforms
    center = t.Compose([t.Resize(256), t.CenterCrop(224)])
    crop = t.RandomResizedCrop(224) if train_crop == "random" else center
    if subset:
        train, test, classes = _robustbench_samples(folder)
    else:
        (train, test), classes = _listed(folder, "train", "val")
    shape = (3, 224, 224)
    return _dataset(
        "imagenet",
        (ImageFiles(train, shape, crop), ImageFiles(test, shape, center)),
        classes,
        num_workers,
        stats=IMAGENET_STATS,
        expected=1000,
    )


def _robustbench_samples(folder: Path) -> tuple[list[Sample], list[Sample], tuple[str, ...]]:
    """The training images, if any, RobustBench's test images, and all classes."""
    from robustlabels._compat.robustbench_images import imagenet_classes, imagenet_images

    images, classes = imagenet_images(), imagenet_classes()
    index = {wnid: i for i, wnid in enumerate(classes)}
    test = [(str(folder / "val" / path), index[path.partition("/")[0]]) for path in images]
    missing = [path for path, _ in test if not Path(path).is_file()]
    if missing:
        raise DataError(
            f"data set 'imagenet': {len(missing):,} of the {len(test):,} images of RobustBench's "
            f"list are missing, the first is {missing[0]}"
        )
    if not (folder / "train").is_dir():
        return [], test, classes
    samples, names = list_classes(folder / "train")
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise DataError(f"{folder.resolve()}/train: {unknown[0]!r} is no class of ImageNet-1k")
    return [(path, index[names[i]]) for path, i in samples], test, classes


def folder(
    path: str | Path,
    root: str | Path | None = None,
    size: int | None = None,
    grayscale: bool = False,
    *,
    flip: bool = False,
    num_workers: int | None = None,
) -> DataSet:
    """Image files in PATH/train/CLASS/* and PATH/test/CLASS/* (or PATH/val).

    Args:
        path: the folder; where it isn't there, ROOT/path is tried.
        root: a folder for relative paths.
        size: pixels a side: the shorter side is resized to it and the centre cropped. Without it,
            all images must have one size.
        grayscale: read the images as one channel.
        flip: whether a mirrored image is still the same class.
        num_workers: processes that read; by default one per core, at most 4.

    Raises:
        DataError: not there, a class without images, or classes that differ between the splits.
        ValueError: a bad argument.
        ImportError: torchvision is not installed.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise BadValueError(f"size must be an integer of at least 1, not {size!r}")
    name = f"folder:{path}"
    place = Path(path).expanduser()
    if root is not None and not place.exists() and not place.is_absolute():
        place = Path(root).expanduser() / place
    test_name = "test" if (place / "test").is_dir() else "val"
    for part in ("train", test_name):
        if not (place / part).is_dir():
            raise DataError(
                f"data set {name!r}: {place.resolve()} must hold train/CLASS/* and test/CLASS/* "
                f"(or val/CLASS/*), and has no {'train' if part == 'train' else 'test or val'}"
            )
    torchvision = _torchvision(name)
    samples, classes = _listed(place, "train", test_name)
    channels = 1 if grayscale else 3
    if size is None:
        first = read_image(samples[0][0][0], channels)
        shape, transform = (channels, first.height, first.width), None
    else:
        t = torchvision.transforms
        shape, transform = (channels, size, size), t.Compose([t.Resize(size), t.CenterCrop(size)])
    files = (ImageFiles(samples[0], shape, transform), ImageFiles(samples[1], shape, transform))
    return _dataset(name, files, classes, num_workers, flip=flip)


def _dataset(
    name: str,
    files: tuple[ImageFiles, ImageFiles],
    classes: Sequence[str],
    num_workers: int | None,
    *,
    stats: tuple[tuple[float, ...], tuple[float, ...]] = ((), ()),
    flip: bool = True,
    expected: int | None = None,
) -> DataSet:
    if num_workers is None:
        num_workers = min(4, os.cpu_count() or 1)
    if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 0:
        raise BadValueError(f"num_workers must be an integer of at least 0, not {num_workers!r}")
    if len(classes) < 2:
        raise DataError(f"data set {name!r} has {len(classes)} classes: at least 2 are needed")
    partial = expected is not None and len(classes) != expected
    return DataSet(
        name=name,
        train=MapSplit(files[0], num_workers) if len(files[0]) else None,
        test=MapSplit(files[1], num_workers),
        num_classes=len(classes),
        input_shape=files[0].shape,
        mean=stats[0],
        std=stats[1],
        classes=tuple(classes),
        flip=flip,
        note=f"{len(classes)} of its {expected} classes." if partial else "",
    )


def list_classes(folder: Path) -> tuple[list[Sample], tuple[str, ...]]:
    """The image files of FOLDER/CLASS/*, by torchvision's ``ImageFolder``, and the classes.

    Raises:
        DataError: there are none.
        ImportError: torchvision is not installed.
    """
    torchvision = _torchvision(f"folder:{folder}")
    try:
        listed = torchvision.datasets.ImageFolder(str(folder))
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{folder.resolve()} must hold a folder of images for each class "
            f"({_files.one_line(error)})"
        ) from error
    return listed.samples, tuple(listed.classes)


def _listed(folder: Path, *parts: str) -> tuple[list[list[Sample]], tuple[str, ...]]:
    """Each part's samples, and the classes that they share."""
    samples, classes = zip(*(list_classes(folder / part) for part in parts), strict=True)
    if classes[0] != classes[1]:
        odd = sorted(set(classes[0]) ^ set(classes[1]))[0]
        raise DataError(f"{folder.resolve()}: class {odd!r} is not in both {' and '.join(parts)}")
    return list(samples), classes[0]


def _torchvision(name: str) -> Any:
    try:
        import torchvision
        import torchvision.datasets
        import torchvision.transforms
    except ImportError as error:
        raise missing_extra(f"data set {name!r}", "vision") from error
    return torchvision
