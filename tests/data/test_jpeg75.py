"""cifar10-jpeg75, on two small files of its layout and, if it is there, the real one."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from robustlabels.data import DATASETS
from robustlabels.data.jpeg75 import _read
from robustlabels.errors import DataError

DATA = Path(os.environ["ROBUSTLABELS_TEST_DATA"])
load = DATASETS["cifar10-jpeg75"]


def test_decodes(tmp_path, stage):
    """Images cut at the wrong offset, or decoded by threads into the wrong place."""
    stage.jpeg75(tmp_path)
    data = load(root=tmp_path)
    for split in (data.train, data.test):
        assert (split.x.shape, split.x.dtype) == ((2, 3, 32, 32), torch.uint8)
        assert split.x.float().mean(dim=(1, 2, 3)).tolist() == pytest.approx([0, 100], abs=2)
        assert split.y.tolist() == [0, 1]
    assert data.classes == ("airplane", "automobile")


def test_says_that_it_is_not_cifar10(tmp_path, stage):
    """A figure on these copies beside the leaderboard's would be a false claim."""
    stage.jpeg75(tmp_path)
    note = load(root=tmp_path).note
    assert "JPEG" in note
    assert "not the original" in note
    assert "leaderboard" in note


@pytest.mark.parametrize(
    ("replaced", "word"),
    [
        (
            {"jpeg": np.zeros(50, dtype=np.uint8), "offsets": np.array([0, 20, 50])},
            "image 0 is not",
        ),
        ({"jpeg": np.zeros(50)}, "must be uint8 bytes"),
        ({"offsets": np.array([0, 20])}, "one more offset"),
        ({"offsets": np.array([0, 20, 30])}, "rise from 0"),
        ({"offsets": np.array([0, 0, 0])}, "rise from 0"),
        ({"labels": np.array([0, 2])}, r"in \[0, 1\], but number 1 is 2"),
    ],
)
def test_corrupt(tmp_path, stage, replaced, word):
    """Each would otherwise be a traceback, or images without their labels."""
    stage.jpeg75(tmp_path, **replaced)
    with pytest.raises(DataError, match=word) as info:
        load(root=tmp_path)
    assert "\n" not in str(info.value)


def test_missing(tmp_path, stage):
    """Where was looked, and for what."""
    with pytest.raises(DataError, match="--data-root"):
        load()
    with pytest.raises(DataError, match=r"lacks cifar10-jpeg75-train.npz"):
        load(root=tmp_path)
    stage.jpeg75(tmp_path)
    np.savez(tmp_path / "cifar10-jpeg75-train.npz", labels=np.array([0]))
    with pytest.raises(DataError, match="lacks the array 'jpeg'"):
        load(root=tmp_path)


@pytest.mark.skipif(
    not (DATA / "cifar10-jpeg75-test.npz").exists(), reason=f"no cifar10-jpeg75 in {DATA}"
)
def test_the_real_test_file():
    """The staged files could share a mistake with the loader; the real one can't."""
    split, classes = _read(DATA / "cifar10-jpeg75-test.npz")
    assert split.x.shape == (10_000, 3, 32, 32)
    assert torch.bincount(split.y).tolist() == [1000] * 10
    assert classes[3] == "cat"
    # a mean near CIFAR-10's own: the colours are in their places
    means = (split.x[::10].float() / 255).mean(dim=(0, 2, 3)).tolist()
    assert means == pytest.approx((0.494, 0.485, 0.450), abs=0.01)
