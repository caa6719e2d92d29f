"""``autoattack``: the official verdicts, resumable, with virtual classes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels.attacks.auto import APGD, Judged
from robustlabels.attacks.base import held_still
from robustlabels.attacks.official_autoattack import AutoAttack, default_batch_size
from robustlabels.errors import BadValueError
from robustlabels.evaluation.accuracy import device_of
from robustlabels.evaluation.auto_stages import Stage, every_target, standard
from robustlabels.evaluation.auto_state import VerdictState, fingerprint
from robustlabels.evaluation.checks import check_classifier
from robustlabels.models import real_classes
from robustlabels.runs import versions
from robustlabels.threat import check_norm, parse_eps

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Verdicts:
    """What AutoAttack found.

    Attributes:
        robust: bool (N,), on the CPU: right on x, and on everything that was tried.
        x_adv: (N, C, H, W), on the CPU: an input that is judged wrong where one was found.
        clean_accuracy: in [0, 1], before any attack.
        per_attack: robust accuracy after each attack; each counts those before it.
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


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: str | float,
    norm: str = "Linf",
    version: str = "standard",
    seed: int = 0,
    num_classes: int | None = None,
    batch_size: int | str = "auto",
    state: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Verdicts:
    """Judge a model by AutoAttack (Croce & Hein 2020).

    The standard version is our own implementation; with the same seed and batches its verdicts
    are the official code's. "plus" and "rand" run the official code.

    With virtual classes (``num_classes`` below the model's outputs) every attack is judged on the
    first K logits, and four figures are made: AA-9 (attack on all logits, nine targets), AA+ (all
    targets but y), AutoAttack on the K logits alone ("slice"), and the minimum of the last two per
    sample, which is the robust accuracy.

    Args:
        model: (N, C, H, W) in [0, 1] -> logits (N, D); left as it was.
        x: (N, C, H, W), float, in [0, 1]; kept on the CPU, batches go to the model's device.
        y: int64 (N,).
        eps: radius; "8/255" is exact.
        norm: "Linf", "L2" or "L1".
        version: "standard", "plus" or "rand" (neither with virtual classes or a state).
        seed: of every attack.
        num_classes: K, at most D; D by default.
        batch_size: images that share their random numbers, as in the official; "auto" is 250,
            and 50 above 3x64x64. How many go through the model at once is found by trying.
        state: a folder to keep verdicts in, and to go on from.
        device: where to compute; the model's by default, which it is moved back to.
        progress: called as ``progress(share, text)``.

    Raises:
        ValueError: a bad argument, or a model whose figure would mean nothing.
        RuntimeError: ``state`` belongs to another evaluation.
    """
    norm, radius = check_norm(norm), parse_eps(eps, check_norm(norm))
    start = time.perf_counter()
    x = x.detach().float().cpu()
    y = y.detach().long().to("cpu")
    size = default_batch_size(x) if batch_size == "auto" else batch_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise BadValueError(f"batch_size must be 'auto' or at least 1, not {batch_size!r}")
    with _on(model, device), held_still(model):
        outputs = check_classifier(model, x, num_classes or 2)
        classes = outputs if num_classes is None else num_classes
        if len(y) != len(x) or int(y.min()) < 0 or int(y.max()) >= classes:
            raise BadValueError(f"y must be {len(x)} classes in [0, {classes - 1}]")
        if version != "standard":
            return _official(model, x, y, radius, norm, version, seed, size, classes, state, start)
        AutoAttack(radius, norm).check(x, max(classes, 4))
        header = {
            **({} if state is None else fingerprint(model, x, y)),
            "eps": radius,
            "norm": norm,
            "seed": seed,
            "num_classes": classes,
            "batch_size": size,
            **{name: versions()[name] for name in ("robustlabels", "torch")},
        }
        kept = None if state is None else VerdictState(Path(state), header)
        run = _Run(model, x, y, size, kept, progress)
        return run.judge(outputs, classes, radius, norm, seed, start)


