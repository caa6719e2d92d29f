"""The ART family: every name runs, in its ball, as ART's papers say, and leaves no trace."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustlabels as rl
from robustlabels import make_attack
from robustlabels.attacks import PGD, ArtAttack
from robustlabels.attacks._art_members import LEFT_OUT, MEMBERS, READY_ONLY
from robustlabels.randomness import seed_everything

evasion = pytest.importorskip("art.attacks.evasion")

K = 4
ROOT = Path(__file__).parents[2]
# As few steps as each can do.
FEW: dict[str, dict[str, Any]] = {
    "AutoConjugateGradient": {"max_iter": 3, "nb_random_init": 1},
    "AutoProjectedGradientDescent": {"max_iter": 3, "nb_random_init": 1},
    "BasicIterativeMethod": {"max_iter": 3},
    "BoundaryAttack": {"max_iter": 3},
    "CarliniL0Method": {"max_iter": 2, "binary_search_steps": 1},
    "CarliniL2Method": {"max_iter": 2, "binary_search_steps": 1},
    "CarliniLInfMethod": {"max_iter": 2, "largest_const": 1e-4},
    "ElasticNet": {"max_iter": 2, "binary_search_steps": 1},
    "GeoDA": {"max_iter": 500, "sub_dim": 4},
    "HopSkipJump": {"max_iter": 2, "max_eval": 50, "init_eval": 10},
    "MomentumIterativeMethod": {"max_iter": 3},
    "NewtonFool": {"max_iter": 3},
    "PixelAttack": {"max_iter": 2, "th": 3},
    "ProjectedGradientDescent": {"max_iter": 3},
    "ProjectedGradientDescentNumpy": {"max_iter": 3},
    "ProjectedGradientDescentPyTorch": {"max_iter": 3},
    "RescalingAutoConjugateGradient": {"max_iter": 3, "nb_random_init": 1},
    "SaliencyMapMethod": {"gamma": 0.1},
    "ShadowAttack": {"nb_steps": 2, "batch_size": 4},
    "SignOPTAttack": {"max_iter": 1, "num_trial": 10, "query_limit": 100, "k": 5},
    "SimBA": {"max_iter": 5},
    "SpatialTransformation": {"num_translations": 3, "num_rotations": 3},
    "SquareAttack": {"max_iter": 10},
    "ThresholdAttack": {"max_iter": 1},
    "UniversalPerturbation": {"max_iter": 1},
    "VirtualAdversarialMethod": {"max_iter": 1},
    "ZooAttack": {"max_iter": 2, "nb_parallel": 8},
}
BOUNDED = [(n, norm) for n, m in MEMBERS.items() if not m.minimal for norm in m.norms]
SOFT = [n for n, m in MEMBERS.items() if m.soft]
RADII = {"Linf": 0.1, "L2": 0.7, "L1": 2.0}
ORDERS = {"Linf": math.inf, "L2": 2.0, "L1": 1.0}
PGDS = [n for n in MEMBERS if n.startswith("ProjectedGradientDescent")]


def net(channels: int = 1, classes: int = K) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4 * 64, classes),
    ).eval()


def images(n: int = 3, channels: int = 1, classes: int = K) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, channels, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, net(channels, classes)(x).argmax(dim=1)  # all right at first: all are attacked


def made(name: str, norm: str | None = None, eps: float | None = None, **more: Any) -> ArtAttack:
    norm = norm or (MEMBERS[name].norms or ("Linf",))[0]
    if name == "CompositeAdversarialAttackPyTorch":
        pytest.importorskip("kornia")
    attack = make_attack(f"art:{name}", eps or RADII[norm], norm, **{**FEW.get(name, {}), **more})
    assert isinstance(attack, ArtAttack)
    return attack


def run(attack: ArtAttack, *args: Any, seed: int = 0) -> Tensor:
    seed_everything(seed)
    return attack(*args)


# The names.


def test_every_attack_of_the_installed_art_is_placed() -> None:
    """A new version's attacks would be unreachable without anybody having decided so."""
    from art.attacks.attack import EvasionAttack

    there = {
        name
        for name, cls in vars(evasion).items()
        if inspect.isclass(cls) and issubclass(cls, EvasionAttack)
    }
    # ART has this one only beside numba.
    assert there | {"BrendelBethgeAttack"} == {*MEMBERS, *LEFT_OUT, *READY_ONLY}
    assert len(MEMBERS) + len(LEFT_OUT) + len(READY_ONLY) == len(there | {"BrendelBethgeAttack"})
    listed = [n for n in rl.list_attacks() if n.startswith("art:")]
    assert listed == sorted(f"art:{n}" for n in MEMBERS)


