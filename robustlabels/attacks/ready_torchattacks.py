"""torchattacks objects that their user made, under our protocol.

Works around, without touching its files (torchattacks 3.5.1): model modes restored wrongly (a
frozen batch norm comes back in train mode, an exception leaves eval mode), outputs that carry a
graph (APGD, AutoAttack), gradients left in the parameters (CW, JSMA and others), images outside
[0, 1] (EADEN, EADL1), JSMA's ten classes, targeted modes that ignore the target (PIFGSMPP, SPSA),
and the global generator seeded by every attack with a ``seed`` (dropout would repeat itself).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels.attacks.base import held_still
from robustlabels.errors import BadValueError, UserError

SOFT = frozenset(
    [
        "BIM",
        "DIFGSM",
        "EOTPGD",
        "FFGSM",
        "FGSM",
        "GN",
        "MIFGSM",
        "NIFGSM",
        "PGD",
        "PGDL2",
        "PIFGSM",
        "PIFGSMPP",
        "RFGSM",
        "SINIFGSM",
        "TIFGSM",
        "TPGD",
        "UPGD",
        "VANILA",
        "VMIFGSM",
        "VNIFGSM",
    ]
)
"""Attacks whose loss takes soft labels, or that look at no label (GN, TPGD, VANILA)."""

L2 = frozenset({"PGDL2", "PGDRSL2"})
"""Attacks whose only norm is L2; Linf is the others'."""

DEAF = frozenset({"PIFGSMPP", "SPSA"})
"""Attacks that ignore the target of their targeted mode."""

_THEIRS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What torchattacks raises; anything else, such as an OSError, is the model's or the system's."""


class ReadyTorchAttack:
    """A torchattacks object that its user made, under our protocol.

    While it attacks, the object and every attack inside it point at the model that the call is
    given; afterwards they are as they were. Our inputs are images in [0, 1]: where
    ``set_normalization_used`` was called, the object neither expects nor returns normalised ones.

    Args:
        attack: an instance of any torchattacks class, ``MultiAttack`` and your own included.
        transfer: attack the object's own model, a surrogate, instead of the one that the call is
            given: a black-box attack on the latter. The surrogate gets normalised inputs where
            ``set_normalization_used`` was called. ``LGV`` needs it.

    Attributes:
        name: "torchattacks:" and the class.
        eps: radius; the greatest of a ``MultiAttack``'s; None where an attack has none.
        norm: "Linf" or "L2"; None where there is no eps, or members differ.
        mode: torchattacks' ``attack_mode``.
        takes_soft_labels: whether the call's y may be soft.
        params: the constructor's parameters, as far as the object keeps them.

    Raises:
        ValueError: not a torchattacks object, or one that can't be used so.
    """

    def __init__(self, attack: Any, transfer: bool = False) -> None:
        if not is_torchattack(attack):
            raise BadValueError(
                "attack must be a torchattacks object, e.g. torchattacks.PGD(model), not "
                f"{attack!r}; by name it is make_attack('torchattacks:PGD', eps)"
            )
        self.attack, self.transfer = attack, bool(transfer)
        self._look()

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """See :class:`robustlabels.attacks.Attack`."""
        self._look()  # again: the user may have changed the object
        if y.is_floating_point() and not self.takes_soft_labels:
            raise BadValueError(
                f"{self.name} takes class indices only; those that take soft labels, untargeted: "
                f"{', '.join(sorted(SOFT))}"
            )
        if len(x) == 0:
            return x.detach().clone()
        attack, parts = self.attack, _parts(self.attack)
        attacked = attack.model if self.transfer else model
        device = torch.device((self.transfer and attack.device) or x.device)
        images, labels = x.to(device), y.to(device)
        seeds = any(hasattr(part, "seed") for part in parts)
        with (
            held_still(attacked),
            _buffers_kept(attacked, any(part._model_training for part in parts)),
            _as_they_were(parts),
            torch.enable_grad(),
            torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=seeds),
            in_one_line(self.name, x, self.params),
        ):
            for part in parts:
                # False: torchattacks normalises what the model gets. None: nobody does.
                normalise = False if self.transfer and part.normalization_used else None
                state: dict[str, Any] = {"device": device, "_normalization_applied": normalise}
                if not self.transfer:
                    state |= {"model": model, "model_name": type(model).__name__}
                vars(part).update(state)
                if type(part).__name__ == "JSMA" and not part.targeted:
                    vars(part).update(_next_class(outputs_of(attacked, images)))
            x_adv: Tensor = attack(images, labels).detach().to(x.device)
        if not x_adv.is_floating_point():  # to_type(..., "int")
            x_adv = x_adv.to(x) / 255
        return x_adv.clamp(0, 1)

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in self.params.items())
        mode = "" if self.mode == "default" else f", mode={self.mode!r}"
        transfer = ", transfer=True" if self.transfer else ""
        return f"ReadyTorchAttack({type(self.attack).__name__}({shown}){mode}{transfer})"

    def _look(self) -> None:
        """Describe the object as it is now, or refuse it."""
        attack = self.attack
        self.name = f"torchattacks:{type(attack).__name__}"
        self.mode: str = attack.attack_mode
        self.eps, self.norm = _threat(attack)
        self.params = _params(attack)
        self.takes_soft_labels = (
            type(attack).__module__.startswith("torchattacks.attacks.")
            and type(attack).__name__ in SOFT
            and getattr(attack, "loss", "ce") == "ce"
            and not attack.targeted
        )
        for part in _parts(attack):
            if part.attack_mode == "targeted(label)":
                raise BadValueError(
                    f"{self.name}: set_mode_targeted_by_label aims at the labels that it is given, "
                    "which are the true ones here; use set_mode_targeted_by_function, _random or "
                    "_least_likely"
                )
            if part.targeted and type(part).__name__ in DEAF:
                raise BadValueError(
                    f"{self.name}: torchattacks' {type(part).__name__} has a targeted mode, but "
                    "aims at the true labels whatever the target; use it untargeted"
                )
            if type(part).__name__ == "LGV" and not (self.transfer and part.list_models):
                raise BadValueError(
                    f"{self.name} attacks models of its own: call collect_models(), then "
                    "ReadyTorchAttack(attack, transfer=True)"
                )


def is_torchattack(thing: Any) -> bool:
    """Whether something is an instance of torchattacks' ``Attack``, without importing that."""
    return any(
        (c.__module__, c.__name__) == ("torchattacks.attack", "Attack") for c in type(thing).__mro__
    )


