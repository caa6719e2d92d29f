"""Labels that depend on y and the student alone, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robustlabels.labels import (
    AdversarialLabelling,
    AdversarialLabelSmoothing,
    BoltzmannLabelSmoothing,
    LabelSmoothing,
    OneHot,
    SecondBestLabelSmoothing,
    StandardLabelSmoothing,
)

# Two samples with the same logits: y is the likeliest class, then the least likely one.
Z = torch.tensor([[2.0, -1.0, 0.5, -3.0], [2.0, -1.0, 0.5, -3.0]], dtype=torch.float64)
Y = torch.tensor([0, 3])


def close(q: torch.Tensor, expected: list[list[float]], tol: float = 1e-12) -> None:
    torch.testing.assert_close(
        q, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tol, check_dtype=False
    )


def test_one_hot_is_e_y() -> None:
    """The baseline of every comparison would not be the baseline."""
    close(OneHot(4).labels(Y), [[1, 0, 0, 0], [0, 0, 0, 1]], 0)


def test_ls_smooths_over_all_classes() -> None:
    """VS's eq. 1 shares alpha over all K, y included: .2 / 4 = .05 each; sls must not be mistaken
    for it (recipes: ALPS's "label smoothing" is sls, VS's and Pang's is ls)."""
    q = LabelSmoothing(4, alpha=0.2).labels(Y, Z)
    close(q, [[0.85, 0.05, 0.05, 0.05], [0.05, 0.05, 0.05, 0.85]])


def test_sls_smooths_over_the_other_classes() -> None:
    """Goibert's eq. 5 shares alpha over the K - 1 others: .3 / 3 = .1 each, none on y."""
    q = StandardLabelSmoothing(4, alpha=0.3).labels(Y, Z)
    close(q, [[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]])


def test_als_puts_alpha_on_the_least_likely_class_which_may_be_y() -> None:
    """Goibert's eq. 4 takes the argmin over all classes: excluding y would be another scheme."""
    q = AdversarialLabelSmoothing(4, alpha=0.2).labels(Y, Z)
    close(q, [[0.8, 0, 0, 0.2], [0, 0, 0, 1]])


def test_sbls_puts_alpha_on_the_likeliest_other_class() -> None:
    """Goibert's eq. 7 excludes y: the plain argmax would give alpha back to y in row 0."""
    q = SecondBestLabelSmoothing(4, alpha=0.2).labels(Y, Z)
    close(q, [[0.8, 0, 0.2, 0], [0.2, 0, 0, 0.8]])


def test_bls_weighs_the_other_classes_by_exp_of_minus_z() -> None:
    """Goibert's eq. 6 favours *small* logits: a lost minus would turn it into sbls."""
    q = BoltzmannLabelSmoothing(4, alpha=0.2, temperature=1.0).labels(Y, Z)
    first = [math.exp(1), math.exp(-0.5), math.exp(3)]
    second = [math.exp(-2), math.exp(1), math.exp(-0.5)]
    close(
        q,
        [
            [0.8, *(0.2 * w / sum(first) for w in first)],
            [*(0.2 * w / sum(second) for w in second), 0.8],
        ],
    )


def test_bls_temperature_divides_the_logits() -> None:
    """T = 2 flattens and T = .5 sharpens; multiplying instead would swap them."""
    for t in (0.5, 2.0):
        weights = [math.exp(1 / t), math.exp(-0.5 / t), math.exp(3 / t)]
        q = BoltzmannLabelSmoothing(4, alpha=1.0, temperature=t).labels(Y[:1], Z[:1])
        close(q, [[0.0, *(w / sum(weights) for w in weights)]])


def test_bls_on_probabilities_reproduces_the_authors_code() -> None:
    """Their code feeds softmax(z) where the paper says z: figures reproduced with the wrong one
    would be off."""
    z = np.array([2.0, -1.0, 0.5, -3.0])
    p = np.exp(z) / np.exp(z).sum()
    for y in range(4):
        weight = np.exp(-p / 0.1)
        weight[y] = 0.0
        expected = 0.4 * weight / weight.sum()
        expected[y] = 0.6
        scheme = BoltzmannLabelSmoothing(4, alpha=0.4, temperature=0.1, on="probabilities")
        close(scheme.labels(torch.tensor([y]), Z[:1]), [expected.tolist()])


def test_bls_with_equal_probabilities_excludes_y_by_index() -> None:
    """The authors' code excludes the true class by *value*: with a tie it would drop other classes
    too (here: all, and divide by zero)."""
    z = torch.zeros(1, 4, dtype=torch.float64)
    for on in ("logits", "probabilities"):
        q = BoltzmannLabelSmoothing(4, alpha=0.3, on=on).labels(torch.tensor([2]), z)
        close(q, [[0.1, 0.1, 0.7, 0.1]])


@pytest.mark.parametrize("logits_dtype", [torch.float16, torch.float32, torch.float64])
def test_bls_survives_its_default_temperature(logits_dtype: torch.dtype) -> None:
    """exp(3 / .001) overflows every float: the naive formula gives NaN at the paper's default."""
    q = BoltzmannLabelSmoothing(4, alpha=0.2).labels(Y[:1], Z[:1].to(logits_dtype))
    close(q, [[0.8, 0, 0, 0.2]], 1e-7)


def test_alps_moves_half_of_epsilon() -> None:
    """Eq. 15: an L1 ball of radius epsilon moves epsilon / 2 off y, not epsilon."""
    q = AdversarialLabelling(4, epsilon=0.4).labels(Y, Z)
    close(q, [[0.8, 0, 0, 0.2], [0, 0, 0, 1]])


def test_ties_share_equally() -> None:
    """Taking the first of equals would push every untrained model towards class 0."""
    z = torch.tensor([[0.0, 0.0, 0.0, 5.0]], dtype=torch.float64)
    y0, y3 = torch.tensor([0]), torch.tensor([3])
    als = AdversarialLabelSmoothing(4, alpha=0.3)
    close(als.labels(y0, z), [[0.8, 0.1, 0.1, 0]])  # y is one of the three least likely
    close(als.labels(y3, z), [[0.1, 0.1, 0.1, 0.7]])
    sbls = SecondBestLabelSmoothing(4, alpha=0.3)
    close(sbls.labels(y3, z), [[0.1, 0.1, 0.1, 0.7]])
    close(sbls.labels(y0, z), [[0.7, 0, 0, 0.3]])
    close(sbls.labels(y0, torch.tensor([[9.0, 1, 1, 0]]).double()), [[0.7, 0.15, 0.15, 0]])
    alps = AdversarialLabelling(4, epsilon=0.6)
    close(alps.labels(y0, z), [[0.8, 0.1, 0.1, 0]])
    close(alps.labels(y3, z), [[0.1, 0.1, 0.1, 0.7]])


def test_defaults_are_the_papers() -> None:
    """The design's table: a changed default would silently change everybody's figures."""
    als, bls = AdversarialLabelSmoothing(3), BoltzmannLabelSmoothing(3)
    assert (als.alpha, bls.alpha, bls.temperature, bls.on) == (0.1, 0.1, 0.001, "logits")
    assert (LabelSmoothing(3).alpha, StandardLabelSmoothing(3).alpha) == (0.1, 0.1)
    assert SecondBestLabelSmoothing(3).alpha == 0.1
    alps = AdversarialLabelling(3)
    assert (alps.epsilon, alps.beta_a, alps.beta_b) == (0.3, 8.0, 2.0)
