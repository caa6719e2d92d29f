"""McNemar's test against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from robustlabels.evaluation.auditing.statistics import ALPHA, FEWEST, Lead, lead


def found(gained: int, lost: int, both: int = 0, neither: int = 0) -> Lead:
    """The second attack's lead, from the four cells of the table."""
    first = [True] * gained + [False] * lost + [True] * both + [False] * neither
    second = [False] * gained + [True] * lost + [True] * both + [False] * neither
    return lead(torch.tensor(first), torch.tensor(second))


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1 / 2),
        (7, 0, 1 / 128),
        (10, 2, 79 / 4096),  # 66 + 12 + 1 of 2**12
        (5, 5, 638 / 1024),  # 252 + 210 + 120 + 45 + 10 + 1 of 2**10
        (0, 3, 1.0),
    ],
)
def test_p_values(gained: int, lost: int, p: float) -> None:
    """A wrong p would call accidents masking, or let masking pass as an accident."""
    assert found(gained, lost, both=20, neither=9).p == pytest.approx(p, abs=1e-12)


def test_points_count_all_images() -> None:
    """Ten gained and two lost of 40 are 20 points, whatever else was robust or broken."""
    for both, neither in ((28, 0), (0, 28), (14, 14)):
        result = found(10, 2, both, neither)
        assert (result.points, result.gained, result.lost) == (pytest.approx(0.2), 10, 2)


def test_a_lead_needs_size_and_significance() -> None:
    """Six of six images can be an accident (1 in 64); a hundred of ten thousand are too few."""
    assert not found(6, 0, both=54).exceeds(0.03)
    assert found(7, 0, both=53).exceeds(0.03)
    assert found(100, 0, both=9_900).p < ALPHA
    assert not found(100, 0, both=9_900).exceeds(0.03)
    assert not found(3, 0, both=97).exceeds(0.03)  # exactly the threshold does not exceed it


def test_the_fewest_images_that_are_no_accident() -> None:
    """The report's resolution is made of it."""
    assert 2.0**-FEWEST < ALPHA <= 2.0 ** (1 - FEWEST)
