"""PGD adversarial training: CE(f(x'), q) (Madry et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustlabels.training.step import Step
from robustlabels.training.trainer import BaseTrainer, adversarial_inputs


@dataclass
class PGDTraining(BaseTrainer):
    """Cross-entropy on the attacked inputs; the attack is PGD-10 from a uniform start."""

    def loss(self, step: Step) -> Tensor:
        """CE(f(x'), q)."""
        return step.ce(step.model(adversarial_inputs(step)))
