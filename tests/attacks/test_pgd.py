"""PGD and FGSM: closed forms, torchattacks, brute-force gradients, and what must never happen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustlabels import make_attack
from robustlabels.attacks import FGSM, PGD

torchattacks = pytest.importorskip("torchattacks")

K = 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, K))


def mlp() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, K))


def cnn() -> nn.Module:
    """With batch norm whose statistics are not the trivial ones."""
    torch.manual_seed(2)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(16, K)
    )
    net.train()
    for seed in range(3):
        net(torch.rand(16, 3, 2, 2, generator=generator(seed)))
    return net.eval()


MODELS = [linear, mlp, cnn]
every_model = pytest.mark.parametrize("make", MODELS, ids=lambda m: m.__name__)


def batch(n: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 3, 2, 2, generator=generator(seed)), torch.arange(n) % K


# torchattacks.


@every_model
def test_pgd_is_torchattacks_pgd(make: Any) -> None:
    """From the same start the same iterates: otherwise a published PGD-10 figure is not ours."""
    x, y = batch()
    net = make()
    ours = PGD(8 / 255, steps=7, step_size=2 / 255, start="none")(net, x, y)
    theirs = torchattacks.PGD(net, eps=8 / 255, alpha=2 / 255, steps=7, random_start=False)(x, y)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert not torch.equal(ours, x)


@every_model
def test_pgds_uniform_start_is_torchattacks(make: Any) -> None:
    """The start is uniform in the ball; with the same global seed, the very same."""
    x, y = batch()
    net = make()
    torch.manual_seed(3)
    ours = PGD(8 / 255, steps=3, step_size=2 / 255)(net, x, y)
    torch.manual_seed(3)
    theirs = torchattacks.PGD(net, eps=8 / 255, alpha=2 / 255, steps=3)(x, y)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@every_model
@pytest.mark.parametrize("random_start", [True, False])
def test_l2_pgd_is_torchattacks_pgdl2(make: Any, random_start: bool) -> None:
    """Normalised gradients and a radial projection."""
    x, y = batch()
    net = make()
    torch.manual_seed(3)
    start = "uniform" if random_start else "none"
    ours = PGD(0.5, "L2", steps=6, step_size=0.2, start=start)(net, x, y)
    torch.manual_seed(3)
    attack = torchattacks.PGDL2(net, eps=0.5, alpha=0.2, steps=6, random_start=random_start)
    theirs = attack(x, y)
    if random_start:
        # their radius has another shape of random numbers; both must be in the ball, and as good
        for adv in (ours, theirs):
            assert (adv - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-5
        with torch.no_grad():
            losses = [float(F.cross_entropy(net(a), y)) for a in (x, ours, theirs)]
        assert losses[1] > losses[0]
        assert losses[1] == pytest.approx(losses[2], rel=0.15)
    else:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@every_model
def test_fgsm_is_torchattacks_fgsm(make: Any) -> None:
    """One step of the whole radius."""
    x, y = batch()
    net = make()
    theirs = torchattacks.FGSM(net, eps=8 / 255)(x, y)
    torch.testing.assert_close(FGSM(8 / 255)(net, x, y), theirs, atol=1e-6, rtol=0)


@every_model
def test_fast_ats_attack_is_torchattacks_ffgsm(make: Any) -> None:
    """Wong's step of 1.25 eps from a uniform start."""
    from robustlabels import make_trainer

    x, y = batch()
    net = make()
    eps = 8 / 255
    attack = make_attack("pgd", eps, **make_trainer("fast-at").attack_defaults(eps))
    torch.manual_seed(4)
    torch.randn_like(x)  # FFGSM draws these, and overwrites them
    ours = attack(net, x, y)
    torch.manual_seed(4)
    theirs = torchattacks.FFGSM(net, eps=eps, alpha=1.25 * eps)(x, y)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


# Closed forms.


