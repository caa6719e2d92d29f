"""The official AutoAttack (Croce & Hein 2020), as pyautoattack ships it, under our protocol.

pyautoattack runs the attacks; this module hands it one attack and one batch at a time, which is
what its own loop does inside (each attack seeds itself anew for each batch), so the verdicts are
the same. In between we see the exact survivors and how far it is.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels.attacks.base import correct, held_still
from robustlabels.errors import BadValueError
from robustlabels.threat import check_norm, parse_eps

Progress = Callable[[float, str], None]

VERSIONS = ("standard", "plus", "rand")
_FORWARD_BACKWARD = 3.0  # the cost of a pass with gradient, in passes without


@dataclass(frozen=True)
class AutoAttackResult:
    """What AutoAttack found.

    Attributes:
        x_adv: (N, C, H, W), detached: the adversarial input where one was found, else x itself.
        robust: bool (N,): correct on x, and on everything that was tried. A sample whose x_adv
            is judged right when it is judged anew stays broken, and is told of in ``flags``.
        clean_accuracy: before any attack.
        after: robust accuracy after each attack, in their order; each counts those before it.
        flags: AutoAttack's own warnings (randomised or dynamic defence, zero gradients, Square
            beats the white-box attacks), and ours (fewer targets than usual), each kind once.
        seconds: wall-clock time.
    """

    x_adv: Tensor
    robust: Tensor
    clean_accuracy: float
    after: dict[str, float]
    flags: list[str]
    seconds: float


class AutoAttack:
    """AutoAttack: APGD-CE, APGD-T, FAB-T and Square, each on what the ones before it left.

    Calling it, or :meth:`run`, runs the official code. :func:`robustlabels.evaluate` runs our own
    implementation of version "standard" in its place, whose verdicts are the same
    (:func:`robustlabels.evaluation.autoattack`), unless ``official`` says otherwise.

    Args:
        eps: radius, in the inputs' units.
        norm: "Linf", "L2" or "L1".
        version: "standard"; "plus" (more restarts, untargeted DLR and FAB too) or "rand" (for
            randomised defences).
        seed: of the attacks' random starts.
        batch_size: images at a time; by default 250, and 50 above 3x64x64. Random starts are
            drawn per batch, so it belongs to what a figure's reproduction needs.
        official: :func:`robustlabels.evaluate` runs the official code.
    """

    def __init__(
        self,
        eps: float,
        norm: str = "Linf",
        version: str = "standard",
        seed: int = 0,
        batch_size: int | None = None,
        official: bool = False,
    ) -> None:
        self.norm = check_norm(norm)
        self.eps = parse_eps(eps, norm)
        if version not in VERSIONS:
            raise BadValueError(f"version must be one of {', '.join(VERSIONS)}, not {version!r}")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise BadValueError(f"seed must be an integer, not {seed!r}")
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise BadValueError(f"batch_size must be an integer of at least 1, not {batch_size!r}")
        if not isinstance(official, bool):
            raise BadValueError(f"official must be true or false, not {official!r}")
        self.version, self.seed, self.batch_size = version, seed, batch_size
        self.official = official or version != "standard"

    takes_soft_labels = False

    def check(self, x: Tensor, num_classes: int) -> None:
        """Refuse, before anything is run, what one of its attacks can't do.

        Args:
            x: (N, C, H, W); only its shape counts.
            num_classes: K.

        Raises:
            ValueError: too few classes for the losses, or images that Square can't tile.
        """
        attacks = [] if self.version == "rand" else ["apgd-t", "square"]
        if self.official:
            _check_classes(num_classes, attacks)
        _check_image(x, self.norm, attacks)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """See :class:`robustlabels.attacks.Attack`; hard labels only."""
        return x.detach().clone() if len(x) == 0 else self.run(model, x, y).x_adv

    def run(
        self, model: nn.Module, x: Tensor, y: Tensor, progress: Progress | None = None
    ) -> AutoAttackResult:
        """Attack, and judge.

        Args:
            model: maps (N, C, H, W) in [0, 1] to logits (N, K), K the data set's classes: cut
                virtual classes off first (:func:`robustlabels.real_classes`).
            x: (N, C, H, W) in [0, 1], N at least 1.
            y: int64 (N,).
            progress: called as ``progress(share, text)``, the share never falling from 0 to 1.

        Raises:
            ValueError: fewer classes than the losses need, soft labels, images too small for
                Square, or shapes that don't fit.
        """
        x = x.detach().float().contiguous()  # pyautoattack takes .view() of its gradients
        y = _hard_labels(x, y)
        device = next((p.device for p in model.parameters()), x.device)
        size = self.batch_size or default_batch_size(x)
        # Seeding a generator seeds those of all CUDA devices; where CUDA is not up yet there is
        # no state to keep, and asking for it would start it.
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with held_still(model), torch.random.fork_rng(devices=list(devices)), torch.no_grad():
            return _Session(self, model, x, y, device, size, progress).run()

    def __repr__(self) -> str:
        return f"AutoAttack({self.eps}, {self.norm!r}, {self.version!r}, seed={self.seed})"


def default_batch_size(x: Tensor) -> int:
    """Images judged at a time where nobody says: 250, and 50 of those above 3x64x64."""
    return 250 if x.shape[1:].numel() <= 3 * 64 * 64 else 50


class _Session:
    """One run of AutoAttack on one model and one set of images."""

    def __init__(
        self,
        settings: AutoAttack,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        device: torch.device,
        batch_size: int,
        progress: Progress | None,
    ) -> None:
        from pyautoattack import AutoAttack as Official
        from pyautoattack import checks

        self.x, self.y, self.device, self.size = x, y, device, batch_size
        self.meter = _Meter(model, device, progress)
        self.official = Official(
            self.meter,
            eps=settings.eps,
            norm=settings.norm,
            seed=settings.seed,
            version=settings.version,
            device=device,
        )
        self.checks = checks
        self.attacks = list(self.official.attacks_to_run)
        self.flags: dict[tuple[str, str], str] = {}
        classes = self.meter(x[:1].to(device)).shape[1]
        if int(y.min()) < 0 or int(y.max()) >= classes:
            raise BadValueError(
                f"y must be in [0, {classes - 1}] for {classes} logits, but has values from "
                f"{int(y.min())} to {int(y.max())}"
            )
        _check_classes(classes, self.attacks)
        _check_image(x, settings.norm, self.attacks)
        self._limit_targets(classes)
        self.meter.costs = {a: self._cost(a, classes) for a in self.attacks}

    def run(self) -> AutoAttackResult:
        start = time.perf_counter()
        robust = self._correct(self.x)
        clean_accuracy = _share(robust)
        x_adv = self.x.clone()
        after: dict[str, float] = {}
        with self._quietly():
            for i, attack in enumerate(self.attacks):
                alive = robust.nonzero().flatten()
                batches = alive.split(self.size) if len(alive) else ()
                for j, batch in enumerate(batches):
                    left = int(robust.sum())
                    waiting = len(alive) - j * self.size - len(batch)
                    self.meter.begin(attack, len(batch), waiting, self.attacks[i + 1 :], left)
                    found = self._attack(attack, self.x[batch], self.y[batch])
                    # pyautoattack's own verdict: it returns x itself where it found nothing
                    broken = found[1].to(self.y.device) != self.y[batch]
                    robust[batch[broken]] = False
                    x_adv[batch[broken]] = found[0][broken].to(x_adv.device)
                after[attack] = _share(robust)
            with self._noting(""):
                self.checks.check_square_sr({"clean": clean_accuracy, **after}, logger=_logger())
        unsure = int((self._correct(x_adv) & ~robust).sum())
        if unsure:
            self.flags[("", "anew")] = (
                f"{unsure} adversarial inputs are classified correctly when they are judged anew; "
                "they count as broken"
            )
        self.meter.finish()
        return AutoAttackResult(
            x_adv=x_adv,
            robust=robust,
            clean_accuracy=clean_accuracy,
            after=after,
            flags=list(self.flags.values()),
            seconds=time.perf_counter() - start,
        )

    def _attack(self, attack: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self.official.attacks_to_run = [attack]
        # pyautoattack counts calls in a global that it never resets: one dynamic defence would
        # taint every later model. And its tracing would end a debugger's or a coverage run's.
        self.checks.funcs.update(dict.fromkeys(self.checks.funcs, 0))
        trace = sys.gettrace()
        try:
            with self._noting(attack):
                x_adv, predicted = self.official.run_standard_evaluation(x, y, batch_size=len(x))
        finally:
            sys.settrace(trace)
        return x_adv.detach(), predicted

    def _correct(self, x: Tensor) -> Tensor:
        logits = [self.meter(b.to(self.device)).to(x.device) for b in x.split(self.size)]
        return correct(torch.cat(logits), self.y)

    def _limit_targets(self, classes: int) -> None:
        limited = []
        for name, attack in (("apgd-t", self.official.apgd_targeted), ("fab-t", self.official.fab)):
            if name in self.attacks and attack.n_target_classes > classes - 1:
                limited.append(f"{name} has {classes - 1} targets, not {attack.n_target_classes}")
                attack.n_target_classes = classes - 1
        if limited:
            self.flags[("", "targets")] = f"{classes} classes only: {', '.join(limited)}"

    def _cost(self, attack: str, classes: int) -> float:
        """What the attack costs at most per image, in passes without gradient."""
        official, g = self.official, _FORWARD_BACKWARD
        if attack in ("apgd-ce", "apgd-dlr"):
            apgd = official.apgd
            return float(apgd.n_restarts * (apgd.n_iter_orig + 1) * apgd.eot_iter * g)
        if attack == "apgd-t":
            apgd = official.apgd_targeted
            runs = apgd.n_target_classes * apgd.n_restarts
            return float(runs * (1 + (apgd.n_iter_orig + 1) * apgd.eot_iter * g))
        if attack == "fab-t":
            return float(official.fab.n_target_classes * (3 + official.fab.n_iter * (1 + g)))
        if attack == "fab":
            per_step = 2 + (g - 1) * classes  # one backward pass for each logit
            return float(official.fab.n_restarts * official.fab.n_iter * per_step)
        return float(official.square.n_queries + 3)

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """pyautoattack's warnings come to us, and not to stderr."""
        logger = _logger()
        before = (logger.level, logger.propagate, logger.handlers, logger.disabled)
        logger.propagate, logger.handlers, logger.disabled = False, [], False
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            level, logger.propagate, logger.handlers, logger.disabled = before
            logger.setLevel(level)

    @contextmanager
    def _noting(self, attack: str) -> Iterator[None]:
        handler = _Note(attack, self.flags)
        _logger().addHandler(handler)
        try:
            yield
        finally:
            _logger().removeHandler(handler)


