"""How images and weights lie in memory while a model is judged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

CPU_AT_A_TIME = 128  # larger passes leave the caches: benchmarks/autoattack_speed.py


@contextmanager
def channels_last(model: nn.Module, x: Tensor) -> Iterator[bool]:
    """The model's convolutions in channels_last for a while, where it has any and can take it.

    Pure layout: the same float32 arithmetic but for the order of sums.

    Args:
        model: frozen, in eval mode.
        x: (N, C, H, W), of which one is tried.

    Yields:
        Whether images should be handed over in that format.
    """
    weights = [p for p in model.parameters() if p.dim() == 4]
    if not weights or x.dim() != 4:
        yield False
        return
    before = [p.data for p in weights]
    try:
        for p in weights:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
        if _takes(model, x[:2].to(weights[0].device)):
            yield True
            return
    finally:
        for p, data in zip(weights, before, strict=True):
            p.data = data
    yield False


def _takes(model: nn.Module, x: Tensor) -> bool:
    """A model that calls ``view`` on its features may not."""
    try:
        with torch.no_grad():
            model(x.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return False
    return True
