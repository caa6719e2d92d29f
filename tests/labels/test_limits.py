"""Where one scheme must turn into another."""

from __future__ import annotations

import math

import pytest
import torch

from robustlabels.labels import (
    AdversarialLabelling,
    AdversarialLabelSmoothing,
    AnnealingRectification,
    BoltzmannLabelSmoothing,
    LabelSmoothing,
    SecondBestLabelSmoothing,
    StandardLabelSmoothing,
    VirtualSmoothing,
)

K = 5
GOIBERT = [
    StandardLabelSmoothing,
    AdversarialLabelSmoothing,
    BoltzmannLabelSmoothing,
    SecondBestLabelSmoothing,
]


@pytest.fixture
def z() -> torch.Tensor:
    return torch.randn(64, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def y() -> torch.Tensor:
    return torch.arange(64) % K


def hot(y: torch.Tensor) -> torch.Tensor:
    return torch.eye(K, dtype=torch.float64)[y]


@pytest.mark.parametrize("scheme", [*GOIBERT, LabelSmoothing])
def test_alpha_0_is_one_hot(scheme: type, z: torch.Tensor, y: torch.Tensor) -> None:
    """The alpha = 0 end of every figure over alpha would not be the baseline."""
    assert torch.equal(scheme(K, alpha=0.0).labels(y, z), hot(y))


def test_epsilon_0_is_one_hot(z: torch.Tensor, y: torch.Tensor) -> None:
    """The same for alps."""
    assert torch.equal(AdversarialLabelling(K, epsilon=0.0).labels(y, z), hot(y))


@pytest.mark.parametrize("scheme", [StandardLabelSmoothing, BoltzmannLabelSmoothing])
def test_alpha_1_leaves_nothing_on_y(scheme: type, z: torch.Tensor, y: torch.Tensor) -> None:
    """sls, bls and sbls exclude y: mass left there would mean a wrong mask."""
    for made in (scheme(K, alpha=1.0), SecondBestLabelSmoothing(K, alpha=1.0)):
        q = made.labels(y, z)
        assert torch.all(q.gather(1, y.unsqueeze(1)) == 0)
        torch.testing.assert_close(q.sum(1), torch.ones(64, dtype=torch.float64))


def test_alpha_1_of_ls_is_uniform_and_of_als_the_argmin(z: torch.Tensor, y: torch.Tensor) -> None:
    """The other end of the range."""
    uniform = torch.full((64, K), 1 / K, dtype=torch.float64)
    torch.testing.assert_close(LabelSmoothing(K, alpha=1.0).labels(y, z), uniform)
    q = AdversarialLabelSmoothing(K, alpha=1.0).labels(y, z)
    assert torch.equal(q, hot(z.argmin(1)))


@pytest.mark.parametrize("temperature", [math.inf, 1e12])
@pytest.mark.parametrize("on", ["logits", "probabilities"])
def test_bls_at_high_temperature_is_sls(
    temperature: float, on: str, z: torch.Tensor, y: torch.Tensor
) -> None:
    """recipes: T to infinity equals sls; inf itself must not give inf / inf = NaN."""
    q = BoltzmannLabelSmoothing(K, 0.3, temperature, on).labels(y, z)
    expected = 0.7 * hot(y) + 0.3 / (K - 1) * (1 - hot(y))
    torch.testing.assert_close(q, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("temperature", [1e-9, 1e-30])
def test_bls_at_low_temperature_is_als_where_the_argmin_is_not_y(
    temperature: float, z: torch.Tensor, y: torch.Tensor
) -> None:
    """recipes: only there. Where the argmin is y, als gives y everything and bls, which excludes
    y, the second least likely class."""
    own = z.argmin(1) == y
    assert 0 < own.sum() < 64  # both kinds of row are in the batch
    for dtype in (torch.float32, torch.float64):
        bls = BoltzmannLabelSmoothing(K, 0.3, temperature).labels(y, z.to(dtype)).double()
        als = AdversarialLabelSmoothing(K, 0.3).labels(y, z.to(dtype)).double()
        torch.testing.assert_close(bls[~own], als[~own], rtol=0, atol=1e-6)
        second = z.scatter(1, y.unsqueeze(1), torch.inf).argmin(1)
        expected = 0.7 * hot(y)[own] + 0.3 * hot(second)[own]
        torch.testing.assert_close(bls[own], expected, rtol=0, atol=1e-6)
        assert torch.equal(als[own], hot(y)[own])


def test_als_of_constant_logits_is_ls(y: torch.Tensor) -> None:
    """All classes tie, so that the mass is shared over all K: an untrained model gets ls."""
    q = AdversarialLabelSmoothing(K, 0.3).labels(y, torch.zeros(64, K, dtype=torch.float64))
    torch.testing.assert_close(q, 0.7 * hot(y) + 0.3 / K)


def test_vs_alpha_0_is_one_hot_on_the_real_classes(y: torch.Tensor) -> None:
    """alpha = 0 trains a wider model on plain labels: the ablation's baseline."""
    q = VirtualSmoothing(K, alpha=0.0, virtual_classes=3).labels(y)
    assert torch.equal(q[:, :K].double(), hot(y))
    assert torch.all(q[:, K:] == 0)


def test_vs_alpha_1_leaves_nothing_on_the_real_classes(y: torch.Tensor) -> None:
    """The other end."""
    q = VirtualSmoothing(K, alpha=1.0, virtual_classes=4).labels(y)
    assert torch.all(q[:, :K] == 0)
    assert torch.all(q[:, K:] == 0.25)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_adr_without_interpolation_is_one_hot(
    progress: float, z: torch.Tensor, y: torch.Tensor
) -> None:
    """lambda = 0 trusts the teacher in nothing; a negative own share would leave the simplex."""
    scheme = AnnealingRectification(K, interpolation=0.0)
    assert torch.equal(scheme.labels(y, teacher_logits=z, progress=progress), hot(y))
