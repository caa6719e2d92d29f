"""AutoAttack's attacks of ours against the official code: the same seed, the same verdicts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_projections import projection_linf as official_linf
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from robustlabels.attacks.auto import APGD, FAB, Judged, Square
from robustlabels.attacks.auto.projections import projection_linf

K = 6
EPS = {"Linf": 0.14, "L2": 1.0, "L1": 4.0}
SQUARE = {"Linf": 0.28, "L2": 2.0, "L1": 10.0}  # without gradients it takes more


@pytest.fixture(scope="module")
def subject() -> tuple[nn.Module, Tensor, Tensor]:
    """A trained net that some attacks fell on some images, and not on others."""
    torch.manual_seed(0)
    y = torch.arange(60) % K
    patterns = torch.rand(K, 1, 10, 10)
    x = (0.6 * patterns[y] + 0.4 * torch.rand(60, 1, 10, 10)).clamp(0, 1)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, K))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        noisy = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
        nn.functional.cross_entropy(net(noisy), y).backward()
        optimizer.step()
    net.eval().requires_grad_(False)
    right = net(x).argmax(1) == y
    return net, x[right], y[right]


def fooled(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1) != y


def distance(delta: Tensor, norm: str) -> float:
    flat = delta.flatten(1)
    return float(flat.norm(p={"Linf": float("inf"), "L2": 2, "L1": 1}[norm], dim=1).max())


def check(ours: Tensor, theirs: Tensor, subject: Any, norm: str, eps: float) -> None:
    net, x, y = subject
    mine, official = fooled(net, ours, y), fooled(net, theirs, y)
    assert 0 < int(official.sum()) < len(y), "the settings show nothing"
    # L1 compacts samples between its radii, and rounding in a batch of another size may decide.
    assert int((mine != official).sum()) <= (1 if norm == "L1" else 0)
    assert distance(ours - x, norm) <= eps * (1 + 1e-4)
    assert -1e-6 <= float(ours.min()) <= float(ours.max()) <= 1 + 1e-6  # L1's projection rounds
    assert torch.equal(ours[~mine], x[~mine])


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd(subject: Any, norm: str, loss: str) -> None:
    """A step size that halves at other moments is another attack under the same name."""
    net, x, y = subject
    large = norm == "L1"
    official = APGDAttack(
        net, n_iter=30, norm=norm, eps=EPS[norm], seed=3, loss=loss, use_largereps=large,
        n_restarts=2, device="cpu",
    )  # fmt: skip
    ours = APGD(
        Judged(net, K), EPS[norm], norm, loss, 3, restarts=2, iterations=30, large_radii=large
    )
    check(ours(x, y), official.perturb(x, y), subject, norm, EPS[norm])


@pytest.mark.parametrize("norm", EPS)
def test_targeted_apgd(subject: Any, norm: str) -> None:
    """The targets are the greatest other logits, each in turn on what is left."""
    net, x, y = subject
    large = norm == "L1"
    official = APGDAttack_targeted(
        net, n_iter=30, norm=norm, eps=EPS[norm], seed=3, n_target_classes=4,
        use_largereps=large, device="cpu",
    )  # fmt: skip
    ours = APGD(
        Judged(net, K), EPS[norm], norm, "dlr-targeted", 3, targets=4, iterations=30,
        large_radii=large,
    )  # fmt: skip
    check(ours(x, y), official.perturb(x, y), subject, norm, EPS[norm])


@pytest.mark.parametrize("norm", EPS)
def test_fab(subject: Any, norm: str) -> None:
    """One forward pass a step where the official takes two must not change a verdict."""
    net, x, y = subject
    official = FABAttack_PT(
        net, norm=norm, n_iter=8, eps=EPS[norm], seed=3, targeted=True, n_target_classes=4,
        n_restarts=1, device="cpu",
    )  # fmt: skip
    ours = FAB(Judged(net, K), EPS[norm], norm, 3, targets=4, iterations=8)
    theirs = official.perturb(x, y)
    check(ours(x, y), theirs, subject, norm, EPS[norm])


@pytest.mark.parametrize("norm", EPS)
def test_square(subject: Any, norm: str) -> None:
    """Dropping fallen samples must leave the others' random numbers alone."""
    net, x, y = subject
    official = SquareAttack(
        net, norm=norm, n_queries=150, eps=SQUARE[norm], p_init=0.8, seed=3, device="cpu",
        resc_schedule=False,
    )  # fmt: skip
    ours = Square(Judged(net, K), SQUARE[norm], norm, 3, queries=150)
    check(ours(x, y), official.perturb(x, y), subject, norm, SQUARE[norm])


