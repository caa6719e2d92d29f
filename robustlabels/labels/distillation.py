"""Low-temperature distillation (Chen and Lee 2021)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from robustlabels.labels import _checks
from robustlabels.labels.base import LabelScheme


class LowTemperatureDistillation(LabelScheme):
    """LTD: softmax(t / T) of a frozen, naturally trained teacher (eq. 5, 9).

    The student's own temperature stays 1: the loss is plain cross-entropy on these labels.

    Args:
        num_classes: K.
        temperature: T above 0.
    """

    needs = frozenset({"teacher"})
    teacher = "frozen"
    parameters: ClassVar[tuple[str, ...]] = ("temperature",)

    def __init__(self, num_classes: int, temperature: float = 5.0) -> None:
        super().__init__(num_classes)
        self.temperature = _checks.check_positive("temperature", temperature)

    def _labels(
        self, y: Tensor, logits: Tensor | None, teacher_logits: Tensor | None, *_: Any, **__: Any
    ) -> Tensor:
        assert teacher_logits is not None  # labels() has checked ``needs``
        return (teacher_logits / self.temperature).softmax(dim=1)
