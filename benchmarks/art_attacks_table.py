"""What each attack of ART can do here, measured: the tables of docs/art-attacks.md.

    python benchmarks/art_attacks_table.py           # writes them there
    python benchmarks/art_attacks_table.py --print   # shows them

Two small networks with 10 classes and 10 virtual ones are trained for seconds on scikit-learn's
digits: 1x8x8 as they are, and 3x32x32, enlarged and tinted. The attacks' budgets are small, so a
"yes" says what an attack does, not how strong it is. The row of an attack that needs a package
that is not installed says so.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.metadata
import inspect
import re
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

import robustlabels as rl
from robustlabels.attacks import ArtAttack
from robustlabels.attacks._art_members import LEFT_OUT, MEMBERS, READY_ONLY
from robustlabels.attacks.ready_art import ReadyArtAttack
from robustlabels.errors import MissingExtraError
from robustlabels.models import real_classes
from robustlabels.randomness import seed_everything

PAGE = Path(__file__).parents[1] / "docs" / "art-attacks.md"
K, V, N = 10, 10, 4
RADII = {"Linf": 0.4, "L2": 3.0, "L1": 20.0}  # large: AutoAttack takes minutes where it fails
QUICK = 250
"""Passes of the whole batch that a training attack may take, at ART's own settings."""
# Enough to see what an attack does, not how strong it is.
BUDGETS: dict[str, dict[str, Any]] = {
    "AutoConjugateGradient": {"max_iter": 10, "nb_random_init": 1},
    "AutoProjectedGradientDescent": {"max_iter": 10, "nb_random_init": 1},
    "BasicIterativeMethod": {"max_iter": 5},
    "BoundaryAttack": {"max_iter": 5},
    "CarliniL0Method": {"max_iter": 3, "binary_search_steps": 4, "initial_const": 1.0},
    "CarliniL2Method": {"max_iter": 3, "binary_search_steps": 4, "initial_const": 1.0},
    "CarliniLInfMethod": {"max_iter": 3, "initial_const": 1.0},
    "CompositeAdversarialAttackPyTorch": {"max_iter": 2, "max_inner_iter": 3},
    "ElasticNet": {"max_iter": 10, "binary_search_steps": 3, "initial_const": 1.0},
    "GeoDA": {"max_iter": 500, "sub_dim": 5},
    "HopSkipJump": {"max_iter": 2, "max_eval": 100, "init_eval": 10},
    "MomentumIterativeMethod": {"max_iter": 5},
    "NewtonFool": {"max_iter": 20},
    "PixelAttack": {"max_iter": 3, "th": 5},
    "ProjectedGradientDescent": {"max_iter": 5},
    "ProjectedGradientDescentNumpy": {"max_iter": 5},
    "ProjectedGradientDescentPyTorch": {"max_iter": 5},
    "RescalingAutoConjugateGradient": {"max_iter": 10, "nb_random_init": 1},
    "SaliencyMapMethod": {"gamma": 0.05},
    "ShadowAttack": {"nb_steps": 5, "batch_size": 8},
    "SignOPTAttack": {"max_iter": 2, "num_trial": 10, "query_limit": 200, "k": 10},
    "SimBA": {"max_iter": 40},
    "SpatialTransformation": {"num_translations": 3, "num_rotations": 3},
    "SquareAttack": {"max_iter": 20},
    "ThresholdAttack": {"max_iter": 1},
    "UniversalPerturbation": {"max_iter": 1},
    "VirtualAdversarialMethod": {"max_iter": 1},
    "ZooAttack": {"max_iter": 5, "nb_parallel": 16},
}
# What the others need to be made at all.
TRIES: dict[str, dict[str, Any]] = {
    "AdversarialPatchPyTorch": {"patch_shape": (1, 4, 4), "max_iter": 1},
    "FeatureAdversariesPyTorch": {"delta": 0.1, "max_iter": 1},
    "GRAPHITEBlackbox": {"noise_size": (8, 8), "net_size": (8, 8)},
    "GRAPHITEWhiteboxPyTorch": {"net_size": (8, 8)},
    "TargetedUniversalPerturbation": {"max_iter": 1, "eps": 0.1},
    "Wasserstein": {"max_iter": 2},
}
CONJUGATE = ("AutoConjugateGradient", "RescalingAutoConjugateGradient")
STRENGTH = (
    "AutoProjectedGradientDescent", *CONJUGATE, "FastGradientMethod",
    "MomentumIterativeMethod", "ProjectedGradientDescentPyTorch", "SquareAttack",
    "VirtualAdversarialMethod",
)  # fmt: skip
COLUMNS = [
    "attack", "norms", "radius", "soft labels", "1 channel", "3 channels", "virtual classes",
    "in the ball", "training", "remark",
]  # fmt: skip
STABLE = COLUMNS[:9]
"""Columns that another machine must measure alike."""
NONE = "–"  # noqa: RUF001


