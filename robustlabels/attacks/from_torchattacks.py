"""Every torchattacks attack by name: ``torchattacks:PGD``.

Works around, without touching its files (torchattacks 3.5.1): model modes restored wrongly (a
frozen batch norm comes back in train mode, an exception leaves eval mode), outputs that carry a
graph (APGD, AutoAttack), a default number of classes of 10 (JSMA's can't be changed), and the
global generator seeded with 0 by every attack with a ``seed`` (dropout would repeat itself).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels.attacks.base import held_still
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

_SOFT = frozenset(
    [
        "BIM",
        "DIFGSM",
        "EOTPGD",
        "FFGSM",
        "FGSM",
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
_L2 = frozenset({"PGDL2", "PGDRSL2"})


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
        elif self.eps is not None and (norm == "L2") != (name in _L2):
            raise BadValueError(
                f"torchattacks:{name} is an {'L2' if name in _L2 else 'Linf'} attack, not {norm}; "
                "'pgd', 'torchattacks:APGD' and 'torchattacks:AutoAttack' do both"
            )
        self.norm = norm
        self._wants_classes = "n_classes" in accepted and "n_classes" not in params
        self._seeds = "seed" in accepted
        self.takes_soft_labels = name in _SOFT and params.get("loss", "ce") == "ce"  # UPGD's

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """See :class:`robustlabels.attacks.Attack`."""
        if y.is_floating_point() and not self.takes_soft_labels:
            raise BadValueError(
                f"torchattacks:{self.name} takes class indices only; those that take soft labels: "
                f"{', '.join(sorted(_SOFT))}"
            )
        if len(x) == 0:
            return x.detach().clone()
        devices = [x.device] if x.device.type == "cuda" else []
        with (
            held_still(model),
            torch.enable_grad(),
            torch.random.fork_rng(devices, enabled=self._seeds),
        ):
            params = dict(self.params)
            classes = 0
            if self._wants_classes or self.name == "JSMA":
                with torch.no_grad():
                    classes = model(x[:1]).shape[1]
            if self._wants_classes:
                params["n_classes"] = classes
            try:
                attack = self._factory(model, **params)
                attack.set_device(x.device)
                if self.name == "JSMA":
                    attack.set_mode_targeted_by_function(lambda _, y: (y + 1) % classes, quiet=True)
                x_adv: Tensor = attack(x, y)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                # What torchattacks can't do with these images or parameters, it says by a
                # traceback from deep inside; `robustlabels doctor` lists what we know of.
                raise BadValueError(
                    f"torchattacks:{self.name} failed on inputs of shape {tuple(x.shape)} with "
                    f"{self.params}: {' '.join(str(error).split())[:200]}"
                ) from error
        return x_adv.detach()

    def __repr__(self) -> str:
        shown = "".join(f", {k}={v!r}" for k, v in self.params.items())
        return f"TorchAttack({self.name!r}{shown})"


class TorchAttackFamily:
    """The factory behind ``torchattacks:NAME``."""

    members = tuple(NAMES)

    def __call__(self, name: str, eps: float, norm: str = "Linf", **params: Any) -> TorchAttack:
        """An attack; see :class:`TorchAttack`."""
        return TorchAttack(name, eps, norm, **params)
