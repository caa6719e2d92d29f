"""Tiny-ImageNet, ImageNet and folder:PATH, on small files in their layouts."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from robustlabels._compat.robustbench_images import imagenet_images
from robustlabels._compat.robustbench_package import robustbench
from robustlabels.data import DATASETS
from robustlabels.data.image_folders import read_image
from robustlabels.errors import BadValueError, DataError, MissingExtraError

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


@pytest.fixture
def robustbench_images():
    """RobustBench's list as its package has it."""
    try:
        return imagenet_images()
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.fixture
def subset_folder(tmp_path, stage, robustbench_images):
    """The images of RobustBench's list and nothing else: one file by 5,000 names, the first three
    of their own."""
    stage.image(tmp_path / "any.png", 8, 8, 7)
    for i, path in enumerate(robustbench_images):
        place = tmp_path / "val" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.hardlink_to(tmp_path / "any.png")
        if i < 3:
            place.unlink()
            pixels = torch.randint(256, (300 + i, 280, 3), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(place, "png")
    return tmp_path


def test_robustbenchs_subset_is_what_robustbench_loads(subset_folder, robustbench_images):
    """Another order would compare verdicts of different images; another index, labels.

    RobustBench counts the folders of ``val``, so here, and only for it, the three classes that its
    list leaves out get an empty one.
    """
    data = imagenet(root=subset_folder, subset="robustbench", num_workers=0)
    assert (data.num_classes, len(data.classes), data.train, data.note) == (1000, 1000, None, "")
    assert list(data.classes) == sorted(data.classes)
    assert len(list((subset_folder / "val").iterdir())) == 997
    robustbench()
    from robustbench.data import PREPROCESSINGS
    from robustbench.loaders import CustomImageFolder

    for wnid in data.classes:
        (subset_folder / "val" / wnid).mkdir(exist_ok=True)
    theirs = CustomImageFolder(str(subset_folder / "val"), PREPROCESSINGS["Res256Crop224"])
    assert data.test.dataset.samples == theirs.samples
    ((x, y),) = data.test.batches([torch.arange(3)], CPU)
    assert len(set(y.tolist())) == 3
    for i in range(3):
        image, label, path = theirs[i]
        assert path.endswith(robustbench_images[i])
        assert torch.equal(x[i], image)
        assert y[i] == label


def test_robustbenchs_subset_and_a_training_folder(subset_folder, stage, robustbench_images):
    """A folder with some classes only must not shift the others; a foreign one has no index."""
    wnids = ("n15075141", "n01443537")  # the last of all, and the second
    for i, wnid in enumerate(wnids):
        stage.image(subset_folder / "train" / wnid / "0.png", 230, 230, 10 * i)
    stage.image(subset_folder / "val" / wnids[0] / "other.png")
    data = imagenet(root=subset_folder, subset="robustbench", num_workers=0)
    x, y = read(data.train)
    assert y.tolist() == [1, 999]
    assert (x.amax(dim=(1, 2, 3)) * 255).round().tolist() == [10, 0]
    assert len(data.test) == 5000
    stage.image(subset_folder / "train" / "ant" / "0.png")
    with pytest.raises(DataError, match="'ant' is no class of ImageNet-1k"):
        imagenet(root=subset_folder, subset="robustbench")
    (subset_folder / "val" / robustbench_images[7]).unlink()
    with pytest.raises(DataError, match=rf"1 of the 5,000 .*{robustbench_images[7]}"):
        imagenet(root=subset_folder, subset="robustbench")


def test_robustbenchs_subset_needs_its_list(tmp_path, stage, monkeypatch):
    """The user must learn the pip command; all of ``val`` instead would be another figure."""
    stage.image_folder(tmp_path, ("val",))
    monkeypatch.setitem(sys.modules, "robustbench", None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=r"'robustlabels\[robustbench\]'") as info:
        imagenet(root=tmp_path, subset="robustbench")
    assert "\n" not in str(info.value)
    with pytest.raises(BadValueError, match="subset must be 'robustbench'"):
        imagenet(root=tmp_path, subset="all")


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_and_float_images_keep_their_grey(tmp_path, channels):
    """PIL cuts them off at 255, so that a picture was all white or all black."""
    grey = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)  # 257 k is k of 255
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray((grey / 65535).astype(np.float32)).save(tmp_path / "b.tiff")
    for name in ("a.png", "b.tiff"):
        pixels = np.asarray(read_image(str(tmp_path / name), channels)).reshape(4, channels)
        assert pixels.tolist() == [[k] * channels for k in (0, 1, 128, 255)]

    Image.fromarray(np.full((2, 2), 200.0, dtype=np.float32)).save(tmp_path / "c.tiff")
    with pytest.raises(DataError, match=r"c\.tiff has pixels from 200 to 200.*\[0, 1\]"):
        read_image(str(tmp_path / "c.tiff"), channels)
