"""The engine: runs a trainer over data, and owns everything that is not the objective.

A step is in :mod:`robustlabels.training.stepping`; the loop around it in :meth:`Engine.run`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels import processes
from robustlabels.attacks import PGD, Attack
from robustlabels.config import Config
from robustlabels.data import Split
from robustlabels.errors import BadValueError, TrainingError
from robustlabels.randomness import derived_seed, seed_everything
from robustlabels.training.averaging import ExponentialAverage
from robustlabels.training.batching import Batches
from robustlabels.training.compiling import Compiling
from robustlabels.training.extra import Extra
from robustlabels.training.keeping import Keeper, Outcome, Record, Weights, named_accuracy
from robustlabels.training.logit_cache import CachedTeacher
from robustlabels.training.optimizers import make_optimizer
from robustlabels.training.sharing import Share
from robustlabels.training.stepping import Stepper, Sums
from robustlabels.training.validation import Accuracy, validate
from robustlabels.training.watch import CAUSES, LossWatch, OverfittingWatch, describe_break

STATE_VERSION = 2
LOOKS_PER_EPOCH = 4
GLANCE = 128
STEPS_BETWEEN_ASKING = 50
"""Of several processes, the first says when it is time to save."""
SECONDS_BETWEEN_SAVES = 300.0


@dataclass
class Engine:
    """Trains ``model`` in place, alone or with other processes that have joined.

    Attributes:
        model: on the device; each step sets it to train mode.
        scheme: the label scheme.
        trainer: the objective.
        attack: the training attack.
        split: the training split.
        train_indices: int64, the samples that are trained on.
        validation_indices: int64, those that choose the best checkpoint; may be empty.
        config: the resolved config.
        num_classes: K.
        device: of the model.
        teacher: the frozen teacher, where the scheme has one.
        averages: the EMA models, by their decay: the config's, the scheme's and the trainer's.
        given_optimizer: the caller's, with its own learning rate; else the config's is made.
        scheduler: of the caller's optimizer, stepped after each epoch.
        reduction: of the cross-entropy over a batch, "mean" or "sum".
        extra: extra data, or None.
    """

    model: nn.Module
    scheme: Any
    trainer: Any
    attack: Attack
    split: Split
    train_indices: Tensor
    validation_indices: Tensor
    config: Config
    num_classes: int
    device: torch.device
    teacher: nn.Module | None = None
    averages: dict[float, ExponentialAverage] = field(default_factory=dict)
    given_optimizer: torch.optim.Optimizer | None = None
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
    reduction: str = "mean"
    extra: Extra | None = None

    def __post_init__(self) -> None:
        config = self.config
        self.optimizer = self.given_optimizer or make_optimizer(self.model, config.optimizer)
        self._share = Share.here()
        self._batch_size = config.batch_size * self._share.count
        self._batches = Batches(
            self.split,
            self.train_indices,
            self._batch_size if self.extra is None else self.extra.main,
            config.seed,
            self.device,
            self.extra,
            self._share,
            config.accumulate,
        )
        self.steps_per_epoch = self._batches.per_epoch
        self.total_steps = self.steps_per_epoch * config.epochs
        if config.teacher_logits is not None:
            self.teacher = self._cached(Path(config.teacher_logits))
        self.done = 0
        self.history: list[Record] = []
        self.best: Record | None = None
        self.stopped: str | None = None
        self._adversarial = bool(getattr(self.trainer, "adversarial", True))
        self._single_step = bool(getattr(self.trainer, "single_step", False))
        self._watch = OverfittingWatch(self.num_classes)
        self._losses = LossWatch(self.device, alone=self._share.alone)
        self._compiling = Compiling(
            self.model, config.compile, self.device, alone=self._share.alone
        )
        self._stepper = Stepper(
            model=self.model,
            scheme=self.scheme,
            trainer=self.trainer,
            attack=self.attack,
            config=config,
            num_classes=self.num_classes,
            device=self.device,
            teacher=self.teacher,
            averages=self.averages,
            reduction=self.reduction,
            optimizer=self.optimizer,
            sets_rate=self.given_optimizer is None,
            steps_per_epoch=self.steps_per_epoch,
            total_steps=self.total_steps,
            losses=self._losses,
            compiling=self._compiling,
            refuse=self._refuse_broken,
            share=self._share,
        )
        self._validation_attack = PGD(config.radius, config.norm) if self._adversarial else None
        # Drawn, not the first ones: data are often sorted by class.
        held_out = len(self.validation_indices)
        drawn = torch.randperm(
            held_out, generator=torch.Generator().manual_seed(derived_seed(config.seed, "glance"))
        )
        self._glance = self.validation_indices[drawn[: max(self._batch_size, GLANCE)]]
        if hasattr(self.scheme, "begin_training"):
            self.scheme.begin_training(config.epochs)

    def run(self, keeper: Keeper) -> Outcome:
        """Train from where we are to the end.

        Raises:
            TrainingError: the loss became NaN or infinite.
        """
        with self._share.statistics_of_all(self.model):
            return self._run(keeper)

    def _run(self, keeper: Keeper) -> Outcome:
        if self.stopped is not None:  # resumed after it had stopped
            return self._stop(self.stopped, keeper)
        if not self._share.alone:  # readers of images take their seeds from here
            seed_everything(derived_seed(self.config.seed, "process", self._share.rank))
        saved = time.monotonic()
        while self.done < self.total_steps:
            for batch in self._batches.rest_of_epoch(self.done):
                started = time.perf_counter()
                self._stepper.take(batch, self.done)
                self._stepper.sums.seconds += time.perf_counter() - started
                self.done += 1
                keeper.on_step(self.done, self.total_steps)
                message = self._look_for_overfitting()
                if message is not None:
                    return self._stop(message, keeper)
                if self.done % self.steps_per_epoch == 0:
                    break
                if self._save_is_due(saved):
                    self._refuse_broken(self.done)
                    keeper.on_state(self.state())
                    saved = time.monotonic()
            message = self._end_epoch(keeper)
            saved = time.monotonic()
            if message is not None:
                return self._stop(message, keeper)
        return Outcome(self.history, self.best)

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs, as tensors and plain values. All processes must call."""
        return {
            "version": STATE_VERSION,
            "done": self.done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": _own_state(self.scheduler),
            "averages": {str(d): a.state_dict() for d, a in self.averages.items()},
            "trainer": _own_state(self.trainer),
            "scheme": _own_state(self.scheme),
            "history": self.history,
            "best": self.best,
            "stopped": self.stopped,
            "watch": {"best": self._watch.best, "falls": self._watch.falls},
            "sums": [dict(vars(sums)) for sums in processes.gather(self._stepper.sums.on("cpu"))],
            "compiled": self._compiling.chosen,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, on the same config and data."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None and state.get("scheduler") is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for decay, average in self.averages.items():
            average.load_state_dict(state["averages"][str(decay)])
        for owner, saved in ((self.trainer, state["trainer"]), (self.scheme, state["scheme"])):
            if saved is not None:
                owner.load_state_dict(saved)
        self.done, self.history, self.best = state["done"], state["history"], state["best"]
        self.stopped = state["stopped"]
        self._compiling.chosen = state.get("compiled", self._compiling.chosen)
        self._watch.best, self._watch.falls = state["watch"]["best"], state["watch"]["falls"]
        sums = [Sums(**each) for each in state["sums"]]
        if len(sums) == self._share.count:
            self._stepper.sums = sums[self._share.rank].on(self.device)
        elif self._share.rank == 0:
            self._stepper.sums = Sums.of_all(sums).on(self.device)

    def _cached(self, folder: Path) -> CachedTeacher:
        """The teacher, asked only for logits that the folder lacks."""
        if self.teacher is None:
            raise BadValueError(
                f"teacher_logits: {self.config.labels.name} labels have no frozen teacher"
            )
        computed = f"{self.device.type}, {self.config.precision}"
        return CachedTeacher(
            self.teacher,
            folder,
            self.total_steps,
            self._batch_size,
            self.num_classes,
            computed,
        )

    def _end_epoch(self, keeper: Keeper) -> str | None:
        """Record, validate, keep the best, save. Returns a reason to stop, or None."""
        started = time.perf_counter()
        self._refuse_broken(self.done)  # waits for the last steps, where a GPU takes them
        self._stepper.sums.seconds += time.perf_counter() - started
        epoch = self.done // self.steps_per_epoch
        sums = self._sums()
        self._stepper.sums = Sums.zero(self.device)
        record: Record = {
            "epoch": epoch,
            "step": self.done,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": float(sums.loss) / sums.seen,
            "train_accuracy": sums.accuracy(),
            "seconds": round(sums.seconds, 3),
        }
        if self.config.compile != "off":
            record["compiled"] = bool(self._compiling.chosen)
        self.history.append(record)
        if self.scheduler is not None:
            self.scheduler.step()
        message = None
        last = self.done == self.total_steps
        if len(self.validation_indices) == 0:
            # Nothing to choose by: the latest weights, kept each time in case a later step breaks.
            weights, kind = self._final_weights()
            self.best = {**record, "weights": kind}
            keeper.on_best(weights, self.best)
        elif last or epoch % self.config.validate_every == 0:
            message = self._choose(record, keeper)
        self.stopped = message
        keeper.on_epoch(self.history, self.done, self.total_steps)
        keeper.on_state(self.state())
        return message

    def _choose(self, record: Record, keeper: Keeper) -> str | None:
        """Validate the raw and the averaged weights; keep whichever is the best so far."""
        candidates: dict[str, nn.Module] = {"raw": self.model}
        if self.config.averaging is not None:
            candidates["average"] = self.averages[self.config.averaging].model
        message = None
        ranks: dict[str, tuple[float, float]] = {}
        for name, model in candidates.items():
            found = self._validate(model, self.validation_indices)
            ranks[name] = found.rank
            record |= named_accuracy(found, name)
            if found.robust is not None and name == "raw":
                message = self._watch.saw(found.clean, found.robust, record["train_accuracy"])
        for name, rank in ranks.items():  # once the record has the figures of both
            if self.best is None or rank > tuple(self.best["rank"]):
                self.best = {**record, "weights": name, "rank": list(rank)}
                keeper.on_best(candidates[name].state_dict(), self.best)
        return message

    def _validate(self, model: nn.Module, indices: Tensor) -> Accuracy:
        # The same random starts at every epoch, so that epochs can be compared.
        seed_everything(derived_seed(self.config.seed, "validate"))
        return validate(
            model,
            self.split,
            indices,
            num_classes=self.num_classes,
            attack=self._validation_attack,
            batch_size=self._batch_size,
            device=self.device,
            share=self._share,
        )

    def _final_weights(self) -> tuple[Weights, str]:
        """The present weights, averaged where there is an average, and their kind."""
        decay = self.config.averaging
        if decay is None:
            return self.model.state_dict(), "raw"
        return self.averages[decay].state_dict(), "average"

    def _look_for_overfitting(self) -> str | None:
        """Between epochs' ends, for single-step trainers: PGD on one held-out batch."""
        every = max(1, self.steps_per_epoch // LOOKS_PER_EPOCH)
        here = self.done % self.steps_per_epoch
        if not self._single_step or here == 0 or here % every:
            return None
        if len(self.validation_indices) == 0:
            return None
        found = self._validate(self.model, self._glance)
        assert found.robust is not None  # single-step trainers are adversarial
        return self._watch.saw(found.clean, found.robust, self._sums().accuracy())

    def _stop(self, message: str, keeper: Keeper) -> Outcome:
        where = f"at step {self.done} of {self.total_steps}"
        kept = f"; the best checkpoint (epoch {self.best['epoch']}) is kept" if self.best else ""
        if self.best is None:
            weights, kind = self._final_weights()
            self.best = {"epoch": 0, "weights": kind, "rank": [0, 0]}
            keeper.on_best(weights, self.best)
        return Outcome(self.history, self.best, f"stopped {where}: {message}{kept}")

    def _refuse_broken(self, step: int) -> None:
        """A TrainingError if a loss, or what an optimizer's step made of it, is not finite."""
        if self._losses.broken() or not self._finite():
            first = [place for place in processes.gather(int(self._losses.first)) if place]
            cause = CAUSES[min(first) - 1] if first else "weights"
            what, advice = describe_break(cause, step, self.total_steps)
            kept = (
                f"the best checkpoint (epoch {self.best['epoch']}) is kept"
                if self.best
                else "no checkpoint was good yet"
            )
            raise TrainingError(f"{what}; {kept}; {advice}")

    def _finite(self) -> bool:
        finite = [p.detach().isfinite().all() for p in self.model.parameters()]
        return not finite or bool(torch.stack(finite).all())

    def _sums(self) -> Sums:
        """Those of all processes."""
        sums = self._stepper.sums
        return sums if self._share.alone else Sums.of_all(processes.gather(sums.on("cpu")))

    def _save_is_due(self, saved: float) -> bool:
        if self.config.save_every is not None:
            return self.done % self.config.save_every == 0
        if not self._share.alone and self.done % STEPS_BETWEEN_ASKING:
            return False
        return processes.first_only(lambda: time.monotonic() - saved > SECONDS_BETWEEN_SAVES)


def _own_state(thing: Any) -> Any:
    """The state of a trainer or scheme that has one (``state_dict``), else None."""
    return thing.state_dict() if hasattr(thing, "state_dict") else None
