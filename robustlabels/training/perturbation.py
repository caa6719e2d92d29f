"""Adversarial weight perturbation (Wu et al. 2020): gradients at the worst weights nearby.

Each optimizer step has two passes on the same x' and labels: the first gives the direction v in
which the loss rises, the second the gradient at w + v. The labels are made in the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from robustlabels.config import AwpConfig
from robustlabels.training.optimizers import trained

TINY = 1e-20
"""Added to a gradient's norm, as in both authors' code: a layer without gradient stays."""


class WeightPerturbation:
    """v = gamma ||w|| g / ||g|| for each parameter tensor w of gradient g.

    ==================  =====================  ===================  ====================
    variant             perturbs               norm statistics of   optimizer's step
    ==================  =====================  ===================  ====================
    ``robustlabels``    tensors of dim > 1     the first pass       at w, after restoring
    ``wu``              tensors of dim > 1     the second pass      at w + v, then - v
    ``adr``             every parameter        the first pass       at w, after restoring
    ==================  =====================  ===================  ====================

    So ``wu``'s weight decay acts on w + v, the others' on w.

    Args:
        model: that is trained.
        optimizer: of its parameters; only those that it holds are perturbed.
        config: variant, gamma and warm-up.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: AwpConfig
    ) -> None:
        self.gamma, self._warmup_epochs = config.gamma, config.warmup_epochs
        self.steps_inside = config.variant == "wu"
        self._model, self._optimizer = model, optimizer
        self._least_dim = 0 if config.variant == "adr" else 2

    def active(self, epochs_done: float) -> bool:
        """Whether the warm-up is over, after so many epochs."""
        return epochs_done >= self._warmup_epochs

    def first_pass(self) -> AbstractContextManager[None]:
        """Around the pass at w."""
        return _statistics_kept(self._model) if self.steps_inside else nullcontext()

    def second_pass(self) -> AbstractContextManager[None]:
        """Around the pass at w + v."""
        return nullcontext() if self.steps_inside else _statistics_kept(self._model)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Weights are w + v inside, v from the gradients at hand, which are erased.

        Afterwards they are w: to the bit, also after an exception. With ``steps_inside`` the
        optimizer's step belongs inside, and its result minus v is left.
        """
        stepped = [p for p in trained(self._optimizer) if p.grad is not None]
        moved = [p for p in stepped if p.dim() >= self._least_dim]
        offsets = [self._offset(p) for p in moved]
        # A step that an exception follows must be undone wherever it moved.
        touched = [p.detach() for p in (stepped if self.steps_inside else moved)]
        before = [w.clone() for w in touched]
        weights = [p.detach() for p in moved]
        self._optimizer.zero_grad(set_to_none=True)
        moved_back = False
        try:
            _add(weights, offsets)
            yield
            if self.steps_inside:
                _add(weights, offsets, -1.0)
                moved_back = True
        finally:
            if not moved_back:
                _copy(touched, before)

    @torch.no_grad()
    def _offset(self, p: Tensor) -> Tensor:
        assert p.grad is not None
        scale: Tensor = self.gamma * p.norm() / (p.grad.norm() + TINY)
        return p.grad * scale


def _add(weights: list[Tensor], offsets: list[Tensor], sign: float = 1.0) -> None:
    if weights:
        torch._foreach_add_(weights, offsets, alpha=sign)


def _copy(weights: list[Tensor], before: list[Tensor]) -> None:
    if weights:
        torch._foreach_copy_(weights, before)


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Put the buffers (batch norm's statistics and counters) back as they were."""
    saved = [b.clone() for b in model.buffers()]
    try:
        yield
    finally:
        # Listed anew: a layer may have assigned a new tensor to a buffer.
        for buffer, before in zip(model.buffers(), saved, strict=True):
            buffer.detach().copy_(before)
