"""Calibration: does the confidence mean what it says, and what mends it afterwards?"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from robustlabels.errors import BadValueError

MOST = 100.0
"""Temperatures are sought in [1 / MOST, MOST]."""


def expected_calibration_error(logits: Tensor, y: Tensor, bins: int = 15) -> float:
    """ECE: |accuracy - confidence| in bins of equal width over [0, 1], weighted by their samples.

    Samples whose softmax is NaN have no confidence, so they are excluded
    (:func:`without_confidence` counts them); NaN if no others are left.

    Args:
        logits: (N, K) of the real classes, so that the confidence is the deployed classifier's.
        y: int64 (N,).
        bins: at least 1.
    """
    return error_of_confidence(logits.double().softmax(dim=1), y, bins)


def error_of_confidence(p: Tensor, y: Tensor, bins: int) -> float:
    """Return the ECE of predictions (N, K) in [0, 1], whose rows need not sum to 1.

    Rows with NaN are excluded; NaN if none are left.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise BadValueError(f"bins must be an integer of at least 1, not {bins!r}")
    # Probabilities, because torchmetrics leaves the softmax out where all logits lie in [0, 1]; and
    # below 1 in its float32, because it gives a confidence of exactly 1 a bin of its own.
    known = ~p.isnan().any(dim=1)  # one NaN would make torchmetrics apply a softmax to all rows
    p = p[known]
    y = y.to(p.device)[known]
    if len(p) == 0:
        return math.nan
    p = p.float().clamp(max=1 - torch.finfo(torch.float32).eps / 2)
    error = multiclass_calibration_error(p, y, num_classes=p.shape[1], n_bins=bins, norm="l1")
    return float(error)


def without_confidence(logits: Tensor) -> int:
    """Return how many rows of logits (N, K) have a NaN softmax: one is NaN or plus infinity."""
    return int(logits.double().softmax(dim=1).isnan().any(dim=1).sum())


def fitted_temperature(logits: Tensor, y: Tensor) -> float:
    """T that minimises the mean cross-entropy of softmax(z / T) on y (Guo et al. 2017).

    The loss is convex in b = 1 / T, its slope the mean of E_p[z] - z_y with p = softmax(b z), whose
    root bisection finds. Where every sample is right no T is small enough, and where the logits
    mislead none is large enough: then it is the end of the range.

    Args:
        logits: (N, K).
        y: int64 (N,).

    Returns:
        T in [1 / 100, 100].

    Raises:
        ValueError: logits that are not finite.
    """
    z = logits.double()
    broken = int((~z.isfinite()).any(dim=1).sum())
    if broken:
        raise BadValueError(
            f"the temperature cannot be fitted: {broken} of {len(z)} held-out images have NaN or "
            "infinite logits; give others as held_out=(x, y)"
        )
    z_y = z.gather(1, y.to(z.device).unsqueeze(1)).squeeze(1)
    low, high = -math.log(MOST), math.log(MOST)  # of log b
    for _ in range(60):
        middle = (low + high) / 2
        expected = ((math.exp(middle) * z).softmax(dim=1) * z).sum(dim=1)
        if float((expected - z_y).mean()) <= 0:  # 0 where the softmax is certain
            low = middle
        else:
            high = middle
    return math.exp(-(low + high) / 2)


def range_of_labels(scheme: Any, num_classes: int) -> tuple[float, float]:
    """The least and the greatest value of a scheme's labels, where nothing but y sets them.

    Label smoothing has (alpha / K, 1 - alpha + alpha / K).

    Args:
        scheme: a label scheme.
        num_classes: K.

    Raises:
        ValueError: the labels follow from more than y, or are of other classes.
    """
    outputs = getattr(scheme, "num_outputs", None)
    if outputs != num_classes or scheme.needs or getattr(scheme, "teacher", None) is not None:
        raise BadValueError(
            "only labels that follow from the class alone, as those of ls and sls, have a range to "
            f"normalise predictions by; the model's are {type(scheme).__name__}'s: give alpha=, "
            "that of ls, to normalise by another's"
        )
    labels: Tensor = scheme.labels(torch.arange(num_classes))
    return float(labels.min()), float(labels.max())


def normalized(p: Tensor, least: float, greatest: float) -> Tensor:
    """Predictions from [least, greatest] to [0, 1]: (p - least) / (greatest - least), cut there.

    It turns smoothed labels into one-hot ones, keeps the sum of a row where nothing is cut, and its
    most probable class.
    """
    return ((p - least) / (greatest - least)).clamp(0, 1)
