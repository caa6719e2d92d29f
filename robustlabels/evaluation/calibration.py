"""Calibration: does the confidence mean what it says?"""

from __future__ import annotations

import torch
from torch import Tensor

from robustlabels.errors import BadValueError


def expected_calibration_error(logits: Tensor, y: Tensor, bins: int = 15) -> float:
    """ECE: |accuracy - confidence| in bins of equal width over [0, 1], weighted by their samples.

    Args:
        logits: (N, K) of the real classes, so that the confidence is the deployed classifier's.
        y: int64 (N,).
        bins: at least 1.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise BadValueError(f"bins must be an integer of at least 1, not {bins!r}")
    # The softmax here, because torchmetrics leaves it out where all logits lie in [0, 1]; and
    # below 1 in its float32, because it gives a confidence of exactly 1 a bin of its own.
    p = logits.double().softmax(dim=1).float().clamp(max=1 - torch.finfo(torch.float32).eps / 2)
    error = multiclass_calibration_error(
        p, y.to(p.device), num_classes=p.shape[1], n_bins=bins, norm="l1"
    )
    return float(error)
