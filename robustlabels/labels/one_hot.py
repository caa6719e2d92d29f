"""One-hot labels: the usual target, and every other scheme's limit."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustlabels.labels.base import LabelScheme, one_hot


class OneHot(LabelScheme):
    """e_y."""

    linear = True

    def _labels(self, y: Tensor, *_: Any, like: Tensor, **__: Any) -> Tensor:
        return one_hot(y, self.num_classes, like)
