"""MART: misclassification-aware adversarial training (Wang et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlabels.labels import kl_divergence
from robustlabels.training.step import Step
from robustlabels.training.trainer import BaseTrainer, adversarial_inputs, check_weight


@dataclass
class Mart(BaseTrainer):
    """CE(f(x'), q) - log(1 - max_{k != y} p'_k) + beta (1 - p_y) KL(f(x) || f(x')).

    p and p' are the softmax over the first K logits of f(x) and f(x'), y the true class; the KL
    is over all outputs. Nothing is detached. Where the scheme mixes labels, the margin and the
    weight are averaged over both classes in their shares.

    Attributes:
        beta: weight of the KL, at least 0; the authors' code has 5 for ResNet-18, 6 for WRN.
    """

    beta: float = 5.0

    def __post_init__(self) -> None:
        check_weight("beta", self.beta)

    def loss(self, step: Step) -> Tensor:
        """The boosted cross-entropy, and the KL of samples that the model is unsure of."""
        clean, attacked = step.model(step.x), step.model(adversarial_inputs(step))
        own, other = (_first(logits, step.num_classes) for logits in (clean, attacked))
        margin = _over_classes(step, lambda y: _log_without_best_other(other, y))
        log_p = F.log_softmax(own, dim=1)
        # 1 - p_y, exact where p_y is next to 1
        unsure = _over_classes(step, lambda y: -torch.expm1(_of_class(log_p, y)))
        divergence = kl_divergence(clean, attacked, "none")
        return step.ce(attacked) + step.reduced(self.beta * unsure * divergence - margin)


def _first(logits: Tensor, num_classes: int) -> Tensor:
    """The first K, in at least float32."""
    return logits[:, :num_classes].to(torch.promote_types(logits.dtype, torch.float32))


def _of_class(values: Tensor, y: Tensor) -> Tensor:
    return values.gather(1, y.unsqueeze(1)).squeeze(1)


def _log_without_best_other(z: Tensor, y: Tensor) -> Tensor:
    """log(1 - max_{k != y} p_k), finite however sure the model is. z: (N, K)."""
    best = z.scatter(1, y.unsqueeze(1), -torch.inf).argmax(dim=1, keepdim=True)
    return z.scatter(1, best, -torch.inf).logsumexp(dim=1) - z.logsumexp(dim=1)


def _over_classes(step: Step, value: Callable[[Tensor], Tensor]) -> Tensor:
    """The value (N,) for the true classes, or its mean over those that were mixed."""
    own, mix = value(step.y), step.mix
    if mix is None or mix.labels is None:
        return own
    return mix.lam * own + (1 - mix.lam) * value(mix.labels)
