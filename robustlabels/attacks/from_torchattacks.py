"""Every torchattacks attack by name: ``torchattacks:PGD``.

Works around what :mod:`robustlabels.attacks.ready_torchattacks` does, and besides: a default
number of classes of 10, a default step that doesn't follow eps, and AutoAttack's seeds, which come
from the clock.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels.attacks.ready_torchattacks import (
    L2,
    SOFT,
    ReadyTorchAttack,
    in_one_line,
    outputs_of,
)
from robustlabels.errors import BadValueError, UnknownNameError, missing_extra, nearest
from robustlabels.threat import parse_eps

NAMES = [
    "APGD",
    "APGDT",
    "AutoAttack",
    "BIM",
    "CW",
    "DIFGSM",
    "DeepFool",
    "EADEN",
    "EADL1",
    "EOTPGD",
    "FAB",
    "FFGSM",
    "FGSM",
    "GN",
    "JSMA",
    "Jitter",
    "MIFGSM",
    "NIFGSM",
    "OnePixel",
    "PGD",
    "PGDL2",
    "PGDRS",
    "PGDRSL2",
    "PIFGSM",
    "PIFGSMPP",
    "Pixle",
    "RFGSM",
    "SINIFGSM",
    "SPSA",
    "SparseFool",
    "Square",
    "TIFGSM",
    "TPGD",
    "UPGD",
    "VANILA",
    "VMIFGSM",
    "VNIFGSM",
]
"""The 37 attacks of torchattacks 3.5.1 (its two wrappers, MultiAttack and LGV, take attacks)."""


class TorchAttack:
    """A torchattacks attack under our protocol.

    Args:
        name: the class in ``torchattacks``.
        eps: radius; given to attacks that have one. Its default step ``alpha``, where not given
            in ``params``, is scaled with eps: 2/255 at 8/255.
        norm: "Linf" or "L2"; must be the attack's own where it has just one.
        **params: the constructor's own.
    """

    def __init__(self, name: str, eps: float, norm: str = "Linf", **params: Any) -> None:
        try:
            import torchattacks
        except ImportError as error:
            raise missing_extra(f"attack 'torchattacks:{name}'", "torchattacks") from error
        factory = getattr(torchattacks, name, None) if name in torchattacks.__all__ else None
        if factory is None or name in ("MultiAttack", "LGV"):
            wanted, known = f"torchattacks:{name}", [f"torchattacks:{n}" for n in NAMES]
            raise UnknownNameError(f"unknown attack {wanted!r}; {nearest(wanted, known)}")
        self.name = name
        self._factory = factory
        accepted = inspect.signature(factory.__init__).parameters
        for param in params:
            if param not in accepted or param in ("self", "model"):
                known = [p for p in accepted if p not in ("self", "model")]
                raise BadValueError(
                    f"torchattacks:{name} has no parameter {param!r}; {nearest(param, known)}"
                )
        self.params = dict(params)
        self.eps: float | None = None
        eps_name = next((n for n in ("eps", "max_epsilon") if n in accepted), None)
        if eps_name is not None:
            self.eps = parse_eps(eps, norm)
            self.params.setdefault(eps_name, self.eps)
            default = accepted.get("alpha")
            if default is not None and "alpha" not in params:
                self.params["alpha"] = default.default * self.eps / accepted[eps_name].default
        if "norm" in accepted:
            self.params.setdefault("norm", norm)
        elif self.eps is not None and norm != (own := "L2" if name in L2 else "Linf"):
            raise BadValueError(
                f"torchattacks:{name} is an {own} attack, not {norm}; 'pgd', 'torchattacks:APGD' "
                "and 'torchattacks:AutoAttack' do Linf and L2"
            )
        self.norm = norm
        self._wants_classes = "n_classes" in accepted and "n_classes" not in params
        self._wants_seed = "seed" in accepted and accepted["seed"].default is None
        self.takes_soft_labels = name in SOFT and params.get("loss", "ce") == "ce"  # UPGD's

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """See :class:`robustlabels.attacks.Attack`."""
        params = dict(self.params)
        if self._wants_classes and len(x):
            params["n_classes"] = outputs_of(model, x)
        if self._wants_seed and "seed" not in params:
            # Else AutoAttack takes its seeds from the clock, and no figure could be repeated.
            params["seed"] = int(torch.randint(2**31, ()))
        with in_one_line(f"torchattacks:{self.name}", x, self.params):
            attack = self._factory(model, **params)
        return ReadyTorchAttack(attack)(model, x, y)

    def __repr__(self) -> str:
        shown = "".join(f", {k}={v!r}" for k, v in self.params.items())
        return f"TorchAttack({self.name!r}{shown})"


class TorchAttackFamily:
    """The factory behind ``torchattacks:NAME``."""

    members = tuple(NAMES)

    def __call__(self, name: str, eps: float, norm: str = "Linf", **params: Any) -> TorchAttack:
        """An attack; see :class:`TorchAttack`."""
        return TorchAttack(name, eps, norm, **params)
