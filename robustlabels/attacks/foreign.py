"""Attack objects of other packages, recognised without importing those."""

from __future__ import annotations

from typing import Any

from robustlabels.attacks.base import Attack
from robustlabels.errors import BadValueError


def as_attack(attack: Any) -> Attack:
    """An attack under our protocol: ``attack(model, x, y)``.

    Args:
        attack: an attack of ours (returned as it is), or an object of torchattacks or of ART.

    Raises:
        ValueError: it is none of these.
    """
    packages = {cls.__module__.split(".")[0] for cls in type(attack).__mro__}
    if "torchattacks" in packages:
        from robustlabels.attacks.ready_torchattacks import ReadyTorchAttack

        return ReadyTorchAttack(attack)
    if "art" in packages and hasattr(attack, "generate"):
        from robustlabels.attacks.ready_art import ReadyArtAttack

        return ReadyArtAttack(attack)
    if isinstance(attack, type) or not callable(attack):
        raise BadValueError(f"attack must be a name, a table or an attack, not {attack!r}")
    found: Attack = attack
    return found
