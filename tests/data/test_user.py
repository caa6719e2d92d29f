"""What users bring from Python, and the splits that it becomes."""

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from robustlabels.data import DataSet, MapSplit, TensorSplit, as_dataset, check_labels
from robustlabels.errors import BadValueError, DataError

CPU = torch.device("cpu")
X = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


class Items(Dataset):
    """A map-style data set of whatever items."""

    def __init__(self, items, **attributes):
        self.items = items
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Stream(IterableDataset):
    def __iter__(self):
        yield X[0], 0


PAIRS = [(x, int(y)) for x, y in zip(X, Y, strict=True)]


def read(split, *indices):
    ((x, y),) = split.batches([torch.tensor(indices or range(len(split)))], CPU)
    return x, y


def test_a_dataset_is_returned():
    """What came by name must keep its name, test split and note."""
    data = as_dataset((X, Y))
    assert as_dataset(data) is data
    assert as_dataset(data, num_classes=3) is data
    with pytest.raises(BadValueError, match="num_classes must be 3"):
        as_dataset(data, num_classes=4)


@pytest.mark.parametrize(
    "pair",
    [
        (X, Y),
        [X, Y],
        (X.numpy(), Y.numpy()),
        (X.double(), Y.to(torch.uint8)),
        (X.numpy().astype(np.float64)[::1], Y.tolist()),
        (X.clone().requires_grad_(), Y.unsqueeze(1)),
    ],
)
def test_arrays(pair):
    """Tensors or arrays, of any usual type, are the same data."""
    data = as_dataset(pair)
    x, y = read(data.train)
    assert torch.allclose(x, X)
    assert not x.requires_grad
    assert torch.equal(y, Y)
    assert (data.num_classes, data.input_shape, data.name) == (3, (3, 4, 5), "user")
    assert data.test is None
    assert data.opaque  # no config can name it
    assert data.mean == pytest.approx(X.mean(dim=(0, 2, 3)).tolist(), abs=1e-4)
    assert data.std == pytest.approx(X.std(dim=(0, 2, 3), correction=0).tolist(), abs=1e-4)


def test_uint8_is_scaled_when_it_is_read():
    """uint8 spares memory, but 0..255 must never reach the model."""
    x = torch.arange(6 * 8, dtype=torch.uint8).view(6, 2, 4) * 5
    data = as_dataset((x, Y))
    assert data.input_shape == (1, 2, 4)
    assert data.train.x.dtype == torch.uint8
    assert torch.allclose(read(data.train)[0], x.unsqueeze(1) / 255)
    assert data.mean[0] == pytest.approx((x / 255).mean().item(), abs=1e-4)
    mapped = as_dataset(
        Items([(image.unsqueeze(0), int(y)) for image, y in zip(x, Y, strict=True)]), 3
    )
    assert torch.allclose(read(mapped.train)[0], x.unsqueeze(1) / 255)


def test_training_and_test():
    """((x, y), (x_test, y_test)): K is the greatest label of both."""
    data = as_dataset(((X, Y), (X[:2], torch.tensor([3, 0]))))
    assert data.num_classes == 4
    assert (len(data.train), len(data.test)) == (6, 2)
    mixed = as_dataset((DataLoader(TensorDataset(X, Y)), TensorDataset(X[:3], Y[:3])))
    assert len(mixed.test) == 3


def test_tensor_datasets_and_their_loaders_stay_in_memory():
    """Through a MapSplit they would be read one by one, without exact resume."""
    for source in (TensorDataset(X, Y), DataLoader(TensorDataset(X, Y), batch_size=2)):
        assert isinstance(as_dataset(source).train, TensorSplit)


