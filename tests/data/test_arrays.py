"""npz:PATH."""

import numpy as np
import pytest
import torch

from robustlabels.data import DATASETS
from robustlabels.errors import BadValueError, DataError

npz = DATASETS["npz:"]
X = np.random.RandomState(0).randint(0, 256, (6, 5, 6, 3)).astype(np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])
GOOD = {"x_train": X, "y_train": Y, "x_test": X[:3], "y_test": Y[:3]}


def save(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return str(tmp_path / "data.npz")


def test_uint8_channels_last(tmp_path):
    """Channels taken for rows would train, badly, without a word."""
    data = npz(save(tmp_path, **GOOD))
    assert data.input_shape == (3, 5, 6)
    assert np.array_equal(data.train.x.numpy(), X.transpose(0, 3, 1, 2))
    assert data.train.x.dtype == torch.uint8
    assert data.test.y.tolist() == [0, 1, 2]
    assert data.num_classes == 3
    expected = X.reshape(-1, 3) / 255
    assert data.mean == pytest.approx(tuple(expected.mean(0)), abs=1e-4)
    assert data.std == pytest.approx(tuple(expected.std(0)), abs=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_float_channels_first(tmp_path, dtype):
    """Floating images are taken as they are, in float32."""
    x = (X.transpose(0, 3, 1, 2) / 255).astype(dtype)
    data = npz(save(tmp_path, **{**GOOD, "x_train": x}))
    assert data.train.x.dtype == torch.float32
    assert np.allclose(data.train.x.numpy(), x)


def test_grey_images_and_column_labels(tmp_path):
    """(N, H, W) as MNIST's keras.npz has them, labels (N, 1) as its CIFAR has them."""
    grey = {"x_train": X[..., 0], "y_train": Y[:, None].astype(np.uint16)}
    data = npz(save(tmp_path, **grey))
    assert data.input_shape == (1, 5, 6)
    assert data.train.y.tolist() == Y.tolist()
    assert data.test is None
    with pytest.raises(DataError, match="no test split"):
        data.test_split()


@pytest.mark.parametrize("keys", [("images", "labels"), ("image", "label")])
def test_one_split(tmp_path, keys):
    """Synthetic extra data (DDPM, EDM) come so."""
    path = save(tmp_path, **dict(zip(keys, (X, Y), strict=True)))
    assert len(npz(path).train) == 6
    data = npz(path, split="test")
    assert data.train is None
    assert len(data.test) == 6
    assert data.mean == ()


def test_layout_can_be_named(tmp_path):
    """3 rows and 3 channels can't be told apart; 2 channels aren't recognised."""
    both = {"x_train": X[:, :3, :, :], "y_train": Y}
    path = save(tmp_path, **both)
    with pytest.raises(DataError, match="layout="):
        npz(path)
    assert npz(path, layout="NHWC").input_shape == (3, 3, 6)
    assert npz(path, layout="NCHW").input_shape == (3, 6, 3)
    path = save(tmp_path, x_train=X[..., :2], y_train=Y)
    with pytest.raises(DataError, match="layout="):
        npz(path)
    assert npz(path, layout="NHWC").input_shape == (2, 5, 6)


def test_relative_paths_are_looked_for_in_root(tmp_path, monkeypatch):
    """--data-root means the same for every data set."""
    save(tmp_path, **GOOD)
    monkeypatch.chdir(tmp_path.parent)
    assert len(npz("data.npz", root=tmp_path).train) == 6
    monkeypatch.chdir(tmp_path)
    assert len(npz("data.npz").train) == 6


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"x_test": X}, "lacks the array 'y_test'"),
        ({"a": X, "b": Y}, "lacks the arrays x_train.*it has a, b"),
        ({**GOOD, "y_train": Y[:5]}, "6 images, y_train 5 labels"),
        ({**GOOD, "y_train": Y - 1}, "must be 0 or more, but number 0 is -1"),
        ({**GOOD, "y_train": Y.astype(float)}, "must be integers"),
        ({**GOOD, "y_train": np.eye(6)[:, :1] > 0}, "must be integers"),
        ({**GOOD, "y_train": np.array(list("abcdef"))}, "class indices"),
        ({**GOOD, "y_train": Y * 0, "y_test": Y[:3] * 0}, "num_classes"),
        ({**GOOD, "x_train": X.astype(float)}, r"in \[0, 1\]"),
        ({**GOOD, "x_train": X / 255 - 0.5}, r"in \[0, 1\]"),
        ({**GOOD, "x_train": np.full(X.shape, np.nan)}, "finite"),
        ({**GOOD, "x_train": X.astype(np.int32)}, "uint8, or floating"),
        ({**GOOD, "x_train": X.reshape(6, -1)}, r"\(N, C, H, W\)"),
        ({**GOOD, "x_train": X[:0], "y_train": Y[:0]}, r"\(N, C, H, W\)"),
        ({**GOOD, "x_test": X[:3, :, :5]}, "different shapes"),
        ({**GOOD, "x_train": np.array([object()] * 6)}, "can't be read"),
    ],
)
def test_bad_arrays(tmp_path, arrays, word):
    """Each of these would otherwise crash later, or train on nonsense without a word."""
    with pytest.raises(DataError, match=word) as info:
        npz(save(tmp_path, **arrays))
    assert "\n" not in str(info.value)


def test_labels_beyond_num_classes(tmp_path):
    """The declared K counts, not the greatest label."""
    path = save(tmp_path, **GOOD)
    assert npz(path, num_classes=5).num_classes == 5
    with pytest.raises(DataError, match=r"in \[0, 1\], but number 2 is 2"):
        npz(path, num_classes=2)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 truncated"])
def test_corrupt_files(tmp_path, content):
    """Half a download."""
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="can't be read"):
        npz(path)


def test_corrupt_member(tmp_path):
    """The archive opens, an array in it doesn't: numpy reads lazily."""
    path = tmp_path / "data.npz"
    save(tmp_path, **GOOD)
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="can't be read"):
        npz(path)


def test_missing_file_and_single_array(tmp_path):
    """Two common slips: a wrong path, and .npy for .npz."""
    with pytest.raises(DataError, match="there is no file"):
        npz(tmp_path / "none.npz")
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(DataError, match="single array"):
        npz(tmp_path / "one.npy")


def test_bad_arguments(tmp_path):
    """A misspelt split must not fall back to the default."""
    path = save(tmp_path, **GOOD)
    with pytest.raises(BadValueError, match="split"):
        npz(path, split="val")
    with pytest.raises(BadValueError, match="layout"):
        npz(path, layout="CHW")
