"""Without these, a faster layout could change a model for its owner, or break one that views."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustlabels.evaluation.layout import channels_last

X = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Viewing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        return z.view(len(z), -1)


def test_convolutions_are_laid_out_anew_and_put_back() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    net.requires_grad_(False)
    pointers = [p.data_ptr() for p in net.parameters()]
    strides = [p.stride() for p in net.parameters()]
    plain = net(X)
    with channels_last(net, X) as last:
        assert last
        assert net[2].weight.is_contiguous(memory_format=torch.channels_last)
        assert not net[2].weight.is_contiguous()
        found = net(X.contiguous(memory_format=torch.channels_last))
        assert torch.allclose(found, plain, atol=1e-6)
    assert [p.data_ptr() for p in net.parameters()] == pointers
    assert [p.stride() for p in net.parameters()] == strides
    with pytest.raises(KeyError), channels_last(net, X):
        raise KeyError
    assert [p.data_ptr() for p in net.parameters()] == pointers


def test_a_model_that_views_its_features_is_left_alone() -> None:
    net = Viewing().requires_grad_(False)
    with channels_last(net, X) as last:
        assert not last
        assert torch.isfinite(net(X)).all()


def test_a_model_without_convolutions_too() -> None:
    with channels_last(nn.Sequential(nn.Flatten(), nn.Linear(108, 3)), X) as last:
        assert not last
