"""Schemes that move the input: ALPS and MixUp."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from robustlabels.errors import BadValueError
from robustlabels.labels import _checks
from robustlabels.labels.base import LabelScheme, Mix, one_hot, shared_mass
from robustlabels.randomness import per_row


class AdversarialLabelling(LabelScheme):
    """ALPS: perturbed samples with adversarial labels (Algorithm 1, eq. 15).

    Input lam x + (1 - lam) x', one lam ~ Beta(beta_a, beta_b) per sample, x' another sample of
    the batch; label (1 - epsilon/2) e_y + epsilon/2 on the least likely class (ties share).
    Only x's own class counts.

    Args:
        num_classes: K.
        epsilon: radius of the L1 ball around e_y, in [0, 1].
        beta_a: first parameter of the Beta distribution, above 0.
        beta_b: second parameter.
    """

    needs = frozenset({"logits"})
    linear = True
    parameters: ClassVar[tuple[str, ...]] = ("epsilon", "beta_a", "beta_b")

    def __init__(
        self, num_classes: int, epsilon: float = 0.3, beta_a: float = 8.0, beta_b: float = 2.0
    ) -> None:
        super().__init__(num_classes)
        self.epsilon = _checks.check_share("epsilon", epsilon)
        self.beta_a = _checks.check_positive("beta_a", beta_a)
        self.beta_b = _checks.check_positive("beta_b", beta_b)

    def perturb(
        self, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Mix | None]:
        """Mix each sample with another of the batch; see :meth:`LabelScheme.perturb`."""
        _check_inputs(x, y)
        lam = per_row(len(y), lambda n, g: _beta(self.beta_a, self.beta_b, n, x, g), generator)
        partner = _permutation(len(y), x, generator)
        return _mixed(x, lam, partner), Mix(lam, partner)

    def _labels(self, y: Tensor, logits: Tensor | None, *_: Any, like: Tensor, **__: Any) -> Tensor:
        assert logits is not None  # labels() has checked ``needs``
        worst = shared_mass(logits == logits.amin(dim=1, keepdim=True), like)
        half = self.epsilon / 2
        return (1 - half) * one_hot(y, self.num_classes, like) + half * worst


class MixUp(LabelScheme):
    """MixUp: inputs and labels mixed, one lam ~ Beta(alpha, alpha) per batch (Zhang 2018).

    Args:
        num_classes: K.
        alpha: of the Beta distribution, above 0.
    """

    needs = frozenset({"mix"})
    parameters: ClassVar[tuple[str, ...]] = ("alpha",)

    def __init__(self, num_classes: int, alpha: float = 1.0) -> None:
        super().__init__(num_classes)
        self.alpha = _checks.check_positive("alpha", alpha)

    def perturb(
        self, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Mix | None]:
        """Mix the batch with a permutation of itself; see :meth:`LabelScheme.perturb`."""
        _check_inputs(x, y)
        lam = _beta(self.alpha, self.alpha, 1, x, generator).expand(len(y))
        partner = _permutation(len(y), x, generator)
        return _mixed(x, lam, partner), Mix(lam, partner, y[partner])

    def _labels(self, y: Tensor, *_: Any, mix: Mix | None, like: Tensor, **__: Any) -> Tensor:
        assert mix is not None  # labels() has checked ``needs``
        if mix.labels is None:
            raise BadValueError("mix has no labels of the partners; use MixUp's own perturb()")
        lam = mix.lam.to(like).unsqueeze(1)
        k = self.num_classes
        return lam * one_hot(y, k, like) + (1 - lam) * one_hot(mix.labels.to(y.device), k, like)


def _check_inputs(x: Tensor, y: Tensor) -> None:
    if not x.is_floating_point():
        raise BadValueError(f"x must be floating point to be mixed, not {x.dtype}")
    if len(x) != len(y):
        raise BadValueError(f"x must have as many samples as y, {len(y)}, not {len(x)}")


def _mixed(x: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
    share = lam.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
    return share * x + (1 - share) * x[partner]


def _permutation(n: int, x: Tensor, generator: torch.Generator | None) -> Tensor:
    drawn = per_row(n, lambda m, g: torch.randperm(m, generator=g, device=x.device), generator)
    return drawn.argsort().argsort()  # the ranks: rows of a permutation of more need not be one


def _beta(a: float, b: float, n: int, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Beta(a, b) as G(a) / (G(a) + G(b)), the gammas in logarithms: G(a) ~ G(a + 1) U^(1/a)
    underflows at small a. ``torch.distributions`` takes no generator."""
    if n == 0:
        return torch.empty(0, device=x.device)
    shape = torch.empty(n, 2, dtype=torch.float64, device=x.device)
    shape[:, 0].fill_(a)  # because a copy from the host would make a GPU wait
    shape[:, 1].fill_(b)
    uniform = 1 - torch.rand(n, 2, dtype=torch.float64, device=x.device, generator=generator)
    gamma = torch._standard_gamma(shape + 1, generator).log() + uniform.log() / shape
    return (gamma[:, 0] - gamma[:, 1]).sigmoid().to(torch.float32)
