"""LTD's discrepancy: theorem 1, the appendix's numbers, and simulations against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from robustlabels.theory import (
    best_temperature,
    binary_discrepancies,
    discrepancy,
    expected_discrepancy,
    least_ambiguity,
    odds_bound,
    simulated_binary,
    simulated_classes,
    softened,
)
from robustlabels.theory.oracle import dirichlet, oracle_concentration


def two(second: float) -> torch.Tensor:
    return torch.tensor([[1 - second, second]], dtype=torch.float64)


def test_discrepancy_by_hand() -> None:
    """KL of (3/4, 1/4) and (1/2, 1/2) is log 2 - H(1/4); of one-hot labels, -log p; the mean of
    both samples, not their sum."""
    half = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert float(discrepancy(two(0.25), two(0.5))) == pytest.approx(half)
    oracle, model = torch.cat([two(0.25), two(0.0)]), torch.cat([two(0.5), two(0.1)])
    expected = (half - math.log(0.9)) / 2
    assert float(discrepancy(oracle, model)) == pytest.approx(expected)
    assert float(discrepancy(two(0.1), two(0.1))) == 0
    assert float(discrepancy(two(0.1), two(0.0))) == math.inf


def test_the_papers_two_examples() -> None:
    """254 and .004 are right; "about 3.88" is 3.46."""
    cold, warm = (0.999, 0.001), (0.99, 0.01)
    assert odds_bound(cold, warm) == pytest.approx(254.43, abs=0.01)
    assert least_ambiguity(cold, warm) == pytest.approx(0.0039, abs=5e-5)
    assert odds_bound((0.8, 0.2), (0.75, 0.25)) == pytest.approx(3.4575, abs=1e-4)
    assert least_ambiguity((0.8, 0.2), (0.75, 0.25)) == pytest.approx(0.2243, abs=1e-4)


def test_the_papers_temperatures() -> None:
    """(.8, .2) at T = 5 is (.729, .271) at T = 7, not (.75, .25); with that the bound on y_2 is the
    paper's .23."""
    gap = 5 * math.log(4)
    assert softened(gap, 5) == pytest.approx((0.8, 0.2))
    warm = softened(gap, 7)
    assert warm == pytest.approx((0.7291, 0.2709), abs=1e-4)
    assert odds_bound((0.8, 0.2), warm) == pytest.approx(3.27, abs=1e-3)
    assert least_ambiguity((0.8, 0.2), warm) == pytest.approx(0.234, abs=1e-3)
    assert softened(gap, gap / math.log(3)) == pytest.approx((0.75, 0.25))  # T = 6.3
    assert gap / math.log(3) == pytest.approx(6.31, abs=0.01)


@pytest.mark.parametrize("gap", [1.0, 6.9])
@pytest.mark.parametrize("pair", [(1.0, 1.5), (1.0, 5.0), (5.0, 7.0), (2.0, 2.1)])
def test_theorem_1_and_its_converse(gap: float, pair: tuple[float, float]) -> None:
    """The discrepancy falls from T1 to T2 for labels on the one side of the bound and rises on the
    other: the condition is exact, where the paper proves it sufficient."""
    cold, warm = (softened(gap, t) for t in pair)
    edge = least_ambiguity(cold, warm)

    def change(second: float) -> float:
        return float(
            discrepancy(two(second), torch.tensor([warm], dtype=torch.float64))
            - discrepancy(two(second), torch.tensor([cold], dtype=torch.float64))
        )

    assert change(edge) == pytest.approx(0, abs=1e-12)
    assert change(edge * 1.01) < 0 < change(edge * 0.99)


def test_the_best_temperature() -> None:
    """There the discrepancy is 0, and theorem 1's bound for a small step ends at that ambiguity."""
    t = best_temperature(6.9, 0.1)
    assert t == pytest.approx(6.9 / math.log(9))
    likely, other = softened(6.9, t)
    assert (likely, other) == pytest.approx((0.9, 0.1))
    step = least_ambiguity(softened(6.9, t - 1e-4), softened(6.9, t + 1e-4))
    assert step == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize(
    ("cold", "warm"),
    [((0.7, 0.3), (0.8, 0.2)), ((0.8, 0.2), (0.4, 0.6)), ((1.0, 0.0), (0.9, 0.1))],
)
def test_pairs_that_the_theorem_excludes(
    cold: tuple[float, float], warm: tuple[float, float]
) -> None:
    """The bound would be a number without meaning."""
    with pytest.raises(ValueError, match="cold"):
        odds_bound(cold, warm)