def binary(w: Tensor) -> nn.Module:
    """Logits (0, w . x)."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(len(w), 2)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([torch.zeros_like(w), w]))
        net[1].bias.zero_()
    return net


@pytest.mark.parametrize("start", ["none", "uniform", "gaussian"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_the_optimum_of_a_linear_model_linf(start: str, loss: str) -> None:
    """x - eps sign(w) for class 1, x + eps sign(w) for class 0; anything less is a weak attack."""
    torch.manual_seed(0)
    w = torch.randn(12, dtype=torch.float64)
    x = 0.3 + 0.4 * torch.rand(5, 3, 2, 2, dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0, 1])
    found = PGD(0.1, steps=12, step_size=0.03, start=start, loss=loss)(binary(w), x, y)
    sign = torch.where(y == 0, 1.0, -1.0).double().view(-1, 1, 1, 1)
    expected = x + 0.1 * sign * w.sign().view(1, 3, 2, 2)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    assert found.dtype == torch.float64


@pytest.mark.parametrize("start", ["none", "uniform", "gaussian"])
def test_the_optimum_of_a_linear_model_l2(start: str) -> None:
    """x -+ eps w / |w|, away from the box."""
    torch.manual_seed(0)
    w = torch.randn(12, dtype=torch.float64)
    x = 0.4 + 0.2 * torch.rand(5, 3, 2, 2, dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0, 1])
    found = PGD(0.3, "L2", steps=60, step_size=0.15, start=start)(binary(w), x, y)
    sign = torch.where(y == 0, 1.0, -1.0).double().view(-1, 1, 1, 1)
    expected = x + 0.3 * sign * (w / w.norm()).view(1, 3, 2, 2)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert torch.allclose((found - x).flatten(1).norm(dim=1), torch.tensor(0.3).double())


def test_the_box_binds() -> None:
    """The optimum with x in [0, 1]: clamped where it would leave."""
    w = torch.ones(12, dtype=torch.float64)
    x = torch.full((1, 3, 2, 2), 0.95, dtype=torch.float64)
    found = PGD(0.1, steps=5)(binary(w), x, torch.tensor([0]))
    assert torch.equal(found, torch.ones_like(x))


@pytest.mark.parametrize(("norm", "step"), [("Linf", 0.05), ("L2", 0.2)])
def test_the_default_step_reaches_every_corner(norm: str, step: float) -> None:
    """2.5 eps / steps: 2/255 for PGD-10 at 8/255."""
    assert PGD("8/255").step_size == pytest.approx(2 / 255)
    assert PGD(0.4, norm, steps=5).step_size == pytest.approx(0.2)
    assert FGSM("8/255").step_size == 8 / 255
    assert FGSM(0.1, step_size=step).step_size == step


# Properties.


@settings(max_examples=40, deadline=None)
@given(
    norm=st.sampled_from(["Linf", "L2"]),
    eps=st.floats(1e-4, 1.0),
    steps=st.integers(1, 4),
    factor=st.floats(0.1, 50.0),
    start=st.sampled_from(["uniform", "gaussian", "none"]),
    loss=st.sampled_from(["ce", "kl", "margin"]),
    restarts=st.integers(1, 2),
    corner=st.booleans(),
    seed=st.integers(0, 5),
)
def test_always_in_the_ball_and_in_the_box(
    norm: str, eps: float, steps: int, factor: float, start: str, loss: str, restarts: int,
    corner: bool, seed: int,
) -> None:  # fmt: skip
    """A result outside the threat model makes every robust accuracy too low."""
    x, y = batch(4, seed)
    if corner:
        x = x.round()
    attack = PGD(eps, norm, steps, factor * eps, start, loss, restarts=restarts)
    torch.manual_seed(seed)
    adv = attack(mlp(), x, y)
    assert adv.shape == x.shape
    assert adv.dtype == x.dtype
    assert not adv.requires_grad
    assert adv.grad_fn is None
    assert adv.min() >= 0
    assert adv.max() <= 1
    moved = (adv - x).flatten(1)
    size = moved.abs().amax(dim=1) if norm == "Linf" else moved.norm(dim=1)
    assert size.max() <= eps * (1 + 1e-5) + 1e-6


@every_model
@pytest.mark.parametrize("loss", ["ce", "kl", "margin"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_samples_result_does_not_depend_on_its_batch(make: Any, norm: str, loss: str) -> None:
    """With a mean instead of a sum an L2 attack's tiny-gradient guard, or a float's underflow,
    depends on the size of the batch."""
    x, y = batch(7)
    net = make()
    attack = PGD(0.1, norm, steps=5, start="none", loss=loss)
    start = (x + 0.01 * torch.randn(x.shape, generator=generator(9))).clamp(0, 1)
    together = attack(net, x, y, start)
    alone = torch.cat(
        [attack(net, x[i : i + 1], y[i : i + 1], start[i : i + 1]) for i in range(len(x))]
    )
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_a_tiny_gradient_is_not_divided_by_the_batch() -> None:
    """The L2 step's guard against 0 / 0 is 1e-10: confident samples in a batch of 200, with a
    mean, would barely move."""
    net = binary(torch.full((12,), 4.0, dtype=torch.float64))
    x = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)
    y = torch.tensor([1])  # ahead by 24: a gradient of 5e-10
    attack = PGD(0.1, "L2", steps=1, step_size=0.05, start="none")
    alone = (attack(net, x, y) - x).norm().item()
    many = (attack(net, x.expand(200, -1, -1, -1), y.expand(200)) - x).flatten(1).norm(dim=1)
    assert 0.03 < alone < 0.05
    torch.testing.assert_close(many, torch.full_like(many, alone))


@every_model
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_restarts_are_never_worse(make: Any, norm: str) -> None:
    """For no sample: a restart that replaces a success by a failure would lose it."""
    x, y = batch(24)
    net = make()
    for loss in ("ce", "margin"):
        torch.manual_seed(0)
        one = PGD(0.05, norm, 1, 0.02, loss=loss)(net, x, y)
        torch.manual_seed(0)
        many = PGD(0.05, norm, 1, 0.02, loss=loss, restarts=4)(net, x, y)
        with torch.no_grad():
            first, best = net(one), net(many)
        lost = (first.argmax(dim=1) != y) & (best.argmax(dim=1) == y)
        assert not lost.any()
        still = (first.argmax(dim=1) == y) & (best.argmax(dim=1) == y)
        a, b = (F.cross_entropy(z, y, reduction="none") for z in (first, best))
        if loss == "ce":
            assert (b >= a - 1e-6)[still].all()
            assert not torch.equal(one, many)


def test_a_restart_keeps_the_first_success_over_a_higher_loss() -> None:
    """Misclassified comes before all losses, and a NaN loss never wins."""

    class Table(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, 0, 0, 0], x[:, 1, 0, 0]], dim=1)

    attack = PGD(0.1)
    x = torch.tensor([[[[0.4]], [[0.5]]], [[[0.9]], [[0.1]]]])
    y = torch.tensor([0, 0])
    objective = attack._objective(Table(), x, y)
    score = attack._score(Table(), x, y, objective)
    assert score[0] == torch.inf  # wrong already
    assert score[1] == pytest.approx(float(np.log1p(np.exp(-0.8))), rel=1e-5)


# Objectives.


def numeric_gradient(value: Any, x: Tensor) -> Tensor:
    """Central differences, one coordinate at a time."""
    out = torch.zeros_like(x)
    for place in np.ndindex(*x.shape):
        ends = []
        for h in (1e-6, -1e-6):
            moved = x.clone()
            moved[place] += h
            ends.append(value(moved))
        out[place] = (ends[0] - ends[1]) / 2e-6
    return out


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def brute(kind: str, net: nn.Module, x: Tensor, y: Tensor, q: np.ndarray) -> Any:
    with torch.no_grad():
        p = softmax(net(x).numpy())

    def value(at: Tensor) -> float:
        with torch.no_grad():
            z = net(at).numpy()
        r = softmax(z)
        if kind == "kl":
            return float((p * (np.log(p) - np.log(r))).sum())
        if kind == "ce":
            return float(-(q * np.log(r)).sum())
        rows = np.arange(len(z))
        others = z.copy()
        others[rows, y.numpy()] = -np.inf
        return float((others.max(axis=1) - z[rows, y.numpy()]).sum())

    return value


@pytest.mark.parametrize(
    ("kind", "soft"), [("ce", False), ("ce", True), ("kl", False), ("margin", False)]
)
def test_one_l2_step_goes_along_the_brute_force_gradient(kind: str, soft: bool) -> None:
    """The sign of the KL, which side is the reference, whether the margin is the right way
    round: one step of an L2 attack is the gradient's direction."""
    x, y = batch(3)
    x = (0.3 + 0.4 * x).double()
    net = mlp().double()
    q = np.eye(K)[y.numpy()]
    if soft:
        q = 0.6 * q + 0.4 * softmax(np.random.default_rng(0).normal(size=q.shape))
    start = x + 0.01 * torch.randn(x.shape, generator=generator(5), dtype=torch.float64)
    target = torch.from_numpy(q) if soft else y
    found = PGD(0.5, "L2", steps=1, step_size=0.1, loss=kind)(net, x, target, start)
    grad = numeric_gradient(brute(kind, net, x, y, q), start).flatten(1)
    direction = grad / grad.norm(dim=1, keepdim=True)
    # the KL objective is computed in float32
    torch.testing.assert_close(
        (found - start).flatten(1), 0.1 * direction, atol=2e-4 if kind == "kl" else 1e-6, rtol=0
    )


