"""What to run: attacks and evaluations from names, tables and objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustlabels import factories
from robustlabels.attacks.base import Attack
from robustlabels.attacks.foreign import as_attack
from robustlabels.attacks.official_autoattack import AutoAttack
from robustlabels.errors import BadValueError
from robustlabels.evaluation.context import Evaluation
from robustlabels.threat import check_norm, parse_eps

_SLOW, _QUICK = 200.0, 10.0  # what slow attacks and others weigh in the progress

Named = str | Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """One attack to run."""

    name: str
    attack: Attack
    weight: float


def plan_attacks(
    attacks: Sequence[Named | Attack], eps: float, norm: str, seed: int, batch_size: int
) -> list[Plan]:
    """Attacks, each under a name of its own.

    Raises:
        ValueError, KeyError: not a list, an unknown name, or something that is no attack.
    """
    plans: list[Plan] = []
    names = {"clean"}  # calibration's column
    for given in _sequence("attacks", attacks):
        if isinstance(given, str | Mapping):
            label, params = _named("attacks", given)
            if label == "autoattack":
                params = {"seed": seed, "batch_size": batch_size, **params}
            own_norm = check_norm(params.pop("norm", norm))
            own_eps = params.pop("eps", None)
            if own_eps is None and own_norm != norm:
                raise BadValueError(
                    f"attack {label!r}: the evaluation's eps, {eps:g}, is a radius in {norm}, not "
                    f"in {own_norm}: give the attack its own eps too"
                )
            radius = eps if own_eps is None else parse_eps(own_eps, own_norm)
            attack = factories.make_attack(label, radius, own_norm, **params)
        else:
            attack = as_attack(given)
            label = getattr(attack, "__name__", type(attack).__name__).lower()
        name = _fresh(label, names)
        slow = isinstance(attack, AutoAttack) or getattr(attack, "at_a_time", None)
        plans.append(Plan(name, attack, _SLOW if slow else _QUICK))
    return plans


def plan_evaluations(evaluations: Sequence[Named | Evaluation]) -> list[tuple[str, Evaluation]]:
    """Evaluations, each under a name of its own; those that are objects begin with "user:"."""
    plans: list[tuple[str, Evaluation]] = []
    names: set[str] = set()
    for given in _sequence("evaluations", evaluations):
        if isinstance(given, str | Mapping):
            label, params = _named("evaluations", given)
            plans.append((_fresh(label, names), factories.make_evaluation(label, **params)))
        elif callable(given):
            label = getattr(given, "__name__", type(given).__name__).lower()
            plans.append((_fresh(f"user:{label}", names), given))
        else:
            raise BadValueError(
                f"evaluations: {given!r} is neither a name, a table nor an evaluation"
            )
    return plans


def _sequence(what: str, given: Any) -> Sequence[Any]:
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise BadValueError(f"{what} must be a list, e.g. {what}=[{given!r}]")
    return given


def _named(what: str, given: Named) -> tuple[str, dict[str, Any]]:
    if isinstance(given, str):
        return given, {}
    table = dict(given)
    if not isinstance(table.get("name"), str):
        raise BadValueError(f"{what}: a table needs a 'name', not {given!r}")
    # Parameters beside the name, as fit and TOML have them, or in a table of their own.
    name, params = table.pop("name"), table.pop("params", None) or {}
    return name, {**table, **params}


def _fresh(label: str, names: set[str]) -> str:
    """``label``, or ``label-2`` and so on where it is taken."""
    name, count = label, 1
    while name in names:
        count += 1
        name = f"{label}-{count}"
    names.add(name)
    return name
