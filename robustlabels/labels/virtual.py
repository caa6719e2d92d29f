"""Virtual smoothing classes around any label scheme (VS)."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustlabels.errors import BadValueError, RobustLabelsWarning
from robustlabels.labels import _checks
from robustlabels.labels.base import (
    LabelScheme,
    Mix,
    complete,
    hard_target,
    labels_of,
    one_hot,
    set_value_checks,
)
from robustlabels.labels.one_hot import OneHot
from robustlabels.randomness import per_row


class VirtualSmoothing(LabelScheme):
    """VS: (1 - alpha) of the inner label on the real classes, alpha / V on each virtual (eq. 3).

    The model has K + V outputs; only the first K are ever judged. The inner scheme sees the
    first K logits of student and teacher. The training attack sees hard labels, whatever the
    inner scheme (its classes are K, the attack's are K + V).

    Args:
        num_classes: K.
        alpha: mass of the virtual classes, in [0, 1].
        virtual_classes: V, at least 1; K by default.
        inner: a scheme with K outputs; one-hot by default. ``make_scheme`` takes its name too.
        virtual_mass: "uniform", or "random": alpha split at random per sample (appendix E.3).
        warmup_epochs: plain one-hot labels before this epoch.
    """

    attack_labels = "hard"
    parameters: ClassVar[tuple[str, ...]] = (
        "alpha",
        "virtual_classes",
        "inner",
        "virtual_mass",
        "warmup_epochs",
    )

    def __init__(
        self,
        num_classes: int,
        alpha: float = 0.5,
        virtual_classes: int | None = None,
        inner: Any = None,
        virtual_mass: str = "uniform",
        warmup_epochs: int = 0,
    ) -> None:
        super().__init__(num_classes)
        num_classes = self.num_classes  # an int, where numpy's was given
        self.alpha = _checks.check_share("alpha", alpha)
        if virtual_classes is None:
            virtual_classes = num_classes
        self.virtual_classes = _checks.check_count("virtual_classes", virtual_classes, 1)
        self.virtual_mass = _checks.check_choice(
            "virtual_mass", virtual_mass, ("uniform", "random")
        )
        self.warmup_epochs = _checks.check_count("warmup_epochs", warmup_epochs, 0)
        self.epochs: int | None = None
        self.inner = complete(OneHot(num_classes) if inner is None else inner, "inner")
        if self.inner.num_classes != num_classes or self.inner.num_outputs != num_classes:
            raise BadValueError(
                f"inner must have {num_classes} classes and as many outputs, not "
                f"{self.inner.num_classes} and {self.inner.num_outputs}"
            )
        self.num_outputs = num_classes + self.virtual_classes
        self.needs = self.inner.needs
        self.linear = bool(getattr(self.inner, "linear", False))
        self.teacher = self.inner.teacher
        self.ema_decay = self.inner.ema_decay

    @property
    def check_values(self) -> bool:
        """Whether labels() looks at values (range of y, NaN), the inner scheme's included."""
        return self._check_values

    @check_values.setter
    def check_values(self, value: bool) -> None:
        self._check_values = value
        if hasattr(self, "inner"):
            set_value_checks(self.inner, value)

    def begin_training(self, epochs: int) -> None:
        """Tell the scheme how long training will be; ``warmup_epochs`` counts in it."""
        self.epochs = epochs
        if self.warmup_epochs >= epochs:
            warnings.warn(
                f"the virtual classes get no mass: vs has warmup_epochs {self.warmup_epochs}, and "
                f"training {epochs} epochs",
                RobustLabelsWarning,
                stacklevel=2,
            )
        if hasattr(self.inner, "begin_training"):
            self.inner.begin_training(epochs)

    def perturb(
        self, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Mix | None]:
        """The inner scheme's; see :meth:`LabelScheme.perturb`."""
        moved: tuple[Tensor, Mix | None] = self.inner.perturb(x, y, generator)
        return moved

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
        k = self.num_classes
        if self._warming_up(progress):
            target = hard_target(y, mix, self.num_outputs)  # mixed inputs keep mixed labels
            return one_hot(target, self.num_outputs, like)
        inner = labels_of(
            self.inner,
            y,
            None if logits is None else logits[:, :k],
            None if teacher_logits is None else teacher_logits[:, :k],
            progress,
            mix,
            index,
        ).to(like)
        return torch.cat([(1 - self.alpha) * inner, self.alpha * self._spread(len(y), like)], dim=1)

    def _spread(self, n: int, like: Tensor) -> Tensor:
        v = self.virtual_classes
        if self.virtual_mass == "uniform":
            return like.new_full((n, v), 1.0 / v)
        mass = per_row(
            n, lambda m, g: torch.rand(m, v, generator=g, dtype=like.dtype, device=like.device)
        )
        return mass / mass.sum(dim=1, keepdim=True)

    def _warming_up(self, progress: float) -> bool:
        if self.warmup_epochs == 0:
            return False
        if self.epochs is None:
            raise BadValueError(
                "warmup_epochs needs the length of training: call begin_training(epochs)"
            )
        # progress is a rounded quotient: (1 / 49) * 49 is below 1.
        return progress * self.epochs < self.warmup_epochs - 1e-9