def test_the_docs_show_exactly_these() -> None:
    """A table without an attack, or with one that is gone, sends users the wrong way."""
    page = (ROOT / "docs" / "art-attacks.md").read_text()
    table = page.split("<!-- attacks -->")[1].split("<!-- /attacks -->")[0]
    rows = [line.split("|")[1].strip(" `") for line in table.splitlines() if "| `" in line]
    assert rows == sorted(MEMBERS)
    for name in [*LEFT_OUT, *READY_ONLY]:
        assert f"`{name}`" in page


@pytest.mark.parametrize("name", MEMBERS)
def test_every_name_runs(name: str) -> None:
    """Each is promised; one that fails on its first batch is a broken promise. K is 4, and the
    model a Sequential, whose every layer ART would take for an output."""
    channels = 3 if name.startswith("Composite") else 1
    x, y = images(2, channels)
    before = x.clone()
    adv = run(made(name), net(channels), x, y)
    assert adv.shape == x.shape
    assert adv.dtype == x.dtype
    assert not adv.requires_grad
    assert adv.isfinite().all()
    assert adv.min() >= 0
    assert adv.max() <= 1
    assert torch.equal(x, before)


# The ball.


@pytest.mark.parametrize(("name", "norm"), BOUNDED)
def test_eps_and_norm_reach_the_attack(name: str, norm: str) -> None:
    """ART's default radius of 0.3, or 10, instead of the user's is another threat model."""
    x, y = images()
    # AutoAttack takes minutes where it fails.
    radii = [3 * RADII[norm]] if name == "AutoAttack" else [RADII[norm] / 4, RADII[norm]]
    for eps in radii:
        attack = made(name, norm, eps)
        moved = (run(attack, net(), x, y) - x).flatten(1).norm(p=ORDERS[norm], dim=1)
        assert moved.max() <= eps + 1e-5
        if name in (*PGDS, "FastGradientMethod") and norm != "L1":
            assert moved.max() > eps * 0.6  # a step that does not follow eps may not get there
        assert attack.eps is not None
        assert attack.eps <= eps
        assert attack.norm == norm


def test_the_step_follows_eps() -> None:
    """ART's 0.1, a third of its 0.3, would jump across a ball of 8/255."""
    for name in ("ProjectedGradientDescentPyTorch", "BasicIterativeMethod"):
        assert made(name, eps=0.3).params["eps_step"] == pytest.approx(0.1)
        assert made(name, eps=0.03).params["eps_step"] == pytest.approx(0.01)
        assert made(name, eps=0.03, eps_step=0.02).params["eps_step"] == 0.02


def test_threshold_counts_in_eight_bit_steps() -> None:
    """Rounded up, it would leave the ball."""
    assert made("ThresholdAttack", eps=8 / 255).params["th"] == 8
    attack = made("ThresholdAttack", eps=0.1)
    assert attack.params["th"] == 25
    assert attack.eps == 25 / 255
    with pytest.raises(ValueError, match="art:ThresholdAttack"):
        made("ThresholdAttack", eps=1 / 512)


