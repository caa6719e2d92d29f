"""Soft bootstrapping and mixed training, for robustlabels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import robustlabels
from robustlabels.training import Run, Step


class SoftBootstrap:
    """beta e_y + (1 - beta) p: the true class, tempered by the model's own belief p.

    After Reed et al. 2015, "Training deep neural networks on noisy labels with bootstrapping";
    here p has no gradient, as no label has.

    Args:
        num_classes: K, the data set's classes.
        beta: weight of the true class, in [0, 1].
    """

    needs = frozenset({"logits"})

    def __init__(self, num_classes: int, beta: float = 0.95) -> None:
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must be in [0, 1], not {beta!r}")
        self.num_classes = self.num_outputs = num_classes
        self.beta = beta

    @torch.no_grad()
    def labels(
        self,
        y: Tensor,
        logits: Tensor | None = None,
        teacher_logits: Tensor | None = None,
        progress: float = 1.0,
    ) -> Tensor:
        """Soft labels (N, K) for classes y (N,) and the model's logits (N, K)."""
        if logits is None:
            raise ValueError("SoftBootstrap needs logits=, the model's outputs for this batch")
        # Half precision is too coarse for labels.
        dtype = torch.promote_types(logits.dtype, torch.float32)
        belief = logits.softmax(dim=1, dtype=dtype)
        return self.beta * F.one_hot(y, self.num_classes).to(belief) + (1 - self.beta) * belief


class MixedTraining:
    """share CE(f(x), q) + (1 - share) CE(f(x'), q) (Goodfellow et al. 2015).

    Args:
        share: of the clean inputs, in [0, 1].
    """

    def __init__(self, share: float = 0.5) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share must be in [0, 1], not {share!r}")
        self.share = share

    def setup(self, run: Run) -> None:
        """Once, before training: run.teacher(), run.config and so on, for those who need them."""

    def inputs(self, step: Step) -> None:
        """Once a step: the run's attack, which sees the labels that it should."""
        step.x_adv = step.attack()

    def loss(self, step: Step) -> Tensor:
        """Both terms on the same labels, those of the clean inputs."""
        assert step.x_adv is not None  # inputs() made it
        clean = step.ce(step.model(step.x))
        attacked = step.ce(step.model(step.x_adv))
        return self.share * clean + (1 - self.share) * attacked


@robustlabels.hookimpl
def register_schemes(register: robustlabels.hookspecs.Register) -> None:
    """``--labels robustlabels-template-bootstrap``."""
    register("robustlabels-template-bootstrap", SoftBootstrap)


@robustlabels.hookimpl
def register_trainers(register: robustlabels.hookspecs.Register) -> None:
    """``--trainer robustlabels-template-mixed``."""
    register("robustlabels-template-mixed", MixedTraining)
