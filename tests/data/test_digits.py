"""The embedded data set."""

import torch

from robustlabels.data import DATASETS


def test_digits():
    """Another split or scale would move every figure of the demo and of the tests."""
    data = DATASETS["digits"]()
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.input_shape == (1, 8, 8)
    assert not data.flip
    for split in (data.train, data.test):
        assert (split.x.min(), split.x.max()) == (0.0, 1.0)
        assert split.x.dtype == torch.float32
    # stratified: each class gives its fifth
    whole = torch.bincount(torch.cat([data.train.y, data.test.y]))
    assert ((torch.bincount(data.test.y) - whole / 5).abs() < 1).all()
    assert abs(data.train.x.mean().item() - data.mean[0]) < 1e-3


def test_digits_split_is_always_the_same():
    """A seed taken from elsewhere would mix training and test samples between runs."""
    torch.manual_seed(1)
    first = DATASETS["digits"]()
    torch.manual_seed(2)
    second = DATASETS["digits"](root="/nowhere")
    assert torch.equal(first.test.x, second.test.x)
    # pinned: published figures depend on it
    weights = torch.arange(64.0).view(8, 8)
    assert (first.test.x * 16 * weights).sum().item() == 3539318
    seen = {tuple(x.flatten().tolist()) for x in first.train.x}
    shared = sum(tuple(x.flatten().tolist()) in seen for x in first.test.x)
    assert shared == 0