@pytest.mark.parametrize(
    ("name", "norm", "own"),
    [
        ("BasicIterativeMethod", "L2", "Linf"),
        ("VirtualAdversarialMethod", "Linf", "L2"),
        ("SquareAttack", "L1", "Linf or L2"),
        ("HopSkipJump", "L1", "Linf or L2"),
        ("AutoConjugateGradient", "Linf", "L2 or L1"),
    ],
)
def test_a_norm_that_the_attack_does_not_have(name: str, norm: str, own: str) -> None:
    """An Linf attack in an L2 run would be a figure for another ball."""
    with pytest.raises(ValueError, match=f"for {own}, not {norm}") as caught:
        make_attack(f"art:{name}", 0.1, norm)
    assert "\n" not in str(caught.value)


def test_art_still_drops_the_sign_of_conjugate_gradients() -> None:
    """Why they are refused for Linf: of two steps of 0.1, ART makes ones of the size of the
    gradient. If this fails one day, allow them."""
    from art.estimators.classification import PyTorchClassifier

    x, y = images()
    estimator = PyTorchClassifier(net(), nn.CrossEntropyLoss(), (1, 8, 8), K, clip_values=(0, 1))
    attack = evasion.AutoConjugateGradient(
        estimator, eps=1.0, eps_step=0.1, max_iter=2, nb_random_init=1, verbose=False
    )
    starts = []
    attack._estimator.loss_gradient = _spy(attack._estimator.loss_gradient, starts)
    attack.generate(x.numpy(), y.numpy())
    step = np.abs(starts[1] - starts[0]).max()
    assert 0 < step < 0.05


def _spy(method: Any, seen: list[Any]) -> Any:
    def spy(x: Any, y: Any) -> Any:
        seen.append(x.copy())
        return method(x, y)

    return spy


# Against independent facts.


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", PGDS)
def test_pgd_is_our_pgd(name: str, norm: str) -> None:
    """Two implementations by different people: the same steps, projections and labels."""
    x, y = images(6)
    x = x if norm == "Linf" else 0.3 + 0.4 * x  # ART clips before it projects, we after
    eps = {"Linf": 0.1, "L2": 0.5}[norm]
    ours = PGD(eps, norm, steps=7, step_size=eps / 4, start="none")(net(), x, y)
    theirs = made(name, norm, eps, eps_step=eps / 4, max_iter=7, num_random_init=0)
    torch.testing.assert_close(theirs(net(), x, y), ours, atol=1e-6, rtol=0)
    assert not torch.equal(ours, x)


def test_bim_is_pgd_without_a_random_start() -> None:
    """The same for the third name of it."""
    x, y = images()
    ours = PGD(0.1, steps=5, step_size=0.03, start="none")(net(), x, y)
    theirs = made("BasicIterativeMethod", eps=0.1, eps_step=0.03, max_iter=5)
    torch.testing.assert_close(theirs(net(), x, y), ours, atol=1e-6, rtol=0)


def test_fgm_by_hand() -> None:
    """x + eps sign(grad), and eps grad / |grad| in L2."""
    x, y = images()
    leaf = (0.3 + 0.4 * x).requires_grad_()
    F.cross_entropy(net()(leaf), y, reduction="sum").backward()
    x, grad = leaf.detach(), leaf.grad
    assert grad is not None
    adv = made("FastGradientMethod", "Linf", 0.1)(net(), x, y)
    torch.testing.assert_close(adv, x + 0.1 * grad.sign(), atol=1e-6, rtol=0)
    adv = made("FastGradientMethod", "L2", 0.2)(net(), x, y)
    unit = grad / grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(adv, x + 0.2 * unit, atol=1e-6, rtol=0)


