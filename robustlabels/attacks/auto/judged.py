"""A model under attack: all its logits are attacked, the first K are judged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustlabels.errors import BadValueError


class Judged:
    """Logits in float32, and who is fooled.

    Args:
        logits: (N, C, H, W) -> (N, D).
        num_classes: K, at most D; the classes that count.
    """

    def __init__(self, logits: Callable[[Tensor], Tensor], num_classes: int) -> None:
        self._logits = logits
        self.num_classes = num_classes

    def __call__(self, x: Tensor) -> Tensor:
        """(N, D), D at least K."""
        with torch.autocast(x.device.type, enabled=False):
            logits = self._logits(x)
        if logits.dim() != 2 or len(logits) != len(x) or logits.shape[1] < self.num_classes:
            raise BadValueError(
                f"the model must return logits ({len(x)}, {self.num_classes} or more), "
                f"not {tuple(logits.shape)}"
            )
        return logits.float()

    def fooled(self, logits: Tensor, y: Tensor) -> Tensor:
        """bool (N,): the greatest of the first K logits is not y's."""
        return logits[:, : self.num_classes].argmax(dim=1) != y

    def targets(self, logits: Tensor, y: Tensor, count: int) -> Tensor:
        """int64 (N, count): the greatest logits but y's, virtual classes included, in order."""
        others = logits.scatter(1, y.unsqueeze(1), -torch.inf)
        return others.argsort(dim=1, descending=True)[:, :count]
