"""Goibert's fading Gaussians: the closed forms against simulation, and against each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustlabels.labels import AdversarialLabelSmoothing, LabelLoss
from robustlabels.theory import FadingGaussian, descend

N = 40_000
# Of a share of N: five standard errors, sqrt(1/4 / N) each at the most. By chance one test in two
# million fails, and the seeds are fixed.
FIVE_SIGMA = 5 * math.sqrt(0.25 / N)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def problem() -> FadingGaussian:
    """Of negative, unreliable and useless features too; the paper's are all alike."""
    return FadingGaussian(vector(1.0, -0.8, 0.3, 0.1, 0.0), vector(1.0, 0.5, 2.0, 0.1, 0.7))


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def weights(seed: int, d: int = 5) -> Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_papers_problem() -> None:
    """sigma = 1, .75, .5, .25 for d = 4, and mu its square: Bayes' weights are all 1."""
    problem = FadingGaussian.of_the_paper(4)
    assert problem.std.tolist() == [1.0, 0.75, 0.5, 0.25]
    assert problem.mean.tolist() == [1.0, 0.5625, 0.25, 0.0625]
    assert problem.bayes_weights().tolist() == [1.0] * 4


def test_accuracy_by_hand() -> None:
    """One feature, mu 1, sigma 2: Phi(1/2) clean, Phi((1 - .5) / 2) at eps .5; Phi by math.erf."""
    problem = FadingGaussian(vector(1.0), vector(2.0))
    phi = [0.5 * (1 + math.erf(z / math.sqrt(2))) for z in (0.5, 0.25)]
    assert problem.accuracy(vector(3.0)) == pytest.approx(phi[0])
    assert problem.accuracy(vector(3.0), 0.5) == pytest.approx(phi[1])
    assert problem.accuracy(vector(-3.0)) == pytest.approx(1 - phi[0])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.5])
def test_accuracy_is_what_is_simulated(
    problem: FadingGaussian, draw: torch.Generator, seed: int, eps: float
) -> None:
    """Equations 8 and 9 with a variance where a deviation belongs, or the wrong norm of w, would
    still look like accuracies."""
    w = weights(seed)
    simulated = problem.simulated_accuracy(w, eps, N, draw)
    assert simulated == pytest.approx(problem.accuracy(w, eps), abs=FIVE_SIGMA)


def test_the_attack_is_the_best_of_all(problem: FadingGaussian, draw: torch.Generator) -> None:
    """x - eps y sign(w) against every corner of the ball: 2^5 of them, on 200 samples."""
    w, eps = weights(1), 0.3
    x, y = problem.sample(200, draw)
    corners = torch.cartesian_prod(*[vector(-eps, eps)] * 5)
    margins = y.unsqueeze(1) * ((x.unsqueeze(1) + corners) @ w)
    ours = y * ((x - eps * y.unsqueeze(1) * w.sign()) @ w)
    torch.testing.assert_close(ours, margins.amin(dim=1))


@pytest.mark.parametrize("eps", [0.0, 0.05, 0.2, 0.5, 0.9, 0.99, 1.0, 1.5])
def test_lemma_1(problem: FadingGaussian, eps: float) -> None:
    """Equation 10's weights have equation 11's accuracy, and no others more: 2,000 random ones,
    half of them near the best. From eps = max |mu| = 1 on, the paper's are none."""
    best, accuracy = problem.robust_weights(eps), problem.best_accuracy(eps)
    assert problem.accuracy(best, eps) == pytest.approx(accuracy, abs=1e-12)
    assert (accuracy > 0.5) == (eps < 1)
    for seed in range(1000):
        for other in (weights(seed), best + 0.1 * best.norm() * weights(seed)):
            assert problem.accuracy(other, eps) <= accuracy + 1e-12


def test_without_an_attack_the_best_is_bayes(problem: FadingGaussian) -> None:
    """Equation 10 at eps 0 is mu / sigma^2."""
    torch.testing.assert_close(problem.robust_weights(0.0), problem.bayes_weights())


def test_bayes_weights_are_the_posteriors(problem: FadingGaussian) -> None:
    """P(Y = 1 | x) from the densities: its log-odds are 2 w.x."""
    x = weights(3)
    normal = torch.distributions.Normal
    odds = normal(problem.mean, problem.std).log_prob(x) - normal(
        -problem.mean, problem.std
    ).log_prob(x)
    assert odds.sum().item() == pytest.approx(2 * float(problem.bayes_weights() @ x))


