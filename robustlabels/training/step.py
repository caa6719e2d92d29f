"""One training step, as trainers see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels.attacks.base import correct
from robustlabels.errors import BadValueError
from robustlabels.labels import (
    Mix,
    hard_target,
    kl_divergence,
    labels_of,
    soft_cross_entropy,
)
from robustlabels.models import real_classes
from robustlabels.randomness import Rows
from robustlabels.training.watch import LossWatch


@dataclass(frozen=True)
class ExtraBatch:
    """Extra samples beside a batch, for trainers with ``takes_extra``.

    Attributes:
        x: (M, C, H, W), augmented as the batch is, in [0, 1].
        y: int64 (M,), their own or pseudo-labels, or None.
        index: int64 (M,), their places in the extra data.
    """

    x: Tensor
    y: Tensor | None
    index: Tensor


class Step:
    """A batch, the model, and what a trainer may do with them.

    The engine has already moved the input as the scheme wants (``alps``, ``mixup``) and run the
    teacher, once. It owns the backward pass, the optimizer, averages, precision and checkpoints.

    Attributes:
        model: the model in train mode, (N, C, H, W) -> logits (N, num_outputs).
        x: (N, C, H, W), augmented, in [0, 1].
        y: int64 (N,), true classes.
        index: int64 (N,), the samples' places in the training split, or None; extra samples
            that are mixed in are counted after it.
        extra: extra samples, for trainers with ``takes_extra``, or None; x and y do not
            include them.
        scheme: the label scheme.
        num_classes: K, the data set's classes; the model may have more outputs.
        progress: completed steps / total steps, in [0, 1).
        x_adv: where ``inputs`` puts the adversarial inputs; None until then.
        teacher_logits: (N, D), the teacher's on x, or None.
        mix: how the scheme mixed the inputs, or None.
        share: how much of the optimizer step's batch the samples are; below 1 where the batch is
            taken in parts, or shared by several processes.
        rows: which rows of the batch, or of this part, they are where several processes share it;
            else None. What is drawn by ``robustlabels.randomness.per_row`` follows them.
        kept: for what the trainer makes in ``inputs`` and needs in ``loss``. Its own attributes may
            belong to another step by then: with accumulation and weight perturbation, the second
            losses come after all inputs.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        scheme: Any,
        attack: Callable[[nn.Module, Tensor, Tensor], Tensor],
        index: Tensor | None = None,
        num_classes: int | None = None,
        progress: float = 0.0,
        teacher_logits: Tensor | None = None,
        mix: Mix | None = None,
        extra: ExtraBatch | None = None,
        reduction: str = "mean",
        share: float = 1.0,
        rows: Rows | None = None,
        watch: LossWatch | None = None,
    ) -> None:
        self.model, self.x, self.y, self.index = model, x, y, index
        self.scheme, self.progress = scheme, progress
        self.num_classes: int = scheme.num_classes if num_classes is None else num_classes
        self.teacher_logits, self.mix, self.extra = teacher_logits, mix, extra
        self.x_adv: Tensor | None = None
        self.kept: dict[str, Any] = {}
        self.correct: Tensor | None = None
        self._attack, self._reduction = attack, reduction
        self.share, self.rows = share, rows
        self._labels: Tensor | None = None
        self._watch = watch

    def attack(self, labels: Tensor | None = None) -> Tensor:
        """Adversarial inputs from the run's attack on the model as it is.

        Args:
            labels: soft labels (N, D) for the attack, over the model's first D logits, which
                alone are attacked. By default it sees the true classes (mixed, where the inputs
                are), or the scheme's soft labels where the scheme says so (``attack_labels``).

        Returns:
            (N, C, H, W) in [0, 1], detached.

        Raises:
            ValueError: labels are given, and the attack takes class indices only.
        """
        if labels is None:
            if self.scheme.attack_labels == "soft":
                return self._attack(self.model, self.x, self.labels())
            target = hard_target(self.y, self.mix, self.scheme.num_outputs)
            return self._attack(self.model, self.x, target)
        if not getattr(self._attack, "takes_soft_labels", True):
            raise BadValueError(
                f"the training attack {self._attack!r} takes class indices only, but the "
                "trainer's attack sees soft labels: use pgd with loss=ce"
            )
        width = labels.shape[1]
        whole = width == self.scheme.num_outputs
        return self._attack(
            self.model if whole else real_classes(self.model, width), self.x, labels
        )

    def labels(self, logits: Tensor | None = None) -> Tensor:
        """The scheme's soft labels, made at the first call and the same ever after.

        Args:
            logits: (N, num_outputs), those of the cross-entropy term, for schemes that need
                them; the gradient is cut.

        Returns:
            (N, num_outputs), detached.
        """
        if self._labels is None:
            self._labels = labels_of(
                self.scheme,
                self.y,
                None if logits is None else logits.float(),
                self.teacher_logits,
                self.progress,
                self.mix,
                self.index,
            )
            if self._watch is not None:
                self._watch.note("labels", self._labels)
        return self._labels

    def ce(self, logits: Tensor) -> Tensor:
        """Cross-entropy of the scheme's labels, made from these logits where it needs them.

        It is the mean over the batch; the sum where an ART classifier's loss is one.

        Args:
            logits: (N, num_outputs), with gradient.
        """
        with torch.no_grad():
            hits = correct(logits[:, : self.num_classes], self.y)
            self.correct = hits.sum()
        if self._watch is not None:
            self._watch.note("model's logits", logits.detach(), masked=True)
        return soft_cross_entropy(logits, self.labels(logits), self._reduction)

    def reduced(self, values: Tensor) -> Tensor:
        """Samples' values (N,) as one number, in the way of :meth:`ce`."""
        return values.mean() if self._reduction == "mean" else values.sum()

    def kl(self, p_logits: Tensor, q_logits: Tensor) -> Tensor:
        """Mean over the batch of KL(softmax(p_logits) || softmax(q_logits)).

        Args:
            p_logits: (N, D); its gradient is kept.
            q_logits: (N, D).
        """
        mean = kl_divergence(p_logits, q_logits)
        # Parts' losses are added up where the cross-entropy is a sum.
        return mean if self._reduction == "mean" else mean * self.share
