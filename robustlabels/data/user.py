"""Data that users bring from Python: arrays, torch data sets, loaders."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from robustlabels.data.checks import (
    channel_stats,
    check_images,
    check_labels,
    check_range,
    count_classes,
)
from robustlabels.data.splits import DataSet, MapSplit, Split, TensorSplit, joined
from robustlabels.errors import BadValueError, DataError, RobustLabelsWarning

ALLOWED = (
    "a DataSet, a pair (x, y) of tensors or arrays, a map-style torch data set, a DataLoader, or a "
    "pair of these for training and test, or a triple for training, validation and test"
)


@dataclass
class _Part:
    """One split, as far as it is known before K is."""

    what: str
    split: TensorSplit | MapSplit
    shape: tuple[int, int, int]
    labels: Tensor | None
    classes: tuple[str, ...] = ()


def as_dataset(data: Any, num_classes: int | None = None) -> DataSet:
    """A :class:`DataSet` from what a user brings.

    Args:
        data: a DataSet (returned as it is); a pair (x, y) of tensors or arrays, for training only;
            a map-style torch data set, or a ``DataLoader`` over one, which gives its data set,
            ``num_workers`` and ``collate_fn`` (``fit`` also takes its batch size; it shuffles
            itself); or a pair
            of these for training and test, e.g. ``((x, y), (x_test, y_test))``. Images are uint8,
            or floating in [0, 1]: (N, C, H, W) or, with one channel, (N, H, W). Labels are class
            indices.
            A triple is (train, validation, test); its validation part is for ``fit``.
        num_classes: K; by default the number of the data set's ``classes``, or the greatest label
            + 1.

    Raises:
        DataError: images or labels of an impossible shape, type or value, or K is not known.
        ValueError: something else, such as a name (``robustlabels.make_dataset`` takes these).
    """
    if isinstance(data, DataSet):
        if num_classes not in (None, data.num_classes):
            raise BadValueError(
                f"num_classes must be {data.num_classes}, as data set {data.name!r} has it, "
                f"not {num_classes!r}"
            )
        return data
    if isinstance(data, str | Path):
        raise BadValueError(f"data {str(data)!r} is a name: robustlabels.make_dataset takes names")
    train_source, test_source = _pair(data)
    parts = [_part(train_source, "the training")]
    if test_source is not None:
        parts.append(_part(test_source, "the test"))
    train, test = parts[0], parts[1] if len(parts) > 1 else None
    classes = _num_classes(num_classes, parts)
    for part in parts:
        if part.labels is not None:
            check_labels(part.labels, classes, f"{part.what} labels")
        if isinstance(part.split, MapSplit):
            part.split.num_classes = classes
    if test is not None and test.shape != train.shape:
        raise DataError(
            f"training and test images have different shapes: {train.shape} and {test.shape}"
        )
    in_memory = isinstance(train.split, TensorSplit)
    mean, std = channel_stats(train.split.x) if in_memory else ((), ())  # type: ignore[union-attr]
    return DataSet(
        name="user",
        train=train.split,
        test=None if test is None else test.split,
        num_classes=classes,
        input_shape=train.shape,
        mean=mean,
        std=std,
        classes=train.classes if len(train.classes) == classes else (),
        opaque=True,
    )


def is_triple(data: Any) -> bool:
    """Return whether ``data`` is (train, validation, test)."""
    return isinstance(data, tuple | list) and len(data) == 3 and not _is_array(data[0])


def with_validation(data: DataSet, validation: Any) -> tuple[DataSet, Tensor]:
    """Append validation samples to a data set's training split.

    Args:
        data: Data set with a training split.
        validation: Pair (x, y), torch data set or loader.

    Returns:
        The data set, and the indices of the validation samples in its training split.

    Raises:
        DataError: The validation samples have other shapes or classes.
    """
    if _is_array(validation) or is_triple(validation):
        raise BadValueError("validation must be a pair (x, y), a torch data set or a loader")
    given = as_dataset(validation, num_classes=data.num_classes)
    if given.input_shape != tuple(data.input_shape):
        raise DataError(
            f"training and validation images have different shapes: {tuple(data.input_shape)} and "
            f"{given.input_shape}"
        )
    train = data.train_split()
    _warn_of_test_images(given.train_split(), data)
    indices = torch.arange(len(given.train_split())) + len(train)
    return replace(data, train=joined(train, given.train_split())), indices


def _warn_of_test_images(validation: Split, data: DataSet) -> None:
    """Warn if validation images in memory are also test images: they would choose the weights."""
    if not isinstance(validation, TensorSplit) or not isinstance(data.test, TensorSplit):
        return
    test = {hash(image.numpy().tobytes()) for image in data.test.x.cpu()}
    found = sum(hash(image.numpy().tobytes()) in test for image in validation.x.cpu())
    if found:
        warnings.warn(
            f"{found} of the {len(validation)} validation images are test images of "
            f"{data.name!r}: the test accuracy of weights that they chose is too good",
            RobustLabelsWarning,
            stacklevel=2,
        )


def _pair(data: Any) -> tuple[Any, Any]:
    """Where the training and the test split come from; the second may be None."""
    if is_triple(data):
        return data[0], data[2]
    if isinstance(data, tuple | list) and len(data) == 2 and not _is_array(data[0]):
        return data[0], data[1]
    return data, None


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _part(source: Any, what: str) -> _Part:
    if isinstance(source, tuple | list) and len(source) == 2 and _is_array(source[0]):
        return _tensor_part(source[0], source[1], what)
    num_workers = 0
    collate: Callable[[Any], Any] | None = None
    if isinstance(source, DataLoader):
        if source.collate_fn is not default_collate:
            collate = source.collate_fn
        if not isinstance(source.dataset, IterableDataset):
            _refuse_sampler(source, what)
        num_workers, source = source.num_workers, source.dataset
    if isinstance(source, IterableDataset):
        raise DataError(
            f"{what} data are an iterable-style data set, which can't be shuffled or split: "
            "give a map-style one (with __getitem__ and __len__)"
        )
    if isinstance(source, TensorDataset) and len(source.tensors) == 2 and collate is None:
        return _tensor_part(*source.tensors, what)
    if _is_array(source) or not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        raise BadValueError(f"data must be {ALLOWED}, not {type(source).__name__}")
    return _map_part(MapSplit(source, num_workers, collate), what)


def _refuse_sampler(loader: DataLoader[Any], what: str) -> None:
    """Refuse a loader that picks samples or batches, because the engine makes its own batches."""
    batches = loader.batch_sampler
    samples = loader.sampler
    if batches is not None and type(batches) is BatchSampler:
        samples = batches.sampler  # the loader's own attribute is a default where batches are given
    elif batches is not None:
        samples = batches
    if type(samples) not in (SequentialSampler, RandomSampler):
        raise DataError(
            f"{what} loader: its {type(samples).__name__} would be ignored, because the engine "
            "makes its own batches; give the chosen samples as a torch.utils.data.Subset"
        )


def _tensor_part(x: Any, y: Any, what: str) -> _Part:
    images, labels = check_images(x, f"{what} images"), check_labels(y, None, f"{what} labels")
    if len(images) != len(labels):
        raise DataError(f"{what} data have {len(images)} images and {len(labels)} labels")
    channels, height, width = images.shape[1:]
    return _Part(what, TensorSplit(images, labels), (channels, height, width), labels)


def _map_part(split: MapSplit, what: str) -> _Part:
    """Looks at the first item only, and at what the data set says of its labels."""
    dataset = split.dataset
    if len(dataset) == 0:
        raise DataError(f"{what} data are empty")
    try:
        batch = (split.collate_fn or default_collate)([dataset[0]])
    except TypeError as error:
        raise DataError(
            f"{what} data's first item doesn't make a batch of tensors (a ToTensor transform "
            "missing? docs/data.md shows how to wrap a Hugging Face data set): "
            f"{' '.join(str(error).split())}"
        ) from error
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[0], Tensor):
        raise DataError(
            f"{what} data's items must be pairs (image tensor, class index), not "
            f"{type(dataset[0]).__name__} (docs/data.md shows how to wrap a Hugging Face data set)"
        )
    x, y = batch
    if x.dim() != 4 or len(x) != 1:
        raise DataError(
            f"{what} data's images must be (C, H, W) each, not {tuple(x.shape[1:])} the first"
        )
    if x.is_floating_point():
        check_range(x, f"{what} data's first image")
    elif x.dtype != torch.uint8:
        raise DataError(f"{what} images must be uint8, or floating in [0, 1], not {x.dtype}")
    check_labels(y, None, f"{what} data's first label")
    labels = _known_labels(dataset, what)
    names = getattr(dataset, "classes", ())
    classes = tuple(map(str, names)) if isinstance(names, tuple | list) else ()
    return _Part(what, split, (x.shape[1], x.shape[2], x.shape[3]), labels, classes)


def _known_labels(dataset: Any, what: str) -> Tensor | None:
    """Every label, where the data set lists them, as torchvision's do."""
    if getattr(dataset, "target_transform", None) is not None:
        return None  # the lists hold the labels before it
    for attribute in ("targets", "labels"):
        values = getattr(dataset, attribute, None)
        if isinstance(values, Sized) and len(values) == len(dataset):
            return check_labels(values, None, f"{what} labels")
    return None


def _num_classes(num_classes: int | None, parts: list[_Part]) -> int:
    if num_classes is None and parts[0].classes:
        num_classes = len(parts[0].classes)
    labels = [part.labels for part in parts if part.labels is not None]
    if num_classes is None and parts[0].labels is None:
        raise DataError(
            "the number of classes isn't known: give num_classes=, or a data set with .classes or "
            ".targets"
        )
    return count_classes(num_classes, *labels)