@dataclass(frozen=True)
class Subject:
    """A network with K + V outputs, and images that it classifies correctly."""

    model: nn.Module
    x: Tensor
    y: Tensor

    @property
    def deployed(self) -> nn.Module:
        return real_classes(self.model, K)

    def cut(self) -> nn.Module:
        """The same network with K rows in its last layer: it never had the other classes."""
        model = copy.deepcopy(self.model)
        old = model.model.fc
        new = nn.Linear(old.in_features, K)
        with torch.no_grad():
            new.weight.copy_(old.weight[:K])
            new.bias.copy_(old.bias[:K])
        model.model.fc = new
        return model.eval()


def made(name: str, norm: str | None = None, **params: Any) -> ArtAttack:
    norm = norm or (MEMBERS[name].norms or ("Linf",))[0]
    return rl.make_attack(f"art:{name}", RADII[norm], norm, **params)  # type: ignore[return-value]


def row(name: str, grey: Subject, colour: Subject) -> list[str]:
    """Every cell of one attack."""
    budget = BUDGETS.get(name, {})
    try:
        attack = made(name, **budget)
    except MissingExtraError as error:
        return [f"`{name}`", *["?"] * (len(COLUMNS) - 2), str(error).partition(",")[0]]
    remarks: list[str] = []
    two = Subject(colour.model, colour.x[:2], colour.y[:2])
    plain = called(attack, grey, remarks, "1 channel")
    tinted = called(attack, two, remarks, "3 channels")
    subject, found = (two, tinted) if plain is None else (grey, plain)
    inside = stays_inside(name, subject)
    bounded = attack.eps is not None
    remarks += labels_ignored(attack, subject, found)
    remarks += [f"{k}={v}" for k, v in MEMBERS[name].defaults.items()]
    return [
        f"`{name}`",
        ", ".join(inside) or NONE,
        "eps" if bounded else "minimal",
        yes(attack.takes_soft_labels and soft_labels_reach_the_loss(attack, subject)),
        yes(plain is not None),
        yes(tinted is not None),
        yes(same_verdicts(name, budget, subject)),
        yes(all(inside.values())) if bounded else NONE,
        yes(bounded and all(inside.values()) and quick_by_gradients(name, subject)),
        "; ".join(remarks),
    ]


def called(attack: ArtAttack, subject: Subject, remarks: list[str], what: str) -> Tensor | None:
    """Images of the right shape in [0, 1], or None."""
    seed_everything(0)
    try:
        x_adv = attack(subject.deployed, subject.x, subject.y)
    except ValueError as error:
        remarks.append(f"{what}: {str(error).partition('}: ')[2]}")
        return None
    sound = x_adv.shape == subject.x.shape and bool(((x_adv >= 0) & (x_adv <= 1)).all())
    return x_adv if sound else None


def stays_inside(name: str, subject: Subject) -> dict[str, bool]:
    """The norms that the attack has, and whether the judge finds it in the ball of each."""
    if not MEMBERS[name].minimal or "norm" in signature(getattr(evasion, name)):
        return {n: _inside(name, n, subject) for n in RADII if has_norm(name, n)}
    return {}


def has_norm(name: str, norm: str) -> bool:
    try:
        made(name, norm, **BUDGETS.get(name, {}))
    except ValueError:
        return False
    return True


def _inside(name: str, norm: str, subject: Subject) -> bool:
    found = judged(subject.model, name, BUDGETS.get(name, {}), subject, norm)
    return bool(found["attacks"][f"art:{name}"]["eps_bounded"])


def judged(
    model: nn.Module, name: str, params: dict[str, Any], subject: Subject, norm: str
) -> dict[str, Any]:
    return rl.evaluate(
        model, (subject.x, subject.y), [{"name": f"art:{name}", **params}],
        eps=RADII[norm], norm=norm, num_classes=K, evaluations=["accuracy"],
    )  # fmt: skip


