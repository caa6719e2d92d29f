"""ltd and adr: labels that a teacher makes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robustlabels.labels import AnnealingRectification, LowTemperatureDistillation

P = [0.5, 0.3, 0.2]


def logits_of(probabilities: list[float], temperature: float) -> torch.Tensor:
    """Teacher's logits whose softmax at ``temperature`` is ``probabilities``."""
    return temperature * torch.tensor([probabilities], dtype=torch.float64).log()


def close(q: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(q, torch.tensor([expected], dtype=torch.float64))


def test_ltd_is_the_teacher_at_temperature_5_whatever_y_is() -> None:
    """LTD's eq. 5: the label is the teacher's alone. Mixing in y, or T = 1, is another method."""
    scheme = LowTemperatureDistillation(3)
    for y in range(3):
        close(scheme.labels(torch.tensor([y]), teacher_logits=logits_of(P, 5.0)), P)
    sharper = LowTemperatureDistillation(3, temperature=2.0)
    close(sharper.labels(torch.tensor([0]), teacher_logits=logits_of(P, 2.0)), P)


def test_ltd_declares_a_frozen_teacher_and_a_hard_attack() -> None:
    """An EMA of the student would never be a naturally trained teacher."""
    scheme = LowTemperatureDistillation(3)
    assert scheme.needs == {"teacher"}
    assert (scheme.teacher, scheme.attack_labels) == ("frozen", "hard")


# tau is 2.5 -> 2.25 -> 2.0 and lambda .7 -> .825 -> .95 at the start, the middle and the end.
@pytest.mark.parametrize(
    ("progress", "tau", "y", "expected"),
    [
        # y = 1: the gap is .5 - .3 = .2, the teacher's share lambda - .2
        (0.0, 2.5, 1, [0.25, 0.65, 0.10]),
        (0.5, 2.25, 1, [0.3125, 0.5625, 0.125]),
        (1.0, 2.0, 1, [0.375, 0.475, 0.15]),
        # y = 0 is the teacher's answer: no gap, the share is lambda
        (0.0, 2.5, 0, [0.65, 0.21, 0.14]),
        (1.0, 2.0, 0, [0.525, 0.285, 0.19]),
        # y = 2: the gap is .3
        (1.0, 2.0, 2, [0.325, 0.195, 0.48]),
    ],
)
def test_adr_by_hand(progress: float, tau: float, y: int, expected: list[float]) -> None:
    """Eq. 3-5; the paper's text lost eq. 4's minus, and with a plus the wrong teacher would be
    trusted the *more*."""
    q = AnnealingRectification(3).labels(
        torch.tensor([y]), teacher_logits=logits_of(P, tau), progress=progress
    )
    close(q, expected)


@pytest.mark.parametrize("progress", [0.1, 0.25, 0.8])
def test_adr_anneals_along_half_a_cosine(progress: float) -> None:
    """A linear schedule would agree at 0, .5 and 1 and nowhere else."""
    t = np.array([[1.0, -0.5, 2.0], [0.3, 0.1, -4.0]])
    y = np.array([0, 2])
    share = 0.5 * (1 + math.cos(math.pi * progress))
    tau = 1.0 + (1.5 - 1.0) * share
    lam = 0.9 + (0.5 - 0.9) * share
    p = np.exp(t / tau)
    p /= p.sum(1, keepdims=True)
    own = np.clip(lam - (p.max(1) - p[[0, 1], y]), 0, 1)[:, None]
    expected = own * p + (1 - own) * np.eye(3)[y]
    scheme = AnnealingRectification(3, temperature=(1.5, 1.0), interpolation=(0.5, 0.9))
    q = scheme.labels(torch.from_numpy(y), teacher_logits=torch.from_numpy(t), progress=progress)
    np.testing.assert_allclose(q.numpy(), expected, rtol=0, atol=1e-12)


def test_adr_clips_at_0() -> None:
    """A confident wrong teacher has gap > lambda: an unclipped share would make labels negative."""
    q = AnnealingRectification(3).labels(
        torch.tensor([1]), teacher_logits=logits_of([0.9, 0.05, 0.05], 2.5), progress=0.0
    )
    assert q.tolist() == [[0.0, 1.0, 0.0]]


def test_adr_at_full_interpolation_is_the_teacher() -> None:
    """lambda = 1 and no gap is the upper end of the clip."""
    q = AnnealingRectification(3, interpolation=1.0, temperature=2.0).labels(
        torch.tensor([0]), teacher_logits=logits_of(P, 2.0)
    )
    close(q, P)


def test_adr_takes_one_number_for_a_constant_schedule() -> None:
    """TOML gives lists and numbers, Python tuples: all three must mean what they say."""
    teacher, y = logits_of(P, 3.0), torch.tensor([1])
    constant = AnnealingRectification(3, temperature=3.0, interpolation=0.5)
    for progress in (0.0, 0.37, 1.0):
        q = constant.labels(y, teacher_logits=teacher, progress=progress)
        close(q, [0.15, 0.79, 0.06])
    listed = AnnealingRectification(3, temperature=[2.5, 2], interpolation=[0.7, 0.95])
    assert (listed.temperature, listed.interpolation) == ((2.5, 2.0), (0.7, 0.95))


def test_adr_declares_an_ema_teacher_and_a_soft_attack() -> None:
    """ADR's PGD-AT attacks the rectified label (its algorithm 1), from an EMA of .995."""
    scheme = AnnealingRectification(3)
    assert scheme.needs == {"teacher"}
    assert (scheme.teacher, scheme.attack_labels, scheme.ema_decay) == ("ema", "soft", 0.995)
    assert AnnealingRectification(3, ema_decay=0.9).ema_decay == 0.9


def test_progress_defaults_to_the_end_of_training() -> None:
    """The contract's default is 1.0: a criterion outside our engine gets the annealed label."""
    teacher, y = logits_of(P, 2.0), torch.tensor([1])
    scheme = AnnealingRectification(3)
    assert torch.equal(
        scheme.labels(y, teacher_logits=teacher),
        scheme.labels(y, teacher_logits=teacher, progress=1.0),
    )
    close(scheme.labels(y, teacher_logits=teacher), [0.375, 0.475, 0.15])
