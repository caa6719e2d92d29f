"""Goibert and Dohmatob's theorem 1: label smoothing is a penalty on the logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustlabels.labels import (
    AdversarialLabelSmoothing,
    BoltzmannLabelSmoothing,
    LabelLoss,
    SecondBestLabelSmoothing,
    StandardLabelSmoothing,
)

N, K, ALPHA, T = 200, 7, 0.35, 0.8


def penalty(name: str, z: np.ndarray, y: int) -> float:
    """(e_y - q')^T z of one sample, from corollary 1 and its siblings (not from table 1, which
    has the sign reversed)."""
    others = np.delete(z, y)
    if name == "als":
        return z[y] - z.min()
    if name == "sls":
        return z[y] - others.mean()
    if name == "sbls":
        return z[y] - others.max()
    weight = np.exp(-(others - others.min()) / T)
    return z[y] - (weight * others).sum() / weight.sum()


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("sls", StandardLabelSmoothing(K, ALPHA)),
        ("als", AdversarialLabelSmoothing(K, ALPHA)),
        ("sbls", SecondBestLabelSmoothing(K, ALPHA)),
        ("bls", BoltzmannLabelSmoothing(K, ALPHA, T)),
    ],
)
def test_smoothed_ce_is_hard_ce_plus_a_logit_penalty(name: str, scheme) -> None:
    """SmoothCE = L + alpha R. A sign or a class mixed up in a label would squeeze the wrong
    logits, and still look like a distribution."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(N, K)) * 4
    y = rng.integers(K, size=N)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    hard = -log_p[np.arange(N), y].mean()
    r = np.mean([penalty(name, z[i], y[i]) for i in range(N)])
    smooth = LabelLoss(scheme)(torch.from_numpy(z), torch.from_numpy(y)).item()
    assert smooth == pytest.approx(hard + ALPHA * r, rel=1e-12)
    assert abs(r) > 0.1  # the penalty is not a rounding error