def outputs_of(model: nn.Module, x: Tensor) -> int:
    """The number of a model's logits, by its answer to the first of the images."""
    with held_still(model), torch.no_grad():
        return int(model(x[:1]).shape[1])


@contextmanager
def in_one_line(name: str, x: Tensor, params: dict[str, Any]) -> Iterator[None]:
    """What torchattacks can't do, it says by a traceback from deep inside: a ValueError instead.

    ``docs/torchattacks.md`` lists what we know of.
    """
    try:
        yield
    except UserError:
        raise
    except _THEIRS as error:
        raise BadValueError(
            f"{name} failed on inputs of shape {tuple(x.shape)} with {params}: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error


def _parts(attack: Any) -> list[Any]:
    """An attack and every attack inside it, however it is held.

    torchattacks' own record misses those in a tuple, e.g. ``MultiAttack((a, b))``.
    """
    found: list[Any] = []
    queue: list[Any] = [attack]
    while queue:
        item = queue.pop()
        if isinstance(item, list | tuple):
            queue += item
        elif isinstance(item, dict):
            queue += item.values()
        elif is_torchattack(item) and not any(item is f for f in found):
            found.append(item)
            queue += vars(item).values()
    return found


def _threat(attack: Any) -> tuple[float | None, str | None]:
    """eps and norm."""
    members = getattr(attack, "attacks", None)
    if members:
        radii, norms = zip(*map(_threat, members), strict=True)
        return None if None in radii else max(radii), norms[0] if len({*norms}) == 1 else None
    eps = getattr(attack, "eps", getattr(attack, "max_epsilon", None))
    if eps is None:
        return None, None
    l2 = any(c.__name__ in L2 for c in type(attack).__mro__)
    return float(eps), getattr(attack, "norm", "L2" if l2 else "Linf")


def _params(attack: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in inspect.signature(type(attack).__init__).parameters:
        value = vars(attack).get(name)
        if name == "attacks":
            found[name] = [{"name": type(a).__name__, **_params(a)} for a in attack.attacks]
        elif isinstance(value, bool | int | float | str):
            found[name] = value
    return found


def _next_class(classes: int) -> dict[str, Any]:
    """JSMA's default aim, class (y + 1) % 10, for any number of classes."""
    return {
        "targeted": True,
        "attack_mode": "targeted(custom)",
        "_target_map_function": lambda _, y: (y + 1) % classes,
    }


@contextmanager
def _as_they_were(attacks: list[Any]) -> Iterator[None]:
    """Restore what we change of attacks; what they change themselves (caches, records) stays."""
    ours = {"model", "model_name", "device", "_normalization_applied", *_next_class(2)}
    before = [{name: vars(attack)[name] for name in ours} for attack in attacks]
    try:
        yield
    finally:
        for attack, state in zip(attacks, before, strict=True):
            vars(attack).update(state)


@contextmanager
def _buffers_kept(model: nn.Module, needed: bool) -> Iterator[None]:
    """Keep batch norm's statistics, which change where ``set_model_training_mode`` says so."""
    before = [(b, b.clone()) for b in model.buffers()] if needed else []
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)
