"""Exponential moving averages of weights: ADR's teacher, and weight averaging."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ExponentialAverage:
    """theta_avg <- decay theta_avg + (1 - decay) theta, batch norm's statistics included.

    Args:
        model: averaged from its present state on.
        decay: in [0, 1); .995 follows the last few hundred steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        averaged, followed = _tensors(self.model), _tensors(model)
        floating = [t.is_floating_point() for t in averaged]
        self._averaged = [t for t, f in zip(averaged, floating, strict=True) if f]
        self._followed = [t for t, f in zip(followed, floating, strict=True) if f]
        # Counters (num_batches_tracked) have no average: they are copied.
        self._counters = [
            pair for *pair, f in zip(averaged, followed, floating, strict=True) if not f
        ]

    @torch.no_grad()
    def update(self) -> None:
        """Follow the model by one step; call it after the optimizer's."""
        if self._averaged:
            torch._foreach_lerp_(self._averaged, self._followed, 1.0 - self.decay)
        for counter, source in self._counters:
            counter.copy_(source)

    def state_dict(self) -> dict[str, Tensor]:
        """The average's weights and buffers."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from saved weights and buffers."""
        self.model.load_state_dict(state)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [p.detach() for p in model.parameters()] + list(model.buffers())