@every_model
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_one_hot_soft_labels_are_hard_labels(make: Any, norm: str) -> None:
    """The soft path must not change what a hard attack does."""
    x, y = batch()
    net = make()
    attack = PGD(0.1, norm, steps=4, start="none", restarts=2)
    torch.testing.assert_close(
        attack(net, x, y), attack(net, x, F.one_hot(y, K).float()), atol=1e-6, rtol=0
    )


def test_kl_ignores_the_labels_and_needs_a_start() -> None:
    """At x itself the KL's gradient is 0: from start="none" TRADES' attack does nothing."""
    x, y = batch()
    net = mlp()
    torch.manual_seed(0)
    one = PGD(0.1, loss="kl", start="gaussian")(net, x, y)
    torch.manual_seed(0)
    other = PGD(0.1, loss="kl", start="gaussian")(net, x, (y + 1) % K)
    assert torch.equal(one, other)
    with torch.no_grad():
        p, q = net(x).log_softmax(1), net(one).log_softmax(1)
    assert (p.exp() * (p - q)).sum(dim=1).min() > 1e-3


def test_gaussian_start_is_trades() -> None:
    """0.001 N(0, 1), clamped; a start of eps N(0, 1) would begin at the ball's edge."""
    x = torch.full((200, 3, 2, 2), 0.5)
    moved = PGD(8 / 255, start="gaussian")._begin(x) - x
    assert moved.std().item() == pytest.approx(0.001, rel=0.05)
    assert abs(moved.mean().item()) < 1e-4


