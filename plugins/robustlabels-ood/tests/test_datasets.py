"""Every loader on files in the layout that it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import robustlabels as rl
from robustlabels.data import DataSet

LAYOUTS = {
    "textures": ["dtd/dtd/images/banded", "dtd/images/banded"],
    "places365": ["val_256", "places365/val_256", "places365/test_subset"],
    "isun": ["iSUN/iSUN_patches", "iSUN", "iSUN_patches"],
    "lsun-crop": ["LSUN/test", "LSUN_C/test"],
    "lsun-resize": ["LSUN_resize/LSUN_resize", "LSUN_R/test"],
}


def put(path: Path, value: int, size: tuple[int, int] = (48, 36)) -> None:
    """A grey image file, (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def pixels(split: Any) -> Tensor:
    """All images of a split."""
    (batch,) = split.batches([torch.arange(len(split))], torch.device("cpu"))
    assert batch[1].eq(0).all()
    return batch[0]


@pytest.mark.parametrize(
    ("name", "folder"), [(name, folder) for name, folders in LAYOUTS.items() for folder in folders]
)
def test_test_sets(name: str, folder: str, tmp_path: Path) -> None:
    """As an archive unpacks, torchvision lays it out or OOD repositories name it; for testing
    alone; resized and cropped to CIFAR's size; macOS's droppings and lists left out."""
    put(tmp_path / folder / "b.png", 200)
    put(tmp_path / folder / "a.JPEG", 100)
    (tmp_path / folder / "._a.JPEG").write_bytes(b"Mac OS X")
    (tmp_path / folder / "list.txt").write_text("a.JPEG 0")
    data = rl.make_dataset(name, str(tmp_path), num_workers=0)
    assert (data.name, data.train, data.input_shape) == (name, None, (3, 32, 32))
    x = pixels(data.test)
    assert x.shape == (2, 3, 32, 32)
    assert x.mean(dim=(1, 2, 3)).mul(255).round().tolist() == [100, 200]
    grey = rl.make_dataset(name, str(tmp_path), num_workers=0, size=8, grayscale=True)
    assert pixels(grey.test).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("name", LAYOUTS)
def test_test_sets_that_are_not_there(name: str, tmp_path: Path) -> None:
    """One line: where, and what was looked for."""
    with pytest.raises(ValueError, match="nothing is downloaded"):
        rl.make_dataset(name)
    with pytest.raises(ValueError, match=f"{name}.*must hold"):
        rl.make_dataset(name, str(tmp_path))
    (tmp_path / LAYOUTS[name][0]).mkdir(parents=True)
    with pytest.raises(ValueError, match="there is no image under"):
        rl.make_dataset(name, str(tmp_path))


def test_images(tmp_path: Path) -> None:
    """A folder of any depth; as it is, or resized; for both uses."""
    put(tmp_path / "mine" / "x" / "1.png", 10, (6, 6))
    put(tmp_path / "mine" / "2.png", 20, (6, 6))
    for data in (
        rl.make_dataset(f"images:{tmp_path}/mine", num_workers=0),
        rl.make_dataset("images:mine", str(tmp_path), num_workers=0),
    ):
        assert data.input_shape == (3, 6, 6)
        assert torch.equal(pixels(data.train), pixels(data.test))
        assert pixels(data.train)[:, 0, 0, 0].mul(255).round().tolist() == [20, 10]
    put(tmp_path / "mine" / "3.png", 30, (9, 6))
    with pytest.raises(ValueError, match="give size="):
        pixels(rl.make_dataset(f"images:{tmp_path}/mine", num_workers=0).train)
    sized = rl.make_dataset(f"images:{tmp_path}/mine", size=4, num_workers=0)
    assert pixels(sized.train).shape == (3, 3, 4, 4)
    with pytest.raises(ValueError, match="there is no folder"):
        rl.make_dataset("images:nowhere")
    with pytest.raises(ValueError, match="size must be an integer of at least 1, not 0"):
        rl.make_dataset(f"images:{tmp_path}/mine", size=0)
    with pytest.raises(ValueError, match="num_workers must be"):
        rl.make_dataset(f"images:{tmp_path}/mine", num_workers=-1)


def test_no_classifier_of_outliers(tmp_path: Path) -> None:
    """Their one class is none to learn."""
    for value in range(3):
        put(tmp_path / f"{value}.png", value, (6, 6))
    data = rl.make_dataset(f"images:{tmp_path}", num_workers=0)
    with pytest.raises(ValueError, match="num_classes"):
        rl.fit("linear", data, trainer="standard", epochs=1)


def test_random_images(tmp_path: Path) -> None:
    """The channels are last in the file."""
    x = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "300K_random_images.npy", x)
    data = rl.make_dataset("random-images", str(tmp_path))
    assert isinstance(data, DataSet)
    assert (data.test, data.input_shape, len(data.train)) == (None, (3, 32, 32), 5)
    np.testing.assert_allclose(pixels(data.train).numpy(), x.transpose(0, 3, 1, 2) / 255, atol=1e-7)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 32, 32), np.uint8), r"must hold uint8 images \(N, 32, 32, 3\)"),
        (np.zeros((2, 32, 32, 3)), "must hold uint8 images"),
        (np.array(["x"], dtype=object), "can't be read as .npy"),
        (None, "must hold 300K_random_images.npy"),
    ],
)
def test_other_files(array: Any, message: str, tmp_path: Path) -> None:
    """Missing, of another shape, or with pickles, which could run code."""
    if array is not None:
        np.save(tmp_path / "300K_random_images.npy", array)
    with pytest.raises(ValueError, match=message):
        rl.make_dataset("random-images", str(tmp_path))
    with pytest.raises(ValueError, match="nothing is downloaded"):
        rl.make_dataset("random-images")


def test_noise() -> None:
    """Hendrycks's: half of a clipped N(.5, .5) that lies beyond one standard deviation, 31.7 %, is
    0 or 1; Rademacher's is all 0 and 1. Training and test images differ, seeds repeat."""
    drawn = {
        kind: rl.make_dataset(f"noise:{kind}", size=8, channels=1, n=500)
        for kind in ("gaussian", "rademacher", "uniform")
    }
    x = {kind: pixels(data.train) for kind, data in drawn.items()}
    assert all(each.shape == (500, 1, 8, 8) for each in x.values())
    edge = {kind: ((each == 0) | (each == 1)).float().mean().item() for kind, each in x.items()}
    assert edge["gaussian"] == pytest.approx(0.317, abs=0.015)
    assert (edge["rademacher"], edge["uniform"] < 0.001) == (1, True)
    assert x["rademacher"].mean().item() == pytest.approx(0.5, abs=0.01)
    assert x["uniform"].std().item() == pytest.approx(12**-0.5, abs=0.01)
    again = rl.make_dataset("noise:uniform", size=8, channels=1, n=500)
    assert torch.equal(pixels(again.train), x["uniform"])
    assert not torch.equal(pixels(again.train), pixels(again.test))
    for bad in ({"n": 0}, {"size": 0}, {"channels": 1.5}, {"seed": -1}):
        with pytest.raises(ValueError, match="must be an integer of at least"):
            rl.make_dataset("noise:uniform", **bad)
    with pytest.raises(ValueError, match="noise must be one of gaussian, rademacher, uniform"):
        rl.make_dataset("noise:pink")