def test_map_style_data_sets():
    """Anything with __getitem__ and __len__; a loader gives its data set and how to read it."""

    def flipped(batch):
        x, y = torch.utils.data.default_collate(batch)
        return x.flip(0), y.flip(0)

    for source in (
        Items(PAIRS),
        DataLoader(Items(PAIRS), batch_size=4),
        Subset(Items(PAIRS), range(6)),
    ):
        data = as_dataset(source, num_classes=3)
        assert isinstance(data.train, MapSplit)
        x, y = read(data.train, 4, 2)
        assert torch.equal(x, X[[4, 2]])
        assert y.tolist() == [1, 2]
        assert (data.mean, data.opaque) == ((), True)
    loader = DataLoader(Items(PAIRS), num_workers=2, collate_fn=flipped)
    split = as_dataset(loader, num_classes=3).train
    assert split.num_workers == 2
    split.num_workers = 0
    assert read(split, 4, 2)[1].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"classes": ["a", "b", "c", "d"]}, 4),
        ({"targets": Y.tolist()}, 3),
        ({"labels": Y.numpy()}, 3),
    ],
)
def test_number_of_classes_of_a_data_set(attributes, expected):
    """torchvision's data sets know it: the user needn't say it again."""
    assert as_dataset(Items(PAIRS, **attributes)).num_classes == expected


def test_number_of_classes_must_be_known():
    """A guess from the first items would give too small a model."""
    with pytest.raises(DataError, match="num_classes="):
        as_dataset(Items(PAIRS))
    # the listed labels are those before target_transform: they say nothing
    with pytest.raises(DataError, match="num_classes="):
        as_dataset(Items(PAIRS, targets=Y, target_transform=abs))


def test_later_labels_of_a_map_style_data_set_are_checked():
    """Only the first item is looked at beforehand; a GPU would say 'device-side assert'."""
    data = as_dataset(Items([*PAIRS, (X[0], 7)]), num_classes=3)
    assert len(read(data.train, 0, 1)[1]) == 2
    with pytest.raises(DataError, match=r"in \[0, 2\], but number 1 is 7"):
        read(data.train, 0, 6)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ((X * 255, Y), r"in \[0, 1\]"),
        ((X - 0.5, Y), r"in \[0, 1\]"),
        ((X * float("nan"), Y), "finite"),
        ((X.permute(0, 2, 3, 1).repeat(1, 2, 1, 1), Y), r"looks like \(N, H, W, C\)"),
        ((X.flatten(1), Y), r"\(N, C, H, W\)"),
        ((X.long(), Y), "uint8, or floating"),
        ((X, Y.float()), "must be integers"),
        ((X, Y - 1), "number 0 is -1"),
        ((X, Y[:5]), "6 images and 5 labels"),
        ((X, Y.view(2, 3)), r"shape \(N,\)"),
        ((X, torch.zeros(6, dtype=torch.long)), "num_classes"),
        ((X[:0], Y[:0]), "must have shape"),
        (((X, Y), (X[..., 1:], Y)), "different shapes"),
        (((X, Y), (X, Y.float())), "the test labels must be integers"),
        (Stream(), "iterable-style"),
        (DataLoader(Stream()), "iterable-style"),
        (Items([]), "empty"),
        (Items([(X[0] * 2, 0)], classes="ab"), r"in \[0, 1\]"),
        (Items([(X[0, 0], 0)]), r"\(C, H, W\) each"),
        (Items([(X[0].int(), 0)]), "uint8, or floating"),
        (Items([(X[0], 0.5)]), "must be integers"),
        (Items([(X[0], 0, 1)]), "pairs"),
        (Items([{"image": X[0], "label": 0}]), "pairs"),
        (Items([(object(), 0)]), "ToTensor"),
    ],
)
def test_bad_data(data, word):
    """Each of these would otherwise train on nonsense, or fail far from its cause."""
    with pytest.raises(DataError, match=word) as info:
        as_dataset(data)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("data", ["cifar10", None, 3, X, iter(PAIRS), (None, None)])
def test_what_is_no_data_at_all(data):
    """Names belong to make_dataset; the message says what is taken."""
    with pytest.raises(BadValueError, match=r"make_dataset|data must be a DataSet"):
        as_dataset(data)


def test_labels_beyond_num_classes():
    """The declared K counts, in memory and in a listed data set."""
    with pytest.raises(DataError, match=r"the training labels must be in \[0, 1\].*number 2 is 2"):
        as_dataset((X, Y), num_classes=2)
    with pytest.raises(DataError, match="number 2 is 2"):
        as_dataset(Items(PAIRS, targets=Y), num_classes=2)
    assert as_dataset((X, Y), num_classes=9).num_classes == 9
    for bad in (1, True, 2.0):
        with pytest.raises(DataError, match="num_classes"):
            as_dataset((X, Y), num_classes=bad)


