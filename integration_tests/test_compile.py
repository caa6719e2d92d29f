"""``compile``: torch's real compiler, with a real C++ compiler."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustlabels import fit

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
OPTIONS: dict[str, Any] = {
    "trainer": "pgd-at",
    "attack": {"name": "pgd", "steps": 3},
    "epochs": 2,
    "batch_size": 16,
    "validation": 0,
    "num_classes": 3,
    "device": "cpu",
    "optimizer": {"lr": 0.05},
}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 3),
    )  # fmt: skip


def data() -> tuple[Tensor, Tensor]:
    """A last batch of half the size is among them."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(40, 1, 8, 8, generator=generator), torch.arange(40) % 3


@pytest.mark.parametrize(
    "how",
    [
        {"scheme": "one-hot"},
        {"scheme": "adr", "awp": {}},
        {"scheme": "vs", "trainer": "trades", "awp": {"variant": "wu"}},
    ],
    ids=["one-hot", "adr-awp", "vs-trades-wu"],
)
def test_the_same_training(how: dict[str, Any]) -> None:
    """Compiled kernels round otherwise, and must do nothing else: neither forget batch norm's
    statistics, nor attack in train mode, nor leave themselves behind in the model."""
    eager, model = net(), net()
    one = fit(eager, data(), **{**OPTIONS, **how})
    other = fit(model, data(), compile="on", **{**OPTIONS, **how})
    assert other.history[-1]["compiled"] is True
    assert "compiled" not in one.history[-1]
    for name, expected in one.last.items():
        torch.testing.assert_close(other.last[name], expected, atol=2e-3, rtol=0)
    assert one.history[-1]["train_loss"] == pytest.approx(other.history[-1]["train_loss"], abs=1e-3)
    assert "forward" not in vars(model)


def test_resuming_ends_with_the_same_bits(tmp_path: Path) -> None:
    """The compiled graphs are made anew when a run goes on; the figures must not tell."""

    def stop(done: int, total: int, record: Any) -> None:
        if record is None and done == 4:  # in the second epoch: the state is the first's end
            raise KeyboardInterrupt

    whole = fit(net(), data(), compile="on", out=tmp_path / "whole", **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        fit(net(), data(), compile="on", out=tmp_path / "cut", progress=stop, **OPTIONS)
    resumed = fit(net(), data(), compile="on", out=tmp_path / "cut", resume=True, **OPTIONS)
    assert whole.last.keys() == resumed.last.keys()
    assert all(torch.equal(whole.last[k], resumed.last[k]) for k in whole.last)


class Opaque(nn.Module):
    """A forward that torch's compiler gives up on is still trained: it breaks the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        scale = float(x.detach().mean()) * 0 + 1
        return self.fc(x.flatten(1)) * scale


def test_a_model_that_breaks_the_graph() -> None:
    """Users' models look at values; they train as before."""
    torch.manual_seed(0)
    result = fit(Opaque(), data(), compile="on", **OPTIONS)
    assert result.history[-1]["train_loss"] < 2
