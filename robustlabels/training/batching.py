"""Which samples make which step: a function of the seed and the step, so it resumes exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustlabels.data import Split
from robustlabels.randomness import derived_seed


@dataclass(frozen=True)
class Batch:
    """The samples of a step, or of a part of one, on the device.

    Attributes:
        x: (N, C, H, W) in [0, 1].
        y: int64 (N,).
        index: int64 (N,), the samples' places in the training split.
    """

    x: Tensor
    y: Tensor
    index: Tensor

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same samples, their images changed."""
        return replace(self, x=change(self.x))

    def parts(self, count: int) -> Iterator[Batch]:
        """As even parts as can be."""
        for x, y, index in zip(
            *(t.tensor_split(count) for t in (self.x, self.y, self.index)), strict=True
        ):
            yield Batch(x, y, index)


@dataclass(frozen=True)
class Batches:
    """The batches of a run.

    Attributes:
        split: the training split.
        indices: int64, the samples that are trained on.
        size: samples of a batch.
        seed: the run's.
        device: where the batches go.
    """

    split: Split
    indices: Tensor
    size: int
    seed: int
    device: torch.device

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        n = len(self.indices)
        # A last batch of one sample would break batch norm, so it is left out.
        return max(1, n // self.size + (n % self.size > 1))

    def rest_of_epoch(self, done: int) -> Iterator[Batch]:
        """The batches that are left of the epoch after ``done`` steps, in its seed's order."""
        epoch, first = divmod(done, self.per_epoch)
        order = torch.Generator().manual_seed(derived_seed(self.seed, "order", epoch))
        shuffled = self.indices[torch.randperm(len(self.indices), generator=order)]
        batches = shuffled.split(self.size)[first : self.per_epoch]
        for index, (x, y) in zip(batches, self.split.batches(batches, self.device), strict=True):
            yield Batch(x, y, index.to(self.device))
