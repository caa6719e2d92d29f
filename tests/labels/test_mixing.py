"""alps and mixup: schemes that move the input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustlabels.labels import AdversarialLabelling, Mix, MixUp, OneHot, hard_target


def images(n: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(n, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("scheme", [AdversarialLabelling(3), MixUp(3)])
def test_moved_inputs_are_the_convex_combination(scheme) -> None:
    """The label says lam; an input mixed with another lam or partner would not fit it."""
    x, y = images(7), torch.arange(7) % 3
    moved, mix = scheme.perturb(x, y, torch.Generator().manual_seed(4))
    lam = mix.lam.double().numpy()[:, None, None, None]
    partner = mix.partner.numpy()
    assert sorted(partner) == list(range(7))
    assert mix.partner.dtype == torch.int64
    expected = lam * x.numpy() + (1 - lam) * x.numpy()[partner]
    np.testing.assert_allclose(moved.numpy(), expected, rtol=0, atol=1e-15)
    assert 0 < mix.lam.min() <= mix.lam.max() < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5, 4), (5, 1, 8, 8)])
@pytest.mark.parametrize("scheme", [AdversarialLabelling(3), MixUp(3), OneHot(3)])
def test_inputs_keep_dtype_and_shape(scheme, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """A float64 share would silently promote a half-precision batch."""
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    moved, _ = scheme.perturb(x, torch.zeros(5, dtype=torch.int64))
    assert (moved.dtype, moved.shape) == (dtype, x.shape)
    assert 0 <= moved.min() <= moved.max() <= 1


def test_the_batch_itself_is_left_alone() -> None:
    """An in-place mix would spoil the caller's data."""
    for scheme in (AdversarialLabelling(3), MixUp(3)):
        x, y = images(6), torch.arange(6) % 3
        scheme.perturb(x, y)
        assert torch.equal(x, images(6))
        assert torch.equal(y, torch.arange(6) % 3)


def test_alps_draws_one_lam_per_sample_from_beta_8_2() -> None:
    """recipes: per sample, mode .875. Mean 8/10, variance 16/1100; Beta(8, 2) has the distribution
    function 9 l^8 (1 - l) + l^9; swapped parameters would have mean .2."""
    n = 20_000
    _, mix = AdversarialLabelling(2).perturb(
        torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64), torch.Generator().manual_seed(1)
    )
    lam = mix.lam.double()
    assert mix.lam.shape == (n,)
    assert lam.mean().item() == pytest.approx(0.8, abs=0.005)
    assert lam.var().item() == pytest.approx(16 / 1100, abs=0.001)
    for at in (0.6, 0.8, 0.95):
        below = (lam < at).double().mean().item()
        assert below == pytest.approx(9 * at**8 * (1 - at) + at**9, abs=0.015)
    assert len(lam.unique()) > n // 2
    assert mix.labels is None  # only x's own label counts


def test_mixup_draws_one_lam_per_batch_from_a_symmetric_beta() -> None:
    """One lam for the whole batch (Zhang's code); Beta(a, a) has mean 1/2, variance 1/(4(2a+1))."""
    generator = torch.Generator().manual_seed(2)
    scheme = MixUp(2, alpha=0.8)
    x, y = torch.zeros(3, 1), torch.tensor([0, 1, 1])
    draws = []
    for _ in range(3000):
        _, mix = scheme.perturb(x, y, generator)
        assert mix is not None
        assert len(mix.lam.unique()) == 1
        draws.append(mix.lam[0].item())
    assert np.mean(draws) == pytest.approx(0.5, abs=0.02)
    assert np.var(draws) == pytest.approx(1 / (4 * 2.6), abs=0.008)


def test_mixup_remembers_the_partners_class() -> None:
    """The label and the attack's target are built from it."""
    y = torch.tensor([0, 1, 2, 2, 1])
    _, mix = MixUp(3).perturb(images(5), y, torch.Generator().manual_seed(3))
    assert mix is not None
    assert mix.labels is not None
    assert mix.labels.tolist() == [int(y[p]) for p in mix.partner]


@pytest.mark.parametrize("scheme", [AdversarialLabelling(3), MixUp(3)])
def test_the_generator_decides(scheme) -> None:
    """Exact resume needs the engine's generator to be the only source of randomness."""
    x, y = images(8), torch.arange(8) % 3
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, mix1 = scheme.perturb(x, y, torch.Generator().manual_seed(9))
    again, mix2 = scheme.perturb(x, y, torch.Generator().manual_seed(9))
    other, _ = scheme.perturb(x, y, torch.Generator().manual_seed(10))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert torch.equal(mix1.lam, mix2.lam)
    assert torch.equal(mix1.partner, mix2.partner)
    assert not torch.equal(first, other)
    global1, _ = scheme.perturb(x, y)
    torch.manual_seed(0)
    global2, _ = scheme.perturb(x, y)
    assert torch.equal(global1, global2)


