"""Tiny-ImageNet, ImageNet and folder:PATH, on small files in their layouts."""

import pytest
import torch

from robustlabels.data import DATASETS
from robustlabels.errors import BadValueError, DataError

CPU = torch.device("cpu")
folder, tiny_imagenet, imagenet = (DATASETS[n] for n in ("folder:", "tiny-imagenet", "imagenet"))


def read(split):
    ((x, y),) = split.batches([torch.arange(len(split))], CPU)
    return x, y


def test_tiny_imagenet(tmp_path, stage):
    """The validation labels come from a text file: read wrongly, accuracy is 1/200."""
    place = stage.tiny_imagenet(tmp_path)
    for root in (tmp_path, place):
        data = tiny_imagenet(root=root, num_workers=0)
        x, y = read(data.train)
        assert (x.shape, x.dtype) == ((4, 3, 64, 64), torch.float32)
        assert data.classes == ("n01", "n02")  # sorted, whatever the file's order
        assert y.tolist() == [0, 0, 1, 1]
        # n02 was staged black, n01 grey 50
        assert x[0].mean().item() == pytest.approx(50 / 255, abs=0.01)
        assert x[2].mean().item() == pytest.approx(0, abs=0.01)
        x, y = read(data.test)
        assert y.tolist() == [1, 0]
        assert x[1].mean().item() == pytest.approx(50 / 255, abs=0.01)
    assert data.flip
    assert "2 of its 200 classes" in data.note


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda p: (p / "wnids.txt").unlink(), "lacks wnids.txt"),
        (lambda p: (p / "val" / "val_annotations.txt").unlink(), "lacks val/val_annotations.txt"),
        (lambda p: (p / "val" / "val_annotations.txt").write_text("a.JPEG\tn99\t0\n"), "'n99'"),
        (lambda p: (p / "val" / "val_annotations.txt").write_text(""), "val has no images"),
        (lambda p: (p / "wnids.txt").write_text("n01\nn02\nn03\n"), "n03/images has no images"),
        (lambda p: (p / "wnids.txt").write_text(""), "0 classes|not in wnids"),
    ],
)
def test_damaged_tiny_imagenet(tmp_path, stage, damage, word):
    """A half-unpacked archive is a user's mistake, not a traceback."""
    damage(stage.tiny_imagenet(tmp_path))
    with pytest.raises(DataError, match=word) as info:
        tiny_imagenet(root=tmp_path)
    assert "\n" not in str(info.value)


def test_imagenet_crops(tmp_path, stage):
    """Test images must be resized and cropped in the centre, always alike, whatever their shape."""
    stage.image_folder(tmp_path, ("train", "val"), height=280, width=300)
    data = imagenet(root=tmp_path, num_workers=0)
    assert data.input_shape == (3, 224, 224)
    x, y = read(data.test)
    assert x.shape == (6, 3, 224, 224)
    assert y.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(x, read(data.test)[0])
    assert "2 of its 1000 classes" in data.note
    assert read(data.train)[0].shape == (6, 3, 224, 224)


def test_imagenet_random_crop_can_be_switched_off(tmp_path, stage):
    """A random crop needs torch's generator, a centre crop none."""
    for part in ("train", "val"):
        for name in ("a", "b"):
            stage.image(tmp_path / part / name / "0.png", 260, 260)
    random = imagenet(root=tmp_path, num_workers=0).train
    torch.manual_seed(0)
    first = read(random)[0]
    assert not torch.equal(first, read(random)[0])
    torch.manual_seed(0)
    assert torch.equal(first, read(random)[0])
    center = imagenet(root=tmp_path, num_workers=0, train_crop="center").train
    assert torch.equal(read(center)[0], read(center)[0])
    with pytest.raises(BadValueError, match="train_crop"):
        imagenet(root=tmp_path, train_crop="none")


def test_folder(tmp_path, stage):
    """Classes are the folders' names, sorted; pixels come as they are."""
    data = folder(stage.image_folder(tmp_path), num_workers=0)
    assert data.input_shape == (3, 8, 8)
    assert data.classes == ("ant", "bee")
    x, y = read(data.train)
    assert y.tolist() == [0, 0, 0, 1, 1, 1]
    assert (x[:, 0, 0, 0] * 255).round().tolist() == [0, 1, 2, 100, 101, 102]
    assert not data.flip


def test_folder_reads_in_worker_processes(tmp_path, stage):
    """Order and values must not depend on who reads."""
    data = folder(stage.image_folder(tmp_path, ("train", "val")), num_workers=1)
    indices = [torch.tensor([5, 0]), torch.tensor([3])]
    assert [y.tolist() for _, y in data.test.batches(indices, CPU)] == [[1, 0], [1]]


def test_folder_size_and_grey(tmp_path, stage):
    """Images of any size are made alike only where the user says to what."""
    stage.image_folder(tmp_path, height=10, width=7)
    stage.image(tmp_path / "train" / "bee" / "9.png", 20, 30)
    data = folder(tmp_path, size=6, num_workers=0)
    assert read(data.train)[0].shape == (7, 3, 6, 6)
    data = folder(tmp_path, size=6, grayscale=True, num_workers=0)
    assert data.input_shape == (1, 6, 6)
    assert read(data.train)[0].shape == (7, 1, 6, 6)
    with pytest.raises(DataError, match=r"9.png has 20x30 pixels and not 10x7.*size="):
        read(folder(tmp_path, num_workers=0).train)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_image_is_named_on_one_line(tmp_path, stage, num_workers):
    """A worker's exception carries its traceback: the user must see the file's name only."""
    stage.image_folder(tmp_path)
    (tmp_path / "train" / "bee" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bee/1.png is not a readable image") as info:
        read(folder(tmp_path, num_workers=num_workers).train)
    assert "\n" not in str(info.value)


def test_bad_folders(tmp_path, stage):
    """Classes that differ would shift the test labels; the others are slips with the path."""
    with pytest.raises(DataError, match="has no train"):
        folder(tmp_path / "none")
    stage.image_folder(tmp_path / "a", ("train",))
    with pytest.raises(DataError, match="has no test or val"):
        folder("a", root=tmp_path)
    stage.image_folder(tmp_path / "b")
    stage.image(tmp_path / "b" / "train" / "cat" / "0.png")
    with pytest.raises(DataError, match="'cat' is not in both"):
        folder("b", root=tmp_path)
    (tmp_path / "b" / "test" / "cat").mkdir()
    with pytest.raises(DataError, match="folder of images for each class"):
        folder(tmp_path / "b")
    stage.image(tmp_path / "c" / "train" / "cat" / "0.png")
    stage.image(tmp_path / "c" / "test" / "cat" / "0.png")
    with pytest.raises(DataError, match="1 classes: at least 2"):
        folder(tmp_path / "c")


def test_bad_arguments(tmp_path, stage):
    """Named, before anything is read."""
    stage.image_folder(tmp_path)
    for params, word in (
        ({"size": 0}, "size"),
        ({"size": "8"}, "size"),
        ({"num_workers": -1}, "num_workers"),
    ):
        with pytest.raises(BadValueError, match=word):
            folder(tmp_path, **params)


@pytest.mark.parametrize("name", ["tiny-imagenet", "imagenet"])
def test_nothing_there(tmp_path, name):
    """The user must learn where was looked, for what, and which option names another place."""
    with pytest.raises(DataError, match="--data-root"):
        DATASETS[name]()
    with pytest.raises(DataError, match=r"lacks .*--data-root") as info:
        DATASETS[name](root=tmp_path)
    assert str(tmp_path) in str(info.value)