def test_uniform_start_fills_the_ball() -> None:
    """Linf: uniform in the cube. L2: every direction, radii up to eps."""
    x = torch.full((400, 3, 2, 2), 0.5)
    moved = PGD(0.1)._begin(x) - x
    assert 0.099 < moved.abs().max() <= 0.1 + 1e-6
    assert moved.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.03)
    radii = (PGD(0.3, "L2")._begin(x) - x).flatten(1).norm(dim=1)
    assert radii.max() <= 0.3 + 1e-6
    assert radii.max() > 0.28
    assert radii.min() < 0.05


def test_a_given_start_is_projected() -> None:
    """A warm start from another run may lie outside the ball."""
    x, y = batch()
    far = torch.ones_like(x)
    adv = PGD(0.05, steps=1, step_size=1e-6)(mlp(), x, y, far)
    torch.testing.assert_close(adv, (x + 0.05).clamp(max=1), atol=1e-5, rtol=0)


# Degenerate cases.


class Constant(nn.Module):
    """Logits that do not depend on the input."""

    def __init__(self, connected: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(K))
        self.connected = connected

    def forward(self, x: Tensor) -> Tensor:
        z = self.bias.expand(len(x), K)
        return z + 0 * x.flatten(1).sum(dim=1, keepdim=True) if self.connected else z + 0 * x.sum()


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["ce", "kl", "margin"])
def test_a_zero_gradient_moves_nothing(norm: str, loss: str, connected: bool) -> None:
    """0 / 0 in the L2 step: NaN images, which every model gets wrong, so robust accuracy 0."""
    x, y = batch()
    adv = PGD(0.1, norm, loss=loss, start="none")(Constant(connected), x, y)
    assert torch.equal(adv, x)
    random = PGD(0.1, norm, loss=loss)(Constant(connected), x, y)
    assert random.isfinite().all()


