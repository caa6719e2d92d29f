"""Natural training: CE(f(x), q)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robustlabels.training.step import Step
from robustlabels.training.trainer import BaseTrainer


@dataclass
class Standard(BaseTrainer):
    """Cross-entropy on the clean inputs; the best checkpoint is the one of best clean accuracy."""

    adversarial: ClassVar[bool] = False

    def inputs(self, step: Step) -> None:
        """Nothing: no attack."""

    def loss(self, step: Step) -> Tensor:
        """CE(f(x), q)."""
        return step.ce(step.model(step.x))
