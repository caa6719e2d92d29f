"""A model under attack: all its logits are attacked, the first K are judged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from robustlabels.attacks.base import correct, finite_gradient, input_gradient
from robustlabels.attacks.passes import Passes
from robustlabels.errors import BadValueError

FORWARD_BACKWARD = 3.0
"""The cost of a pass with gradient, in passes without."""

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

    Attributes:
        on_pass: called before each pass with its cost: images, three times as many with a graph.
    """

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        num_classes: int,
        at_a_time: int | None = None,
        channels_last: bool = False,
    ) -> None:
        self._logits = logits
        self.num_classes, self._passes = num_classes, Passes(at_a_time)
        self.nonfinite_gradients = False
        self.on_pass: Callable[[float], None] | None = None
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    @property
    def at_a_time(self) -> int | None:
        """Images in one pass, as memory allowed so far."""
        return self._passes.at_a_time

    def __call__(self, x: Tensor) -> Tensor:
        """(N, D), D at least K, without a graph."""
        with torch.no_grad():
            return self._passes.over(lambda part: (self._pass(part),), x)[0]

    def look(self, x: Tensor, y: Tensor, target: Tensor, loss: Loss) -> tuple[Tensor, ...]:
        """Logits (N, D), losses (N,) and the gradient of their sum (N, C, H, W), detached."""
        return self._passes.over(partial(self._look, loss=loss), x, y, target)

    def laid_out(self, x: Tensor) -> Tensor:
        """(N, C, H, W) as the model takes it; x itself if it lies so already."""
        return x.contiguous(memory_format=self._format) if x.dim() == 4 else x

    def fooled(self, logits: Tensor, y: Tensor) -> Tensor:
        """bool (N,): the greatest of the first K logits is not y's, or one is NaN."""
        return ~correct(logits[:, : self.num_classes], y)

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
        self.nonfinite_gradients |= not bool(grad.isfinite().all())
        grad = finite_gradient(grad)
        return logits.detach(), losses.detach(), grad

    def _pass(self, x: Tensor) -> Tensor:
        if self.on_pass is not None:
            self.on_pass(len(x) * (FORWARD_BACKWARD if torch.is_grad_enabled() else 1.0))
        with torch.autocast(x.device.type, enabled=False):
            logits = self._logits(self.laid_out(x))
        if logits.dim() != 2 or len(logits) != len(x) or logits.shape[1] < self.num_classes:
            raise BadValueError(
                f"the model must return logits ({len(x)}, {self.num_classes} or more), "
                f"not {tuple(logits.shape)}"
            )
        return logits.float()
