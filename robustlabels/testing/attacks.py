"""The rules of attacks."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlabels.factories import make_attack
from robustlabels.randomness import seed_everything
from robustlabels.testing._rules import Broken, Rules, named, require
from robustlabels.testing._tiny import (
    CLASSES,
    Snapshot,
    TinyNet,
    images,
    quiet_and_seeded,
    trained_net,
)

ORDER = {"Linf": math.inf, "L2": 2.0, "L1": 1.0}


def check_attack(
    factory: Callable[..., Any] | str,
    *,
    eps: float = 0.3,
    norm: str = "Linf",
    bounded: bool = True,
    **params: Any,
) -> None:
    """Check that an attack keeps the rules, on a small model that it can fool.

    Args:
        factory: called as ``factory(eps=eps, norm=norm, **params)``; or a registered name.
        eps: the radius to check with; the images are 4x4, in [0, 1].
        norm: "Linf", "L2" or "L1".
        bounded: False for attacks that look for the nearest adversarial input, wherever it is.
        **params: the attack's own.

    Raises:
        AssertionError: a rule is broken: which, what was seen, and why it matters.
    """
    make = functools.partial(make_attack, factory) if isinstance(factory, str) else factory
    with quiet_and_seeded():
        case = AttackCase(
            functools.partial(make, eps=eps, norm=norm, **params), trained_net(), eps, norm, bounded
        )
        RULES.check(named(factory, eps=eps, norm=norm, **params), case)


@dataclass(frozen=True)
class AttackCase:
    """An attack, a model that classifies the images well, and what is expected."""

    make: Callable[[], Any]
    trained: TinyNet
    eps: float
    norm: str
    bounded: bool

    def model(self) -> TinyNet:
        """A model that no attack has touched yet."""
        return copy.deepcopy(self.trained)

    def run(self, n: int = 12, model: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """The first images, and what the attack makes of them."""
        x, y = images(n)
        x_adv: Tensor = self.make()(model or self.model(), x, y)
        return x, x_adv


RULES: Rules[AttackCase] = Rules()


@RULES.add("is an attack", "The engine calls it as attack(model, x, y)")
def _callable(case: AttackCase) -> None:
    made = case.make()
    require(
        callable(made) and not isinstance(made, type), f"the factory made {made!r}, not an attack"
    )


@RULES.add(
    "returns images like x",
    "The model, and the loss beside the labels, take the result in the place of x",
)
def _shape(case: AttackCase) -> None:
    # Without batch norm, which an attack in train mode could not do with a lone image.
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))
    for n in (12, 1):
        x, x_adv = case.run(n, plain)
        found = [(getattr(t, "shape", None), getattr(t, "dtype", type(t))) for t in (x_adv, x)]
        require(found[0] == found[1], f"for {n} images it returned {found[0]}, not {found[1]}")


@RULES.add("returns no graph", "Memory would grow with every batch")
def _detached(case: AttackCase) -> None:
    require(not case.run()[1].requires_grad, "the result carries a gradient: detach it")


@RULES.add("stays in [0, 1]", "Beyond, there are no images")
def _box(case: AttackCase) -> None:
    low, high = (float(v) for v in case.run()[1].aminmax())
    require(low >= -1e-5 and high <= 1 + 1e-5, f"pixels from {low:.4g} to {high:.4g}")


@RULES.add(
    "stays in the ball",
    "Robust accuracy at eps would be that of another eps; bounded=False is for attacks that "
    "minimise the distance instead",
)
def _ball(case: AttackCase) -> None:
    x, x_adv = case.run()
    if case.bounded:
        away = float((x_adv - x).detach().flatten(1).double().norm(p=ORDER[case.norm], dim=1).max())
        require(away <= case.eps + 1e-5, f"{case.norm} distance {away:.4g}, with eps {case.eps:g}")


@RULES.add("leaves x and y alone", "The clean images are still needed")
def _inputs(case: AttackCase) -> None:
    x, y = images(12)
    before = x.clone(), y.clone()
    case.make()(case.model(), x, y)
    require(torch.equal(x, before[0]) and torch.equal(y, before[1]), "it changed x or y in place")
    require(not x.requires_grad, "x requires a gradient after it")


@RULES.add(
    "leaves the model as it was",
    "Training goes on with it: another mode, a thawed weight or a gradient changes every step",
)
def _model(case: AttackCase) -> None:
    x, y = images(12)
    for mode in (True, False):
        model = case.model().train(mode)
        before = Snapshot(model)
        case.make()(model, x, y)
        _unchanged(model, before, mode)


@RULES.add(
    "leaves the model as it was after an error too",
    "Out of memory or Ctrl-C in a notebook, and the next cell trains a model in the wrong mode",
)
def _after_an_error(case: AttackCase) -> None:
    x, y = images(12)
    for mode in (True, False):
        model = case.model().train(mode)
        before = Snapshot(model)
        model.norm.register_forward_hook(_out_of_memory)
        with contextlib.suppress(Exception):
            case.make()(model, x, y)
        _unchanged(model, before, mode)


@RULES.add(
    "works on a frozen model",
    "robustlabels.evaluate freezes the parameters, which spares the attack their gradients",
)
def _frozen(case: AttackCase) -> None:
    case.run(model=case.model().requires_grad_(False))


@RULES.add(
    "takes soft labels, or says that it does not",
    "adr and mixup show the attack soft labels; with takes_soft_labels = False they are refused "
    "before training",
)
def _soft(case: AttackCase) -> None:
    attack = case.make()
    x, y = images(12)
    if getattr(attack, "takes_soft_labels", True):
        soft = 0.9 * F.one_hot(y, CLASSES).float() + 0.1 / CLASSES
        try:
            attack(case.model(), x, soft)
        except Exception as error:
            seen = f"soft labels (N, K) raise {type(error).__name__}: {error}"
            raise Broken(seen) from error


@RULES.add(
    "draws from the global generators",
    "Runs resume, and evaluations repeat, by seeding torch, numpy and random before it",
)
def _seeded(case: AttackCase) -> None:
    found = []
    for _ in range(2):
        seed_everything(1)
        found.append(case.run()[1])
    require(torch.equal(*found), "the same seed gave other images")


@RULES.add(
    "raises the loss",
    "An attack that does not would find every model robust",
)
def _effective(case: AttackCase) -> None:
    x, x_adv = case.run(48)
    model, y = case.model(), images(48)[1]
    with torch.no_grad():
        before, after = (float(F.cross_entropy(model(t), y)) for t in (x, x_adv))
    require(after > before, f"the cross-entropy went from {before:.4g} to {after:.4g}")


def _unchanged(model: nn.Module, before: Snapshot, training: bool) -> None:
    difference = before.difference(model)
    mode = "train" if training else "eval"
    require(difference is None, f"of a model attacked in {mode} mode, {difference}")


def _out_of_memory(*_: Any) -> None:
    raise MemoryError("raised by the check")
