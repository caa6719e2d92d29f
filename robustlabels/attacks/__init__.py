"""Attacks: one small protocol, a fast native PGD, and adapters for what others have."""

from __future__ import annotations

from robustlabels.attacks.base import Attack, held_still
from robustlabels.attacks.fgsm import FGSM
from robustlabels.attacks.foreign import as_attack
from robustlabels.attacks.from_art import ArtAttack, ArtAttackFamily
from robustlabels.attacks.from_torchattacks import TorchAttack, TorchAttackFamily
from robustlabels.attacks.official_autoattack import AutoAttack
from robustlabels.attacks.pgd import PGD
from robustlabels.attacks.ready_art import ReadyArtAttack
from robustlabels.attacks.ready_torchattacks import ReadyTorchAttack
from robustlabels.hookspecs import Register, hookimpl
from robustlabels.threat import parse_eps

__all__ = [
    "FGSM",
    "PGD",
    "ArtAttack",
    "Attack",
    "AutoAttack",
    "ReadyArtAttack",
    "ReadyTorchAttack",
    "TorchAttack",
    "as_attack",
    "held_still",
    "parse_eps",
]


@hookimpl
def register_attacks(register: Register) -> None:
    """The native attacks, the official AutoAttack, and the families of ART and torchattacks."""
    register("pgd", PGD)
    register("fgsm", FGSM)
    register("autoattack", AutoAttack)
    register("art:", ArtAttackFamily())
    register("torchattacks:", TorchAttackFamily())