class _Note(logging.Handler):
    """Keeps each kind of warning once; those of an attack (zero gradients) once for each."""

    def __init__(self, attack: str, flags: dict[tuple[str, str], str]) -> None:
        super().__init__(logging.WARNING)
        self.attack, self.flags = attack, flags

    def emit(self, record: logging.LogRecord) -> None:
        message = re.sub(r"\s*See flags_doc\.md for details\.", "", record.getMessage()).strip()
        kind = re.sub(r"[\d.]+", "#", message)
        if "zero gradient" in message:
            self.flags.setdefault((self.attack, kind), f"{self.attack}: {message}")
        else:
            self.flags.setdefault(("", kind), message)


class _Meter:
    """The model as AutoAttack sees it: logits in float32, every pass counted.

    The share done is work done over work done and still possible. What is still possible shrinks
    as images fall, so an ETA from it errs on the long side.
    """

    def __init__(self, model: nn.Module, device: torch.device, progress: Progress | None) -> None:
        self.model, self.device, self.progress = model, device, progress
        self.costs: dict[str, float] = {}
        self._text = ""
        self._done = 0.0
        self._batch_left = 0.0
        self._later = 0.0
        self._next = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            logits: Tensor = self.model(x)
        if logits.dim() != 2 or len(logits) != len(x):
            raise BadValueError(
                f"the model must return logits ({len(x)}, K), not {tuple(logits.shape)}"
            )
        cost = _FORWARD_BACKWARD if torch.is_grad_enabled() else 1.0
        self._done += cost * len(x)
        self._batch_left = max(0.0, self._batch_left - cost)
        self._show(self._done + self._batch_left * len(x) + self._later)
        return logits.float()

    def begin(self, attack: str, batch: int, waiting: int, later: list[str], left: int) -> None:
        """A batch of an attack starts; so many images wait for it, so many are robust yet."""
        self._text = f"{attack}: {left} robust"
        self._batch_left = self.costs[attack]
        self._later = waiting * self.costs[attack] + left * sum(self.costs[a] for a in later)
        self._show(self._done + batch * self._batch_left + self._later)

    def finish(self) -> None:
        if self.progress is not None:
            self.progress(1.0, "done")

    def _show(self, total: float) -> None:
        if self.progress is None or not self._text:
            return
        share = self._done / total
        if share >= self._next:  # so it never falls, and isn't told of for every pass
            self._next = share + 0.001
            self.progress(share, self._text)