def test_deepfool_reaches_the_nearest_boundary_of_a_linear_model() -> None:
    """min |f| / |w| is its exact answer: one that attacked another output of the Sequential, or
    another label, would miss it."""
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    x = 0.4 + 0.2 * torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        z, w = flat(x), flat[1].weight
    y = z.argmax(dim=1)
    gaps = (z.gather(1, y[:, None]) - z).scatter(1, y[:, None], math.inf)
    widths = torch.stack([(w[k] - w).norm(dim=1) for k in y]).scatter(1, y[:, None], 1.0)
    nearest = (gaps / widths).amin(dim=1)
    moved = (made("DeepFool")(flat, x, y) - x).flatten(1).norm(dim=1)
    torch.testing.assert_close(moved, nearest, rtol=1e-3, atol=1e-4)


def test_virtual_adversarial_perturbations_raise_the_divergence() -> None:
    """ART's finite difference of 1e-6 is rounding noise in float32: a random direction, which the
    same number of passes finds for free."""
    x, y = images(6)
    model = net()

    def divergence(adv: Tensor) -> Tensor:
        with torch.no_grad():
            p, q = (model(i).log_softmax(dim=1) for i in (x, adv))
        return (p.exp() * (p - q)).sum(dim=1).mean()

    ours = divergence(run(made("VirtualAdversarialMethod"), model, x, y))
    noise = divergence(run(made("VirtualAdversarialMethod", finite_diff=1e-6), model, x, y))
    assert ours > 2 * noise


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_sequential_is_a_model_like_any_other(wrapped: bool) -> None:
    """ART runs a Sequential layer by layer; whatever it does then, the answer must be the same."""
    x, y = images()

    class Whole(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    expected = run(made("CarliniL2Method"), net(), x, y)
    model = nn.Sequential(net(), nn.Identity()) if wrapped else Whole(net())
    assert torch.equal(run(made("CarliniL2Method"), model, x, y), expected)


def test_each_image_gets_its_own_transformation() -> None:
    """ART searches one rotation for the whole batch, and repeats it on the next: far weaker, and a
    verdict that depends on the neighbours."""
    x, y = images(6)
    attack, model = made("SpatialTransformation"), net()
    together = attack(model, x, y)
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1]) for i in range(6)])
    assert torch.equal(together, alone)
    assert torch.equal(attack(model, x, y), together)


@pytest.mark.parametrize("name", ["ShadowAttack", "SaliencyMapMethod"])
def test_labels_that_mean_a_target_are_not_given(name: str) -> None:
    """To these the label is where to go: the true one would make the images easier."""
    x, y = images(4)
    model = net()
    more: dict[str, Any] = {"gamma": 1.0}
    if name == "ShadowAttack":  # without its regularisers, which this small net can't overcome
        more = dict.fromkeys(("lambda_tv", "lambda_c", "lambda_s"), 0.0)
        more |= {"nb_steps": 20, "sigma": 0.01, "learning_rate": 2.0}
    adv = run(made(name, **more), model, x, y)
    with torch.no_grad():
        before = model(x).log_softmax(dim=1).gather(1, y[:, None]).mean()
        after = model(adv).log_softmax(dim=1).gather(1, y[:, None]).mean()
    assert after < before
    assert (model(adv).argmax(dim=1) != y).float().mean() > 0.4


# Soft labels.


@pytest.mark.parametrize("name", MEMBERS)
def test_which_take_soft_labels(name: str) -> None:
    """Argmaxed soft labels would make a scheme's attack another one than its paper says."""
    channels = 3 if name.startswith("Composite") else 1
    x, y = images(3, channels)
    attack = made(name)
    soft = 0.5 * F.one_hot(y, K).float() + 0.5 * F.one_hot((y + 1) % K, K)
    assert attack.takes_soft_labels == (name in SOFT)
    if name not in SOFT:
        with pytest.raises(ValueError, match="class indices only") as caught:
            attack(net(channels), x, soft)
        assert "\n" not in str(caught.value)
        return
    hard = run(attack, net(channels), x, y)
    assert torch.allclose(run(attack, net(channels), x, F.one_hot(y, K).float()), hard, atol=1e-6)
    assert not torch.allclose(run(attack, net(channels), x, soft), hard, atol=1e-4)


