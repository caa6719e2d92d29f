"""Our models in torchattacks' hands: ``torchattacks.PGD(for_torchattacks(model))``.

The other direction, a torchattacks object as an attack of ours, is
:class:`robustlabels.attacks.ready_torchattacks.ReadyTorchAttack`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from robustlabels.attacks.base import held_still
from robustlabels.errors import BadValueError
from robustlabels.loading import load_run
from robustlabels.models import real_classes


def for_torchattacks(
    model: nn.Module | str | Path, scheme: Any = None, weights: str = "best"
) -> nn.Module:
    """The deployed classifier, on which every torchattacks attack runs as it is.

    It shares the model's weights, so attacks follow a model in training. Whatever torchattacks
    does to it, the model keeps its modes, its ``requires_grad`` and its gradients: it is in eval
    mode, with frozen parameters, only while it computes logits.

    Args:
        model: maps images (N, C, H, W) in [0, 1] to logits (N, K or more), normalisation inside
            (so no ``set_normalization_used``); or the path of a RUN folder.
        scheme: the label scheme that the model was trained with, or K: only the first K logits
            count. All of them do by default; a run knows its own.
        weights: of a run: "best", "last" or "average".

    Returns:
        A module in eval mode, (N, C, H, W) -> (N, K), that can't be put in train mode.

    Raises:
        ValueError: not a model, or a K below 2.
        RunError: not a run.
    """
    if isinstance(model, str | Path):
        run = load_run(model, weights)
        model, scheme = run.model, run.num_classes if scheme is None else scheme
    if not isinstance(model, nn.Module):
        raise BadValueError(f"model must be an nn.Module or a run's path, not {model!r}")
    if isinstance(model, Deployed):
        model = model.classifier
    return Deployed(model if scheme is None else real_classes(model, scheme))


class Deployed(nn.Module):
    """A classifier whose modes are out of reach; see :func:`for_torchattacks`."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K)."""
        with held_still(self.classifier):
            logits: Tensor = self.classifier(x)
        return logits

    def train(self, mode: bool = True) -> Self:
        """Eval mode goes without saying, train mode is refused; the classifier keeps its own."""
        if mode:
            raise BadValueError(
                "a deployed classifier has no train mode: train the model itself; LGV, and "
                "set_model_training_mode(True), need robustlabels.real_classes(model, scheme)"
            )
        return self
