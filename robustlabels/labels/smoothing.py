"""Label smoothing, uniform over all classes (Szegedy et al. 2016; VS, eq. 1)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from robustlabels.labels import _checks
from robustlabels.labels.base import LabelScheme, one_hot


class LabelSmoothing(LabelScheme):
    """(1 - alpha) e_y + alpha / K on every class, y included.

    Args:
        num_classes: K.
        alpha: the smoothed mass, in [0, 1].
    """

    linear = True
    parameters: ClassVar[tuple[str, ...]] = ("alpha",)

    def __init__(self, num_classes: int, alpha: float = 0.1) -> None:
        super().__init__(num_classes)
        self.alpha = _checks.check_share("alpha", alpha)

    def _labels(self, y: Tensor, *_: Any, like: Tensor, **__: Any) -> Tensor:
        k = self.num_classes
        return (1 - self.alpha) * one_hot(y, k, like) + self.alpha / k
