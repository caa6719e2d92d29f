"""AutoAttack's stages over batches, and what they found."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustlabels.attacks.auto import APGD, Judged
from robustlabels.evaluation.accuracy import device_of
from robustlabels.evaluation.auto_stages import Stage, every_target, standard
from robustlabels.evaluation.auto_state import Found, VerdictState
from robustlabels.evaluation.batches import in_batches
from robustlabels.evaluation.layout import CPU_AT_A_TIME, channels_last
from robustlabels.models import real_classes

Progress = Callable[[float, str], None]

SLICE = "slice:"
_TELL = 0.001  # no more often
_GAIN = 0.002  # of Square over the others, from which the official warns


@dataclass(frozen=True)
class Verdicts:
    """What AutoAttack found.

    Attributes:
        robust: bool (N,), on the CPU: right on x, and on everything that was tried.
        x_adv: (N, C, H, W), on the CPU: an input that is judged wrong where one was found.
        clean_accuracy: in [0, 1], before any attack.
        per_attack: robust accuracy after each attack; each counts those before it. With virtual
            classes those of AutoAttack on the K logits are prefixed by "slice:".
        figures: with virtual classes the four figures "AA-9", "AA+", "slice" and "minimum";
            else "AutoAttack" alone. The last is :attr:`accuracy`.
        flags: what makes the figure less than it seems.
        seconds: wall-clock time of this call.
    """

    robust: Tensor
    x_adv: Tensor
    clean_accuracy: float
    per_attack: dict[str, float]
    figures: dict[str, float]
    flags: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def accuracy(self) -> float:
        """Robust accuracy, in [0, 1]."""
        return _share(self.robust)


@dataclass(frozen=True)
class Suite:
    """Stages that follow on each other, and the figure that they make.

    Attributes:
        figure: its name.
        prefix: of its stages' names.
        anew: begins with all that are right, not with what the suite before left.
        stages: in order.
    """

    figure: str
    prefix: str
    anew: bool
    stages: list[Stage]


class AutoRun:
    """One run of the standard version on one model and one set of images.

    Args:
        model: logits (N, D), D at least K; frozen, in eval mode.
        x: (N, C, H, W) in [0, 1], on the CPU.
        y: int64 (N,), on the CPU.
        outputs: D.
        classes: K.
        size: images of a batch.
        state: keeps what is found.
        progress: called as ``progress(share, text)``.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        outputs: int,
        classes: int,
        size: int,
        state: VerdictState | None,
        progress: Progress | None,
    ) -> None:
        self.model, self.x, self.y, self.size = model, x, y, size
        self.outputs, self.classes = outputs, classes
        self.state, self.progress = state, progress
        self.device = device_of(model, x)
        self.flags: list[str] = []
        self._done, self._batch, self._within, self._all = 0.0, 0.0, 0.0, 1.0
        self._text, self._told = "", 0.0

    def judge(self, eps: float, norm: str, seed: int) -> Verdicts:
        """Every figure.

        Args:
            eps: radius.
            norm: "Linf", "L2" or "L1".
            seed: of every attack.
        """
        start = time.perf_counter()
        with channels_last(self.model, self.x) as last:
            whole = self._judged(self.model, last)
            clean = self._right(whole)
            suites = self._suites(whole, last, eps, norm, seed)
            self._all = sum(s.cost for u in suites for s in u.stages) * max(len(self.y), 1)
            self._flag_classes()
            x_adv, per_attack, figures = self.x.clone(), {}, {}
            robust, survivors = clean.clone(), clean.clone()
            for suite in suites:
                survivors = clean.clone() if suite.anew else survivors
                for stage in suite.stages:
                    survivors = self._stage(stage, suite.prefix + stage.name, survivors, x_adv)
                    per_attack[suite.prefix + stage.name] = _share(survivors)
                figures[suite.figure] = _share(survivors)
                robust &= survivors
                self._flag_square(suite, per_attack)
        if len(figures) > 1:
            figures["minimum"] = _share(robust)
        if self.progress is not None:
            self.progress(1.0, "done")
        seconds = time.perf_counter() - start
        return Verdicts(robust, x_adv, _share(clean), per_attack, figures, self.flags, seconds)

    def _suites(self, whole: Judged, last: bool, eps: float, norm: str, seed: int) -> list[Suite]:
        if self.outputs == self.classes:
            return [Suite("AutoAttack", "", True, standard(whole, self.outputs, eps, norm, seed))]
        cut = self._judged(real_classes(self.model, self.classes), last)
        return [
            Suite("AA-9", "", True, standard(whole, self.outputs, eps, norm, seed)),
            Suite("AA+", "", False, every_target(whole, self.outputs, eps, norm, seed)),
            Suite("slice", SLICE, True, standard(cut, self.classes, eps, norm, seed)),
        ]

    def _judged(self, model: nn.Module, last: bool) -> Judged:
        size = CPU_AT_A_TIME if self.device.type == "cpu" else None
        judged = Judged(model, self.classes, size, last)
        judged.on_pass = self._passed
        return judged

    def _stage(self, stage: Stage, name: str, alive: Tensor, x_adv: Tensor) -> Tensor:
        """Who is left after it."""
        alive = alive.clone()
        waiting = alive.nonzero().flatten()
        left = len(waiting)

        def report(rows: int, found: Found) -> None:
            nonlocal left
            left -= len(found.rows)
            self._done, self._batch, self._within = self._done + stage.cost * rows, 0.0, 0.0
            self._tell(f"{name}: {left} robust")

        def work(_number: int, rows: Tensor) -> Found:
            self._batch = stage.cost * len(rows)
            return self._attack(stage, rows)

        before = self._done
        for found in in_batches(name, waiting, self.size, work, self.state, report):
            alive[found.rows] = False
            x_adv[found.rows] = found.x_adv
            for flag in found.flags:
                self._flag(flag)
        self._done = before + stage.cost * len(self.y)
        return alive

    def _attack(self, stage: Stage, rows: Tensor) -> Found:
        """The rows that fall, and their inputs."""
        x, y = self.x[rows].to(self.device), self.y[rows].to(self.device)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            found = stage.attack(x, y)
        judged = stage.attack.model  # type: ignore[attr-defined]
        wrong = judged.fooled(judged(found), y).cpu()
        flags: tuple[str, ...] = ()
        if isinstance(stage.attack, APGD) and stage.attack.zero_gradients:
            flags = (f"{stage.name}: there are points with zero gradient",)
        if isinstance(stage.attack, APGD) and judged.nonfinite_gradients:
            flags += (f"{stage.name}: there are NaN or infinite input gradients",)
        return Found(rows[wrong], found.cpu()[wrong], flags)

    def _right(self, judged: Judged) -> Tensor:
        parts = [
            ~judged.fooled(judged(x.to(self.device)), y.to(self.device)).cpu()
            for x, y in zip(self.x.split(self.size), self.y.split(self.size), strict=True)
        ]
        return torch.cat(parts)

    def _passed(self, cost: float) -> None:
        """An attack looked at so many images; it costs no more than was thought."""
        self._within = min(self._within + cost, self._batch)
        self._tell(self._text)

    def _tell(self, text: str) -> None:
        self._text = text
        share = min((self._done + self._within) / self._all, 1.0)
        if self.progress is not None and share >= self._told:
            self.progress(share, text)
            self._told = share + _TELL

    def _flag(self, flag: str) -> None:
        self.flags += [] if flag in self.flags else [flag]

    def _flag_classes(self) -> None:
        if self.classes < 4:
            self._flag(
                f"{self.classes} classes: the DLR loss is undefined, the logits' margin was used"
            )
        elif self.classes < 10:
            self._flag(f"{self.classes} classes: {self.classes - 1} targets, not 9")

    def _flag_square(self, suite: Suite, per_attack: dict[str, float]) -> None:
        """As the official does: blind search beats the gradients."""
        names = [suite.prefix + stage.name for stage in suite.stages]
        if "square" not in (stage.name for stage in suite.stages):
            return
        before, after = (per_attack[name] for name in names[-2:])
        if before - after > _GAIN:
            self._flag(
                f"{names[-1]} has decreased the robust accuracy by {100 * (before - after):.2f} "
                "points: the gradients may be masked"
            )


def _share(found: Tensor) -> float:
    return int(found.sum()) / max(len(found), 1)
