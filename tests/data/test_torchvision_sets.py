"""Loaders on files in the layouts that the data sets' pages and torchvision write."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from robustlabels.data import DATASETS
from robustlabels.errors import DataError

DATA = Path(os.environ["ROBUSTLABELS_TEST_DATA"])


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
)
def test_idx_files(tmp_path, stage, name, folder):
    """Pixels or labels in another order or scale would train on nonsense."""
    arrays = stage.mnist(tmp_path, folder)
    data = DATASETS[name](root=tmp_path)
    assert data.train.x.dtype == torch.uint8
    assert np.array_equal(data.train.x[:, 0].numpy(), arrays["train-images-idx3"])
    assert data.test.y.tolist() == list(range(9, -1, -1))
    assert (data.name, data.num_classes, data.input_shape) == (name, 10, (1, 28, 28))
    assert len(data.classes) == 10
    assert not data.flip
    assert not data.opaque


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_pickles(tmp_path, stage, name, classes):
    """The files hold one plane of 1024 per colour: mixed up, colours become stripes."""
    rows = stage.cifar(tmp_path, classes)
    data = DATASETS[name](root=str(tmp_path), verify=False)
    assert np.array_equal(data.train.x.numpy(), rows["train"].reshape(-1, 3, 32, 32))
    assert np.array_equal(data.test.x.numpy(), rows["test"].reshape(-1, 3, 32, 32))
    assert data.test.y.tolist() == [0, 1, 2, classes - 1]
    assert data.num_classes == len(data.classes) == classes
    assert data.flip


def test_cifar_sums_are_checked(tmp_path, stage):
    """A half-copied file (or a foreign pickle, which can run code) must not be read."""
    stage.cifar(tmp_path, 10)
    with pytest.raises(DataError, match="corrupt"):
        DATASETS["cifar10"](root=tmp_path)


def test_svhn_mat_files(tmp_path, stage):
    """Label 10 is the digit 0, and the samples lie along the last axis."""
    pixels = stage.svhn(tmp_path)
    data = DATASETS["svhn"](root=tmp_path, verify=False)
    assert data.train.y.tolist() == [1, 2, 0, 9]
    assert np.array_equal(data.train.x.numpy(), pixels.transpose(3, 2, 0, 1))
    assert not data.flip
    with pytest.raises(DataError, match="corrupt"):
        DATASETS["svhn"](root=tmp_path)


def test_labels_out_of_range(tmp_path, stage):
    """A GPU would say 'device-side assert' hours later."""
    stage.svhn(tmp_path, labels=(1, 2, 11, 3))
    with pytest.raises(DataError, match=r"in \[0, 9\], but number 2 is 11"):
        DATASETS["svhn"](root=tmp_path, verify=False)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100", "svhn"])
def test_nothing_there(tmp_path, name):
    """The user must learn where was looked, for what, and which option names another place."""
    with pytest.raises(DataError, match="--data-root"):
        DATASETS[name]()
    with pytest.raises(DataError, match="--data-root") as info:
        DATASETS[name](root=tmp_path)
    assert str(tmp_path) in str(info.value)
    assert "lacks" in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("damage", [b"", b"\0\0\x08\x03", b"not idx at all, but long enough"])
def test_corrupt_idx(tmp_path, stage, damage):
    """A broken copy is a user's mistake, not a traceback."""
    stage.mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(damage)
    with pytest.raises(DataError, match="corrupt") as info:
        DATASETS["mnist"](root=tmp_path)
    assert "\n" not in str(info.value)


def test_images_and_labels_of_different_number(tmp_path, stage):
    """A pair of files from two places would shift every label."""
    stage.mnist(tmp_path)
    stage.idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.zeros(19))
    with pytest.raises(DataError, match=r"20.*19"):
        DATASETS["mnist"](root=tmp_path)


@pytest.mark.parametrize("verify", [False])
def test_corrupt_pickle_and_mat(tmp_path, stage, verify):
    """With the sums unchecked, unreadable files must still be one line."""
    stage.cifar(tmp_path, 10)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"\x80\x04 no")
    with pytest.raises(DataError, match="corrupt"):
        DATASETS["cifar10"](root=tmp_path, verify=verify)
    stage.svhn(tmp_path)
    (tmp_path / "test_32x32.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(DataError, match="corrupt"):
        DATASETS["svhn"](root=tmp_path, verify=verify)


@pytest.mark.skipif(not (DATA / "MNIST").exists(), reason=f"no MNIST in {DATA}")
def test_the_real_mnist():
    """The staged files could share a mistake with the loader; LeCun's can't."""
    data = DATASETS["mnist"](root=DATA)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.test.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert torch.bincount(data.train.y).tolist()[:3] == [5923, 6742, 5958]
    # every seventh: even and odd samples come from two different groups of writers
    x = data.train.x[::7].float() / 255
    assert x.mean().item() == pytest.approx(data.mean[0], abs=0.003)
    assert x.std().item() == pytest.approx(data.std[0], abs=0.003)
