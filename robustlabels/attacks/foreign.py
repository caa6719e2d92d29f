"""Attack objects of other packages, recognised without importing those."""

from __future__ import annotations

from typing import Any

from robustlabels.attacks.base import Attack
from robustlabels.attacks.ready_art import ReadyArtAttack, is_art_attack
from robustlabels.attacks.ready_torchattacks import ReadyTorchAttack, is_torchattack
from robustlabels.errors import BadValueError


def as_attack(attack: Any) -> Attack:
    """An attack under our protocol: ``attack(model, x, y)``.

    Args:
        attack: an attack of ours (returned as it is), or an object of torchattacks or of ART.

    Raises:
        ValueError: it is none of these, or it can't attack untargeted.
    """
    if is_torchattack(attack):
        return ReadyTorchAttack(attack)
    if is_art_attack(attack):
        return ReadyArtAttack(attack)
    if isinstance(attack, type) or not callable(attack):
        raise BadValueError(f"attack must be a name, a table or an attack, not {attack!r}")
    ours: Attack = attack
    return ours
