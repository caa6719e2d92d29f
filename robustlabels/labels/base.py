"""What a label scheme is: the protocol that plugins meet, and the base class of our own."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlabels.errors import BadValueError
from robustlabels.labels import _checks

NEEDS = frozenset({"logits", "teacher", "mix", "index"})


@dataclass(frozen=True)
class Mix:
    """How each input was mixed with a partner: ``lam * x + (1 - lam) * x[partner]``.

    Attributes:
        lam: (N,), share of the sample itself, in [0, 1].
        partner: int64 (N,), index into the batch of the one it was mixed with.
        labels: int64 (N,), the partner's class, or None where only the sample's own class
            counts (``alps``).
    """

    lam: Tensor
    partner: Tensor
    labels: Tensor | None = None


@runtime_checkable
class Scheme(Protocol):
    """The least that a label scheme must be. No base class is needed.

    Everything else has a default, which :func:`complete` fills in: ``teacher`` (None, or
    "frozen" if "teacher" is needed), ``ema_decay`` (.995), ``attack_labels`` ("hard"),
    ``check_values`` (True) and ``perturb`` (the input as it is).
    """

    num_classes: int
    num_outputs: int
    needs: frozenset[str]

    def labels(
        self,
        y: Tensor,
        logits: Tensor | None = None,
        teacher_logits: Tensor | None = None,
        progress: float = 1.0,
    ) -> Tensor:
        """Soft labels (N, num_outputs): rows sum to 1, no gradient."""


class LabelScheme:
    """Base of the built-in schemes: checks the arguments, then asks :meth:`_labels`.

    Args:
        num_classes: K, the data set's classes, at least 2.
    """

    needs: frozenset[str] = frozenset()
    teacher: Literal["ema", "frozen"] | None = None
    attack_labels: Literal["hard", "soft"] = "hard"
    ema_decay: float = 0.995
    linear: bool = False  # labels() also takes soft y (N, K), in which the label is linear
    parameters: ClassVar[tuple[str, ...]] = ()

    def __init__(self, num_classes: int) -> None:
        self.num_classes = _checks.check_count("num_classes", num_classes, 2)
        self.num_outputs = self.num_classes
        self.check_values = True

    def labels(
        self,
        y: Tensor,
        logits: Tensor | None = None,
        teacher_logits: Tensor | None = None,
        progress: float = 1.0,
        *,
        mix: Mix | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """Soft labels for a batch.

        Args:
            y: int64 (N,), true classes in [0, num_classes); if ``linear``, also distributions over
                them, floating (N, num_classes).
            logits: (N, num_outputs), any floating dtype; needed if "logits" is in ``needs``.
            teacher_logits: (N, num_classes) or (N, num_outputs); if "teacher" is in ``needs``.
            progress: 0 at the start of training, 1 at its end.
            mix: what :meth:`perturb` returned; if "mix" is in ``needs``.
            index: int64 (N,), the samples' places in the data set; if "index" is in ``needs``.

        Returns:
            (N, num_outputs), non-negative, rows sum to 1, detached, on the logits' device;
            float64 for float64 logits (the teacher's where there are no others), else float32.

        Raises:
            ValueError: an argument is missing, or has an impossible shape, dtype or value.
        """
        if self.linear and _checks.is_soft(y):
            _checks.check_soft_targets(y, self.num_classes, self.check_values)
        else:
            _checks.check_targets(y, self.num_classes, self.check_values)
        _checks.check_progress(progress)
        given = {"logits": logits, "teacher": teacher_logits, "mix": mix, "index": index}
        for need in sorted(self.needs):
            if given[need] is None:
                raise BadValueError(self._missing(need))
        n, k = len(y), self.num_classes
        if logits is not None:
            unread = "logits" not in self.needs  # labels made from -inf would mean nothing
            _checks.check_logits(
                "logits", logits, n, [self.num_outputs], self.check_values, allow_masked=unread
            )
        if teacher_logits is not None:
            widths = [k, self.num_outputs]
            _checks.check_logits("teacher_logits", teacher_logits, n, widths, self.check_values)
        if mix is not None:
            self._check_mix(mix, n)
        if index is not None:
            _checks.check_indices("index", index, n)
        source = logits if logits is not None else teacher_logits
        device = y.device if source is None else source.device
        dtype = torch.float64 if source is not None and source.dtype == torch.float64 else None
        dtype = dtype or torch.float32
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self._labels(
                y.to(device),
                None if logits is None else logits.detach().to(dtype),
                None if teacher_logits is None else teacher_logits.detach().to(device, dtype),
                progress,
                mix=mix,
                index=index,
                like=torch.empty(0, dtype=dtype, device=device),
            )

    def perturb(
        self, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Mix | None]:
        """Move the inputs before anything else sees them. The default leaves them alone.

        Args:
            x: (N, C, H, W) in [0, 1].
            y: int64 (N,).
            generator: random numbers, on x's device; the global ones without it.

        Returns:
            The inputs, and what :meth:`labels` needs to know of it.
        """
        del y, generator
        return x, None

    def _labels(
        self,
        y: Tensor,
        logits: Tensor | None,
        teacher_logits: Tensor | None,
        progress: float,
        *,
        mix: Mix | None,
        index: Tensor | None,
        like: Tensor,
    ) -> Tensor:
        """The scheme itself; ``like`` has the dtype and device that the result must have."""
        raise NotImplementedError(f"{type(self).__name__} must define _labels")  # abstract

    def _missing(self, need: str) -> str:
        what = {
            "logits": "logits=, the model's outputs for this batch",
            "teacher": "teacher_logits=, its teacher's outputs for this batch (is it set?)",
            "mix": "mix=, which its perturb() returned for this batch",
            "index": "index=, the samples' places in the data set",
        }
        return f"{type(self).__name__} needs {what[need]}"

    def _check_mix(self, mix: Mix, batch: int) -> None:
        lam = getattr(mix, "lam", None)
        if not isinstance(mix, Mix) or not isinstance(lam, Tensor) or lam.shape != (batch,):
            raise BadValueError(f"mix must be what perturb() returned for this batch of {batch}")
        if _checks.looks(self.check_values) and not bool(((lam >= 0) & (lam <= 1)).all()):
            raise BadValueError("mix.lam must be in [0, 1], but has other values or NaN")
        if mix.labels is not None:
            _checks.check_indices("mix.labels", mix.labels, batch)
            _checks.check_targets(mix.labels, self.num_classes, self.check_values, "mix.labels")

    def __repr__(self) -> str:
        shown = ["num_classes", *self.parameters]
        return f"{type(self).__name__}({', '.join(f'{n}={getattr(self, n)!r}' for n in shown)})"


def one_hot(y: Tensor, width: int, like: Tensor) -> Tensor:
    """e_y, (N, width), like ``like`` in dtype and device; soft y is padded with zeros."""
    if y.is_floating_point():
        return F.pad(y.to(like), (0, width - y.shape[1]))
    # F.one_hot looks at the values of y on a CPU, and breaks compiled graphs.
    return like.new_zeros(len(y), width).scatter_(1, y.unsqueeze(1), 1.0)


def shared_mass(mask: Tensor, like: Tensor) -> Tensor:
    """Each row's mass of 1 shared equally by the True places of ``mask`` (N, C)."""
    hits = mask.to(like)
    return hits / hits.sum(dim=1, keepdim=True)


def scheduled(bounds: tuple[float, float], progress: float) -> float:
    """From start to end along half a cosine of ``progress`` (ADR, section 4.2)."""
    start, end = bounds
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


def hard_target(y: Tensor, mix: Mix | None, num_outputs: int) -> Tensor:
    """What a training attack with hard labels maximises the cross-entropy against.

    Returns:
        ``y`` itself, or, where the labels were mixed, lam e_y + (1 - lam) e_y' (N, num_outputs).
    """
    if mix is None or mix.labels is None:
        return y
    lam = mix.lam.unsqueeze(1)
    return lam * one_hot(y, num_outputs, lam) + (1 - lam) * one_hot(mix.labels, num_outputs, lam)


def complete(scheme: Any, name: str = "scheme") -> Any:
    """Check that an object is a label scheme and fill in the defaults that it left out.

    Raises:
        ValueError: it is not a scheme, or its declarations contradict each other.
    """
    if isinstance(scheme, type):
        raise BadValueError(f"{name} is a class, not a label scheme: give an instance of it")
    missing = [
        a for a in ("num_classes", "num_outputs", "needs", "labels") if not hasattr(scheme, a)
    ]
    if missing or not callable(scheme.labels):
        raise BadValueError(
            f"{name} is not a label scheme: it lacks {', '.join(missing) or 'a method labels()'}"
        )
    if isinstance(scheme.needs, str) or not isinstance(scheme.needs, Collection):
        raise BadValueError(f"{name}.needs must be a set of names, not {scheme.needs!r}")
    unknown = set(scheme.needs) - NEEDS
    if unknown:
        raise BadValueError(
            f"{name}.needs may hold {', '.join(sorted(NEEDS))}, not {', '.join(sorted(unknown))}"
        )
    defaults: dict[str, Any] = {
        "teacher": "frozen" if "teacher" in scheme.needs else None,
        "attack_labels": "hard",
        "ema_decay": 0.995,
        "check_values": True,
        "perturb": _leave_alone,
    }
    for attribute, value in defaults.items():
        if not hasattr(scheme, attribute):
            try:
                object.__setattr__(scheme, attribute, value)  # frozen dataclasses too
            except AttributeError:
                raise BadValueError(
                    f"{name} must declare {', '.join(defaults)} itself, because its class has "
                    "__slots__, with no room for the defaults"
                ) from None
    k, width = scheme.num_classes, scheme.num_outputs
    if not all(isinstance(c, Integral) for c in (k, width)) or not width >= k >= 2:
        raise BadValueError(
            f"{name} must have num_outputs >= num_classes >= 2, not {width!r} and {k!r}"
        )
    if scheme.teacher not in (None, "ema", "frozen"):
        raise BadValueError(f"{name}.teacher must be None, 'ema' or 'frozen': {scheme.teacher!r}")
    if "teacher" in scheme.needs and scheme.teacher is None:
        raise BadValueError(f"{name} needs a teacher, so its teacher must be 'ema' or 'frozen'")
    if scheme.attack_labels not in ("hard", "soft"):
        raise BadValueError(
            f"{name}.attack_labels must be 'hard' or 'soft', not {scheme.attack_labels!r}"
        )
    if scheme.attack_labels == "soft" and "logits" in scheme.needs:
        raise BadValueError(
            f"{name} is circular: its labels need the logits of the attacked input, and its attack "
            "needs the labels; set attack_labels='hard'"
        )
    return scheme


def labels_of(
    scheme: Any,
    y: Tensor,
    logits: Tensor | None = None,
    teacher_logits: Tensor | None = None,
    progress: float = 1.0,
    mix: Mix | None = None,
    index: Tensor | None = None,
) -> Tensor:
    """A scheme's labels, given what it declares to need of ``mix`` and ``index``.

    Args:
        scheme: any label scheme; the others as in :meth:`LabelScheme.labels`.

    Returns:
        (N, num_outputs), detached.

    Raises:
        ValueError: the scheme gave something else.
    """
    given = {"mix": mix, "index": index}
    extra = {name: value for name, value in given.items() if name in scheme.needs}
    labels = scheme.labels(
        y,
        logits=None if logits is None else logits.detach(),
        teacher_logits=teacher_logits,
        progress=progress,
        **extra,
    )
    if not isinstance(labels, Tensor) or labels.shape != (len(y), scheme.num_outputs):
        what = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        name = f"{type(scheme).__module__}.{type(scheme).__name__}"
        raise BadValueError(
            f"{name}.labels must return a tensor {(len(y), scheme.num_outputs)}, not {what}"
        )
    return labels.detach()


def set_value_checks(scheme: Any, wanted: bool) -> None:
    """Switch a scheme's look at values (range of y, NaN) on or off."""
    with contextlib.suppress(AttributeError):  # a class attribute beside __slots__: it stays
        object.__setattr__(scheme, "check_values", wanted)  # frozen dataclasses too


def _leave_alone(
    x: Tensor, y: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, None]:
    del y, generator
    return x, None
