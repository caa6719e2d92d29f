"""Batch norm over a batch that several processes share: statistics of all its samples.

torch's SyncBatchNorm refuses tensors on the CPU, and what it converts are other modules. Here the
modules stay, their class changes for a while; state-dict names, hooks and torch's own bookkeeping
of running statistics are as ever. In eval mode nothing is exchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode


@contextmanager
def synced(model: nn.Module) -> Iterator[None]:
    """Inside, the model's batch norms normalise by the statistics of all processes' samples.

    Every process must make the same forward and backward passes, none on an empty batch.

    Args:
        model: any module; every ``torch.nn`` batch norm in it and every subclass counts, but
            SyncBatchNorm, which does so already.
    """
    norms = [
        (m, type(m))
        for m in model.modules()
        if isinstance(m, _BatchNorm) and not isinstance(m, nn.SyncBatchNorm)
    ]
    try:
        for module, kind in norms:
            module.__class__ = _of_all(kind)  # type: ignore[arg-type]
        yield
    finally:
        for module, kind in norms:
            module.__class__ = kind


@functools.cache
def _of_all(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    class OfAll(kind):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            if self.training:
                with _InPlaceOfTorchs():
                    return super().forward(*args, **kwargs)
            return super().forward(*args, **kwargs)

    OfAll.__name__ = OfAll.__qualname__ = kind.__name__
    return OfAll


class _InPlaceOfTorchs(TorchFunctionMode):
    """Inside, ``F.batch_norm`` is ours: whatever else a layer's forward does stays its own."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return (batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.batch_norm`` where each process has a part of the batch.

    Args:
        input: (n, C, ...), this process' part; n, and what follows C, may differ between them.
        running_mean: (C,), moved by the mean of the whole batch, or None.
        running_var: (C,), moved by its unbiased variance, or None.
        weight: (C,) or None; its gradient is that of this process' part, as every parameter's.
        bias: (C,) or None; likewise.
        training: False: F.batch_norm, nothing is exchanged.
        momentum: share of the new in the running statistics.
        eps: added to the variance.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    y, mean, var, count = _Normalised.apply(input, weight, bias, eps)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            unbiased = var * (count / (count - 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    result: Tensor = y
    return result


class _Normalised(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) weight + bias, mean and var of all processes' x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = _wide(x)
        var, mean = torch.var_mean(wide, _all_but_channels(x), correction=0)
        mean, var, count = _merged(mean, var, x.numel() // x.shape[1])
        inverse = torch.rsqrt(var + eps)
        scale = inverse if weight is None else inverse * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        y = torch.addcmul(_per_channel(shift, x), wide, _per_channel(scale, x)).to(x.dtype)
        ctx.save_for_backward(x, weight, mean, inverse, count)
        ctx.mark_non_differentiable(mean, var, count)
        return y, mean, var, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad: Tensor, *_: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        dims = _all_but_channels(x)
        wide = _wide(grad)
        unit = (_wide(x) - _per_channel(mean, x)) * _per_channel(inverse, x)
        to_bias, to_weight = wide.sum(dims), (wide * unit).sum(dims)
        # What each sample owes to the statistics is owed by all samples of all processes.
        owed = torch.stack([to_bias, to_weight])
        dist.all_reduce(owed)
        owed = owed / count
        slope = inverse if weight is None else inverse * weight
        to_x = wide - _per_channel(owed[0], x) - unit * _per_channel(owed[1], x)
        to_x = (to_x * _per_channel(slope, x)).to(x.dtype)
        wanted = ctx.needs_input_grad
        return (to_x, to_weight if wanted[1] else None, to_bias if wanted[2] else None, None)


def _merged(mean: Tensor, var: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and number of all from those of each process' part, exact to rounding."""
    channels = len(mean)
    table = mean.new_zeros(dist.get_world_size(), 2 * channels + 1, dtype=torch.float64)
    mine = table[dist.get_rank()]
    mine.fill_(count)  # not copied from the host: a GPU would wait, in each layer
    mine[:-1] = torch.cat([mean, var])
    dist.all_reduce(table)
    means, variances, counts = table.split([channels, channels, 1], dim=1)
    total = counts.sum()
    shares = counts / total
    whole = (shares * means).sum(0)
    spread = (shares * (variances + (means - whole) ** 2)).sum(0)
    return whole.to(mean.dtype), spread.to(mean.dtype), total.to(mean.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _all_but_channels(x: Tensor) -> list[int]:
    return [d for d in range(x.dim()) if d != 1]


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))
