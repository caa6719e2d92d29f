"""``robustlabels.evaluate``: every figure of one model on the same images."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustlabels import factories
from robustlabels.attacks.base import Attack, held_still
from robustlabels.attacks.official_autoattack import AutoAttack, default_batch_size
from robustlabels.data import DataSet, as_dataset
from robustlabels.errors import BadValueError
from robustlabels.evaluation.accuracy import (
    Progress,
    correct,
    device_of,
    predict,
    robust_verdicts,
    share,
)
from robustlabels.evaluation.builtin import Accuracy
from robustlabels.evaluation.checks import check_classifier
from robustlabels.evaluation.context import Context, Evaluation
from robustlabels.models import real_classes
from robustlabels.plugins import build
from robustlabels.threat import check_norm, parse_eps

_TOLERANCE = 1e-5  # of the ball, relative to eps where that is above 1
_SLOW, _QUICK = 200.0, 10.0  # what AutoAttack and another attack weigh in the progress
_SECTIONS = {"accuracy": "clean", "calibration": "ece"}  # built-in evaluations' place in the result

Named = str | Mapping[str, Any]


def evaluate(
    model: nn.Module | str | Path,
    data: Any = None,
    attacks: Sequence[Named | Attack] = ("pgd", "autoattack"),
    eps: str | float | None = None,
    norm: str | None = None,
    n: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    scheme: Any = None,
    evaluations: Sequence[Named | Evaluation] = ("accuracy", "calibration"),
    progress: Progress | None = None,
    keep_adversarial: bool = False,
    num_classes: int | None = None,
) -> dict[str, Any]:
    """Clean accuracy, robust accuracy under each attack and in the worst case, and calibration.

    The model is judged in eval mode and float32, by hard labels, on its first K logits, and is
    left as it was. Each attack is seeded anew, so no figure depends on which others are asked
    for; the caller's random generators are left alone.

    Args:
        model: an ``nn.Module`` that maps images (N, C, H, W) in [0, 1] to logits (N, K or more),
            or the path of a RUN folder.
        data: a name, a ``DataSet``, or what :func:`robustlabels.data.as_dataset` takes; its test
            split is judged, and a single pair, data set or loader is the test set. A run's own by
            default.
        attacks: names, ``{"name": ..., "params": {...}}``, or attacks.
        eps: radius, a number or "8/255"; the run's, or 8/255, by default.
        norm: "Linf", "L2" or "L1"; the run's, or "Linf", by default.
        n: so many test images, drawn without replacement by ``seed`` (each class is there in its
            share, on average; a larger n of the same seed contains a smaller one), kept in the
            data set's order. All of them by default.
        seed: of that choice, and of every attack.
        batch_size: images at a time; 250 by default, 50 of those above 3x64x64.
        device: where to compute, "auto" for a GPU if there is one; the model's own by default.
            The model is moved back.
        scheme: the label scheme that the model was trained with, or K.
        evaluations: names, ``{"name": ..., "params": {...}}``, or evaluations.
        progress: called as ``progress(share, text)``, the share rising from 0 to 1.
        keep_adversarial: return the adversarial inputs too, under "adversarial" (tensors).
        num_classes: K, where neither the data nor a scheme says it: a pair or a loader knows no
            more than its greatest label.

    Returns:
        What JSON can hold (but for "adversarial"): "n", "indices" (of the images in the test
        split), "dataset", "note", "eps", "norm", "seed", "batch_size", "num_classes",
        "virtual_classes", "clean" (top1, top5), "attacks" (name -> robust_accuracy, params,
        seconds, per_attack, flags, eps_bounded, max_perturbation), "robust_accuracy" (of what
        every attack within eps left; None without one), "ece" (clean, and each attack),
        "verdicts" (name -> a bool for each image), "evaluations" (third parties'), "versions",
        "device".

    Raises:
        ValueError: a bad argument, inputs outside [0, 1], or a model that returns probabilities,
            other logits each time, or too few.
        KeyError: no such attack, evaluation or data set.
    """
    if isinstance(model, str | Path):
        from robustlabels.training import load_run  # the one step upwards: only where asked for

        run = load_run(model)
        model, scheme = run.model, run.scheme if scheme is None else scheme
        eps = run.config.eps if eps is None else eps
        norm = run.config.norm if norm is None else norm
        if data is None:
            data = factories.make_dataset(
                run.config.dataset, root=run.config.data_root, **run.config.data
            )
    if not isinstance(model, nn.Module):
        raise BadValueError(f"model must be an nn.Module or a run's path, not {type(model)}")
    norm = check_norm("Linf" if norm is None else norm)
    radius = parse_eps("8/255" if eps is None else eps, norm)
    dataset, stated = _dataset(data, scheme, num_classes)
    there = _device(device)
    indices, x, y = _images(dataset, n, seed, there or device_of(model, torch.empty(0)))
    size = default_batch_size(x) if batch_size is None else batch_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise BadValueError(f"batch_size must be an integer of at least 1, not {batch_size!r}")
    plans = _plan_attacks(attacks, radius, norm, seed, size)
    measures = _plan_evaluations(evaluations)
    with _on(model, there), held_still(model):
        outputs = check_classifier(model, x, dataset.num_classes, size)
        if outputs > dataset.num_classes and not stated:
            raise BadValueError(
                f"the model has {outputs} logits, but the greatest label is "
                f"{dataset.num_classes - 1}: give num_classes=, or the label scheme as scheme="
            )
        judge = _Judge(
            model=real_classes(model, dataset.num_classes)
            if outputs > dataset.num_classes
            else model,
            x=x,
            y=y,
            context=Context(dataset.num_classes, radius, norm, seed, size),
            progress=_Stages([1.0, *(p.weight for p in plans), *(1.0 for _ in measures)], progress),
        )
        result = judge.run(plans, measures)
        computed_on = device_of(model, x)
    virtual = outputs - dataset.num_classes
    notes = [dataset.note] if dataset.note else []
    if virtual:
        notes.append("judged on the first K logits; AA+ (attack on K+V) not run")
    from robustlabels.runs import versions

    adversarial = result.pop("adversarial")
    result |= {
        "n": len(y),
        "indices": indices.tolist(),
        "dataset": dataset.name,
        "note": "; ".join(notes),
        "eps": radius,
        "norm": norm,
        "seed": seed,
        "batch_size": size,
        "num_classes": dataset.num_classes,
        "virtual_classes": virtual,
        "versions": versions(),
        "device": str(computed_on),
    }
    if keep_adversarial:
        result["adversarial"] = adversarial
    return result


@dataclass(frozen=True)
class _Plan:
    """One attack to run."""

    name: str
    attack: Attack
    weight: float


@dataclass
class _Judge:
    """One K-class model, frozen in eval mode, on one set of images on the CPU."""

    model: nn.Module
    x: Tensor
    y: Tensor
    context: Context
    progress: _Stages
    verdicts: dict[str, Tensor] = field(default_factory=dict)
    adversarial: dict[str, Tensor] = field(default_factory=dict)

    def run(self, plans: list[_Plan], measures: list[tuple[str, Evaluation]]) -> dict[str, Any]:
        clean = correct(predict(self.model, self.x, self.context.batch_size), self.y)
        self.progress.next()
        found = {plan.name: self._attack(plan, clean) for plan in plans}
        worst = [self.verdicts[name] for name, a in found.items() if a["eps_bounded"]]
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
            "verdicts": {name: v.tolist() for name, v in self.verdicts.items()},
            "adversarial": self.adversarial,
        }

    def _attack(self, plan: _Plan, clean: Tensor) -> dict[str, Any]:
        start = time.perf_counter()
        per_attack: dict[str, float] | None = None
        flags: list[str] = []
        report = self.progress.within(plan.name)
        with _seeded(self.context.seed), held_still(self.model):
            if isinstance(plan.attack, AutoAttack):
                outcome = plan.attack.run(self.model, self.x, self.y, report)
                x_adv, robust = outcome.x_adv, outcome.robust & clean
                per_attack, flags = outcome.after, outcome.flags
            else:
                robust, x_adv = robust_verdicts(
                    self.model, plan.attack, self.x, self.y, self.context.batch_size, report
                )
        bounded, distance = _within(self.x, x_adv, self.context.eps, self.context.norm)
        if not bounded:
            flags = [*flags, f"leaves the {self.context.norm} ball of eps or [0, 1]: not counted"]
        self.verdicts[plan.name], self.adversarial[plan.name] = robust, x_adv
        self.progress.next()
        return {
            "robust_accuracy": share(robust),
            "params": _params(plan.attack),
            "seconds": time.perf_counter() - start,
            "per_attack": per_attack,
            "flags": flags,
            "eps_bounded": bounded,
            "max_perturbation": distance,
        }

    def _measure(self, name: str, evaluation: Evaluation, context: Context) -> dict[str, Any]:
        with _seeded(context.seed), held_still(self.model):
            figures = evaluation(self.model, self.x, self.y, context)
        try:
            json.dumps(figures, allow_nan=False)
            return dict(figures)
        except (TypeError, ValueError) as error:
            raise BadValueError(
                f"evaluation {name!r} must return a dict that JSON can hold: {error}"
            ) from error


class _Stages:
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


def _dataset(data: Any, scheme: Any, num_classes: int | None) -> tuple[DataSet, bool]:
    """The data set, and whether its K is stated rather than guessed from the labels."""
    if data is None:
        raise BadValueError("data is missing: a name, a pair (x, y), a data set or a loader")
    if isinstance(data, str | Path):
        data = factories.make_dataset(str(data))
    outer = scheme if isinstance(scheme, int) else getattr(scheme, "num_classes", None)
    if isinstance(data, DataSet):
        # A scheme may know more classes than the data: those of reject classes.
        if num_classes not in (None, data.num_classes) or (outer or math.inf) < data.num_classes:
            raise BadValueError(
                f"data set {data.name!r} has {data.num_classes} classes, not "
                f"{outer if num_classes is None else num_classes}"
            )
        return data, True
    given = num_classes if num_classes is not None else outer
    dataset = as_dataset(data, num_classes=given)
    if dataset.test is None:
        dataset = DataSet(**{**vars(dataset), "train": None, "test": dataset.train})
    return dataset, given is not None or bool(dataset.classes)


def _images(
    dataset: DataSet, n: int | None, seed: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices, images and labels, on the CPU, in the split's order."""
    split = dataset.test_split()
    if n is not None and (
        isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= len(split)
    ):
        raise BadValueError(
            f"n must be an integer from 1 to {len(split)}, the test images of {dataset.name!r}, "
            f"not {n!r}"
        )
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    indices = order[:n].sort().values
    batches = list(split.batches(indices.split(250), device))
    if not batches:
        raise BadValueError(f"the test split of {dataset.name!r} is empty")
    return (
        indices,
        torch.cat([x.cpu() for x, _ in batches]),
        torch.cat([y.cpu() for _, y in batches]),
    )


def _plan_attacks(
    attacks: Sequence[Named | Attack], eps: float, norm: str, seed: int, batch_size: int
) -> list[_Plan]:
    plans: list[_Plan] = []
    names = {"clean"}  # calibration's column
    for given in _sequence("attacks", attacks):
        if isinstance(given, str | Mapping):
            label, params = _named("attacks", given)
            if label == "autoattack":
                params = {"seed": seed, "batch_size": batch_size, **params}
            attack = factories.make_attack(label, eps, norm, **params)
        elif callable(given):
            attack = given
            label = getattr(given, "__name__", type(given).__name__).lower()
        else:
            raise BadValueError(f"attacks: {given!r} is neither a name, a table nor an attack")
        name = _fresh(label, names)
        plans.append(_Plan(name, attack, _SLOW if isinstance(attack, AutoAttack) else _QUICK))
    return plans


def _plan_evaluations(evaluations: Sequence[Named | Evaluation]) -> list[tuple[str, Evaluation]]:
    plans: list[tuple[str, Evaluation]] = []
    names: set[str] = set()
    for given in _sequence("evaluations", evaluations):
        if isinstance(given, str | Mapping):
            label, params = _named("evaluations", given)
            plans.append((_fresh(label, names), build("evaluations", label, params)))
        elif callable(given):
            label = getattr(given, "__name__", type(given).__name__).lower()
            plans.append((_fresh(f"user:{label}", names), given))
        else:
            raise BadValueError(
                f"evaluations: {given!r} is neither a name, a table nor an evaluation"
            )
    return plans


def _sequence(what: str, given: Any) -> Sequence[Any]:
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise BadValueError(f"{what} must be a list, e.g. {what}=[{given!r}]")
    return given


def _named(what: str, given: Named) -> tuple[str, dict[str, Any]]:
    if isinstance(given, str):
        return given, {}
    if not isinstance(given.get("name"), str) or not set(given) <= {"name", "params"}:
        raise BadValueError(f"{what}: a table needs 'name' and may have 'params', not {given!r}")
    return given["name"], dict(given.get("params") or {})


def _fresh(label: str, names: set[str]) -> str:
    """``label``, or ``label-2`` and so on where it is taken."""
    name, count = label, 1
    while name in names:
        count += 1
        name = f"{label}-{count}"
    names.add(name)
    return name


def _params(attack: Attack) -> dict[str, Any]:
    """An attack's public attributes that JSON can hold: its parameters, defaults included."""
    return {
        k: v
        for k, v in getattr(attack, "__dict__", {}).items()
        if not k.startswith("_") and _is_json(v)
    }


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


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


def _device(device: str | torch.device | None) -> torch.device | None:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return None if device is None else torch.device(device)
    except (RuntimeError, TypeError):
        raise BadValueError(f"device must be one of torch's, or auto, not {device!r}") from None


@contextmanager
def _on(model: nn.Module, device: torch.device | None) -> Iterator[None]:
    """The model on a device for a while."""
    before = device_of(model, torch.empty(0))
    try:
        if device is not None:
            model.to(device)
        yield
    finally:
        if device is not None:
            model.to(before)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Every global generator seeded, and afterwards as it was."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
