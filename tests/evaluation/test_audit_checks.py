"""Each check, on a model that was built to fail it: a check that nothing fails guards nothing.

The models look at one pixel, and one thing about their gradients is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustlabels.evaluation import AuditReport, audit


def images(n: int = 60) -> tuple[Tensor, Tensor]:
    """Noise; the first pixel is .8 in class 0 and .2 in class 1."""
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    y = torch.arange(n) % 2
    x[:, 0, 0, 0] = torch.where(y == 0, 0.8, 0.2)
    return x, y


class Pixel(nn.Module):
    """Logits (f, -f, -9) with f of the first pixel s; f(.5) = 0, and f(1 - s) = -f(s).

    Args:
        knots: (s, f) for s above .5 up to 1, linear in between.
        scale: of the logits.
    """

    def __init__(self, *knots: tuple[float, float], scale: float = 1.0) -> None:
        super().__init__()
        upper = torch.tensor(knots)
        lower = torch.stack([1 - upper[:, 0], -upper[:, 1]], dim=1).flip(0)
        self.s, self.f = torch.cat([lower, torch.tensor([[0.5, 0.0]]), upper]).T.contiguous()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        s = x[:, 0, 0, 0].contiguous()
        i = torch.bucketize(s.detach(), self.s[1:-1])
        slope = (self.f[i + 1] - self.f[i]) / (self.s[i + 1] - self.s[i])
        f = self.f[i] + (s - self.s[i]) * slope
        return self.scale * torch.stack([f, -f, torch.full_like(f, -9.0)], dim=1)


class Before(nn.Module):
    """Something in front of a model."""

    def __init__(self, what: Callable[[Tensor], Tensor], model: nn.Module) -> None:
        super().__init__()
        self.what, self.model = what, model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.what(x))


class Backwards(torch.autograd.Function):
    """The identity, with the gradient's sign turned round."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return -grad


class OneAtATime(nn.Module):
    """The mean of 20 pixels, whose gradient shows only the first one that is not yet below .16."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)[:, :20]
        waiting = (x.detach() > 0.16).float()
        first = (waiting.cumsum(dim=1) == 1) & (waiting == 1)
        f = 20 * torch.where(first, x, x.detach()).mean(dim=1) - 8
        return torch.stack([f, -f, torch.full_like(f, -9.0)], dim=1)


def straight(scale: float = 1.0) -> Pixel:
    """An honest model: the boundary is .3 away, and every gradient points to it."""
    return Pixel((1.0, 5.0), scale=scale)


X, Y = images()


def judged(model: nn.Module, eps: float = 0.35, x=X, y=Y) -> AuditReport:
    # A surrogate that is given saves teaching one: milliseconds instead of seconds.
    return audit(model, x, y, eps=eps, surrogate=straight())


def failed(report: AuditReport) -> set[str]:
    return {check.name for check in report.failed}


class Optimising(nn.Module):
    """Moves its input to where it is surer before it answers."""

    def forward(self, x):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (grad,) = torch.autograd.grad(straight()(leaf).amax(dim=1).sum(), leaf)
        return straight()(x + 0.001 * grad.sign())


BLIND = {"zero gradients", "loss grows", "larger radii", "without gradients", "transfer"}
MASKED = {
    "noise": (
        Before(lambda x: x + 0.02 * torch.randn_like(x), straight()),
        0.1,
        {"same answer", "AutoAttack's flags"},
    ),
    "quantised": (Before(lambda x: (x * 10).round() / 10, straight()), 0.35, BLIND),
    "turned round": (Before(Backwards.apply, straight()), 0.35, BLIND - {"zero gradients"}),
    # Downhill leads into a hollow at .75, behind which a wall stands; a large step is over it.
    "wall": (
        Pixel((0.55, 0.2), (0.62, 5.0), (0.75, 0.5), (0.8, 1.0), (1.0, 3.0)),
        0.35,
        {"one step against twenty", "loss grows", "restarts", "larger radii"},
    ),
    # Only just around the images the slope is the wrong way round.
    "dent": (
        Pixel((0.799, 2.2), (0.801, 2.1), (1.0, 5.0)),
        0.35,
        {"one-step figure"},
    ),
    # Who starts below .6 gets through, all others run uphill.
    "luck": (Pixel((0.6, 4.0), (0.9, 1.0), (1.0, 6.0)), 0.35, {"restarts", "loss grows"}),
    "logits x 1e4": (straight(1e4), 0.35, {"zero gradients", "margin and DLR", "rescaled logits"}),
    # At eps .1 all is well; the wall is further away.
    "far wall": (
        Pixel((0.55, 0.2), (0.6, 5.0), (0.68, 0.5), (0.8, 1.0), (1.0, 3.0)),
        0.1,
        {"larger radii"},
    ),
    "probabilities": (nn.Sequential(straight(), nn.Softmax(1)), 0.1, {"AutoAttack's flags"}),
    "optimising": (Optimising(), 0.1, {"AutoAttack's flags"}),
}
EXACTLY = {"noise", "quantised", "turned round", "dent", "far wall", "probabilities", "optimising"}


@pytest.mark.parametrize("name", MASKED)
def test_each_check_finds_what_it_is_for(name: str) -> None:
    """A model that hides its gradients in a way of its own must fail the check made for that."""
    model, eps, expected = MASKED[name]
    report = judged(model, eps)
    assert expected <= failed(report)
    if name in EXACTLY:
        assert failed(report) == expected
    assert not report.consistent


def test_twenty_steps_are_too_few() -> None:
    """Without the check of 100 steps a model that shows its gradient bit by bit would pass."""
    x = torch.full((60, 1, 6, 6), 0.5)
    report = judged(OneAtATime(), x=x, y=torch.zeros(60, dtype=torch.long))
    assert "steps" in failed(report)
    figures = {c.name: c for c in report.checks}["steps"].measured
    assert figures["PGD-100"] < 0.1
    assert figures["PGD-20"] > 0.6


@pytest.mark.parametrize("eps", [0.05, 0.2, 0.29, 0.31, 0.5, 1.0])
def test_an_honest_model_passes_everything(eps: float) -> None:
    """An audit that fails honest models would be switched off. The boundary is .3 away."""
    report = judged(straight(), eps)
    assert failed(report) == set()
    assert report.verdict == "consistent"
    assert report.worst == report.robust_accuracy == float(eps < 0.3)
    assert set(report.attacks.values()) == {report.worst}


def test_every_check_fails_somewhere() -> None:
    """A check that is added must come with a model that fails it."""
    names = {check.name for check in judged(straight()).checks}
    assert names == {"steps", *set().union(*(expected for _, _, expected in MASKED.values()))}


def test_the_page_lists_every_check() -> None:
    """A check that docs/audit.md does not explain is a verdict without a reason."""
    text = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    section = text[text.index("## The checks") : text.index("\n(*)")]
    listed = re.findall(r"^\| ([^|]+?) \| [^|]+ \|$", section, re.MULTILINE)
    assert listed[1:] == [check.name for check in judged(straight()).checks]


def test_the_surrogates_inputs_are_what_the_transfer_check_uses() -> None:
    """With a surrogate that knows nothing of the model, transfer must find nothing."""
    model = MASKED["quantised"][0]

    class Other(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, 1:4]

    knows, knows_not = (
        {c.name: c for c in audit(model, X, Y, eps=0.35, surrogate=s).checks}["transfer"]
        for s in (straight(), Other())
    )
    assert (knows.measured["transfer"], knows.passed) == (0.0, False)
    assert knows_not.measured["transfer"] > 0.8  # random starts break some
    assert knows_not.passed