class _Run:
    """Stages over batches, with what they leave written down."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        size: int,
        state: VerdictState | None,
        progress: Progress | None,
    ) -> None:
        self.model, self.x, self.y, self.size = model, x, y, size
        self.state, self.progress = state, progress
        self.device = device_of(model, x)
        self.flags: list[str] = []
        self._done, self._all = 0.0, 1.0

    def judge(
        self, outputs: int, classes: int, eps: float, norm: str, seed: int, start: float
    ) -> Verdicts:
        """Every figure."""
        virtual = outputs > classes
        whole = Judged(self.model, classes)
        clean = self._right(whole)
        settings = (eps, norm, seed)
        suites = [("AA-9" if virtual else "AutoAttack", "", standard(whole, outputs, *settings))]
        if virtual:
            suites.append(("AA+", "", every_target(whole, outputs, *settings)))
            cut = Judged(real_classes(self.model, classes), classes)
            suites.append(("slice", "slice:", standard(cut, classes, *settings)))
        self._all = sum(s.cost for _, _, stages in suites for s in stages) * max(len(self.y), 1)
        self._flag_classes(classes)
        x_adv, per_attack, figures = self.x.clone(), {}, {}
        robust, survivors = clean.clone(), clean.clone()
        for name, prefix, stages in suites:
            if prefix:  # the slice is judged on its own
                survivors = clean.clone()
            for stage in stages:
                survivors = self._stage(stage, prefix, survivors, x_adv)
                per_attack[prefix + stage.name] = _share(survivors)
            figures[name] = _share(survivors)
            robust &= survivors
        if virtual:
            figures["minimum"] = _share(robust)
        if self.progress is not None:
            self.progress(1.0, "done")
        return Verdicts(
            robust=robust,
            x_adv=x_adv,
            clean_accuracy=_share(clean),
            per_attack=per_attack,
            figures=figures,
            flags=self.flags,
            seconds=time.perf_counter() - start,
        )

    def _stage(self, stage: Stage, prefix: str, alive: Tensor, x_adv: Tensor) -> Tensor:
        """Who is left after it."""
        alive = alive.clone()
        waiting = alive.nonzero().flatten()
        for number, rows in enumerate(waiting.split(self.size) if len(waiting) else ()):
            name = prefix + stage.name
            found = None if self.state is None else self.state.load(name, number)
            if found is None:
                found = self._attack(stage, rows)
                if self.state is not None:
                    self.state.save(name, number, *found)
            alive[found[0]] = False
            x_adv[found[0]] = found[1]
            self._done += stage.cost * len(rows)
            if self.progress is not None:
                self.progress(self._done / self._all, f"{name}: {int(alive.sum())} robust")
        self._done += stage.cost * (len(self.y) - len(waiting))
        return alive

    def _attack(self, stage: Stage, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that fall, and their inputs."""
        x, y = self.x[rows].to(self.device), self.y[rows].to(self.device)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            found = stage.attack(x, y)
        zero = getattr(stage.attack, "zero_gradients", 0)
        if isinstance(stage.attack, APGD) and zero:
            flag = f"{stage.name}: there are points with zero gradient"
            self.flags += [] if flag in self.flags else [flag]
        judged = stage.attack.model  # type: ignore[attr-defined]
        wrong = judged.fooled(judged(found), y).cpu()
        return rows[wrong], found.cpu()[wrong]

    def _right(self, judged: Judged) -> Tensor:
        parts = [
            ~judged.fooled(judged(x.to(self.device)), y.to(self.device)).cpu()
            for x, y in zip(self.x.split(self.size), self.y.split(self.size), strict=True)
        ]
        return torch.cat(parts)

    def _flag_classes(self, classes: int) -> None:
        if classes < 4:
            self.flags.append(
                f"{classes} classes: the DLR loss is undefined, the logits' margin was used"
            )
        elif classes < 10:
            self.flags.append(f"{classes} classes: {classes - 1} targets, not 9")


def _official(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: str,
    version: str,
    seed: int,
    size: int,
    classes: int,
    state: Any,
    start: float,
) -> Verdicts:
    if state is not None:
        raise BadValueError(f"version {version!r} runs the official code, which keeps no state")
    attack = AutoAttack(eps, norm, version, seed, size)
    found = attack.run(real_classes(model, classes), x, y)
    return Verdicts(
        robust=found.robust.cpu(),
        x_adv=found.x_adv.cpu(),
        clean_accuracy=found.clean_accuracy,
        per_attack=found.after,
        figures={"AutoAttack": _share(found.robust)},
        flags=found.flags,
        seconds=time.perf_counter() - start,
    )


@contextmanager
def _on(model: nn.Module, device: str | torch.device | None) -> Iterator[None]:
    before = device_of(model, torch.empty(0))
    if device is not None:
        model.to(device)
    try:
        yield
    finally:
        if device is not None:
            model.to(before)


def _share(found: Tensor) -> float:
    return int(found.sum()) / max(len(found), 1)