def test_check_labels_names_the_offender():
    """'Index out of range' alone doesn't help to find the row among 50,000."""
    assert check_labels(np.array([2, 0], dtype=np.uint64), 3, "labels").dtype == torch.int64
    with pytest.raises(DataError, match=r"^labels must be in \[0, 2\], but number 1 is 3$"):
        check_labels([0, 3], 3, "labels")


def test_constant_channel_has_a_usable_std():
    """A std of 0 would be refused by the model's Normalize layer."""
    assert as_dataset((torch.zeros(6, 1, 2, 2), Y)).std == (1.0,)


def test_tensor_split_batches():
    """Batches come in the order of their indices, float32 in [0, 1] and int64."""
    split = TensorSplit((X * 255).to(torch.uint8), Y.to(torch.uint8))
    got = list(split.batches([torch.tensor([5]), torch.tensor([0, 3])], CPU))
    assert [y.tolist() for _, y in got] == [[2], [0, 0]]
    assert all(x.dtype == torch.float32 and x.max() <= 1 for x, _ in got)
    before = split.x.clone()
    got[0][0].zero_()
    assert torch.equal(split.x, before)  # a batch is a copy
    with pytest.raises(DataError, match="must be"):
        TensorSplit(X, Y[:3])


def test_missing_splits():
    """A training run on a test-only file must not end in a TypeError."""
    data = DataSet("d", None, None, 2, (1, 2, 2))
    with pytest.raises(DataError, match="no training split"):
        data.train_split()
    with pytest.raises(DataError, match="no test split"):
        data.test_split()


def test_a_triple_has_a_test_part():
    """Its validation part is for training; the images that are judged are the last ones."""
    data = as_dataset(((X, Y), (X[:2], Y[:2]), (X[2:5], Y[2:5])))
    assert torch.allclose(read(data.test)[0], X[2:5])
    assert len(data.train) == len(X)


def test_items_that_are_tables_name_the_recipe():
    """A Hugging Face data set's items are tables of columns."""
    with pytest.raises(
        DataError, match=r"not dict \(docs/data.md shows how to wrap a Hugging Face"
    ):
        as_dataset(Items([{"image": X[0], "label": 1}]))


def test_a_batch_sampler_is_refused():
    """Its weights would be ignored without a word: a loader's own sampler is then a default."""
    weighted = WeightedRandomSampler([1.0] * 6, 6)
    for sampler in (BatchSampler(weighted, 2, drop_last=False), [[0, 1], [2, 3]]):
        loader = DataLoader(TensorDataset(X, Y), batch_sampler=sampler)
        with pytest.raises(DataError, match=r"(Sampler|list) would be ignored"):
            as_dataset(loader)
    plain = DataLoader(TensorDataset(X, Y), batch_sampler=BatchSampler(range(6), 2, False))
    with pytest.raises(DataError, match="range would be ignored"):
        as_dataset(plain)
    shuffled = DataLoader(TensorDataset(X, Y), batch_size=2, shuffle=True)
    assert len(as_dataset(shuffled).train_split()) == 6


def test_pixels_outside_by_rounding_are_clamped():
    """Normalising and undoing it gives -3e-8; the message said [0, 1] is not in [0, 1]."""
    x = X.clone()
    x[0, 0, 0, 0] = -3e-8
    x[1, 0, 0, 0] = 1 + 2e-7
    expected = x.clone()
    expected[0, 0, 0, 0] = 0.0
    expected[1, 0, 0, 0] = 1.0
    lazy = Items([(image, int(y)) for image, y in zip(x, Y, strict=True)], classes=["a", "b", "c"])
    for data in ((x, Y), lazy):
        assert torch.equal(read(as_dataset(data).train_split())[0], expected)
    x[0, 0, 0, 0] = -3e-4
    with pytest.raises(DataError, match=r"but lie in \[-0\.000300000014, 1"):
        as_dataset((x, Y))


def test_every_lazily_read_image_is_checked():
    """Only the first image was; the others trained the model on another range."""
    items = [(image, int(y)) for image, y in zip(X, Y, strict=True)]
    items[4] = (255 * items[4][0], items[4][1])
    split = as_dataset(Items(items, classes=["a", "b", "c"])).train_split()
    read(split, 0, 1)
    with pytest.raises(DataError, match=r"the images of a batch must be finite and in \[0, 1\]"):
        read(split, 3, 4)
