"""``npz:PATH``: data sets in one NumPy file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from robustlabels.data import _files
from robustlabels.data.checks import channel_stats, check_images, check_labels, count_classes
from robustlabels.data.splits import DataSet, TensorSplit
from robustlabels.errors import BadValueError, DataError

PAIRS = (("images", "labels"), ("image", "label"))
LAYOUTS = ("auto", "NCHW", "NHWC")


def npz(
    path: str | Path,
    root: str | Path | None = None,
    split: str = "train",
    layout: str = "auto",
    num_classes: int | None = None,
    *,
    flip: bool = False,
) -> DataSet:
    """A data set from an .npz file.

    The file has ``x_train`` and ``y_train``, ``x_test`` and ``y_test`` (either pair may be
    missing), or one split as ``images`` and ``labels`` or ``image`` and ``label``. Images are
    uint8, or floating in [0, 1]: (N, H, W, C), (N, C, H, W) or (N, H, W). Labels are integers in
    [0, K). Object arrays are refused: they would need pickle.

    Args:
        path: the file; where it isn't there, ROOT/path is tried.
        root: a folder for relative paths.
        split: "train" or "test": what a file with one split is.
        layout: "NCHW" or "NHWC"; "auto" takes the axis of 1, 3 or 4 for the channels.
        num_classes: K; by default the greatest label + 1.
        flip: whether a mirrored image is still the same class.

    Raises:
        DataError: no such file, or corrupt, or an array is missing or has an impossible shape,
            type or value.
        ValueError: a bad argument.
    """
    if split not in ("train", "test"):
        raise BadValueError(f"split must be 'train' or 'test', not {split!r}")
    if layout not in LAYOUTS:
        raise BadValueError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}")
    file = _files.Npz(_resolve(path, root))
    try:
        found = {part: _pair(file, *keys, layout) for part, keys in _keys(file, split).items()}
    finally:
        file.close()
    labels = {
        part: check_labels(y, None, f"{y_key} of {path}") for part, (_, y, y_key) in found.items()
    }
    classes = count_classes(num_classes, *labels.values())
    for part, (_, y, y_key) in found.items():
        labels[part] = check_labels(y, classes, f"{y_key} of {path}")
    splits = {part: TensorSplit(x, labels[part]) for part, (x, _, _) in found.items()}
    shapes = {tuple(s.x.shape[1:]) for s in splits.values()}
    if len(shapes) > 1:
        raise DataError(f"{path}: training and test images have different shapes: {shapes}")
    channels, height, width = shapes.pop()
    train = splits.get("train")
    mean, std = channel_stats(train.x) if train is not None else ((), ())
    return DataSet(
        name=f"npz:{path}",
        train=train,
        test=splits.get("test"),
        num_classes=classes,
        input_shape=(channels, height, width),
        mean=mean,
        std=std,
        flip=flip,
    )


def _resolve(path: str | Path, root: str | Path | None) -> Path:
    given = Path(path).expanduser()
    if root is not None and not given.exists() and not given.is_absolute():
        return Path(root).expanduser() / given
    return given


def _keys(file: _files.Npz, split: str) -> dict[str, tuple[str, str]]:
    """The arrays' names of each split that the file has."""
    for x, y in PAIRS:
        if x in file.keys or y in file.keys:
            return {split: (x, y)}
    parts = [p for p in ("train", "test") if {f"x_{p}", f"y_{p}"} & set(file.keys)]
    if not parts:
        raise DataError(
            f"{file.path} lacks the arrays x_train, y_train, x_test, y_test (or images, labels); "
            f"it has {', '.join(file.keys) or 'none'}"
        )
    return {part: (f"x_{part}", f"y_{part}") for part in parts}


def _pair(file: _files.Npz, x_key: str, y_key: str, layout: str) -> tuple[Any, Any, str]:
    x, y = file[x_key], file[y_key]
    what = f"{x_key} of {file.path}"
    images = check_images(_channels_first(x, layout, what), what)
    if len(images) != len(y.reshape(-1)):
        raise DataError(f"{file.path}: {x_key} has {len(images)} images, {y_key} {y.size} labels")
    return images, y, y_key


def _channels_first(x: np.ndarray[Any, Any], layout: str, what: str) -> np.ndarray[Any, Any]:
    if x.ndim != 4:
        return x
    if layout == "auto":
        fits = [n for n, axis in (("NCHW", 1), ("NHWC", 3)) if x.shape[axis] in (1, 3, 4)]
        if len(fits) != 1:
            raise DataError(f"{what}: which axis of {x.shape} is the channels? Give layout=")
        layout = fits[0]
    return np.moveaxis(x, 3, 1) if layout == "NHWC" else x
