"""How many images go through a model at once: as many as the memory holds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# The CPU's allocator has no exception of its own.
_CPU_IS_FULL = "can't allocate memory"

# A CPU's pass: 32 images of 3x32x32, whose activations its cache holds, is faster than 128.
_CPU_NUMBERS, _CPU_FEWEST = 32 * 3 * 32 * 32, 8


def parts_for(model: nn.Module, x: Tensor) -> int:
    """In how many passes a batch is fastest: small ones on a CPU, where samples are independent.

    Args:
        model: in eval mode; a batch norm without running statistics needs the batch whole.
        x: (N, C, H, W).
    """
    mixed = (isinstance(m, _BatchNorm) and m.running_mean is None for m in model.modules())
    if x.device.type != "cpu" or any(mixed):
        return 1
    images = max(_CPU_NUMBERS // max(x[0].numel(), 1), _CPU_FEWEST * torch.get_num_threads())
    return max(1, round(len(x) / images))


class Passes:
    """Calls a function on parts of a batch, on smaller ones where the memory does not suffice.

    Args:
        at_a_time: rows of a part; halved for good when memory runs out. None: all.
    """

    def __init__(self, at_a_time: int | None = None) -> None:
        self.at_a_time = at_a_time

    def over(
        self, function: Callable[..., tuple[Tensor, ...]], *batch: Tensor
    ) -> tuple[Tensor, ...]:
        """The function's results on all rows, put together.

        Args:
            function: tensors (n, ...) -> tensors (n, ...).
            batch: tensors (N, ...).
        """
        found: list[tuple[Tensor, ...]] = []
        done, rows = 0, len(batch[0])
        while done < rows or not found:
            size = min(self.at_a_time or rows, max(rows - done, 1))
            try:
                found.append(function(*(t[done : done + size] for t in batch)))
            except RuntimeError as error:
                if size == 1 or not ran_out(error):
                    raise
                self.at_a_time = size // 2
            else:
                done += size
                continue
            # Out of the handler: the error holds the frames, and they the memory.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if len(found) == 1:
            return found[0]
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def ran_out(error: RuntimeError) -> bool:
    """Whether an error says that memory did not suffice."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or _CPU_IS_FULL in str(error)
