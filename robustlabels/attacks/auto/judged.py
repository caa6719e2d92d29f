"""A model under attack: all its logits are attacked, the first K are judged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustlabels.attacks.base import input_gradient
from robustlabels.errors import BadValueError

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (n, D), y (n,), target (n,)) -> (n,)"""


class Judged:
    """Logits in float32, their gradients, and who is fooled.

    Args:
        logits: (N, C, H, W) -> (N, D).
        num_classes: K, at most D; the classes that count.
        at_a_time: images in one pass; halved for good where a GPU's memory does not suffice.
            None: as many as there are.
        channels_last: hand the images over in this memory format.
    """

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        num_classes: int,
        at_a_time: int | None = None,
        channels_last: bool = False,
    ) -> None:
        self._logits = logits
        self.num_classes, self.at_a_time = num_classes, at_a_time
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, x: Tensor) -> Tensor:
        """(N, D), D at least K, without a graph."""
        with torch.no_grad():
            return torch.cat([self._pass(x[part]) for part in self._parts(len(x))])

    def look(self, x: Tensor, y: Tensor, target: Tensor, loss: Loss) -> tuple[Tensor, ...]:
        """Logits (N, D), losses (N,) and the gradient of their sum (N, C, H, W), detached."""
        found = [self._look(x[p], y[p], target[p], loss) for p in self._parts(len(x))]
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))

    def fooled(self, logits: Tensor, y: Tensor) -> Tensor:
        """bool (N,): the greatest of the first K logits is not y's."""
        return logits[:, : self.num_classes].argmax(dim=1) != y

    def targets(self, logits: Tensor, y: Tensor, count: int) -> Tensor:
        """int64 (N, count): the greatest logits but y's, virtual classes included, in order."""
        others = logits.scatter(1, y.unsqueeze(1), -torch.inf)
        return others.argsort(dim=1, descending=True)[:, :count]

    def _look(self, x: Tensor, y: Tensor, target: Tensor, loss: Loss) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits = self._pass(leaf)
            losses = loss(logits, y, target)
            grad = input_gradient(losses.sum(), leaf)
        return logits.detach(), losses.detach(), grad

    def _parts(self, n: int) -> list[slice]:
        size = self.at_a_time or max(n, 1)
        return [slice(i, i + size) for i in range(0, max(n, 1), size)]

    def _pass(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            logits = self._logits(x.contiguous(memory_format=self._format) if x.dim() == 4 else x)
        if logits.dim() != 2 or len(logits) != len(x) or logits.shape[1] < self.num_classes:
            raise BadValueError(
                f"the model must return logits ({len(x)}, {self.num_classes} or more), "
                f"not {tuple(logits.shape)}"
            )
        return logits.float()
