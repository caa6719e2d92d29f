"""Any label scheme as a drop-in criterion, and the cross-entropy and KL that we use everywhere."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlabels.errors import BadValueError
from robustlabels.labels.base import Mix, complete, labels_of


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

    Args:
        scheme: any label scheme.
        reduction: "mean", "sum" or "none".
    """

    def __init__(self, scheme: Any, reduction: str = "mean") -> None:
        super().__init__()
        self.scheme = complete(scheme)
        if reduction not in ("mean", "sum", "none"):
            raise BadValueError(f"reduction must be mean, sum or none, not {reduction!r}")
        self.reduction = reduction

    def forward(
        self,
        logits: Tensor,
        y: Tensor,
        teacher_logits: Tensor | None = None,
        progress: float = 1.0,
        mix: Mix | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            logits: (N, num_outputs), with gradient.
            y: int64 (N,).
            teacher_logits: for schemes with a teacher.
            progress: in [0, 1], for annealed schemes.
            mix: what ``scheme.perturb`` returned, for mixing schemes.
            index: int64 (N,), for schemes that need it.
        """
        q = labels_of(self.scheme, y, logits, teacher_logits, progress, mix, index)
        return soft_cross_entropy(logits, q, self.reduction)