def _logger() -> logging.Logger:
    return logging.getLogger("auto-attack")


def _share(robust: Tensor) -> float:
    return int(robust.sum()) / len(robust)


def _hard_labels(x: Tensor, y: Tensor) -> Tensor:
    if x.dim() != 4 or len(x) == 0:
        raise BadValueError(f"x must be (N, C, H, W) with N of at least 1, not {tuple(x.shape)}")
    if y.is_floating_point():
        raise BadValueError("autoattack takes class indices as y, not soft labels")
    if y.shape != (len(x),):
        raise BadValueError(f"y must have shape ({len(x)},), not {tuple(y.shape)}")
    return y.detach().long().to(x.device)


def _check_classes(classes: int, attacks: list[Any]) -> None:
    needed = 4 if "apgd-t" in attacks else 3
    if classes < needed:
        raise BadValueError(
            f"autoattack needs at least {needed} classes, not {classes} (the DLR loss is undefined "
            "below): use pgd, with loss='ce' and loss='margin' and several restarts, instead"
        )


def _check_image(x: Tensor, norm: str, attacks: list[Any]) -> None:
    """For L2 and L1, Square lays tiles of a fifth of the height, and fails where one sticks out."""
    height, width = x.shape[2:]
    tile = height // 5
    if norm == "Linf" or "square" not in attacks or tile == 1:
        return
    margin = (height - 5 * tile) // 2
    if tile == 0 or any(margin + (side // tile) * tile > side for side in (height, width)):
        raise BadValueError(
            f"autoattack's Square attack can't tile images of {height}x{width} for {norm}: use "
            "pgd instead"
        )