@pytest.mark.parametrize("norm", EPS)
def test_small_passes_change_nothing(subject: Any, norm: str) -> None:
    """How many images go through the model at once is for the memory to say."""
    net, x, y = subject
    for make in (
        lambda judged: APGD(judged, EPS[norm], norm, "dlr-targeted", 3, targets=2, iterations=10),
        lambda judged: FAB(judged, EPS[norm], norm, 3, targets=2, iterations=10),
        lambda judged: Square(judged, EPS[norm], norm, 3, queries=30),
    ):
        whole = make(Judged(net, K))(x, y)
        parts = make(Judged(net, K, at_a_time=7, channels_last=True))(x, y)
        assert torch.equal(fooled(net, whole, y), fooled(net, parts, y))


class Widened(nn.Module):
    """K real logits, and virtual ones that win wherever the input is pushed."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        return torch.cat([z, z.detach().amax(1, keepdim=True).expand(-1, 2) + 5], dim=1)


def test_virtual_classes_never_count_as_success(subject: Any) -> None:
    """The official stops where a virtual class wins, and calls the sample broken though the
    deployed classifier is right."""
    net, x, y = subject
    wide = Widened(net)
    judged = Judged(wide, K)
    assert fooled(wide, x, y).all()  # what the official would say before any attack
    for attack in (
        APGD(judged, 1e-6, "Linf", "ce", 0, iterations=5),
        APGD(judged, 1e-6, "Linf", "dlr-targeted", 0, targets=3, iterations=5),
        FAB(judged, 1e-6, "Linf", 0, targets=3, iterations=5),
        Square(judged, 1e-6, "Linf", 0, queries=20),
    ):
        assert torch.equal(attack(x, y), x)
    strong = APGD(judged, 0.3, "Linf", "dlr-targeted", 0, targets=7, iterations=20)
    broken = strong(x, y)
    assert fooled(net, broken, y).any()
    moved = (broken != x).flatten(1).any(1)
    assert torch.equal(moved, fooled(net, broken, y))


def test_y_is_never_a_target() -> None:
    """The official takes targets from the sorted logits and trusts that the first is y."""
    judged = Judged(lambda x: x.flatten(1), 3)
    z = torch.tensor([[1.0, 5, 3, 9, 2], [7, 5, 3, 1, 2]])
    targets = judged.targets(z, torch.tensor([1, 0]), 4)
    assert targets.tolist() == [[3, 2, 4, 0], [1, 2, 4, 3]]


def test_the_projection_is_the_officials() -> None:
    """Found without sorting; the same move for images that can reach the hyperplane, that can't,
    whose normal has zeros, and that lie on the edges."""
    torch.manual_seed(0)
    n, d = 400, 50
    x, w = torch.rand(n, d, dtype=torch.float64), torch.randn(n, d, dtype=torch.float64)
    x[:100] = x[:100].round()
    w[50:150, ::3] = 0
    w[0] = 0
    b = (w * torch.rand(n, d, dtype=torch.float64)).sum(1)
    b[200:250] += 40  # out of reach
    b[250:300] = (w * x).sum(1)[250:300] + 1e-3  # so near that no pixel meets an edge
    ours, theirs = projection_linf(x, w, b), official_linf(x, w, b)
    assert torch.allclose(ours, theirs, atol=1e-9)
    moved = x + ours
    assert float(moved.min()) >= -1e-12
    assert float(moved.max()) <= 1 + 1e-12
    reached = ((w * moved).sum(1) - b).abs() < 1e-9
    assert 300 < int(reached.sum()) < n
    assert not reached[200:250].any()
    assert torch.equal(ours[0], torch.zeros(d, dtype=torch.float64))
