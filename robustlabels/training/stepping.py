"""One optimizer step: the six stages of the design's section 2, in parts where asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels.attacks import Attack
from robustlabels.attacks.passes import parts_for
from robustlabels.config import Config
from robustlabels.randomness import derived_seed, drawing_for, seed_everything
from robustlabels.training.augmentation import augment
from robustlabels.training.averaging import ExponentialAverage
from robustlabels.training.batching import Batch
from robustlabels.training.compiling import Compiling
from robustlabels.training.logit_cache import CachedTeacher
from robustlabels.training.optimizers import rate_factor, set_rate, trained
from robustlabels.training.perturbation import WeightPerturbation
from robustlabels.training.randaugment import rand_augment
from robustlabels.training.sharing import Share
from robustlabels.training.step import Step
from robustlabels.training.watch import LossWatch


@dataclass
class Sums:
    """Running sums of an epoch, on the device: reading them would make a GPU wait."""

    loss: Tensor
    correct: Tensor
    seen: int = 0
    counted: int = 0
    seconds: float = 0.0

    @classmethod
    def zero(cls, device: torch.device) -> Sums:
        """At the start of an epoch."""
        return cls(
            torch.zeros((), dtype=torch.float64, device=device),
            torch.zeros((), dtype=torch.int64, device=device),
        )

    @classmethod
    def of_all(cls, each: Iterable[Sums]) -> Sums:
        """Of several processes, by rank, together; the time is the first one's."""
        first, *others = each
        for other in others:
            first.loss, first.correct = first.loss + other.loss, first.correct + other.correct
            first.seen, first.counted = first.seen + other.seen, first.counted + other.counted
        return first

    def on(self, device: torch.device | str) -> Sums:
        """The same on a device."""
        return replace(self, loss=self.loss.to(device), correct=self.correct.to(device))

    def accuracy(self) -> float | None:
        """Under the training attack; None for trainers that never call ``step.ce``."""
        return int(self.correct) / self.counted if self.counted else None

    def add(self, step: Step, loss: Tensor, mean: bool) -> None:
        """Count one part of a batch; ``mean``: whether the loss is one."""
        samples = len(step.x)
        self.loss += loss.detach() * (samples if mean else 1)
        self.seen += samples
        if step.correct is not None:
            self.correct += step.correct
            self.counted += samples


