"""LTD's discrepancy: how far a model's probabilities are from the labels that an oracle would give.

Chen and Lee 2021, definition 1, and the appendix's theorem 1 and simulations. Float64 throughout.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustlabels.errors import BadValueError


def discrepancy(oracle: Tensor, model: Tensor) -> Tensor:
    """Equation 7: the mean over samples of KL(oracle || model).

    Args:
        oracle: (..., n, k), rows on the simplex.
        model: the same.

    Returns:
        (...), at least 0; infinite where the model rules out what the oracle does not.
    """
    terms: Tensor = torch.special.xlogy(oracle, oracle) - torch.special.xlogy(oracle, model)
    return terms.sum(dim=-1).mean(dim=-1)


def softened(gap: float, temperature: float) -> tuple[float, float]:
    """Two classes' probabilities at a temperature, for a gap in logits (eq. 5)."""
    likely = 1 / (1 + math.exp(-gap / temperature))
    return likely, 1 - likely


def odds_bound(cold: tuple[float, float], warm: tuple[float, float]) -> float:
    """The right-hand side of theorem 1's condition (eq. 12): |log(w_2 / c_2) / log(w_1 / c_1)|.

    A label (y_1, y_2) of the oracle with y_1 / y_2 below it is fitted better by ``warm`` than by
    ``cold``; with y_1 / y_2 above it, worse. (The paper proves the first half, and for "at most";
    at equality both fit alike.)

    Args:
        cold: probabilities of the two classes at the lower temperature.
        warm: at the higher one, nearer to (1/2, 1/2).

    Raises:
        ValueError: ``warm`` is not nearer to even odds, or a probability is not inside (0, 1).
    """
    if not 0.5 <= warm[0] < cold[0] < 1:
        raise BadValueError(f"1 > cold[0] > warm[0] >= 1/2 does not hold for {cold}, {warm}")
    return abs(math.log(warm[1] / cold[1]) / math.log(warm[0] / cold[0]))


def least_ambiguity(cold: tuple[float, float], warm: tuple[float, float]) -> float:
    """The oracle's y_2 above which the higher temperature is better: 1 / (1 + bound)."""
    return 1 / (1 + odds_bound(cold, warm))


def best_temperature(gap: float, ambiguity: float) -> float:
    """Where the discrepancy of one sample is 0: the softmax is the oracle's (1 - a, a) itself.

    Args:
        gap: of the teacher's two logits, above 0.
        ambiguity: a, in (0, 1/2).
    """
    return gap / math.log((1 - ambiguity) / ambiguity)


def binary_discrepancies(
    ambiguity: Tensor, softness: Tensor, ambiguous: float = 0.03, tiny: float = 1e-8
) -> tuple[Tensor, Tensor]:
    """The appendix's two classes, in closed form.

    A share ``ambiguous`` of the data has the oracle (1 - a, a), the rest (1 - tiny, tiny). Model 1
    says (1 - tiny, tiny) of all, model 2 (1 - s, s).

    Args:
        ambiguity: a, any shape, in (0, 1).
        softness: s, likewise.

    Returns:
        The discrepancies of model 1 and model 2.
    """

    def binary_kl(p: Tensor, q: Tensor) -> Tensor:
        both: Tensor = torch.special.xlogy(p, p / q)
        both += torch.special.xlogy(1 - p, (1 - p) / (1 - q))
        return both

    sure = torch.tensor(tiny, dtype=torch.float64)
    one_hot = ambiguous * binary_kl(ambiguity, sure)
    soft = ambiguous * binary_kl(ambiguity, softness) + (1 - ambiguous) * binary_kl(sure, softness)
    return one_hot, soft


def simulated_binary(
    ambiguity: float,
    softness: float,
    n: int,
    generator: torch.Generator,
    ambiguous: float = 0.03,
    tiny: float = 1e-8,
) -> tuple[float, float]:
    """The same from n samples, each of them ambiguous or not by chance."""
    share = torch.rand(n, generator=generator) < ambiguous
    second = torch.where(share, ambiguity, tiny).double()
    oracle = torch.stack([1 - second, second], dim=1)
    found = [
        discrepancy(oracle, torch.tensor([[1 - s, s]], dtype=torch.float64))
        for s in (tiny, softness)
    ]
    return float(found[0]), float(found[1])