def test_a_graph_without_the_input() -> None:
    """A model that detaches: allow_unused, not a traceback."""

    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.ones(1, requires_grad=True)

        def forward(self, x: Tensor) -> Tensor:
            return x.detach().flatten(1)[:, :K] * self.scale

    x, y = batch()
    assert torch.equal(PGD(0.1, start="none")(Detached(), x, y), x)


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["ce", "kl", "margin"])
def test_batches_of_none_and_one(n: int, norm: str, loss: str) -> None:
    """A last batch of one; a filter that leaves none."""
    x, y = batch(n)
    for restarts in (1, 2):
        adv = PGD(0.1, norm, loss=loss, restarts=restarts)(mlp(), x, y)
        assert adv.shape == x.shape
        assert adv is not x


def test_the_input_is_left_alone_and_works_under_no_grad() -> None:
    """validate() and users call attacks inside no_grad; x may be the data set."""
    x, y = batch()
    before = x.clone()
    x.requires_grad_()
    with torch.no_grad():
        adv = PGD(0.1)(mlp(), x, y)
    assert not torch.equal(adv, before)
    assert torch.equal(x.detach(), before)
    assert x.grad is None
    assert not adv.requires_grad


def test_margin_refuses_soft_labels() -> None:
    """An index error from inside torch, or a margin of the wrong class."""
    x, y = batch()
    with pytest.raises(ValueError, match="margin"):
        PGD(0.1, loss="margin")(mlp(), x, F.one_hot(y, K).float())
    assert not PGD(0.1, loss="margin").takes_soft_labels
    assert PGD(0.1).takes_soft_labels


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"eps": 0}, "eps"),
        ({"eps": 1.5}, "eps"),
        ({"eps": "8/0"}, "eps"),
        ({"eps": -0.1}, "eps"),
        ({"eps": float("nan")}, "eps"),
        ({"norm": "L3"}, "norm"),
        ({"norm": "L1"}, "norm"),
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"steps": True}, "steps"),
        ({"restarts": 0}, "restarts"),
        ({"step_size": 0}, "eps|step"),
        ({"start": "zero"}, "start"),
        ({"loss": "mse"}, "loss"),
        ({"mode": "test"}, "mode"),
    ],
)
def test_bad_parameters(params: dict[str, Any], name: str) -> None:
    """Each in one line that names the argument."""
    with pytest.raises(ValueError, match=name) as caught:
        make_attack("pgd", **{"eps": 0.1, **params})
    assert "\n" not in str(caught.value)


def test_step_size_errors_name_step_size() -> None:
    """A message about eps sends the user to the wrong argument."""
    with pytest.raises(ValueError, match="step_size"):
        PGD(0.1, step_size=-1)


