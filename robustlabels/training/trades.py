"""TRADES: CE(f(x), q) + beta KL(f(x) || f(x')) (Zhang et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustlabels.errors import BadValueError
from robustlabels.training.step import Step
from robustlabels.training.trainer import BaseTrainer, adversarial_inputs, check_weight


@dataclass
class Trades(BaseTrainer):
    """Accuracy on x, and the same answer around it.

    x' maximises the KL from a 0.001 N(0, 1) start with batch norm in eval mode. The natural
    target of the KL is not detached. With virtual classes all K + V logits count (VS raises beta
    to 12-18).

    Attributes:
        beta: weight of the KL, at least 0.
        inner: what the attack maximises: "kl", or "ce" on the label (LTD).
        concatenated: one forward of x and x' together: faster, other batch-norm statistics.
    """

    beta: float = 6.0
    inner: str = "kl"
    concatenated: bool = False

    def __post_init__(self) -> None:
        check_weight("beta", self.beta)
        if self.inner not in ("kl", "ce"):
            raise BadValueError(f"inner must be kl or ce, not {self.inner!r}")

    def attack_defaults(self, eps: float) -> dict[str, Any]:
        """PGD on the inner loss from a Gaussian start."""
        del eps
        return {"loss": self.inner, "start": "gaussian"}

    def loss(self, step: Step) -> Tensor:
        """CE(f(x), q) + beta KL(f(x) || f(x'))."""
        x_adv = adversarial_inputs(step)
        if self.concatenated:
            clean, attacked = step.model(torch.cat([step.x, x_adv])).chunk(2)
        else:
            clean, attacked = step.model(step.x), step.model(x_adv)
        return step.ce(clean) + self.beta * step.kl(clean, attacked)
