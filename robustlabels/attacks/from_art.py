"""Every evasion attack of ART that works on image classifiers, by name: ``art:DeepFool``.

ART is imported when an attack is made. ``docs/art-attacks.md`` has the table of them.
"""

from __future__ import annotations

import inspect
import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels.attacks._art_members import LEFT_OUT, MEMBERS, READY_ONLY
from robustlabels.attacks._art_running import generate, in_one_line
from robustlabels.attacks.base import held_still
from robustlabels.errors import BadValueError, UnknownNameError, missing_extra, nearest
from robustlabels.threat import parse_eps

_NORMS = {"Linf": "inf", "L2": 2, "L1": 1}  # as ART takes them, and JSON too
_NOT_PARAMETERS = {"self", "estimator", "classifier", "eps", "norm", "targeted"}


class ArtAttack:
    """An evasion attack of ART under our protocol.

    Parameters that are not given are ART's own defaults, but for the step (``eps_step``), which is
    scaled with eps (ART's is a third of it), ``batch_size``, which is the batch's, ``verbose``,
    which is False, and what :data:`robustlabels.attacks._art_members.MEMBERS` says.

    Args:
        name: the class in ``art.attacks.evasion``.
        eps: radius; given to attacks that have one.
        norm: "Linf", "L2" or "L1"; must be one of the attack's own.
        **params: the constructor's own.

    Attributes:
        eps: radius, or None for attacks that look for the nearest adversarial input.
        takes_soft_labels: whether the call's y may be soft labels (N, D).

    Raises:
        KeyError: no such attack; the message has the nearest matches, or why it is left out.
        ValueError: a norm or parameter that the attack does not have, or does not allow.
        ImportError: ART is not installed.
    """

    def __init__(self, name: str, eps: float, norm: str = "Linf", **params: Any) -> None:
        if name not in MEMBERS:
            if name in LEFT_OUT or name in READY_ONLY:
                why = {**LEFT_OUT, **READY_ONLY}[name]
                raise UnknownNameError(f"art:{name} can't be used by name: {why}")
            wanted, known = f"art:{name}", [f"art:{n}" for n in MEMBERS]
            raise UnknownNameError(f"unknown attack {wanted!r}; {nearest(wanted, known)}")
        try:
            import art.attacks.evasion
        except ImportError as error:
            raise missing_extra(f"attack 'art:{name}'", "art") from error
        self.name, self.norm = name, norm
        self._member = MEMBERS[name]
        self._class = getattr(art.attacks.evasion, name)
        self._accepted = inspect.signature(self._class.__init__).parameters
        self.eps: float | None = None
        self.params = self._resolve(eps, norm, params)
        self.takes_soft_labels = (
            self._member.soft and self.params.get("loss_type") != "difference_logits_ratio"
        )
        with torch.no_grad(), in_one_line(f"art:{name}", f"with {self.params}"):
            self._make(_zero_logits, torch.zeros(1, 3, 8, 8))  # what ART refuses, refused early

    @property
    def at_a_time(self) -> int | None:
        """Images that an evaluation hands over at once; None: as many as it likes."""
        return self._member.at_a_time

    @property
    def for_training(self) -> bool:
        """Whether it makes sense in training: bounded by eps, by gradients, quick."""
        return self._member.for_training

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """See :class:`robustlabels.attacks.Attack`."""
        if y.is_floating_point() and not self.takes_soft_labels:
            soft = sorted(n for n, m in MEMBERS.items() if m.soft)
            raise BadValueError(
                f"art:{self.name} takes class indices only; those that take soft labels: "
                f"{', '.join(soft)}"
            )
        if len(x) == 0:
            return x.detach().clone()
        where = f"on inputs of shape {tuple(x.shape)} with {self.params}"
        with held_still(model), torch.enable_grad(), in_one_line(f"art:{self.name}", where):
            quiet = not self.params.get("verbose")
            return generate(self._make(model, x), self._member, x, y, quiet)

    def __repr__(self) -> str:
        shown = "".join(f", {k}={v!r}" for k, v in self.params.items())
        return f"ArtAttack({self.name!r}{shown})"

    def _resolve(self, eps: Any, norm: str, params: dict[str, Any]) -> dict[str, Any]:
        """The constructor's parameters that are not ART's defaults."""
        member, accepted = self._member, self._accepted
        if params.pop("targeted", False):
            raise BadValueError(
                f"art:{self.name}: targeted must be False: its labels are the true classes"
            )
        known = [p for p in accepted if p not in _NOT_PARAMETERS]
        for param in params:
            if param not in known:
                raise BadValueError(
                    f"art:{self.name} has no parameter {param!r}; {nearest(param, known)}"
                )
        resolved = {**member.defaults, **params}
        if (not member.minimal or "norm" in accepted) and norm not in member.norms:
            own = " or ".join(member.norms)
            raise BadValueError(
                f"art:{self.name} is an attack for {own}, not {norm}; "
                "'art:AutoProjectedGradientDescent' does Linf, L2 and L1"
            )
        if "norm" in accepted:
            resolved["norm"] = _NORMS[norm]
        if not member.minimal:
            self.eps = parse_eps(eps, norm)
            if "th" in accepted:  # ThresholdAttack's, in 8-bit steps
                th = resolved.setdefault("th", math.floor(self.eps * 255 + 1e-6))
                if th == 0:
                    raise BadValueError(f"art:{self.name}: eps must be at least 1/255, not {eps}")
                self.eps = None if th is None else th / 255  # None: it looks for the smallest
            else:
                resolved["eps"] = self.eps
            if "eps_step" in accepted:
                share = accepted["eps_step"].default / accepted["eps"].default
                resolved.setdefault("eps_step", share * self.eps)
        return resolved

    def _make(self, model: Any, x: Tensor) -> Any:
        """ART's object, on a model of ours."""
        params = dict(self.params)
        if "verbose" in self._accepted:
            params.setdefault("verbose", False)
        if "batch_size" in self._accepted and self.at_a_time != 1:  # of those it is another thing
            params.setdefault("batch_size", len(x))
        device = torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()
        with device:
            return self._class(_estimator(model, x, self._member.probabilities), **params)


