"""What AutoAttack's standard version runs, one stage after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from robustlabels.attacks.auto import APGD, FAB, Judged, Square

TARGETS = 9  # the official's, where there are as many other classes
QUERIES = 5000


@dataclass(frozen=True)
class Stage:
    """One attack on what the stages before it left.

    Attributes:
        name: AutoAttack's own, with "+" for the targets beyond the official nine.
        attack: (x, y) -> x_adv; seeds torch's generator itself.
        cost: forward passes for each image that resists, about.
    """

    name: str
    attack: Callable[[Tensor, Tensor], Tensor]
    cost: float


def standard(model: Judged, outputs: int, eps: float, norm: str, seed: int) -> list[Stage]:
    """APGD-CE, APGD-T, FAB-T and Square with the official's settings.

    Args:
        model: what is attacked and judged.
        outputs: D, its logits.
        eps: radius.
        norm: "Linf", "L2" or "L1".
        seed: of each attack.
    """
    l1 = norm == "L1"
    targets = min(outputs - 1, 5 if l1 else TARGETS)
    loss = "dlr-targeted" if outputs >= 4 else "margin-targeted"
    ce = APGD(model, eps, norm, "ce", seed, restarts=5 if l1 else 1, large_radii=l1)
    targeted = APGD(model, eps, norm, loss, seed, targets=targets, large_radii=l1)
    fab = FAB(model, eps, norm, seed, targets=min(outputs - 1, TARGETS))
    return [
        Stage("apgd-ce", ce, 300.0 * ce.restarts),
        Stage("apgd-t", targeted, 300.0 * targets),
        Stage("fab-t", fab, 400.0 * fab.targets),
        Stage("square", Square(model, eps, norm, seed, QUERIES), float(QUERIES)),
    ]


def every_target(model: Judged, outputs: int, eps: float, norm: str, seed: int) -> list[Stage]:
    """The targets that :func:`standard` leaves out: with them it is VS's AA+."""
    l1 = norm == "L1"
    loss = "dlr-targeted" if outputs >= 4 else "margin-targeted"
    done = min(outputs - 1, 5 if l1 else TARGETS), min(outputs - 1, TARGETS)
    stages = []
    if outputs - 1 > done[0]:
        apgd = APGD(model, eps, norm, loss, seed, targets=outputs - 1, skip=done[0], large_radii=l1)
        stages.append(Stage("apgd-t+", apgd, 300.0 * (outputs - 1 - done[0])))
    if outputs - 1 > done[1]:
        fab = FAB(model, eps, norm, seed, targets=outputs - 1, skip=done[1])
        stages.append(Stage("fab-t+", fab, 400.0 * (outputs - 1 - done[1])))
    return stages