def same_verdicts(name: str, params: dict[str, Any], subject: Subject) -> bool:
    """As of a network that never had virtual classes."""
    norm = (MEMBERS[name].norms or ("Linf",))[0]
    wide = judged(subject.model, name, params, subject, norm)
    narrow = judged(subject.cut(), name, params, subject, norm)
    assert (wide["virtual_classes"], narrow["virtual_classes"]) == (V, 0)
    return bool(wide["verdicts"] == narrow["verdicts"])


def labels_ignored(attack: ArtAttack, subject: Subject, plain: Tensor | None) -> list[str]:
    other = Subject(subject.model, subject.x, (subject.y + 1) % K)
    if plain is None or (found := called(attack, other, [], "")) is None:
        return []
    return ["the labels don't matter: it leaves the predicted class"] * torch.equal(plain, found)


def soft_labels_reach_the_loss(attack: ArtAttack, subject: Subject) -> bool:
    """Whether ART's cross-entropy is called with the rows themselves, not their argmax."""
    one_hot = F.one_hot(subject.y, K).float()
    rows = 0.7 * one_hot + 0.3 * one_hot.roll(1, dims=1)
    targets: list[Tensor] = []
    plain = F.cross_entropy

    def spy(logits: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        targets.append(target)
        return plain(logits, target, *args, **kwargs)

    with mock.patch.object(F, "cross_entropy", spy):
        attack(subject.deployed, subject.x, rows)
    known = {tuple(r) for r in rows.tolist()}
    return bool(targets) and all({tuple(r) for r in t.tolist()} <= known for t in targets)


class TooSlowError(OSError):
    """More passes than a training attack may take."""


class Counted(nn.Module):
    """A model that counts its passes, and stops at too many."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        if self.forwards > QUICK:
            raise TooSlowError
        logits: Tensor = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._backward)
        return logits

    def _backward(self, _: Tensor) -> None:
        self.backwards += 1


def quick_by_gradients(name: str, subject: Subject) -> bool:
    """Whether, at ART's settings, it takes gradients and few passes, also where it fools nobody."""
    model = Counted(subject.deployed)
    norm = MEMBERS[name].norms[0]
    try:
        rl.make_attack(f"art:{name}", RADII[norm] / 50, norm)(model, subject.x, subject.y)
    except TooSlowError:
        return False
    return model.backwards > 0


def left_out(subject: Subject) -> list[list[str]]:
    """What happens when the others are called as an image attack is."""
    rows = []
    for name, why in sorted({**LEFT_OUT, **READY_ONLY}.items()):
        estimator = PyTorchClassifier(
            subject.cut(), nn.CrossEntropyLoss(), tuple(subject.x.shape[1:]), K,
            clip_values=(0.0, 1.0), device_type="cpu",
        )  # fmt: skip
        rows.append([f"`{name}`", why, what_happens(name, estimator, subject)])
    return rows


def what_happens(name: str, estimator: Any, subject: Subject) -> str:
    try:
        kind = getattr(evasion, name)
    except AttributeError:
        return "AttributeError: it is there only beside numba"
    params = dict(TRIES.get(name, {}))
    if "verbose" in signature(kind):
        params["verbose"] = False
    try:
        labels = F.one_hot(subject.y, K).float().numpy()
        found = kind(estimator, **params).generate(subject.x.numpy().copy(), labels)
    except Exception as error:
        text = " ".join(re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", str(error)).split())
        if "EstimatorError" in type(error).__name__ or "requires an estimator" in text:
            return "EstimatorError: not for a `PyTorchClassifier`"
        return f"{type(error).__name__}: {text[:90]}{'...' if len(text) > 90 else ''}"
    shapes = [f.shape for f in (found if isinstance(found, tuple) else [found])]
    if shapes != [tuple(subject.x.shape)]:
        return f"returns {' and '.join(map(str, shapes))} for inputs {tuple(subject.x.shape)}"
    with torch.no_grad():
        predicted = subject.deployed(torch.from_numpy(np.asarray(found)).float()).argmax(dim=1)
    return f"returns inputs; {int((predicted == subject.y).sum())} of {N} still in class y"


def strength() -> list[list[str]]:
    """Robust accuracy of one adversarially trained network under each bounded attack."""
    model = rl.fit({"name": "mlp", "hidden": [64]}, "digits", eps=0.1, epochs=10).model
    found: dict[str, dict[str, str]] = {}
    for norm, eps in (("Linf", 0.1), ("L2", 0.6), ("L1", 3.0)):
        plans: dict[str, Any] = {
            f"`art:{n}`": {"name": f"art:{n}"} for n in STRENGTH if norm in MEMBERS[n].norms
        }
        if norm == "Linf":
            for n in CONJUGATE:
                plans[f"`{n}`, as ART has it"] = ready(n, model, eps)
        if norm == "L2":
            name = "art:VirtualAdversarialMethod"
            plans[f"`{name}`, `finite_diff=1e-6`"] = {"name": name, "finite_diff": 1e-6}
        judged_ = rl.evaluate(
            model, "digits", list(plans.values()), eps=eps, norm=norm, n=100,
            evaluations=["accuracy"],
        )  # fmt: skip
        for shown, result in zip(plans, judged_["attacks"].values(), strict=True):
            found.setdefault(shown, {})[norm] = f"{result['robust_accuracy']:.2f}"
        found.setdefault("clean", {})[norm] = f"{judged_['clean']['top1']:.2f}"
    return [[n, *(c.get(norm, NONE) for norm in RADII)] for n, c in sorted(found.items())]


def ready(name: str, model: nn.Module, eps: float) -> ReadyArtAttack:
    """An attack for Linf as a user of ART makes it."""
    estimator = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), K, clip_values=(0.0, 1.0), device_type="cpu"
    )
    return ReadyArtAttack(getattr(evasion, name)(estimator, eps=eps, eps_step=eps / 3))


