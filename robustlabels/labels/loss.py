"""Any label scheme as a drop-in criterion, and the cross-entropy and KL that we use everywhere."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlabels.errors import BadValueError
from robustlabels.labels import _checks
from robustlabels.labels.base import Mix, complete, labels_of, set_value_checks

CHECKED_CALLS = 8


def soft_cross_entropy(logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy against class indices or soft labels, computed in at least float32.

    Args:
        logits: (N, C).
        target: int64 (N,), or (N, C) with rows that sum to 1.
        reduction: "mean" over the batch (0 for an empty one), "sum" or "none".

    Returns:
        A scalar, or (N,) for "none".
    """
    log_p = F.log_softmax(_at_least_float32(logits), dim=1)
    if target.is_floating_point():
        if target.shape != log_p.shape:  # broadcasting would hide it
            raise BadValueError(
                f"target must have shape {tuple(log_p.shape)} like the logits, "
                f"not {tuple(target.shape)}"
            )
        # A class of probability 0 has no part in the loss: 0 * -inf would make it NaN.
        log_p = log_p.masked_fill(log_p.isneginf() & (target == 0), 0.0)
        losses = -(target.to(log_p.dtype) * log_p).sum(dim=1)
    else:
        losses = F.nll_loss(log_p, target, reduction="none")
    return _reduce(losses, reduction)


def kl_divergence(p_logits: Tensor, q_logits: Tensor, reduction: str = "mean") -> Tensor:
    """KL(softmax(p_logits) || softmax(q_logits)) per sample ("batchmean"), in at least float32.

    Args:
        p_logits: (N, C), the reference.
        q_logits: (N, C).
        reduction: "mean" over the batch, "sum" or "none".
    """
    log_p = F.log_softmax(_at_least_float32(p_logits), dim=1)
    log_q = F.log_softmax(_at_least_float32(q_logits), dim=1)
    # 0 log(0 / q) is 0, also where q is 0.
    ratio = (log_p - log_q).masked_fill(log_p.isneginf(), 0.0)
    return _reduce((log_p.exp() * ratio).sum(dim=1), reduction)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return losses.sum() / max(len(losses), 1)
    if reduction == "sum":
        return losses.sum()
    if reduction == "none":
        return losses
    raise BadValueError(f"reduction must be mean, sum or none, not {reduction!r}")


class LabelLoss(nn.Module):
    """Cross-entropy on a scheme's labels: a criterion for any torch loop.

    ::

        criterion = robustlabels.LabelLoss(scheme)
        loss = criterion(model(x), y)

    On a GPU only the first calls check values (the range of y, NaN), because each check waits for
    the GPU; a graph of ``torch.compile`` has no such checks.

    Args:
        scheme: Label scheme.
        reduction: "mean" (over the targets that are not ignored; 0 if all are), "sum" or "none".
        ignore_index: Class index whose targets count nothing, as in ``CrossEntropyLoss``.
    """

    def __init__(self, scheme: Any, reduction: str = "mean", ignore_index: int = -100) -> None:
        super().__init__()
        self.scheme = complete(scheme)
        if reduction not in ("mean", "sum", "none"):
            raise BadValueError(f"reduction must be mean, sum or none, not {reduction!r}")
        self.reduction = reduction
        self.ignore_index: int = _checks.check_integer("ignore_index", ignore_index)
        self._calls: int = 0

    def extra_repr(self) -> str:
        """Return the scheme and the other arguments, for ``repr``."""
        return f"{self.scheme!r}, reduction={self.reduction!r}, ignore_index={self.ignore_index}"

    def forward(
        self,
        logits: Tensor,
        y: Tensor,
        teacher_logits: Tensor | None = None,
        progress: float = 1.0,
        mix: Mix | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            logits: Model outputs (N, num_outputs) or (N, num_outputs, d1, ...), with gradient.
            y: Classes (N,) or (N, d1, ...), of any integer dtype; or, for a scheme that is linear
                in y, distributions (N, num_classes) or (N, num_classes, d1, ...), as MixUp and
                CutMix of timm and torchvision return them.
            teacher_logits: Teacher outputs, for schemes with a teacher.
            progress: Progress of training in [0, 1], for annealed schemes.
            mix: Mix that ``scheme.perturb`` returned, for mixing schemes.
            index: Sample numbers, int64 (N,), for schemes that need them.
        """
        soft = _checks.is_soft(y)
        if soft and not getattr(self.scheme, "linear", False):
            raise BadValueError(
                f"{type(self.scheme).__name__} is not linear in y, so it takes no soft targets "
                f"{tuple(y.shape)}: give class indices, or use a linear scheme (ls, vs)"
            )
        dense = isinstance(logits, Tensor) and logits.dim() > 2
        shape: tuple[int, ...] = ()
        if isinstance(y, Tensor):  # not getattr, which torch 2.4 cannot compile
            shape = tuple(y.shape[:1] + y.shape[2:]) if soft else tuple(y.shape)
        if dense:
            expected = (len(logits), *logits.shape[2:])
            if shape != expected:
                raise BadValueError(
                    f"y must have shape {expected} for logits {tuple(logits.shape)}, "
                    f"not {tuple(getattr(y, 'shape', ()))}"
                )
            if mix is not None or index is not None:
                raise BadValueError("mix and index need logits (N, C), not dense ones")
            logits = _rows(logits)
            y = _rows(y) if soft else y.reshape(-1)
            teacher_logits = None if teacher_logits is None else _rows(teacher_logits)

        kept = None
        if isinstance(y, Tensor) and not (y.is_floating_point() or y.dtype == torch.bool):
            y = y.long()
            kept = y != self.ignore_index
            y = y.where(kept, 0)
        q = self._labels(logits, y, teacher_logits, progress, mix, index)

        losses = soft_cross_entropy(logits, q, "none")
        if kept is not None:
            kept = kept.to(losses.device)
            losses = losses.where(kept, 0.0)
        if self.reduction == "mean" and kept is not None:
            return losses.sum() / kept.sum().clamp(min=1)
        if self.reduction == "none" and dense:
            return losses.reshape(shape)
        return _reduce(losses, self.reduction)

    def _labels(self, logits: Tensor, *given: Any) -> Tensor:
        y: Any = given[0]
        rest: Any = given[1:]
        if torch.compiler.is_compiling() or getattr(logits, "is_cpu", True):
            return labels_of(self.scheme, y, logits, *rest)
        self._calls += 1
        before = self.scheme.check_values
        if self._calls > CHECKED_CALLS:
            set_value_checks(self.scheme, False)
        try:
            return labels_of(self.scheme, y, logits, *rest)
        finally:
            set_value_checks(self.scheme, before)


def _rows(dense: Tensor) -> Tensor:
    """Return (N, C, d1, ...) as (N d1 ..., C)."""
    return dense.movedim(1, -1).reshape(-1, dense.shape[1])