@pytest.mark.parametrize("name", PGDS)
def test_soft_labels_are_exactly_the_targets_of_the_loss(name: str) -> None:
    """The same as ours, which takes them as they are."""
    x, y = images()
    soft = 0.7 * F.one_hot(y, K).float() + 0.3 / K
    ours = PGD(0.1, steps=4, step_size=0.04, start="none")(net(), x, soft)
    theirs = made(name, eps=0.1, eps_step=0.04, max_iter=4)(net(), x, soft)
    torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=0)


def test_the_margin_loss_takes_none() -> None:
    """difference_logits_ratio looks at the greatest label only."""
    dlr = made("AutoProjectedGradientDescent", loss_type="difference_logits_ratio")
    assert not dlr.takes_soft_labels


# What is left behind.


@pytest.mark.parametrize("name", ["FastGradientMethod", "DeepFool", "HopSkipJump", "AutoAttack"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_comes_back_as_it_was(name: str, fails: bool) -> None:
    """A frozen batch norm that wakes up, or gradients of half a step that ART erases, would spoil
    training without a word."""
    x, y = images()
    model = net()
    model.train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    F.cross_entropy(model(x), y).backward()
    grads = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    state = {n: v.clone() for n, v in model.state_dict().items()}
    if fails:
        calls = []

        def fail(*_: Any) -> None:
            calls.append(1)
            if len(calls) > 2:
                raise OSError("mine")

        handle = model.register_forward_hook(fail)
        with pytest.raises(OSError, match="mine"):
            for _ in range(3):
                made(name)(model, x, y)
        handle.remove()
    else:
        made(name)(model, x, y)
    assert [m.training for m in model] == [True, False, True, True, True]
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["0.bias"]
    for n, p in model.named_parameters():
        assert (p.grad is None) == (grads[n] is None)
        assert p.grad is None or torch.equal(p.grad, grads[n])
    for n, v in model.state_dict().items():
        assert torch.equal(v, state[n])


@pytest.mark.parametrize("name", [n for n in MEMBERS if not n.startswith("Composite")])
def test_seeded_by_the_callers_generators(name: str, capfd: Any, tmp_path: Path, monkeypatch: Any):
    """HopSkipJump and BoundaryAttack draw from generators of their own: no figure of theirs could
    be repeated. And no attack may print beside our progress, or write files (GeoDA does)."""
    monkeypatch.chdir(tmp_path)
    x, y = images(2)
    capfd.readouterr()
    attack = made(name)
    assert torch.equal(run(attack, net(), x, y), run(attack, net(), x, y))
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    assert np.random.RandomState is not np.random  # what was mended is as it was
    assert "multiprocess" not in sys.modules or sys.modules["multiprocess"].__name__ != (
        "multiprocessing"
    )


@pytest.mark.parametrize("name", ["HopSkipJump", "BoundaryAttack", "SquareAttack"])
def test_another_seed_gives_other_images(name: str) -> None:
    """Reseeded by us, every image's start would be the same."""
    x, y = images(2)
    attack = made(name)
    assert not torch.equal(run(attack, net(), x, y), run(attack, net(), x, y, seed=1))


def test_bars_for_who_asks_for_them(capfd: Any) -> None:
    """verbose=True is ART's own, and stays."""
    x, y = images(2)
    made("DeepFool", verbose=True)(net(), x, y)
    assert "DeepFool" in capfd.readouterr().err


# Any model.


@pytest.mark.parametrize("name", ["FastGradientMethod", "HopSkipJump", "DeepFool", "SquareAttack"])
def test_two_classes_and_double_precision(name: str) -> None:
    """ART computes in float32, and treats two classes in ways of its own."""
    x, y = images(classes=2)
    adv = run(made(name), net(classes=2).double(), x.double(), y)
    assert adv.dtype == torch.float64
    torch.testing.assert_close(
        adv.float(), run(made(name), net(classes=2), x, y), atol=1e-3, rtol=0
    )


def test_an_empty_batch() -> None:
    """A filter may leave none."""
    x, y = images()
    assert made("DeepFool")(net(), x[:0], y[:0]).shape == (0, 1, 8, 8)


# Evaluation and training.


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return rl.fit("mlp", "digits", scheme="one-hot", trainer="standard", epochs=3, seed=0).model


def test_black_box_attacks_fool_a_real_model(trained: nn.Module) -> None:
    """They work on digits, with progress after every image where they take minutes, the same
    verdicts for the same seed, and the caller's generators untouched."""
    attacks: list[Any] = [
        {"name": "art:SquareAttack", "max_iter": 50},
        {"name": "art:HopSkipJump", "max_iter": 2, "max_eval": 50, "init_eval": 10},
    ]
    reports: list[tuple[float, str]] = []
    kwargs: Any = {"attacks": attacks, "eps": 0.3, "n": 12, "evaluations": ["accuracy"]}
    seed_everything(7)
    found = rl.evaluate(
        trained, "digits", **kwargs, progress=lambda *report: reports.append(report)
    )
    assert found["clean"]["top1"] > 0.8
    square, hop = (found["attacks"][a["name"]] for a in attacks)
    assert square["robust_accuracy"] < found["clean"]["top1"] - 0.3
    assert square["eps_bounded"]
    assert hop["robust_accuracy"] < 0.2
    assert not hop["eps_bounded"]
    assert hop["params"]["params"] == {
        "norm": "inf", "max_iter": 2, "max_eval": 50, "init_eval": 10
    }  # fmt: skip
    assert sum("HopSkipJump: " in text for _, text in reports) == 12
    assert [share for share, _ in reports] == sorted(share for share, _ in reports)
    drawn = torch.rand(3), np.random.rand(3)
    seed_everything(7)
    again = rl.evaluate(trained, "digits", **kwargs)
    assert again["verdicts"] == found["verdicts"]
    for a, b in zip(drawn, (torch.rand(3), np.random.rand(3)), strict=True):
        assert (a == b).all()


def test_virtual_classes_are_cut_off() -> None:
    """An attack that stops at a virtual class has not fooled the deployed classifier."""
    x, _ = images(8)
    model = net(classes=K + 3)
    with torch.no_grad():
        model[-1].bias[K:] += 0.2  # the nearest boundary is often a virtual class's
        y = model(x)[:, :K].argmax(dim=1)
    found = rl.evaluate(
        model, (x, y), ["art:DeepFool"], eps=1.0, norm="L2", num_classes=K,
        evaluations=["accuracy"], keep_adversarial=True,
    )  # fmt: skip
    cut = net(classes=K + 3)
    cut[-1].weight, cut[-1].bias = (
        nn.Parameter(model[-1].weight[:K]),
        nn.Parameter(model[-1].bias[:K]),
    )
    adv = found["adversarial"]["art:DeepFool"]
    torch.testing.assert_close(adv, made("DeepFool")(cut, x, y), atol=1e-4, rtol=0)
    assert not torch.allclose(adv, made("DeepFool")(model, x, y), atol=1e-3)
    assert found["virtual_classes"] == 3


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_with_arts_fgm_is_training_with_ours(accumulate: int) -> None:
    """The same attack must give the same weights; with two half batches a step too, whose first
    gradients ART's zero_grad would erase."""
    x, y = images(32)
    model: Any = {"name": "mlp", "hidden": [8]}
    common: dict[str, Any] = {
        "scheme": "ls", "eps": 0.1, "epochs": 2, "seed": 0, "batch_size": 8, "validation": 0,
        "accumulate": accumulate, "num_classes": K,
    }  # fmt: skip
    ours = rl.fit(model, (x, y), attack="fgsm", **common)
    theirs = rl.fit(model, (x, y), attack="art:FastGradientMethod", **common)
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_training_with_a_random_start_can_be_repeated() -> None:
    """ART draws from numpy: unseeded, no run could be resumed."""
    x, y = images(16)
    attack = {"name": "art:ProjectedGradientDescentPyTorch", "max_iter": 2, "num_random_init": 1}
    runs = [
        rl.fit(
            {"name": "mlp", "hidden": [8]}, (x, y), attack=attack, eps=0.1, epochs=1, seed=0,
            batch_size=8, validation=0, num_classes=K,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert runs[0].history[0]["train_loss"] == runs[1].history[0]["train_loss"]


def test_what_is_said_of_training() -> None:
    """Only attacks that are bounded, per image and by gradients."""
    for_training = {n for n in MEMBERS if MEMBERS[n].for_training}
    assert for_training == {
        "BasicIterativeMethod", "FastGradientMethod", "MomentumIterativeMethod", *PGDS
    }  # fmt: skip
    assert made("FastGradientMethod").for_training
    assert not made("HopSkipJump").for_training


# Errors.


def test_unknown_names() -> None:
    """One line with the nearest match, or why the attack can't be had."""
    for name, hint in (
        ("DeepFol", "'art:DeepFool'"),
        ("HopSkipJmp", "'art:HopSkipJump'"),
        ("AdversarialPatch", "makes a patch"),
        ("Wasserstein", "its eps is of a ball of its own"),
        ("EvasionAttack", "art:"),
    ):
        with pytest.raises(KeyError) as caught:
            make_attack(f"art:{name}", 0.1)
        assert name in str(caught.value)
        assert hint in str(caught.value)
        assert "\n" not in str(caught.value)


def test_bad_parameters() -> None:
    """Found out when the attack is made, not after an hour of others."""
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("ProjectedGradientDescentPyTorch", {"max_itr": 3}, "no parameter 'max_itr'.*'max_iter'"),
        ("ProjectedGradientDescentPyTorch", {"estimator": 3}, "no parameter 'estimator'"),
        (
            "ProjectedGradientDescentPyTorch",
            {"max_iter": -1},
            "max_iter.* has to be a non-negative",
        ),
        ("ProjectedGradientDescentPyTorch", {"targeted": True}, "targeted must be False"),
        ("AutoProjectedGradientDescent", {"loss_type": "ce"}, "art:AutoProjected.* failed with"),
        ("SquareAttack", {"p_init": 2.0}, "p_init"),
    ]
    for name, params, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            make_attack(f"art:{name}", 0.1, **params)
        assert "\n" not in str(caught.value)
    for eps in (0, -1, 1.5, "x"):
        with pytest.raises(ValueError, match="eps"):
            make_attack("art:FastGradientMethod", eps)


def test_a_failure_inside_art_is_one_line() -> None:
    """SimBA needs freq_dim to fit the image."""
    x, y = images()
    with pytest.raises(
        ValueError, match=r"art:SimBA failed on inputs of shape \(3, 1, 8, 8\)"
    ) as e:
        made("SimBA", freq_dim=3, stride=2)(net(), x, y)
    assert "\n" not in str(e.value)


WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "art":
            raise ImportError("blocked")
sys.meta_path.insert(0, Blocked())
import robustlabels
print(len([n for n in robustlabels.list_attacks() if n.startswith("art:")]))
assert "art" not in sys.modules
try:
    robustlabels.make_attack("art:DeepFool", 0.1)
except ImportError as error:
    print(error)
"""


def test_without_art() -> None:
    """It is optional, and slow to import: its names are listed without it."""
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert int(lines[0]) == len(MEMBERS)
    assert "pip install 'robustlabels[art]'" in lines[1]
    assert len(lines) == 2
