"""Goibert's fading Gaussians: linear classifiers whose accuracy under attack has a closed form.

Goibert and Dohmatob 2020, section 3.1. Y is -1 or 1, each by a half; given Y = y the features are
independent, X_j ~ N(y mu_j, sigma_j^2). A classifier is the sign of w.x, the attack moves every
feature by at most epsilon. All tensors are float64.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustlabels.errors import BadValueError
from robustlabels.labels import AdversarialLabelSmoothing, LabelLoss

_NODES = 200


@dataclass(frozen=True)
class FadingGaussian:
    """The problem, and what is known of its linear classifiers.

    Attributes:
        mean: mu, (d,) float64.
        std: sigma, (d,) float64, above 0.
    """

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        if self.mean.shape != self.std.shape or self.mean.dim() != 1 or len(self.mean) == 0:
            raise BadValueError("mean and std must have the same shape (d,), d at least 1")
        if not bool((self.std > 0).all()) or not bool(self.mean.any()):
            raise BadValueError("std must be above 0, and mean not 0 everywhere")

    @classmethod
    def of_the_paper(cls, features: int = 10) -> FadingGaussian:
        """Figure 2's: sigma_j = 1 - (j - 1) / d and mu = sigma^2, so that Bayes' weights are 1."""
        std = 1 - torch.arange(features, dtype=torch.float64) / features
        return cls(std**2, std)

    def accuracy(self, weights: Tensor, eps: float = 0.0) -> float:
        """Equations 8 and 9: Phi((w.mu - eps |w|_1) / sqrt(sum w_j^2 sigma_j^2)).

        Args:
            weights: (d,), not all 0.
            eps: radius of the Linf attack, at least 0.
        """
        margin = weights @ self.mean - eps * weights.abs().sum()
        return float(torch.special.ndtr(margin / self._spread(weights)))

    def robust_weights(self, eps: float) -> Tensor:
        """Equation 10: sigma_j^-2 sign(mu_j) (|mu_j| - eps)_+, the best linear classifier's.

        From eps = max |mu_j| on, the paper's weights are all 0, which is no classifier. There the
        best one looks at a single feature, that of the greatest (|mu_j| - eps) / sigma_j.
        """
        left = self.mean.abs() - eps
        if bool((left > 0).any()):
            return self.mean.sign() * left.clamp(min=0) / self.std**2
        best = (left / self.std).argmax()
        sign = 1.0 if self.mean[best] >= 0 else -1.0
        return sign * F.one_hot(best, len(left)).to(left)

    def best_accuracy(self, eps: float) -> float:
        """Equation 11: Phi(sqrt(sum (|mu_j| - eps)_+^2 / sigma_j^2)).

        From eps = max |mu_j| on the paper's formula stays at 1/2, which no linear classifier
        reaches; this is what its best one does.
        """
        left = (self.mean.abs() - eps) / self.std
        score = left.clamp(min=0).norm() if bool((left > 0).any()) else left.max()
        return float(torch.special.ndtr(score))

    def bayes_weights(self) -> Tensor:
        """mu_j / sigma_j^2; the log-odds of Y = 1 are 2 w.x."""
        return self.mean / self.std**2

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Features (n, d) and y (n,) of -1 and 1."""
        y = torch.randint(0, 2, (n,), generator=generator).to(self.mean) * 2 - 1
        noise = torch.randn(n, len(self.mean), generator=generator, dtype=torch.float64)
        return y.unsqueeze(1) * self.mean + self.std * noise, y

    def simulated_accuracy(
        self, weights: Tensor, eps: float, n: int, generator: torch.Generator
    ) -> float:
        """The share of n samples that is right after the attack x - eps y sign(w)."""
        x, y = self.sample(n, generator)
        attacked = x - eps * y.unsqueeze(1) * weights.sign()
        return float((y * (attacked @ weights) > 0).double().mean())

    def als_risk(self, weights: Tensor, alpha: float) -> Tensor:
        """The expected loss of ``als`` labels; with alpha 0, the cross-entropy.

        With z = y w.x, the label moves alpha to the other class where z > 0, and nowhere else: the
        least likely class is then y itself. So the loss is log(1 + exp(-z)) + alpha max(z, 0), and
        z ~ N(m, s^2) with m = w.mu: the first term by Gauss-Hermite quadrature, the second exact.
        """
        m, s = weights @ self.mean, self._spread(weights)
        nodes, shares = _quadrature()
        return (shares * F.softplus(-(m + s * nodes))).sum() + alpha * _positive_part(m, s)

    def als_weights(self, alpha: float) -> Tensor:
        """The exact minimiser of :meth:`als_risk`: Bayes' weights, times a number.

        The risk is the expectation of a convex function of z, so it grows with s where m stays;
        and of all w with the same m Bayes' direction has the smallest s. All alphas therefore give
        the same classifier; alpha only makes its logits smaller, until they are 0 (near 1/2).
        """
        direction = self.bayes_weights()
        scale = torch.tensor(
            [direction @ self.mean, self._spread(direction)], dtype=torch.float64
        )  # of z / c, for weights c direction
        nodes, shares = _quadrature()
        unit = scale[0] + scale[1] * nodes
        pull = alpha * _positive_part(scale[0], scale[1])

        def slope(c: float) -> float:
            return float(pull - (shares * unit * torch.sigmoid(-c * unit)).sum())

        low, high = 0.0, 4.0  # at alpha 0 it is 2
        if slope(low) >= 0:
            return torch.zeros_like(direction)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if slope(middle) < 0 else (low, middle)
        return direction * (low + high) / 2

    def _spread(self, weights: Tensor) -> Tensor:
        spread: Tensor = (weights * self.std).norm()
        return spread


def descend(x: Tensor, y: Tensor, alpha: float, steps: int, rate: float = 0.1) -> Tensor:
    """Weights (d,) after gradient descent from 0 on the ``als`` loss of a sample.

    Args:
        x: features (n, d).
        y: (n,), of -1 and 1.
        alpha: of the labels; 0 is plain cross-entropy.
        steps: on the whole sample.
        rate: of learning.
    """
    criterion = LabelLoss(AdversarialLabelSmoothing(2, alpha=alpha))
    classes = ((y + 1) / 2).long()
    weights = torch.zeros(x.shape[1], dtype=torch.float64)
    for _ in range(steps):
        weights.requires_grad_()
        half = x @ weights / 2
        (slope,) = torch.autograd.grad(criterion(torch.stack([-half, half], 1), classes), weights)
        weights = weights.detach() - rate * slope
    return weights


def _positive_part(m: Tensor, s: Tensor) -> Tensor:
    """E max(z, 0) for z ~ N(m, s^2)."""
    density = torch.exp(-((m / s) ** 2) / 2) / (2 * torch.pi) ** 0.5
    mean: Tensor = m * torch.special.ndtr(m / s) + s * density
    return mean


@functools.cache
def _quadrature() -> tuple[Tensor, Tensor]:
    """Nodes and weights for expectations under N(0, 1)."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(_NODES)
    return torch.from_numpy(nodes), torch.from_numpy(shares / shares.sum())
