"""Contracts with ART's trainers: what reaches the loss, and what reaches the attack.

The model writes down its logits z and the gradient g that comes back to them. Of a mean
cross-entropy g = (softmax(z) - q) / N, so that the target q is known whatever computed the loss;
of TRADES' loss the gradient of its KL, in float64, comes off first. What q should be is written out
here in numpy. The images of a class are all the same, so that the clean input, the class and the
shares of a mixture can be read off whatever the model is given.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

art = pytest.importorskip("art")
from art.attacks.evasion import ProjectedGradientDescent  # noqa: E402
from art.data_generators import NumpyDataGenerator  # noqa: E402
from art.defences import trainer as arts  # noqa: E402
from art.estimators.certification.interval import PyTorchIBPClassifier  # noqa: E402
from art.estimators.classification import PyTorchClassifier  # noqa: E402

import robustlabels as rl  # noqa: E402
from robustlabels.integrations.art import LabelTrainer, with_labels  # noqa: E402

K, N, BATCH, EPOCHS, EPS = 4, 16, 8, 2, 1e-3
STEPS = EPOCHS * N // BATCH
SCHEMES = ["one-hot", "ls", "sls", "als", "bls", "sbls", "vs", "ltd", "adr", "alps", "mixup"]
DARK, BRIGHT = 0.1, 0.8
BETA = 3.0


def template(shares: np.ndarray) -> np.ndarray:
    """Images (n, 1, 4, 4): block k is as bright as the share of class k."""
    blocks = DARK + (BRIGHT - DARK) * shares
    return np.repeat(blocks, 16 // K, axis=1).reshape(-1, 1, 4, 4).astype(np.float32)


def shares_of(x: np.ndarray) -> np.ndarray:
    """Back, up to the attack's eps: (n, 1, 4, 4) -> (n, K)."""
    return (x.reshape(len(x), K, -1).mean(axis=2) - DARK) / (BRIGHT - DARK)


Y = np.random.RandomState(0).permutation(np.arange(N) % K)
X = template(np.eye(K)[Y])


@dataclass
class Seen:
    """One forward pass whose gradient came back."""

    x: np.ndarray
    z: Tensor
    attack: bool
    weights: dict[str, Tensor]
    g: Tensor | None = None


class Spied(nn.Module):
    """Writes down its passes with a gradient."""

    def __init__(self, outputs: int = K) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 2, stride=2)
        self.fc = nn.Linear(16, outputs)
        self.log: list[Seen] = []

    def plain(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).tanh().flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        z = self.plain(x)
        if z.requires_grad:
            weights = {k: v.clone() for k, v in self.state_dict().items()}
            seen = Seen(x.detach().numpy().copy(), z.detach().double(), x.requires_grad, weights)
            z.register_hook(lambda g: setattr(seen, "g", g.double()))
            self.log.append(seen)
        return z


class Teacher(nn.Module):
    """Steep: an input moved by eps moves its label far more than the tests' tolerance."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, K)
        with torch.no_grad():
            self.fc.weight.mul_(40)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def expected(name: str, y: np.ndarray, z: np.ndarray, t: Any, progress: float) -> np.ndarray:
    """The papers' formulas at the schemes' default parameters."""
    hot = np.eye(K)[y]
    others = np.where(hot == 1, -np.inf, z[:, :K])
    worst = np.eye(K)[z[:, :K].argmin(axis=1)]
    if name == "adr":
        half = 0.5 * (1 + math.cos(math.pi * progress))
        tau, lam = 2.0 + 0.5 * half, 0.95 - 0.25 * half
        p = softmax(t / tau)
        own = np.clip(lam - (p.max(axis=1) - p[np.arange(len(y)), y]), 0, 1)[:, None]
        return own * p + (1 - own) * hot
    labels = {
        "one-hot": lambda: hot,
        "ls": lambda: 0.9 * hot + 0.1 / K,
        "sls": lambda: 0.9 * hot + 0.1 / (K - 1) * (1 - hot),
        "als": lambda: 0.9 * hot + 0.1 * worst,
        "bls": lambda: 0.9 * hot + 0.1 * softmax(np.where(hot == 1, -np.inf, -z / 0.001)),
        "sbls": lambda: 0.9 * hot + 0.1 * np.eye(K)[others.argmax(axis=1)],
        "vs": lambda: np.hstack([0.5 * hot, np.full((len(y), K), 0.5 / K)]),
        "ltd": lambda: softmax(t / 5.0),
        "alps": lambda: 0.85 * hot + 0.15 * worst,
    }
    return labels[name]()


def target(seen: Seen, other: Seen | None = None, n: int | None = None) -> np.ndarray:
    """The q that g stands for; ``other`` is TRADES' attacked pass, ``n`` the divisor of a mean."""
    assert seen.g is not None
    g = seen.g
    if other is not None:
        z = seen.z.clone().requires_grad_()
        p, q = F.log_softmax(z, 1), F.log_softmax(other.z, 1)
        kl = (p.exp() * (p - q)).sum() / len(z)
        g = g - BETA * torch.autograd.grad(kl, z)[0]
    return (seen.z.softmax(1) - (len(g) if n is None else n) * g).numpy()