# ALS ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.4])
def test_the_risk_is_our_schemes_mean_loss(
    problem: FadingGaussian, draw: torch.Generator, alpha: float
) -> None:
    """The four cases of the paper lack a minus; ours must be what ``als`` does. Within five
    standard errors of the sample's own mean."""
    w = 0.7 * weights(2)
    x, y = problem.sample(N, draw)
    half = x @ w / 2
    scheme = AdversarialLabelSmoothing(2, alpha=alpha)
    losses = LabelLoss(scheme, reduction="none")(torch.stack([-half, half], 1), (y > 0).long())
    error = 5 * float(losses.std()) / math.sqrt(N)
    assert float(problem.als_risk(w, alpha)) == pytest.approx(float(losses.mean()), abs=error)


@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.2, 0.4])
def test_the_minimiser(problem: FadingGaussian, alpha: float) -> None:
    """The gradient over all d weights is 0 there; only d - 1 of them would be, were the least risk
    in another direction than Bayes'."""
    w = problem.als_weights(alpha).requires_grad_()
    (slope,) = torch.autograd.grad(problem.als_risk(w, alpha), w)
    assert slope.abs().max().item() < 1e-9
    nearby = [w.detach() + 0.01 * weights(seed) for seed in range(50)]
    least = float(problem.als_risk(w.detach(), alpha))
    assert all(float(problem.als_risk(v, alpha)) > least for v in nearby)


def test_every_alpha_is_the_same_classifier(problem: FadingGaussian) -> None:
    """The paper's claim that ALS is more robust than Bayes does not hold for the minimiser."""
    for alpha in (0.01, 0.1, 0.4):
        found = problem.accuracy(problem.als_weights(alpha), 0.3)
        assert found == pytest.approx(problem.accuracy(problem.bayes_weights(), 0.3), abs=1e-12)


def test_limits_of_alpha(problem: FadingGaussian) -> None:
    """At 0 the logit is the true log-odds, 2 w.x; more smoothing makes it smaller; and at 1/2,
    where the label prefers no class, it is 0."""
    scale = [float(problem.als_weights(a)[0] / problem.bayes_weights()[0]) for a in (0, 0.1, 0.4)]
    assert scale[0] == pytest.approx(2, abs=1e-6)
    assert scale[0] > scale[1] > scale[2] > 0
    assert not problem.als_weights(0.5).any()


def test_descent_is_not_at_its_end_in_figure_2() -> None:
    """Why the figure shows ALS above Bayes: descent has learnt the reliable features first. Plain
    one-hot labels do it as well, and with more steps the advantage goes."""
    problem = FadingGaussian.of_the_paper()
    x, y = problem.sample(2000, torch.Generator().manual_seed(0))
    bayes = problem.accuracy(problem.bayes_weights(), 0.3)
    early, plain, late = (
        problem.accuracy(descend(x, y, alpha, steps), 0.3)
        for alpha, steps in ((0.1, 100), (0.0, 100), (0.1, 4000))
    )
    assert plain >= early > late > bayes
    assert early - bayes > 0.1


def test_descent_reaches_the_minimiser() -> None:
    """On a well-conditioned problem; the sample's own minimum is within its noise of it."""
    problem = FadingGaussian(vector(0.5, -0.5), vector(1.0, 1.0))
    x, y = problem.sample(N, torch.Generator().manual_seed(0))
    found = descend(x, y, 0.1, 300, rate=1.0)
    torch.testing.assert_close(found, problem.als_weights(0.1), rtol=0.1, atol=0.0)


@pytest.mark.parametrize(
    ("mean", "std"), [((1.0,), (1.0, 1.0)), ((1.0,), (0.0,)), ((0.0,), (1.0,)), ((), ())]
)
def test_bad_problems(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """They would give NaN, later."""
    with pytest.raises(ValueError, match="mean"):
        FadingGaussian(vector(*mean), vector(*std))


def test_the_pages_numbers() -> None:
    """docs/theory.md's snippet says them in its comments."""
    problem = FadingGaussian.of_the_paper(10)
    assert problem.accuracy(problem.bayes_weights(), eps=0.3) == pytest.approx(0.668, abs=5e-4)
    assert problem.best_accuracy(eps=0.3) == pytest.approx(0.850, abs=5e-4)
    scale = problem.als_weights(alpha=0.1) / problem.bayes_weights()
    assert scale.tolist() == pytest.approx([0.507] * 10, abs=5e-4)
