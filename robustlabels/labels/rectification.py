"""Annealing self-distillation rectification (Wu et al., ICLR 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from robustlabels.errors import BadValueError
from robustlabels.labels import _checks
from robustlabels.labels.base import LabelScheme, one_hot, scheduled


class AnnealingRectification(LabelScheme):
    """ADR: the EMA teacher's softened distribution, pulled towards the true class (eq. 3-5).

    Pt = softmax(t / tau); l_i = clip(l - (max Pt - Pt_y), 0, 1); label l_i Pt + (1 - l_i) e_y.
    tau and l go from start to end along half a cosine of progress. The training attack sees
    these labels too (Algorithm 1).

    Args:
        num_classes: K.
        temperature: tau, above 0: (start, end) or one number.
        interpolation: l, in [0, 1]: (start, end) or one number; 0 is one-hot.
        ema_decay: gamma of the teacher, in [0, 1].
    """

    needs = frozenset({"teacher"})
    teacher = "ema"
    attack_labels = "soft"
    parameters: ClassVar[tuple[str, ...]] = ("temperature", "interpolation", "ema_decay")

    def __init__(
        self,
        num_classes: int,
        temperature: float | Sequence[float] = (2.5, 2.0),
        interpolation: float | Sequence[float] = (0.7, 0.95),
        ema_decay: float = 0.995,
    ) -> None:
        super().__init__(num_classes)
        self.temperature = _checks.check_schedule("temperature", temperature)
        self.interpolation = _checks.check_schedule("interpolation", interpolation)
        for tau in self.temperature:
            _checks.check_positive("temperature", tau)
        for share in self.interpolation:
            _checks.check_share("interpolation", share)
        self.ema_decay = _checks.check_share("ema_decay", ema_decay)
        if self.ema_decay == 1.0:
            raise BadValueError("ema_decay must be below 1: at 1 the teacher never learns")

    def _labels(
        self,
        y: Tensor,
        logits: Tensor | None,
        teacher_logits: Tensor | None,
        progress: float,
        *,
        like: Tensor,
        **_: Any,
    ) -> Tensor:
        assert teacher_logits is not None  # labels() has checked ``needs``
        tau = scheduled(self.temperature, progress)
        share = scheduled(self.interpolation, progress)
        teacher = (teacher_logits / tau).softmax(dim=1)
        gap = teacher.amax(dim=1) - teacher.gather(1, y.unsqueeze(1)).squeeze(1)
        own = (share - gap).clamp(0.0, 1.0).unsqueeze(1)
        return own * teacher + (1 - own) * one_hot(y, self.num_classes, like)