# --- ART's trainers -----------------------------------------------------------------------------


def classifier(model: nn.Module | None = None) -> PyTorchClassifier:
    model = Spied() if model is None else model
    return PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        (1, 4, 4),
        K,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def pgd(estimator: Any) -> ProjectedGradientDescent:
    return ProjectedGradientDescent(estimator, eps=EPS, eps_step=EPS, max_iter=2, verbose=False)


def oaat(c: Any, folder: Path, **changed: Any) -> Any:
    params = {
        "models_path": str(folder),
        "lr_schedule": "cosine",
        "awp_warmup": 100,
        "awp_gamma": 0.005,
        "mixup_alpha": 1.0,
        "mixup_epsilon": EPS,
        "beta": BETA,
        "beta_final": BETA,
        "lpips_weight": 0.1,
        "i_lpips_weight": 0.1,
        "alpha": 1.0,
        "i_epsilon": EPS,
        "epsilon": EPS,
        "alternate_iter_eps": 1.0,
        "max_iter": 2,
        "norm": np.inf,
        "load_swa_model_tau": 0.9,
        "swa_save_epoch": 0,
        "list_swa_epoch": [0],
        "list_swa_tau": [0.9],
        "oaat_warmup": 0,
        "layer_names_activation": ["conv"],
        "lr": 0.5,
        "momentum": 0.0,
        "weight_decay": 0.0,
        **changed,
    }
    return arts.AdversarialTrainerOAATPyTorch(
        c, classifier(), classifier(), [classifier()], pgd(c), params
    )


def awp(c: Any, mode: str) -> Any:
    return arts.AdversarialTrainerAWPPyTorch(c, classifier(), pgd(c), mode, 0.01, BETA, 0)


MAKERS: dict[str, Callable[[Any, Path], Any]] = {
    "adversarial": lambda c, _: arts.AdversarialTrainer(c, pgd(c), ratio=1.0),
    "half": lambda c, _: arts.AdversarialTrainer(c, pgd(c), ratio=0.5),
    "madry": lambda c, _: arts.AdversarialTrainerMadryPGD(c, eps=EPS, eps_step=EPS, max_iter=2),
    "trades": lambda c, _: arts.AdversarialTrainerTRADESPyTorch(c, pgd(c), beta=BETA),
    "awp-pgd": lambda c, _: awp(c, "PGD"),
    "awp-trades": lambda c, _: awp(c, "TRADES"),
    "fbf": lambda c, _: arts.AdversarialTrainerFBFPyTorch(c, eps=EPS),
    "oaat": oaat,
}
PAIRED = {"trades", "awp-trades", "oaat"}
SOFT_ATTACK = {"adversarial", "half", "madry", "awp-pgd", "fbf"}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("art").setLevel(logging.ERROR)
    torch.manual_seed(0)
    np.random.seed(0)


