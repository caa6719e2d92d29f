"""Scores of how outlying a sample is, from its logits: the greater, the more.

Probabilities are told as log-odds: the same order, and so the same figures, without the ties of
probabilities that round to 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustlabels.errors import BadValueError

Score = Callable[[Tensor, int], Tensor]


def msp(logits: Tensor, num_classes: int) -> Tensor:
    """1 - max_k softmax(f_1..f_K)_k, of the deployed classifier (Hendrycks & Gimpel 2017)."""
    return _without_greatest(logits[:, :num_classes], num_classes)


def msp_all(logits: Tensor, num_classes: int) -> Tensor:
    """1 - max_k softmax(f_1..f_D)_k, k up to K: virtual and reject classes take part in it."""
    return _without_greatest(logits, num_classes)


def energy(logits: Tensor, num_classes: int) -> Tensor:
    """-log sum_k exp f_k, k up to K (Liu et al. 2020, temperature 1)."""
    return -logits[:, :num_classes].logsumexp(dim=1)


def virtual(logits: Tensor, num_classes: int) -> Tensor:
    """The probability mass of all outputs after the K-th: virtual and reject classes.

    Raises:
        ValueError: there are none.
    """
    if logits.shape[1] == num_classes:
        raise BadValueError(
            "the score 'virtual' needs outputs beside the classes: train with labels vs or ssl"
        )
    beside = logits[:, num_classes:].logsumexp(dim=1)
    return beside - logits[:, :num_classes].logsumexp(dim=1)


SCORES: dict[str, Score] = {"msp": msp, "msp-all": msp_all, "energy": energy, "virtual": virtual}
"""Name -> score(logits (N, D), K) -> (N,); D is K plus virtual and reject classes."""

NEED_MORE = frozenset({"msp-all", "virtual"})
"""Those that say something of their own only where D is above K."""


def _without_greatest(logits: Tensor, num_classes: int) -> Tensor:
    """Log-odds of not being in the most probable of the first K classes."""
    greatest = logits[:, :num_classes].max(dim=1, keepdim=True)
    others = logits.scatter(1, greatest.indices, -torch.inf)
    return others.logsumexp(dim=1) - greatest.values.squeeze(1)
