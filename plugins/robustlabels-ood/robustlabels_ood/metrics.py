"""How well a score tells two sets of samples apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from robustlabels.errors import BadValueError


def detection(inside: ArrayLike, outside: ArrayLike) -> dict[str, float]:
    """AUROC, FPR-95 and AUPR, with OOD as the class that is to be detected.

    Equal scores count half in the AUROC, and against the detector in the FPR-95.

    Args:
        inside: (N,), scores of in-distribution samples; greater means more outlying.
        outside: (M,), scores of OOD samples.

    Returns:
        In [0, 1]. ``auroc``: the probability that an OOD sample's score is above an ID sample's.
        ``fpr95``: the share of ID samples that are flagged by the highest threshold that flags
        95 % of the OOD ones, as in VS (table 11) and Hendrycks et al. 2019. ``aupr``: the average
        precision; a random score's is M / (N + M). ``fpr95_id`` and ``aupr_id``: the same with
        the two sides exchanged: ``fpr95_id`` is the share of OOD samples that are accepted by the
        threshold that accepts 95 % of the ID ones, which other papers call FPR-95.

    Raises:
        ValueError: no samples on a side, or a score that is NaN.
    """
    ins, outs = _scores("inside", inside), _scores("outside", outside)
    score = np.concatenate([ins, outs])
    is_ood = np.concatenate([np.zeros(len(ins), int), np.ones(len(outs), int)])
    return {
        "auroc": float(roc_auc_score(is_ood, score)),
        "fpr95": _false_positives(ins, outs),
        "aupr": float(average_precision_score(is_ood, score)),
        "fpr95_id": _false_positives(-outs, -ins),
        "aupr_id": float(average_precision_score(1 - is_ood, -score)),
    }


def _false_positives(negative: NDArray[np.float64], positive: NDArray[np.float64]) -> float:
    """Share of the negative at or above the threshold that 95 % of the positive reach."""
    needed = -(-95 * len(positive) // 100)  # at least 95 %, in integers
    threshold = np.sort(positive)[len(positive) - needed]
    return float(np.mean(negative >= threshold))


def _scores(what: str, values: ArrayLike) -> NDArray[np.float64]:
    # Infinities only as the greatest numbers there are: scikit-learn refuses them.
    scores = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=np.nan)
    if scores.ndim != 1 or not len(scores) or np.isnan(scores).any():
        raise BadValueError(f"{what} must be scores (N,), N at least 1, without NaN")
    return scores