def signature(kind: Any) -> Any:
    return inspect.signature(kind.__init__).parameters


def yes(what: bool) -> str:
    return "yes" if what else "no"


# The networks.


def subjects() -> tuple[Subject, Subject]:
    """Trained networks and their images."""
    split = rl.make_dataset("digits").train_split()
    random_ = torch.Generator().manual_seed(0)
    dark = 0.3 * torch.rand(len(split), 3, 1, 1, generator=random_)
    light = 0.7 + 0.3 * torch.rand(len(split), 3, 1, 1, generator=random_)
    big = F.interpolate(split.x, size=(32, 32), mode="bilinear")
    return trained(split.x, split.y), trained(dark + (light - dark) * big, split.y)


def trained(x: Tensor, y: Tensor) -> Subject:
    channels = x.shape[1]
    result = rl.fit(
        {"name": "small-cnn", "width": 8, "mean": [0.4] * channels, "std": [0.25] * channels},
        (x, y),
        scheme={"name": "vs", "alpha": 0.7, "virtual_classes": V},
        trainer="standard", epochs=4, batch_size=32, num_classes=K,
    )  # fmt: skip
    model = result.model.eval()
    with torch.no_grad():
        right = (model(x[:200]).argmax(dim=1) == y[:200]).nonzero().flatten()[:N]
    return Subject(model, x[right], y[right])


# The page.


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', '/') for c in cells)} |" for cells in lines)


def parsed(page: str, marker: str) -> list[dict[str, str]]:
    """A table of the page, as it was written."""
    lines = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in between(page, marker)[1].splitlines()
        if line.startswith("|")
    ]
    return [dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]]


def between(page: str, marker: str) -> tuple[str, str, str]:
    parts = re.split(rf"(<!-- {marker} -->\n|<!-- /{marker} -->)", page)
    assert len(parts) == 5, f"{PAGE.name} needs one pair of markers {marker!r}"
    return parts[0] + parts[1], parts[2], parts[3] + parts[4]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print", action="store_true", help="show the tables, write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    with quiet():
        grey, colour = subjects()
        rows = [row(name, grey, colour) for name in sorted(MEMBERS)]
        others = left_out(grey)
        accuracies = strength()
    packages = ["adversarial-robustness-toolbox", "torch", "numpy", "scipy"]
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
    python = ".".join(map(str, sys.version_info[:3]))
    seconds = time.process_time() - start
    note = f"Measured with {versions}, Python {python}, in {seconds:.0f} s on one core."
    tables = {
        "attacks": f"{table(COLUMNS, rows)}\n\n{note}\n",
        "left out": table(["attack", "why it is left out", "called as an image attack"], others)
        + "\n",
        "strength": table(["attack", "Linf .1", "L2 .6", "L1 3"], accuracies) + "\n",
    }
    if args.print:
        print(*tables.values(), sep="\n")
        return 0
    page = PAGE.read_text(encoding="utf-8")
    for marker, text in tables.items():
        head, _, tail = between(page, marker)
        page = head + text + tail
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
