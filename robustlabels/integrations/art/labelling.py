"""The labels of one ART trainer: which batch it is at, and what its loss and its attack see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlabels.errors import BadValueError
from robustlabels.integrations.art.numbered import Array, decode, encode, read_labels
from robustlabels.integrations.art.soft_targets import with_soft_targets
from robustlabels.integrations.art.teachers import Teacher
from robustlabels.labels import Mix, hard_target, set_value_checks, soft_cross_entropy
from robustlabels.labels.base import LabelScheme, _leave_alone, one_hot
from robustlabels.labels.virtual import VirtualSmoothing


@dataclass
class Batch:
    """What the loss must know of the rows that it is given; all on the device.

    Attributes:
        y: int64 (N,), classes.
        numbers: int64 (N,), the samples' numbers in what :meth:`Labelling.training` was given.
        teacher_logits: (N, D), or None.
        mix: how the inputs were mixed, or None.
        labels: (N, num_outputs), once the loss has asked for them.
    """

    y: Tensor
    numbers: Array
    teacher_logits: Tensor | None = None
    mix: Mix | None = None
    labels: Tensor | None = None


class Labelling:
    """A scheme's labels inside an ART trainer.

    Args:
        scheme: a complete label scheme.
        device: of the classifier.
        adversarial_loss: the objective is CE(f(x'), q), so that the attack sees q where the scheme
            wants it to.

    Attributes:
        teacher: whose logits the scheme needs, or None.
        moves: whether the scheme moves the inputs.
        active: inside ``training``.
        attacking: the loss is an attack's.
        batch: the present one, in a step.
        attacked: the last one that was attacked.
    """

    def __init__(self, scheme: Any, device: torch.device, adversarial_loss: bool) -> None:
        self.scheme, self.device = scheme, device
        self.soft_attack = adversarial_loss and scheme.attack_labels == "soft"
        self.teacher: Teacher | None = None
        self.moves = _moves(scheme)
        self.active = False
        self.attacking = False
        self.batch: Batch | None = None
        self.attacked: Batch | None = None
        self._x: Array = np.empty(0)
        self._labeller = scheme  # the scheme, or one around it that knows the user's soft labels
        self._done, self._total = 0, 1

    @property
    def progress(self) -> float:
        """Completed steps of this ``fit`` / all of them, in [0, 1]."""
        return min(self._done / self._total, 1.0)

    @contextmanager
    def training(self, epochs: int, steps: int, generated: bool = False) -> Iterator[None]:
        """Within it, steps are counted and labelled.

        Args:
            epochs: of this ``fit``.
            steps: per epoch.
            generated: batches come from a generator, which doesn't number its samples.

        Raises:
            ValueError: the scheme needs numbers that a generator lacks.
        """
        if generated and "index" in self.scheme.needs:
            raise BadValueError("this scheme needs each sample's index: use fit, not fit_generator")
        if hasattr(self.scheme, "begin_training"):
            self.scheme.begin_training(epochs)
        if self.teacher is not None:
            self.teacher.begin()
        self.active, self._done, self._total = True, 0, max(1, epochs * steps)
        checked = self.scheme.check_values
        set_value_checks(self.scheme, False)  # read_labels has looked at them
        try:
            yield
        finally:
            self.active, self.batch, self.attacked = False, None, None
            self._x, self._labeller = np.empty(0), self.scheme
            set_value_checks(self.scheme, checked)

    def number(self, x: Any, y: Any) -> Array:
        """Remember the clean inputs and soft labels; returns numbered labels for ART.

        Args:
            x: (N, ...), as the user has them.
            y: anything that :func:`read_labels` takes.
        """
        x = np.asarray(x)
        classes, soft = read_labels(y, self.scheme.num_classes)
        if len(x) != len(classes):
            raise BadValueError(f"x has {len(x)} samples and y {len(classes)}")
        self._labeller = self.scheme if soft is None else with_soft_targets(self.scheme, soft)
        self._x = x
        return encode(classes, np.arange(len(x)), self.scheme.num_classes)

    def inputs(self, numbers: Array) -> Array:
        """The clean inputs of these samples."""
        return self._x[numbers]

    def begin(self, x: Array, y: Array, numbers: Array, *, clean: bool = True) -> Array:
        """Start a batch: the scheme moves the inputs, and the teacher sees them.

        Args:
            x: (N, ...), the batch as ART made it.
            y: int64 (N,).
            numbers: int64 (N,).
            clean: whether ``x`` is the clean input; else the teacher sees that, by its number.

        Returns:
            The inputs to go on with, like ``x``.
        """
        classes = torch.from_numpy(y).to(self.device)
        mix = None
        if self.moves and clean:
            moved, mix = self.scheme.perturb(torch.from_numpy(x).to(self.device), classes)
            x = moved.cpu().numpy().astype(x.dtype, copy=False)
        self.batch = Batch(
            classes,
            numbers,
            None if self.teacher is None else self.teacher.logits(x if clean else self._x[numbers]),
            mix,
        )
        return x

    def begin_rest(self, x: Array, y: Array, numbers: Array) -> Array:
        """Start a batch of which ``attacked``, the last one attacked, is a part or the whole.

        Args:
            x: (N, ...); rows that were not attacked here are clean, or, where the scheme moves
                no inputs, may come from an attack on another model.
            y: int64 (N,).
            numbers: int64 (N,).

        Returns:
            The inputs to go on with; they are changed in place.
        """
        attacked, self.attacked = self.attacked, None
        there = np.isin(numbers, [] if attacked is None else attacked.numbers)
        if not there.all():
            x[~there] = self.begin(x[~there], y[~there], numbers[~there], clean=self.moves)
            attacked = self.batch if attacked is None else _joined(attacked, self._batch())
        self.batch = attacked
        return x

    def end(self) -> None:
        """The optimizer has stepped."""
        self.batch = None
        self._done += 1
        if self.teacher is not None:
            self.teacher.follow()

    @contextmanager
    def attack(self) -> Iterator[None]:
        """Within it the loss is the attack's."""
        before, self.attacking = self.attacking, True
        try:
            yield
        finally:
            self.attacking = before

    def attack_target(self) -> Array:
        """What the present batch's attack is given as y: one-hot, or what the scheme says."""
        batch = self._batch()
        hard = hard_target(batch.y, batch.mix, self.scheme.num_outputs)
        target = self.labels(None) if self.soft_attack else hard
        if not target.is_floating_point():
            target = one_hot(target, self.scheme.num_classes, torch.empty(0))
        return target.float().cpu().numpy()

    def labels(self, logits: Tensor | None) -> Tensor:
        """The present batch's labels, made once.

        Args:
            logits: (N, num_outputs), of the cross-entropy term.

        Returns:
            (N, num_outputs), detached.
        """
        batch = self._batch()
        if batch.labels is None:
            extra: dict[str, Any] = {}
            if "mix" in self._labeller.needs:
                extra["mix"] = batch.mix
            if "index" in self._labeller.needs:
                extra["index"] = torch.from_numpy(batch.numbers).to(self.device)
            batch.labels = self._labeller.labels(
                batch.y,
                logits=None if logits is None else logits.detach().float(),
                teacher_logits=batch.teacher_logits,
                progress=self.progress,
                **extra,
            ).detach()
        return batch.labels

    def _batch(self) -> Batch:
        if self.batch is None:
            raise RuntimeError("the loss was asked for labels outside a training step")
        return self.batch

    def reorder(self, numbers: Array) -> None:
        """Bring the present batch into the order that ART shuffled it into."""
        batch = self._batch()
        place = {n: i for i, n in enumerate(batch.numbers.tolist())}
        order = torch.tensor([place[n] for n in numbers.tolist()], device=self.device)
        mix = batch.mix
        if mix is not None:
            labels = None if mix.labels is None else mix.labels[order]
            mix = Mix(mix.lam[order], order.argsort()[mix.partner[order]], labels)
        self.batch = Batch(
            batch.y[order],
            numbers,
            None if batch.teacher_logits is None else batch.teacher_logits[order],
            mix,
        )


class SchemeLoss(nn.CrossEntropyLoss):
    """The scheme's cross-entropy in a training step, and the hard one everywhere else.

    It is a ``CrossEntropyLoss``, so that ART goes on handing it class indices.
    """

    def __init__(self, labelling: Labelling, reduction: str) -> None:
        super().__init__(reduction=reduction)
        self.labelling = labelling

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Logits (N, num_outputs) and ART's target -> the loss."""
        labelling = self.labelling
        numbered = decode(target.detach().cpu().numpy()) if target.dim() == 2 else None
        if labelling.active and labelling.batch is not None and not labelling.attacking:
            if numbered is not None:
                labelling.reorder(numbered[1])
            return soft_cross_entropy(input, labelling.labels(input), self.reduction)
        if numbered is not None:
            target = torch.from_numpy(numbered[0]).to(input.device)
        return F.cross_entropy(input, target, reduction=self.reduction)


def _joined(a: Batch, b: Batch) -> Batch:
    """The rows of two batches of one training step."""
    mix = None
    if a.mix is not None and b.mix is not None:
        partners = torch.cat([a.mix.partner, b.mix.partner + len(a.y)])
        labels = None
        if a.mix.labels is not None and b.mix.labels is not None:
            labels = torch.cat([a.mix.labels, b.mix.labels])
        mix = Mix(torch.cat([a.mix.lam, b.mix.lam]), partners, labels)
    return Batch(
        torch.cat([a.y, b.y]),
        np.concatenate([a.numbers, b.numbers]),
        _cat(a.teacher_logits, b.teacher_logits),
        mix,
    )


def _cat(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else torch.cat([a, b])


def _moves(scheme: Any) -> bool:
    """Whether the scheme's ``perturb`` is another than the default; its answers may be random."""
    if isinstance(scheme, VirtualSmoothing):
        return _moves(scheme.inner)
    perturb = getattr(scheme.perturb, "__func__", scheme.perturb)
    return perturb not in (LabelScheme.perturb, _leave_alone)