def labelled(trainer: Any, scheme: Any, teacher: Any = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return with_labels(trainer, scheme, teacher)


def steps_of(log: list[Seen], paired: bool) -> list[tuple[list[Seen], list[Seen]]]:
    """Each step's attack passes and training passes."""
    steps: list[tuple[list[Seen], list[Seen]]] = []
    attacks: list[Seen] = []
    training: list[Seen] = []
    for seen in log:
        (attacks if seen.attack else training).append(seen)
        if len(training) == (2 if paired else 1):
            steps.append((attacks, training))
            attacks, training = [], []
    assert not attacks
    assert not training
    return steps


def check_targets(
    log: list[Seen],
    name: str,
    paired: bool,
    soft_attack: bool,
    teacher: Any,
    summed: bool = False,
    proxy: list[Seen] | None = None,
) -> None:
    """Every step's loss sees the paper's label, and every pass of its attack the hard one.

    With AWP the label is made once a step, at the weights before they are perturbed: the proxy's.
    """
    steps = steps_of(log, paired)
    assert len(steps) == STEPS
    labelled_at = [training[0] for _, training in steps]
    if proxy is not None:
        labelled_at = [training[0] for _, training in steps_of(proxy, paired)]
    outputs = log[0].z.shape[1]
    average: dict[str, Tensor] | None = None
    for number, (attacks, training) in enumerate(steps):
        weights = (attacks or training)[0].weights
        if average is None:
            average = weights
        elif name == "adr":
            average = {k: 0.995 * average[k] + 0.005 * weights[k] for k in weights}
        clean = training[0]
        q = target(clean, training[1] if paired else None)
        found = shares_of(clean.x)
        y = found.argmax(axis=1)
        z = labelled_at[number].z.numpy()
        t = teachers_logits(name, y, teacher, average)
        if name == "mixup":
            np.testing.assert_allclose(q, found, atol=3 * EPS)
        elif name == "alps":
            worst = np.eye(K)[z.argmin(axis=1)]
            y = (q - 0.15 * worst).argmax(axis=1)
            assert (found[np.arange(len(y)), y] > 0.05).all()
        if name != "mixup":
            want = expected(name, y, z, t, number / STEPS)
            np.testing.assert_allclose(q, want, atol=1e-4)
        for seen in attacks:
            q = target(seen, n=1 if summed else None)
            found = shares_of(seen.x)
            y = found.argmax(axis=1)
            if name == "mixup":
                np.testing.assert_allclose(q[:, :K], found, atol=3 * EPS)
            elif name == "adr" and soft_attack:
                t = teachers_logits(name, y, teacher, average)
                np.testing.assert_allclose(
                    q, expected(name, y, seen.z.numpy(), t, number / STEPS), atol=1e-4
                )
            else:
                if name == "alps":
                    y = q.argmax(axis=1)
                    assert (found[np.arange(len(y)), y] > 0.05).all()
                np.testing.assert_allclose(q, np.eye(outputs)[y], atol=1e-4)


def teachers_logits(name: str, y: np.ndarray, teacher: Any, average: Any) -> Any:
    """On the clean input, which the class determines."""
    x = torch.from_numpy(template(np.eye(K)[y]))
    with torch.no_grad():
        if name == "ltd":
            return teacher(x).double().numpy()
        if name == "adr":
            copy = Spied()
            copy.load_state_dict(average)
            return copy(x).double().numpy()
    return None


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("kind", MAKERS)
def test_soft_labels_reach_the_loss_and_hard_ones_the_attack(
    kind: str, name: str, tmp_path: Path
) -> None:
    """ART's TRADES, AWP, FBF and OAAT argmax soft labels without a word, and hand them to the
    attack where they do not; a teacher that sees x' or a shuffled batch gives another method."""
    model, teacher = Spied(), Teacher()
    trainer = MAKERS[kind](classifier(model), tmp_path)
    labelled(trainer, rl.make_scheme(name, K), teacher if name == "ltd" else None)
    trainer.fit(X, Y, batch_size=BATCH, nb_epochs=EPOCHS)
    proxy = trainer._proxy_classifier.model.log if kind.startswith("awp") else None
    soft_attack = kind in SOFT_ATTACK
    check_targets(model.log, name, kind in PAIRED, soft_attack, teacher, proxy=proxy)


@pytest.mark.parametrize("name", ["ls", "als", "vs", "ltd", "adr", "alps", "mixup"])
@pytest.mark.parametrize("kind", [k for k in MAKERS if k != "madry"])  # ART's has no fit_generator
def test_so_they_do_from_a_generator(kind: str, name: str, tmp_path: Path) -> None:
    """``fit_generator`` is another loop in each of ART's trainers."""
    model, teacher = Spied(), Teacher()
    trainer = MAKERS[kind](classifier(model), tmp_path)
    labelled(trainer, name, teacher if name == "ltd" else None)
    batches = NumpyDataGenerator(X, np.eye(K)[Y], batch_size=BATCH, shuffle=True)
    trainer.fit_generator(batches, nb_epochs=EPOCHS)
    proxy = trainer._proxy_classifier.model.log if kind.startswith("awp") else None
    soft_attack = kind in SOFT_ATTACK
    check_targets(model.log, name, kind in PAIRED, soft_attack, teacher, proxy=proxy)


@pytest.mark.parametrize(
    "kind",
    [
        "adversarial",
        "madry",
        *(
            pytest.param(k, marks=pytest.mark.xfail(strict=True, reason="ART argmaxes soft labels"))
            for k in ("trades", "awp-pgd", "awp-trades", "fbf", "oaat")
        ),
    ],
)
def test_plain_art_with_soft_labels(kind: str, tmp_path: Path) -> None:
    """Without us: the day that ART lets soft labels through, this expected failure tells us."""
    model = Spied()
    trainer = MAKERS[kind](classifier(model), tmp_path)
    soft = (0.9 * np.eye(K)[Y] + 0.1 / K).astype(np.float32)
    trainer.fit(X, soft, batch_size=BATCH, nb_epochs=EPOCHS)
    for _, training in steps_of(model.log, kind in PAIRED):
        q = target(training[0], training[1] if kind in PAIRED else None)
        y = shares_of(training[0].x).argmax(axis=1)
        np.testing.assert_allclose(q, 0.9 * np.eye(K)[y] + 0.1 / K, atol=1e-4)


@pytest.mark.parametrize("mode", ["PGD", "TRADES"])
def test_awps_proxy_climbs_on_the_same_labels(mode: str) -> None:
    """AWP's weight perturbation has a loss of its own, on another classifier."""
    model, proxy = Spied(), Spied()
    c = classifier(model)
    trainer = arts.AdversarialTrainerAWPPyTorch(c, classifier(proxy), pgd(c), mode, 0.01, BETA, 0)
    labelled(trainer, "als")
    trainer.fit(X, Y, batch_size=BATCH, nb_epochs=EPOCHS)
    paired = mode == "TRADES"
    ours = steps_of(model.log, paired)
    theirs = steps_of(proxy.log, paired)
    assert len(theirs) == STEPS
    for (_, training), (_, climbing) in zip(ours, theirs, strict=True):
        for seen in climbing:
            seen.g = -seen.g  # it maximises
        q = target(climbing[0], climbing[1] if paired else None)
        y = shares_of(climbing[0].x).argmax(axis=1)
        np.testing.assert_allclose(q, expected("als", y, climbing[0].z.numpy(), None, 0), atol=1e-4)
        again = target(training[0], training[1] if paired else None)
        np.testing.assert_allclose(again, q, atol=1e-4)  # one label a step


# --- ours as an ART trainer ---------------------------------------------------------------------


OURS = {
    "pgd-at": "pgd-at",
    "fast-at": "fast-at",
    "trades": {"name": "trades", "beta": BETA, "inner": "ce"},
    "standard": "standard",
}


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("generated", [False, True], ids=["fit", "fit_generator"])
def test_label_trainer_keeps_the_same_contract(kind: str, name: str, generated: bool) -> None:
    """Our objectives behind ART's interface."""
    model, teacher = Spied(), Teacher()
    trainer = LabelTrainer(
        classifier(model), name, OURS[kind], eps=EPS, teacher=teacher if name == "ltd" else None
    )
    if generated:
        trainer.fit_generator(NumpyDataGenerator(X, Y, batch_size=BATCH), nb_epochs=EPOCHS)
    else:
        trainer.fit(X, Y, batch_size=BATCH, nb_epochs=EPOCHS)
    soft = kind in ("pgd-at", "fast-at", "trades")
    check_targets(model.log, name, kind == "trades", soft, teacher, summed=True)


# --- the certified trainer ----------------------------------------------------------------------


def interval(name: str, with_pgd: bool) -> tuple[list[Seen], Any, Any]:
    """IBP training, spied on at its last layer: passes with (N, 2, outputs) are certified ones."""
    net = nn.Sequential(nn.Conv2d(1, 4, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, K))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.fc = net[0], net[1], net[3]

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.relu(self.conv(x)).flatten(1))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Net()
        c = PyTorchIBPClassifier(
            model,
            nn.CrossEntropyLoss(),
            (1, 4, 4),
            K,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
    trainer = arts.AdversarialTrainerCertifiedIBPPyTorch(
        c,
        nb_epochs=EPOCHS,
        bound=EPS,
        batch_size=BATCH,
        loss_weighting=0.25,
        use_loss_weighting_schedule=False,
        use_certification_schedule=False,
        augment_with_pgd=with_pgd,
        pgd_params={
            "eps": EPS,
            "eps_step": EPS,
            "max_iter": 2,
            "batch_size": BATCH,
            "num_random_init": 1,
        },
    )
    teacher = Teacher()
    labelled(trainer, name, teacher if name == "ltd" else None)
    if name == "adr":
        trainer.labelling.teacher.begin()  # its copy of the model must not have the spies
    log: list[Seen] = []
    inputs: list[tuple[np.ndarray, bool]] = []
    first, last = c.model.ops[0], c.model.ops[-1]

    def spy_first(own: Any) -> Any:
        def call(x: Tensor) -> Tensor:
            inputs.append((x.detach().numpy().copy(), x.requires_grad))
            return own(x)

        return call

    def spy_last(own: Any) -> Any:
        def call(x: Tensor) -> Tensor:
            z = own(x)
            if z.requires_grad:
                state = {k: v.clone() for k, v in c.model.state_dict().items()}
                seen = Seen(inputs[-1][0], z.detach().double(), inputs[-1][1], state)
                z.register_hook(lambda g: setattr(seen, "g", g.double()))
                log.append(seen)
            return z

        return call

    for method in ("forward", "concrete_forward", "conv_forward"):
        setattr(first, method, spy_first(getattr(first, method)))
    for method in ("forward", "concrete_forward"):
        setattr(last, method, spy_last(getattr(last, method)))
    trainer.fit(X, Y, limits=[0.0, 1.0], nb_epochs=EPOCHS, batch_size=BATCH, verbose=False)
    return log, c, teacher


def plain_logits(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The interval model's logits from its weights."""
    hidden = F.conv2d(x, state["ops.0.conv.weight"], state["ops.0.bias_to_grad"], stride=2).relu()
    return hidden.flatten(1) @ state["ops.2.weight"].T + state["ops.2.bias"]


@pytest.mark.parametrize("with_pgd", [False, True])
@pytest.mark.parametrize("name", [s for s in SCHEMES if s not in ("alps", "mixup")])
def test_both_losses_of_the_certified_trainer_are_soft(name: str, with_pgd: bool) -> None:
    """Its certified loss never goes through the classifier's loss function."""
    log, c, teacher = interval(name, with_pgd)
    assert c.predict(X).shape == (N, K)
    average: Any = None
    certified = concrete = attacked = 0
    for seen in log:
        assert seen.g is not None
        progress = concrete / STEPS
        if seen.z.dim() == 3 and name == "adr":
            now = seen.weights
            average = (
                now
                if average is None
                else {k: 0.995 * average[k] + 0.005 * now[k] for k in average}
            )
        x = seen.x.reshape(len(seen.x), -1, 1, 4, 4)[:, 0]
        y = shares_of(x).argmax(axis=1)
        t: Any = None
        clean = torch.from_numpy(template(np.eye(K)[y]))
        with torch.no_grad():
            if name == "ltd":
                t = teacher(clean).double().numpy()
            elif name == "adr":
                t = plain_logits(average, clean).double().numpy()
        if seen.z.dim() == 3:
            own = torch.from_numpy(np.eye(seen.z.shape[2])[y]) == 1
            worst = torch.where(own, seen.z[:, 0], seen.z[:, 1])
            g = torch.where(own, seen.g[:, 0], seen.g[:, 1])
            assert torch.equal(torch.where(own, seen.g[:, 1], seen.g[:, 0]), torch.zeros_like(g))
            q = (worst.softmax(1) - len(g) * g / 0.25).numpy()
            want = expected(name, y, worst.numpy(), t, progress)
            certified += 1
        elif seen.attack:
            q, want = target(seen), np.eye(seen.z.shape[1])[y]
            attacked += 1
        else:
            q = (seen.z.softmax(1) - len(seen.g) * seen.g / 0.75).numpy()
            want = expected(name, y, seen.z.numpy(), t, progress)
            concrete += 1
        np.testing.assert_allclose(q, want, atol=2e-4)
    assert certified == concrete == STEPS
    assert attacked == (2 * STEPS if with_pgd else 0)