def test_double_precision_keeps_its_precision() -> None:
    """A float32 cross-entropy of float64 logits underflows where float64 does not."""
    w = torch.full((12,), 25 / 6, dtype=torch.float64)
    x = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)
    # the true class is ahead by 25: 1 - p is 1e-11, which in float32 is 0
    adv = PGD(0.1, start="none")(binary(w), x, torch.tensor([1]))
    torch.testing.assert_close(adv, x - 0.1)


class Rows(nn.Module):
    """A linear map that writes down how many images come at a time."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(inputs, K)
        self.norm = nn.BatchNorm1d(K)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.norm(self.fc(x.flatten(1)))


@pytest.mark.parametrize("loss", ["ce", "kl", "margin"])
def test_large_batches_go_through_a_cpu_in_parts(loss: str) -> None:
    """Activations that leave the cache make an attack on a CPU a fifth slower. The parts must not
    change a sample's path: each alone, from its own start, ends where the whole batch did."""
    x = torch.rand(70, 3, 32, 32, generator=generator())
    y = torch.arange(70) % K
    start = x + 0.01
    model = Rows(3 * 32 * 32).eval()
    attack = PGD(0.05, steps=3, loss=loss, restarts=1)
    whole = attack(model, x, y, start=start)
    assert set(model.seen) == {35}
    for i in (0, 34, 35, 69):
        alone = attack(model, x[i : i + 1], y[i : i + 1], start=start[i : i + 1])
        torch.testing.assert_close(whole[i : i + 1], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_batches_whose_samples_share_statistics_are_not_split(mode: str) -> None:
    """In train mode batch norm sees the batch, and always where it keeps no running statistics:
    parts would be another attack."""
    model = Rows(3 * 32 * 32)
    if mode == "eval":
        model.norm = nn.BatchNorm1d(K, track_running_stats=False)
    model.train(mode == "train")
    PGD(0.05, steps=2, mode=mode)(model, torch.rand(70, 3, 32, 32), torch.arange(70) % K)
    assert set(model.seen) == {70}


def test_small_images_are_not_split() -> None:
    """Digits fit into the cache by the thousand; parts of them would only cost calls."""
    model = Rows(64).eval()
    PGD(0.05, steps=2)(model, torch.rand(500, 1, 8, 8), torch.arange(500) % K)
    assert set(model.seen) == {500}


def test_restarts_are_drawn_for_the_whole_batch() -> None:
    """The parts' random starts must be those of the whole: else the number of threads, on which
    the parts depend, would change what is drawn."""
    x = torch.rand(70, 3, 32, 32, generator=generator())
    y = torch.arange(70) % K
    model = Rows(3 * 32 * 32).eval()
    found = []
    try:
        for threads in (8, 1):
            torch.set_num_threads(threads)
            torch.manual_seed(3)
            found.append(PGD(0.05, steps=2, restarts=2)(model, x, y))
    finally:
        torch.set_num_threads(1)
    assert set(model.seen) == {35, 70}
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)


class Sloped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        grad = grad.clone()
        grad[0, 0] = torch.inf
        grad[1, 0] = torch.nan
        grad[2] = 1e30
        return grad


class Breaking(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        z = Sloped.apply(x.flatten(1))
        return torch.stack([z.sum(dim=1), -z.sum(dim=1)], dim=1)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_nonfinite_gradients_give_valid_images_and_are_counted(norm: str) -> None:
    x = torch.full((4, 1, 2, 2), 0.5)
    attack = PGD(0.1, norm, steps=3, start="none")
    moved = attack(Breaking(), x, torch.zeros(4).long()) - x
    assert attack.nonfinite_gradients == 2
    size = moved.flatten(1).abs().amax(1) if norm == "Linf" else moved.flatten(1).norm(dim=1)
    torch.testing.assert_close(size, torch.full((4,), 0.1))
    if norm == "L2":  # along the infinite pixel; the other three; all four alike
        torch.testing.assert_close(moved[0].flatten().abs(), torch.tensor([0.1, 0, 0, 0]))
        torch.testing.assert_close(moved[2].flatten().abs(), torch.full((4,), 0.05))