CONFIDENT, OTHERS = 0.4, 0.004
"""Concentrations of :func:`oracle_concentration`: chosen so that 97 % of the labels are above .995
and 1 % of them have their greatest probability elsewhere."""


def oracle_concentration(classes: int = 10) -> Tensor:
    """Of a Dirichlet for images of class 0: (classes,); ``OTHERS`` is shared by the rest."""
    others = torch.full((classes - 1,), OTHERS / (classes - 1), dtype=torch.float64)
    return torch.cat([torch.tensor([CONFIDENT], dtype=torch.float64), others])


def dirichlet(concentration: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n draws (n, k) of a Dirichlet, exact for tiny concentrations (k,) too.

    They are made of logarithms, G(a) = G(a + 1) U^(1/a): a gamma variable of such a concentration
    is below the smallest float64.
    """
    shape = (concentration + 1).expand(n, -1)
    gamma = torch._standard_gamma(shape, generator=generator)
    uniform = torch.rand(shape.shape, generator=generator, dtype=torch.float64)
    return (gamma.log() + uniform.log() / concentration).softmax(dim=1)


def expected_discrepancy(concentration: Tensor, factor: float) -> float:
    """Of a Dirichlet of ``factor`` times the oracle's concentration, independent of the oracle.

    With a the concentration, A its sum and c the factor, the mean of sum y_i log y_i is
    sum a_i / A (psi(a_i + 1) - psi(A + 1)), and that of - sum y_i log p_i is
    sum a_i / A (psi(c A) - psi(c a_i)).
    """
    total = concentration.sum()
    share = concentration / total
    psi = torch.special.digamma
    own = psi(concentration + 1) - psi(total + 1)
    cross = psi(factor * total) - psi(factor * concentration)
    return float((share * (own + cross)).sum())


def simulated_classes(
    factor: float,
    n: int = 50_000,
    classes: int = 10,
    tiny: float = 1e-8,
    seed: int = 0,
) -> dict[str, float]:
    """The appendix's k classes: is a softer label better although it errs at times?

    The oracle's labels are draws of :func:`oracle_concentration`. Model 1 is one-hot on their
    greatest probability, model 2 a draw of ``factor`` times that concentration: the same mean, less
    extreme. The paper does not say how a draw of model 2 belongs to one of the oracle. Here it is
    independent ("soft"), so that it errs where the oracle itself leaves class 0; or "ranked": each
    probability goes to the class of the oracle's same rank, so that it never errs.

    Args:
        factor: the paper's c.
        n: samples.
        classes: k.
        tiny: mixed into all probabilities, tiny / k each: a single 0 would cost infinitely much.
        seed: of the draws.

    Returns:
        The discrepancies "one-hot", "soft" and "ranked"; "confident", the share of labels with a
        probability above .995; "errors", the share whose class "soft" misses.
    """
    generator = torch.Generator().manual_seed(seed)
    concentration = oracle_concentration(classes)
    oracle = dirichlet(concentration, n, generator)
    soft = dirichlet(factor * concentration, n, generator)
    order = oracle.argsort(dim=1, descending=True)
    models = {
        "one-hot": torch.zeros_like(oracle).scatter(1, order[:, :1], 1.0),
        "soft": soft,
        "ranked": torch.empty_like(soft).scatter(
            1, order, soft.sort(dim=1, descending=True).values
        ),
    }

    def floored(p: Tensor) -> Tensor:
        return (1 - tiny) * p + tiny / classes

    found = {name: float(discrepancy(floored(oracle), floored(p))) for name, p in models.items()}
    return {
        **found,
        "confident": float((oracle.amax(dim=1) > 0.995).double().mean()),
        "errors": float((soft.argmax(dim=1) != order[:, 0]).double().mean()),
    }
