"""Exponential moving averages of weights: ADR's teacher, and weight averaging."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

USUAL_DECAY = 0.995
"""ADR's, for its teacher and its weight averaging alike."""


class ExponentialAverage:
    """theta_avg <- decay theta_avg + (1 - decay) theta, batch norm's statistics included.

    Args:
        model: averaged from its present state on.
        decay: in [0, 1); .995 follows the last few hundred steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._source = model

    @torch.no_grad()
    def update(self) -> None:
        """Follow the model by one step; call it after the optimizer's."""
        averaged, followed = [], []
        # Listed anew each time: a layer may have assigned a new tensor to a buffer.
        for own, other in zip(_tensors(self.model), _tensors(self._source), strict=True):
            if own.is_floating_point():
                averaged.append(own)
                followed.append(other)
            else:  # counters (num_batches_tracked) have no average
                own.copy_(other)
        if averaged:
            torch._foreach_lerp_(averaged, followed, 1.0 - self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The average's weights and buffers."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from saved weights and buffers."""
        self.model.load_state_dict(state)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [p.detach() for p in model.parameters()] + list(model.buffers())
