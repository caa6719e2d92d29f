"""ART's attack objects that their user made, on their user's estimator, under our protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustlabels.attacks._art_members import LEFT_OUT, MEMBERS, READY_ONLY, Member
from robustlabels.attacks._art_running import generate, in_one_line
from robustlabels.attacks.base import held_still
from robustlabels.errors import BadValueError

_NORMS = {"inf": "Linf", "2": "L2", "2.0": "L2", "1": "L1", "1.0": "L1"}


class ReadyArtAttack:
    """An evasion attack of ART that its user made, under our protocol.

    It attacks through its own estimator, with that one's clip values, preprocessing and defences.
    The object itself is left as it was: each call runs a copy of it, without progress bars.

    Args:
        attack: an instance of an ``EvasionAttack``, untargeted, on a ``PyTorchClassifier``.
        transfer: attack the estimator's model, a surrogate, instead of the one that the call is
            given: a black-box attack on the latter. The estimator may then be any of ART's.
        scaled: the call's inputs are in [0, 1], and the estimator's in its ``clip_values``, if it
            has some. False: the call's are in the estimator's units.

    Attributes:
        name: "art:" and the class.
        eps: radius in the call's units; None where the attack has none.
        norm: "Linf", "L2" or "L1"; None where the attack has none.
        takes_soft_labels: whether the call's y may be soft.
        params: the attack's parameters, as far as JSON can hold them.

    Raises:
        ValueError: not an attack of ART, or one that can't be used so.
    """

    def __init__(self, attack: Any, transfer: bool = False, scaled: bool = True) -> None:
        if not is_art_attack(attack):
            raise BadValueError(
                "attack must be an evasion attack of ART, e.g. DeepFool(classifier), not "
                f"{attack!r}; by name it is make_attack('art:DeepFool', eps)"
            )
        kind, estimator = type(attack).__name__, attack.estimator
        self.attack, self.transfer, self.scaled = attack, bool(transfer), bool(scaled)
        self.name = f"art:{kind}"
        if kind in LEFT_OUT:
            raise BadValueError(f"{self.name} can't be used here: {LEFT_OUT[kind]}")
        if attack.targeted:
            raise BadValueError(
                f"{self.name} is targeted, but the labels here are the true classes: make it with "
                "targeted=False"
            )
        self._member = member = _member(attack)
        self._low, self._width = _range(estimator) if scaled else (0.0, 1.0)
        eps = None if member.minimal else getattr(attack, "eps", None)
        self.eps = float(eps) / self._width if isinstance(eps, int | float) else None
        single = member.norms[0] if len(member.norms) == 1 else None
        self.norm = _NORMS.get(str(getattr(attack, "norm", "")), single)
        self.takes_soft_labels = (
            member.soft
            and getattr(attack, "loss_type", None) != "difference_logits_ratio"
            and bool(getattr(estimator, "_probability_labels", False))
        )
        self.params = {p: v for p in attack.attack_params if _is_json(v := vars(attack).get(p))}

    @property
    def __name__(self) -> str:
        return self.name

    @property
    def at_a_time(self) -> int | None:
        """Images that an evaluation hands over at once; None: as many as it likes."""
        return self._member.at_a_time

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """See :class:`robustlabels.attacks.Attack`."""
        if y.is_floating_point() and not self.takes_soft_labels:
            raise BadValueError(f"{self.name}, as it is, takes class indices only")
        if len(x) == 0:
            return x.detach().clone()
        theirs = getattr(self.attack.estimator, "model", None)
        attacked = theirs if isinstance(theirs, nn.Module) else None
        where = f"on inputs of shape {tuple(x.shape)}"
        inputs = self._low + self._width * x
        with (
            held_still(model),
            nullcontext() if attacked is None else held_still(attacked),
            nullcontext() if attacked is None else _gradients_kept(attacked),
            torch.enable_grad(),
            in_one_line(self.name, where),
        ):
            if not self.transfer:
                self._check_same(model, attacked, x, inputs)
            found = generate(self.attack, self._member, inputs, y)
        return (found - self._low) / self._width

    def __repr__(self) -> str:
        shown = "".join(f", {k}={v!r}" for k, v in self.params.items())
        transfer = ", transfer=True" if self.transfer else ""
        return f"ReadyArtAttack({type(self.attack).__name__}{shown}{transfer})"

    def _check_same(self, model: nn.Module, attacked: Any, x: Tensor, inputs: Tensor) -> None:
        """Refuse a surrogate that nobody asked for: its attack would flatter the model."""
        hint = f"make the attack on this model, or say ReadyArtAttack({self.name[4:]}(...), "
        hint += "transfer=True)"
        if attacked is None or not (
            any(m is attacked for m in model.modules())
            or any(m is model for m in attacked.modules())
        ):
            raise BadValueError(
                f"{self.name} is bound to another model than the one judged: {hint}"
            )
        if self.scaled:
            with torch.no_grad():
                ours = model(x[:2]).float().cpu()
            theirs = torch.as_tensor(
                self.attack.estimator.predict(inputs[:2].detach().cpu().float().numpy())
            )
            width = min(ours.shape[1], theirs.shape[1])
            ours, theirs = ours[:, :width], theirs[:, :width]
            if (ours - theirs).abs().max() > 1e-3 * (1 + ours.abs().max()):
                raise BadValueError(
                    f"{self.name}: its estimator answers otherwise than the model on the same "
                    f"images; look at its preprocessing, clip_values and defences, or {hint}"
                )


def is_art_attack(thing: Any) -> bool:
    """Whether something is an instance of ART's ``EvasionAttack``, without importing that."""
    return any(
        (c.__module__, c.__name__) == ("art.attacks.attack", "EvasionAttack")
        for c in type(thing).__mro__
    )


def _member(attack: Any) -> Member:
    """How an attack is called: by the first class of ART that it is."""
    for cls in type(attack).__mro__:
        if cls.__name__ in READY_ONLY:
            return Member((), minimal=True)
        if cls.__name__ in MEMBERS:
            return MEMBERS[cls.__name__]
    return Member()


def _range(estimator: Any) -> tuple[float, float]:
    """Where an estimator's inputs begin, and how wide their range is."""
    if getattr(estimator, "clip_values", None) is None:
        return 0.0, 1.0
    low, high = (np.unique(np.asarray(v, dtype=np.float64)) for v in estimator.clip_values)
    if len(low) != 1 or len(high) != 1:
        raise BadValueError(
            "the estimator's clip_values must be one (low, high) for all features; or give "
            "scaled=False and inputs in its units"
        )
    return float(low[0]), float(high[0] - low[0])


@contextmanager
def _gradients_kept(model: nn.Module) -> Iterator[None]:
    """Keep the parameters' gradients, which ART erases: they may be half of a step's."""
    before = {p: p.grad for p in model.parameters()}
    try:
        for parameter in before:
            parameter.grad = None
        yield
    finally:
        for parameter, grad in before.items():
            parameter.grad = grad


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
