"""Without these, a model that RobustBench's rules exclude could be submitted; or an honest one be
refused."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustlabels.leaderboard.submission.behaviour import behaviour


class Net(nn.Module):
    """A small honest net."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.conv(x)).relu().mean(dim=(2, 3)))
        return logits


class Noisy(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x))


class Whispering(Net):
    """So little that the logits hardly show it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1e-9 * torch.rand(())


class Numpy(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(1 + 1e-9 * np.random.rand())


class Random(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + 1e-9 * random.random())


class Counting(Net):
    """Deterministic in no sense, without a random number."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) + self.calls * torch.arange(10)


class OfTheBatch(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(dim=0))


class Quantised(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((8 * x).round() / 8)


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach()).detach()


class ToInput(Net):
    """The weights have gradients, and the input none."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class Purified(Net):
    """Moves the input towards confidence, by autograd."""

    def forward(self, x: Tensor) -> Tensor:
        moved = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            confidence = super().forward(moved).logsumexp(dim=1).sum()
        (gradient,) = torch.autograd.grad(confidence, moved)
        return super().forward(x + 10 * gradient)


class QuietlyPurified(Purified):
    """Without autograd it does without."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            return super().forward(x)
        except RuntimeError:
            return Net.forward(self, x)


class TwoFaced(Net):
    """Honest where nobody attacks."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (0.0 if torch.is_grad_enabled() else 1.0)


class Iterating(Net):
    """An optimisation without autograd, or a recurrent network: it can't be told."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(20):
            x = x + 1e-3 * self.conv(x).mean()
        return super().forward(x)


class Probabilities(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(dim=1)


class Infinite(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 0


class Failing(Net):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("nothing")


def found(model: nn.Module, classes: int = 10) -> list[tuple[str, bool]]:
    torch.manual_seed(0)
    return [(f.rule, f.fails) for f in behaviour(model, torch.rand(8, 3, 8, 8), classes)]


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def test_an_honest_net_has_nothing_to_hide() -> None:
    """Lints that cry wolf are switched off."""
    assert found(made(Net)) == []


@pytest.mark.parametrize(
    ("kind", "rules"),
    [
        (Whispering, {"deterministic"}),
        (Numpy, {"deterministic"}),
        (Random, {"deterministic"}),
        (Counting, {"deterministic", "optimisation"}),
        (OfTheBatch, {"deterministic"}),
        (Quantised, {"gradients"}),
        (Detached, {"gradients"}),
        (ToInput, {"gradients"}),
        (Purified, {"optimisation"}),
        (QuietlyPurified, {"optimisation"}),
        (Probabilities, {"logits"}),
        (Infinite, {"logits"}),
        (Failing, {"model"}),
    ],
)
def test_what_robustbench_excludes(kind: type[nn.Module], rules: set[str]) -> None:
    """Each under its own rule, so that the author knows what to mend."""
    seen = found(made(kind))
    assert {rule for rule, fails in seen if fails} == rules


def test_noise_is_seen() -> None:
    """The commonest randomised defence; its noise also makes passes differ."""
    assert ("deterministic", True) in found(made(Noisy))


def test_two_faces() -> None:
    """A model that is another one as soon as it is attacked."""
    assert ("optimisation", True) in found(made(TwoFaced))


def test_training_mode() -> None:
    """Batch norm in training mode gives each image the others' statistics; and changes itself."""
    assert ("deterministic", True) in found(made(Net).train())


def test_a_loop_is_a_warning() -> None:
    """Weights may be shared for good reasons: only the author knows."""
    assert found(made(Iterating)) == [("optimisation", False)]


def test_virtual_classes_must_be_cut_off() -> None:
    """AutoAttack is content with a virtual class."""
    assert found(made(Net), classes=5) == [("logits", True)]


def test_few_dead_gradients_are_a_warning() -> None:
    """RobustBench wants gradients in general, not everywhere."""

    class Dead(Net):
        def forward(self, x: Tensor) -> Tensor:
            dark = (x.mean(dim=(1, 2, 3)) < 0.2)[:, None]
            z = super().forward(x)
            return torch.where(dark, torch.arange(10.0).expand_as(z), z)

    def rules(dark: int) -> list[tuple[str, bool]]:
        torch.manual_seed(0)
        x = torch.rand(20, 3, 8, 8)
        x[:dark] *= 0.1
        return [(f.rule, f.fails) for f in behaviour(made(Dead), x, 10)]

    assert rules(0) == []
    assert rules(2) == [("gradients", False)]
    assert rules(3) == [("gradients", True)]


def test_the_model_stays_as_it_was() -> None:
    """Hooks that stayed would count on in every later pass."""
    model: Any = made(Net)
    state = torch.random.get_rng_state()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    behaviour(model, x, 10)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
