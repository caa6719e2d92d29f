"""One model on one set of images: every attack, every evaluation, and the worst case."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels.attacks.base import held_still, shown_params
from robustlabels.attacks.official_autoattack import AutoAttack
from robustlabels.errors import BadValueError
from robustlabels.evaluation.accuracy import (
    Progress,
    attacked,
    correct,
    images_of,
    predict,
    share,
)
from robustlabels.evaluation.auto import standard_verdicts
from robustlabels.evaluation.auto_run import SLICE
from robustlabels.evaluation.auto_state import Found, VerdictState, fingerprint
from robustlabels.evaluation.batches import in_batches
from robustlabels.evaluation.builtin import Accuracy
from robustlabels.evaluation.calibration import without_confidence
from robustlabels.evaluation.context import Context, Evaluation
from robustlabels.evaluation.plans import Plan
from robustlabels.evaluation.transfers import Transfer
from robustlabels.randomness import preserved, seed_everything
from robustlabels.runs import versions

_NONFINITE = "nonfinite-gradients:"  # and their number: a flag of one batch in the state
_TOLERANCE = 1e-5  # of the ball, relative to eps where that is above 1
# built-in evaluations' place in the result
_SECTIONS = {"accuracy": "clean", "calibration": "ece", "audit": "audit"}


@dataclass
class Judge:
    """One K-class model, frozen in eval mode, on one set of images on the CPU.

    Attributes:
        model: logits (N, K).
        whole: the same with all its outputs; another module only with virtual classes.
        outputs: how many these are.
        x: (N, C, H, W) in [0, 1].
        y: int64 (N,).
        context: what evaluations are given.
        progress: told how far it is.
        state: a folder to keep what each attack finds, and to go on from.
        verdicts: attack's name -> bool (N,).
        adversarial: attack's name -> (N, C, H, W).
    """

    model: nn.Module
    whole: nn.Module
    outputs: int
    x: Tensor
    y: Tensor
    context: Context
    progress: Stages
    state: Path | None = None
    verdicts: dict[str, Tensor] = field(default_factory=dict)
    adversarial: dict[str, Tensor] = field(default_factory=dict)

    def run(self, plans: list[Plan], measures: list[tuple[str, Evaluation]]) -> dict[str, Any]:
        """Everything that :func:`robustlabels.evaluate` returns of the model itself."""
        clean = correct(predict(self.model, self.x, self.context.batch_size), self.y)
        self.progress.next()
        found = {plan.name: self._attack(plan, clean) for plan in plans}
        counted = [plan for plan in plans if found[plan.name]["eps_bounded"]]
        if all(isinstance(plan.attack, Transfer) for plan in counted):
            counted = []  # what another model's inputs leave is no robustness
        worst = [self.verdicts[plan.name] for plan in counted]
        context = Context(
            **{**vars(self.context), "adversarial": self.adversarial, "progress": None}
        )
        sections: dict[str, Any] = {"clean": None, "ece": {}, "evaluations": {}}
        for name, evaluation in measures:
            figures = self._measure(name, evaluation, context)
            if name in _SECTIONS:
                sections[_SECTIONS[name]] = figures
            else:
                sections["evaluations"][name] = figures
            self.progress.next()
        if sections["clean"] is None:  # every figure is read beside the clean accuracy
            sections["clean"] = Accuracy()(self.model, self.x, self.y, context)
        return {
            **sections,
            "attacks": found,
            "robust_accuracy": share(torch.stack(worst).all(dim=0)) if worst else None,
            **self._excluded(sections["ece"]),
            "verdicts": {name: v.tolist() for name, v in self.verdicts.items()},
            "adversarial": self.adversarial,
        }

    def _excluded(self, ece: dict[str, Any]) -> dict[str, dict[str, int]]:
        """Return how many images each calibration error excludes because their softmax is NaN."""
        inputs = {"clean": self.x, **self.adversarial}
        counts = {
            name: without_confidence(predict(self.model, inputs[name], self.context.batch_size))
            for name in ece
            if name in inputs
        }
        return {"ece_excluded": {name: count for name, count in counts.items() if count}}

    def _attack(self, plan: Plan, clean: Tensor) -> dict[str, Any]:
        start = time.perf_counter()
        told: dict[str, Any] = {"per_attack": None, "flags": []}
        report = self.progress.within(plan.name)
        state = None if self.state is None else self.state / _file_name(plan.name)
        with preserved(), held_still(self.whole, buffers=True):
            seed_everything(self.context.seed)
            if not isinstance(plan.attack, AutoAttack):
                robust, x_adv, told = self._in_batches(plan, state, report)
            elif plan.attack.official:
                outcome = plan.attack.run(self.model, self.x, self.y, report)
                x_adv, robust = outcome.x_adv, outcome.robust & clean
                told = {"per_attack": outcome.after, "flags": outcome.flags}
            else:
                robust, x_adv, told = self._autoattack(plan.attack, state, report)
        bounded, distance = _within(self.x, x_adv, self.context.eps, self.context.norm)
        if not bounded:
            left = f"leaves the {self.context.norm} ball of eps or [0, 1]: not counted"
            told["flags"] = [*told["flags"], left]
        if isinstance(plan.attack, Transfer):
            source = plan.attack.report(self.model, self.x, x_adv, self.y, self.context.batch_size)
            told |= {"source": source, "flags": [*told["flags"], plan.attack.caveat]}
        robust = robust & clean  # passes of other sizes round differently
        self.verdicts[plan.name], self.adversarial[plan.name] = robust, x_adv
        self.progress.next()
        return {
            "robust_accuracy": share(robust),
            "params": shown_params(plan.attack),
            "seconds": time.perf_counter() - start,
            **told,
            "eps_bounded": bounded,
            "max_perturbation": distance,
        }

    def _autoattack(
        self, attack: AutoAttack, state: Path | None, report: Progress | None
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Verdicts, inputs, and what else is told; with virtual classes the four figures."""
        found = standard_verdicts(
            self.whole,
            self.x,
            self.y,
            attack.eps,
            attack.norm,
            attack.seed,
            self.outputs,
            self.context.num_classes,
            attack.batch_size or self.context.batch_size,
            state,
            report,
        )
        told: dict[str, Any] = {"per_attack": found.per_attack, "flags": found.flags}
        if self.outputs > self.context.num_classes:
            # What the official gives of the deployed classifier stays where it always is.
            sliced = {k: v for k, v in found.per_attack.items() if k.startswith(SLICE)}
            told["per_attack"] = {k.removeprefix(SLICE): v for k, v in sliced.items()}
            told["figures"] = found.figures
            told["per_attack_all_outputs"] = {
                k: v for k, v in found.per_attack.items() if k not in sliced
            }
        return found.robust, found.x_adv, told

    def _in_batches(
        self, plan: Plan, folder: Path | None, report: Progress | None
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Each batch with random numbers of its own, so that any of them can be run alone."""
        attack, seed, n = plan.attack, self.context.seed, len(self.y)
        size = images_of(attack, self.context.batch_size)
        state = None if folder is None else VerdictState(folder, self._header(plan, size))
        robust, x_adv = torch.zeros(n, dtype=torch.bool), torch.empty_like(self.x)
        done = 0
        counts: list[int] = []

        def work(number: int, rows: Tensor) -> Found:
            seed_everything((seed + number) % 2**63)
            found = attacked(
                self.model, attack, self.x[rows], self.y[rows], self.context.batch_size
            )
            count = getattr(attack, "nonfinite_gradients", 0)
            flags = (f"{_NONFINITE}{count}",) if count else ()
            return Found(rows, found[1], flags, found[0])

        def tell(rows: int, _: Found) -> None:
            nonlocal done
            done += rows
            if report is not None:
                report(done / n, "")

        for found in in_batches("batch", torch.arange(n), size, work, state, tell):
            assert found.robust is not None
            robust[found.rows], x_adv[found.rows] = found.robust, found.x_adv
            counts += [int(flag.removeprefix(_NONFINITE)) for flag in found.flags]
        told: dict[str, Any] = {"per_attack": None, "flags": []}
        if counts:
            told["nonfinite_gradients"] = sum(counts)
            told["flags"] = [f"{sum(counts)} images have NaN or infinite input gradients"]
        return robust, x_adv, told

    def _header(self, plan: Plan, size: int) -> dict[str, Any]:
        known = versions()
        return {
            **fingerprint(self.model, self.x, self.y),
            "attack": plan.name,
            "params": shown_params(plan.attack),
            "seed": self.context.seed,
            "batch_size": size,
            "versions": {name: known[name] for name in sorted(known) if name != "python"},
        }

    def _measure(self, name: str, evaluation: Evaluation, context: Context) -> dict[str, Any]:
        with preserved(), held_still(self.model, buffers=True):
            seed_everything(context.seed)
            figures = evaluation(self.model, self.x, self.y, context)
        try:
            json.dumps(figures, allow_nan=False)
            return dict(figures)
        except (TypeError, ValueError) as error:
            raise BadValueError(
                f"evaluation {name!r} must return a dict that JSON can hold: {error}"
            ) from error


class Stages:
    """Progress over several stages of known weight."""

    def __init__(self, weights: Sequence[float], progress: Progress | None) -> None:
        self.weights, self.progress = list(weights), progress
        self.stage = 0
        if progress is not None:
            progress(0.0, "clean")

    def within(self, name: str) -> Progress | None:
        """A callback for the present stage's own share."""
        progress = self.progress
        if progress is None:
            return None
        before, mine, total = self._sums()

        def report(done: float, text: str) -> None:
            progress((before + mine * done) / total, f"{name}: {text}")

        return report

    def next(self) -> None:
        """The present stage is done."""
        before, mine, total = self._sums()
        self.stage += 1
        if self.progress is not None:
            self.progress((before + mine) / total, "done")

    def _sums(self) -> tuple[float, float, float]:
        return sum(self.weights[: self.stage]), self.weights[self.stage], sum(self.weights)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def _within(x: Tensor, x_adv: Tensor, eps: float, norm: str) -> tuple[bool, float | None]:
    """Whether inputs stay in the ball and in [0, 1]; and the greatest distance, None for NaN."""
    order = {"Linf": math.inf, "L2": 2.0, "L1": 1.0}[norm]
    # In float64, where the sum over an image's pixels is finer than the tolerance; in parts.
    parts = [
        (a.double() - b.double()).flatten(1).norm(p=order, dim=1)
        for a, b in zip(x.split(250), x_adv.split(250), strict=True)
    ]
    distance = float(torch.cat(parts).max())
    low, high = (float(v) for v in x_adv.aminmax())
    inside = (
        distance <= eps + _TOLERANCE * max(1.0, eps)
        and low >= -_TOLERANCE
        and high <= 1 + _TOLERANCE
    )
    return inside, distance if math.isfinite(distance) else None