@dataclass
class Stepper:
    """Takes optimizer steps on ``model``, in place.

    Attributes:
        model, scheme, trainer, attack, config, num_classes, device, teacher, averages, reduction:
            as in :class:`robustlabels.training.engine.Engine`.
        optimizer: of the model.
        sets_rate: whether the learning rate is ours to set.
        steps_per_epoch, total_steps: of the run.
        losses: notices those that are not finite.
        compiling: runs steps with the model compiled, or not.
        refuse: called with a step's number once one was not.
        share: what of each batch is this process'.
        sums: of the present epoch.
    """

    model: nn.Module
    scheme: Any
    trainer: Any
    attack: Attack
    config: Config
    num_classes: int
    device: torch.device
    teacher: nn.Module | None
    averages: dict[float, ExponentialAverage]
    reduction: str
    optimizer: torch.optim.Optimizer
    sets_rate: bool
    steps_per_epoch: int
    total_steps: int
    losses: LossWatch
    compiling: Compiling
    refuse: Callable[[int], None]
    share: Share
    sums: Sums = field(init=False)

    def __post_init__(self) -> None:
        self.sums = Sums.zero(self.device)
        self._generator = torch.Generator(self.device)
        self._common = torch.Generator(self.device)
        self._host_generator = torch.Generator()
        awp = self.config.awp
        self._awp = None if awp is None else WeightPerturbation(self.model, self.optimizer, awp)

    def take(self, batch: Batch, done: int) -> None:
        """One step, after ``done`` others; on the batch in ``accumulate`` parts."""
        left = self.total_steps - done
        self.compiling.run(lambda: self._take(batch, done), len(batch.x), left)

    def _take(self, batch: Batch, done: int) -> None:
        config = self.config
        self._seed(done)
        self._generator.manual_seed(derived_seed(config.seed, "augment", done))
        self._host_generator.manual_seed(derived_seed(config.seed, "randaugment", done))
        batch = batch.mapped(self._augmented, self._common)
        if isinstance(self.teacher, CachedTeacher):
            self.teacher.begin(done, batch.own)
        if self.sets_rate:
            factor = rate_factor(config.schedule, done, self.total_steps, config.epochs)
            set_rate(self.optimizer, config.optimizer.learning_rate * factor)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        parts = batch.parts(config.accumulate)
        awp = self._awp
        if awp is None or not awp.active(done / self.steps_per_epoch):
            for part in parts:
                self._first_pass(self._prepared(part, done, batch.total), done)
            self._update(done)
        else:
            self._perturbed(awp, parts, done, batch.total)
        self.losses.note_each("weights", self.model.parameters())
        for average in self.averages.values():
            average.update()

    def _perturbed(
        self, awp: WeightPerturbation, parts: Iterable[Batch], done: int, total: int
    ) -> None:
        """Both passes of adversarial weight perturbation, and the update."""
        steps = []
        for part in parts:
            step = self._prepared(part, done, total)
            with awp.first_pass():
                self._first_pass(step, done)
            steps.append(step)
        self._collect(done)  # the ascent is that of the whole batch
        with awp.applied():
            with awp.second_pass():
                for step in steps:
                    self._backward(step, done)
            if awp.steps_inside:
                self._update(done)
        if not awp.steps_inside:
            self._update(done)

    def _prepared(self, part: Batch, done: int, total: int) -> Step:
        """A part of the batch of so many samples, moved, taught and attacked."""
        with drawing_for(part.own, self._common), self._autocast():
            x, mix = self.scheme.perturb(part.x, part.y, self._generator)
            step = Step(
                model=self.model,
                x=x,
                y=part.y,
                index=part.index,
                scheme=self.scheme,
                num_classes=self.num_classes,
                progress=done / self.total_steps,
                attack=self.attack,
                teacher_logits=self._teach(x),
                watch=self.losses,
                mix=mix,
                extra=part.extra,
                reduction=self.reduction,
                share=len(x) / total,
                rows=part.own,
            )
            self.losses.note("training images", x)
            if part.extra is not None:
                self.losses.note("training images", part.extra.x)
            self.losses.note("teacher's logits", step.teacher_logits, masked=True)
            self.trainer.inputs(step)
            self.losses.note("adversarial images", step.x_adv)
        return step

    def _first_pass(self, step: Step, done: int) -> None:
        """The gradient at the present weights; loss and accuracy are counted."""
        loss = self._backward(step, done)
        self.sums.add(step, loss, self.reduction == "mean")

    def _backward(self, step: Step, done: int) -> Tensor:
        """The loss of a part, and its share of the batch's gradient."""
        with drawing_for(step.rows, self._common), self._autocast():
            loss: Tensor = self.trainer.loss(step)
        (loss * step.share if self.reduction == "mean" else loss).backward()
        if self.losses.saw(loss):
            self.refuse(done + 1)
        return loss

    def _collect(self, done: int) -> None:
        """The gradients of the whole batch, where several processes share it."""
        if self.share.alone:
            return
        self.share.sum_gradients(trained(self.optimizer), self.losses.flag)
        if self.losses.due():
            self.refuse(done + 1)

    def _update(self, done: int) -> None:
        self._collect(done)
        gradients = (p.grad for p in trained(self.optimizer) if p.grad is not None)
        self.losses.note_each("gradients", gradients)
        limit = self.config.optimizer.clip_grad_norm
        if limit is not None:
            nn.utils.clip_grad_norm_(trained(self.optimizer), limit)
        self.optimizer.step()

    def _seed(self, done: int) -> None:
        """The random numbers of a step: what is drawn for samples is common to all processes;
        what draws on its own (dropout, third parties' attacks) must not repeat itself in each."""
        seed = derived_seed(self.config.seed, "step", done)
        if not self.share.alone:
            self._common.manual_seed(seed)
            seed = derived_seed(seed, "process", self.share.rank)
        seed_everything(seed)

    def _augmented(self, x: Tensor) -> Tensor:
        how = self.config.augment
        x = augment(x, how.crop_padding, how.flip, self._generator)
        if how.randaugment is not None:
            x = rand_augment(x, *how.randaugment, self._host_generator)
        return x.contiguous(memory_format=torch.channels_last) if self.config.channels_last else x

    def _autocast(self) -> torch.autocast:
        # One for each forward: it keeps casts of weights, which perturbation changes.
        bf16 = self.config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    @torch.no_grad()
    def _teach(self, x: Tensor) -> Tensor | None:
        if self.scheme.teacher is None:
            return None
        if self.scheme.teacher == "ema":
            teacher = self.averages[float(self.scheme.ema_decay)].model
        else:
            assert self.teacher is not None  # fit() has checked
            teacher = self.teacher
        whole = isinstance(teacher, CachedTeacher)  # it knows the batch's samples by their place
        logits = [teacher(part) for part in x.tensor_split(1 if whole else parts_for(teacher, x))]
        return torch.cat(logits).float()