# Simulations --------------------------------------------------------------------------------------

N = 100_000


@pytest.mark.parametrize("part", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("ambiguity", [0.05, 0.3])
def test_two_classes(ambiguity: float, part: float) -> None:
    """The closed form against N samples. A sample's loss is one of two numbers, so that the
    standard error is their difference times sqrt(.03 .97 / N); five of them are allowed."""
    draw = torch.Generator().manual_seed(0)
    tensors = torch.tensor([ambiguity, part * ambiguity], dtype=torch.float64)
    exact = binary_discrepancies(tensors[0], tensors[1])
    found = simulated_binary(ambiguity, part * ambiguity, N, draw)
    for kind in (0, 1):
        model = two(1e-8 if kind == 0 else part * ambiguity)
        apart = float(discrepancy(two(ambiguity), model) - discrepancy(two(1e-8), model))
        error = 5 * abs(apart) * math.sqrt(0.03 * 0.97 / N)
        assert found[kind] == pytest.approx(float(exact[kind]), abs=error)


def test_low_temperatures_are_better_and_high_ones_worse() -> None:
    """The appendix: a tenth of gamma is "always" better than one-hot. It is, down to gammas of
    about 80 times the tiny mass; all of gamma is not. Gammas drawn from [0, .1], likewise."""
    gamma = torch.linspace(1e-4, 0.99, 5000, dtype=torch.float64)
    one_hot, soft = binary_discrepancies(gamma, gamma / 10)
    assert bool((soft < one_hot).all())
    assert bool((binary_discrepancies(gamma, gamma)[1] > one_hot).all())
    near = torch.tensor([60e-8, 120e-8], dtype=torch.float64)
    one_hot, soft = binary_discrepancies(near, near / 10)
    assert (soft < one_hot).tolist() == [False, True]
    drawn = 0.1 * torch.rand(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one_hot, soft = (found.mean() for found in binary_discrepancies(drawn, drawn / 10))
    assert soft < one_hot


def test_dirichlet_has_its_moments() -> None:
    """E p_i = a_i / A and E log p_i = psi(a_i) - psi(A), within five of the sample's standard
    errors; a gamma of concentration .0004 is 0 in float64, so that log p would be infinite."""
    concentration = torch.tensor([0.4, 0.004, 0.0004], dtype=torch.float64)
    p = dirichlet(concentration, N, torch.Generator().manual_seed(0))
    assert torch.allclose(p.sum(dim=1), torch.ones(N, dtype=torch.float64))
    error = 5 * p.std(dim=0) / math.sqrt(N)
    assert bool(((p.mean(dim=0) - concentration / concentration.sum()).abs() < error).all())
    wide = torch.tensor([2.0, 0.5, 0.1], dtype=torch.float64)
    log_p = dirichlet(wide, N, torch.Generator().manual_seed(1)).log()
    expected = torch.special.digamma(wide) - torch.special.digamma(wide.sum())
    assert bool(((log_p.mean(dim=0) - expected).abs() < 5 * log_p.std(dim=0) / math.sqrt(N)).all())


@pytest.mark.parametrize("factor", [1000.0, 10_000.0])
def test_ten_classes_in_closed_form(factor: float) -> None:
    """The expectation against the mean of 20 simulations, within five standard errors of it. The
    tiny mass is made so small that it changes nothing."""
    runs = [simulated_classes(factor, n=5000, tiny=1e-30, seed=s)["soft"] for s in range(20)]
    found = torch.tensor(runs, dtype=torch.float64)
    error = 5 * float(found.std()) / math.sqrt(len(runs))
    expected = expected_discrepancy(oracle_concentration(), factor)
    assert float(found.mean()) == pytest.approx(expected, abs=error)


def test_ten_classes_as_the_paper_has_them() -> None:
    """97 % of the labels above .995; soft labels better than one-hot although they err in 1 % of
    the cases; better still where they do not."""
    found = simulated_classes(10_000.0)
    assert found["confident"] >= 0.97
    assert found["errors"] == pytest.approx(0.01, abs=0.003)
    assert found["ranked"] < found["soft"] < found["one-hot"]


def test_ten_classes_where_the_paper_is_wrong() -> None:
    """At small factors, and for labels that are not mixed with quite so little, one-hot wins."""
    assert simulated_classes(10.0)["soft"] > simulated_classes(10.0)["one-hot"]
    coarse = simulated_classes(10_000.0, tiny=1e-6)
    assert coarse["soft"] > coarse["one-hot"]