class ArtAttackFamily:
    """The factory behind ``art:NAME``."""

    members = tuple(MEMBERS)

    def __call__(self, name: str, eps: float, norm: str = "Linf", **params: Any) -> ArtAttack:
        """An attack; see :class:`ArtAttack`."""
        return ArtAttack(name, eps, norm, **params)


class _Shown(nn.Module):
    """What ART sees of a model: one module with one output, in float32, that it can't touch.

    ART returns every layer's output of an ``nn.Sequential``, sets modes and erases gradients. The
    model is therefore no submodule; the one parameter tells the device.
    """

    def __init__(self, model: Any, x: Tensor, probabilities: bool) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.empty(0, device=x.device), requires_grad=False)
        self._hidden = (model,)  # in a tuple, so that it is no submodule
        self._dtype, self._probabilities = x.dtype, probabilities

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self._hidden[0](x.to(self._dtype)).float()
        return logits.softmax(dim=1) if self._probabilities else logits


def _estimator(model: Any, x: Tensor, probabilities: bool) -> Any:
    """A model of ours as ART's classifier, for inputs like x."""
    from art.estimators.classification import PyTorchClassifier

    if x.device.type not in ("cpu", "cuda"):
        raise BadValueError(f"ART computes on the CPU or a CUDA GPU, not on {x.device}")
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    return PyTorchClassifier(
        model=_Shown(model, x, probabilities),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="cpu" if x.device.type == "cpu" else "gpu",
    )


def _zero_logits(x: Tensor) -> Tensor:
    return x.new_zeros(len(x), 10)