def test_mixup_label_by_hand() -> None:
    """lam e_y + (1 - lam) e_y': with lam on the partner the label would contradict the input."""
    mix = Mix(torch.tensor([0.25, 0.25, 0.25]), torch.tensor([1, 0, 2]), torch.tensor([2, 0, 1]))
    q = MixUp(3).labels(torch.tensor([0, 2, 1]), mix=mix)
    assert q.tolist() == [[0.25, 0, 0.75], [0.75, 0, 0.25], [0, 1, 0]]


def test_alps_needs_no_mix_for_its_label() -> None:
    """Its label is that of the sample itself: a lone LabelLoss must work without perturb()."""
    y, z = torch.tensor([0]), torch.tensor([[2.0, 1.0, 0.0]])
    _, mix = AdversarialLabelling(3).perturb(images(1), y)
    scheme = AdversarialLabelling(3, epsilon=0.4)
    assert torch.equal(scheme.labels(y, z), scheme.labels(y, z, mix=mix))
    torch.testing.assert_close(scheme.labels(y, z), torch.tensor([[0.8, 0.0, 0.2]]))


def test_hard_target_is_y_where_labels_are_not_mixed() -> None:
    """Soft targets stop PGD: an attack gets y itself unless the input is a mix of two classes."""
    y = torch.tensor([0, 2])
    assert hard_target(y, None, 3) is y
    assert hard_target(y, Mix(torch.tensor([0.9, 0.8]), torch.tensor([1, 0])), 3) is y


def test_hard_target_of_a_mix_weighs_both_classes() -> None:
    """recipes: the attack on a mixed input maximises lam CE(y) + (1 - lam) CE(y')."""
    mix = Mix(torch.tensor([0.75, 0.5]), torch.tensor([1, 0]), torch.tensor([2, 2]))
    target = hard_target(torch.tensor([0, 2]), mix, 4)
    assert target.tolist() == [[0.75, 0, 0.25, 0], [0, 0, 1, 0]]


@pytest.mark.parametrize("scheme", [AdversarialLabelling(3), MixUp(3)])
def test_an_empty_batch_stays_empty(scheme) -> None:
    """The last batch of a filtered loader may be empty."""
    moved, mix = scheme.perturb(images(0), torch.empty(0, dtype=torch.int64))
    assert moved.shape == (0, 2, 3, 3)
    assert mix.lam.shape == (0,)
    assert mix.partner.shape == (0,)


@pytest.mark.parametrize("alpha", [1e-30, 1e-6, 1e6, 1e30])
def test_extreme_betas_stay_finite(alpha: float) -> None:
    """Both gammas underflow at small parameters: 0 / 0 would put NaN into the inputs."""
    generator = torch.Generator().manual_seed(0)
    for scheme in (MixUp(3, alpha), AdversarialLabelling(3, 0.3, alpha, alpha)):
        for _ in range(50):
            moved, mix = scheme.perturb(images(4), torch.zeros(4, dtype=torch.int64), generator)
            assert torch.isfinite(moved).all()
            assert ((mix.lam >= 0) & (mix.lam <= 1)).all()


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.05, 0.4, 1.0, 3.0])
def test_small_betas_hardly_mix(alpha: float) -> None:
    """As alpha falls to 0, lam goes to 0 or 1: mixup turns off. torch's own Dirichlet sampler
    gives .5, the strongest mix, once its gammas underflow (from about alpha = .001)."""
    n = 20_000
    _, mix = AdversarialLabelling(2, 0.3, alpha, alpha).perturb(
        torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64), torch.Generator().manual_seed(6)
    )
    lam = mix.lam.double()
    assert lam.mean().item() == pytest.approx(0.5, abs=0.015)
    assert lam.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.005)


@pytest.mark.parametrize("scheme", [AdversarialLabelling(3), MixUp(3)])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
            torch.tensor([0, 1]),
            r"x must be float.*uint8",
        ),
        (torch.zeros(3, 1, 4, 4), torch.tensor([0, 1]), r"x must have as many .*2.*3"),
    ],
)
def test_refuses_inputs_that_cannot_be_mixed(scheme, x, y, message: str) -> None:
    """A share of .8 is 0 in uint8: the batch would come back as its partners, with its own
    labels, and no error."""
    with pytest.raises(ValueError, match=message):
        scheme.perturb(x, y)
