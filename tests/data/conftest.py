"""Small data sets in the real on-disk layouts."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
from PIL import Image

RNG = np.random.RandomState(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.randint(0, 256, shape).astype(np.uint8)


def idx(path: Path, array: np.ndarray) -> None:
    """An idx file of unsigned bytes, as LeCun's page describes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def mnist(root: Path, folder: str = "MNIST") -> dict[str, np.ndarray]:
    arrays = {
        "train-images-idx3": pixels(20, 28, 28),
        "train-labels-idx1": np.arange(20) % 10,
        "t10k-images-idx3": pixels(10, 28, 28),
        "t10k-labels-idx1": np.arange(10)[::-1],
    }
    for name, array in arrays.items():
        idx(root / folder / "raw" / f"{name}-ubyte", array)
    return arrays


def cifar(root: Path, classes: int) -> dict[str, np.ndarray]:
    """Pickles, as the CIFAR pages offer them; returns each split's pixels, (N, 3072)."""
    ten = classes == 10
    folder = root / ("cifar-10-batches-py" if ten else "cifar-100-python")
    folder.mkdir(parents=True)
    train = [f"data_batch_{i}" for i in range(1, 6)] if ten else ["train"]
    label = "labels" if ten else "fine_labels"
    found: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for name in [*train, "test_batch" if ten else "test"]:
        data = pixels(4, 3072)
        labels = [0, 1, 2, classes - 1]
        (folder / name).write_bytes(pickle.dumps({"data": data, label: labels}))
        found["test" if name.startswith("test") else "train"].append(data)
    names = [f"class{i}" for i in range(classes)]
    key = "label_names" if ten else "fine_label_names"
    (folder / ("batches.meta" if ten else "meta")).write_bytes(pickle.dumps({key: names}))
    return {k: np.vstack(v) for k, v in found.items()}


def svhn(root: Path, labels: tuple[int, ...] = (1, 2, 10, 9)) -> np.ndarray:
    """MATLAB files, (H, W, C, N), with 10 for the digit 0; returns the training pixels."""
    root.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part in ("train", "test"):
        arrays[part] = pixels(32, 32, 3, len(labels))
        y = np.array(labels, dtype=np.uint8)[:, None]
        scipy.io.savemat(root / f"{part}_32x32.mat", {"X": arrays[part], "y": y})
    return arrays["train"]


def image(path: Path, height: int = 8, width: int = 8, colour: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if colour is None:
        array = pixels(height, width, 3)
    else:
        array = np.full((height, width, 3), colour, dtype=np.uint8)
    Image.fromarray(array).save(path)


def image_folder(root: Path, parts: tuple[str, ...] = ("train", "test"), **size: int) -> Path:
    for part in parts:
        for i, name in enumerate(("ant", "bee")):
            for j in range(3):
                image(root / part / name / f"{j}.png", colour=100 * i + j, **size)
    return root


def tiny_imagenet(root: Path, wnids: tuple[str, ...] = ("n02", "n01")) -> Path:
    folder = root / "tiny-imagenet-200"
    lines = []
    for i, wnid in enumerate(wnids):
        for j in range(2):
            image(folder / "train" / wnid / "images" / f"{wnid}_{j}.JPEG", 64, 64, 50 * i)
        image(folder / "val" / "images" / f"val_{i}.JPEG", 64, 64, 50 * i)
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def jpeg75(root: Path, **replaced: np.ndarray) -> None:
    """Both files of cifar10-jpeg75, with two images each, one plain grey per class."""
    for part in ("train", "test"):
        files = []
        for i in range(2):
            buffer = io.BytesIO()
            grey = np.full((32, 32, 3), 100 * i, dtype=np.uint8)
            Image.fromarray(grey).save(buffer, "JPEG", quality=75)
            files.append(buffer.getvalue())
        arrays = {
            "jpeg": np.frombuffer(b"".join(files), dtype=np.uint8),
            "offsets": np.cumsum([0, *map(len, files)]),
            "labels": np.array([0, 1], dtype=np.uint8),
            "classes": np.array(["airplane", "automobile"]),
        }
        root.mkdir(parents=True, exist_ok=True)
        np.savez(root / f"cifar10-jpeg75-{part}.npz", **{**arrays, **replaced})


@pytest.fixture
def stage() -> SimpleNamespace:
    """The functions of this file (with importlib's import mode, tests can't import it)."""
    writers = (idx, mnist, cifar, svhn, image, image_folder, tiny_imagenet, jpeg75)
    return SimpleNamespace(**{writer.__name__: writer for writer in writers})
