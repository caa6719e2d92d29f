"""What an evaluation is, and what it is given besides the model and the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from robustlabels.evaluation.accuracy import Progress
from robustlabels.evaluation.held_out import HeldOut, none_held_out


@dataclass(frozen=True)
class Context:
    """What :func:`robustlabels.evaluate` knows when it calls an evaluation.

    Attributes:
        num_classes: K, the width of the model's logits.
        eps: radius of the threat model.
        norm: "Linf", "L2" or "L1".
        seed: also what the global generators are seeded with before each evaluation.
        batch_size: images at a time.
        adversarial: attack's name -> its inputs (N, C, H, W), on x's device.
        progress: ``progress(share, text)``, or None.
        held_out: ``held_out()`` reads images (N, C, H, W) and labels (N,) on the CPU that neither
            trained nor judge the model, for what must be fitted; a ValueError where none are known.
        scheme: the label scheme that the model was trained with, or None.
        classes: Names of the data set's classes, by index; empty if unknown.
    """

    num_classes: int
    eps: float
    norm: str
    seed: int
    batch_size: int
    adversarial: Mapping[str, Tensor] = field(default_factory=dict)
    progress: Progress | None = None
    held_out: HeldOut = none_held_out
    scheme: Any = None
    classes: tuple[str, ...] = ()


class Evaluation(Protocol):
    """Something to measure. ``factory(**params)`` makes one."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, context: Context
    ) -> Mapping[str, Any]:
        """Figures that JSON can hold.

        Args:
            model: maps (N, C, H, W) in [0, 1] to logits (N, K), in eval mode, frozen.
            x: (N, C, H, W) in [0, 1], on the CPU; the model may be elsewhere.
            y: int64 (N,), on the CPU.
            context: the rest.
        """
