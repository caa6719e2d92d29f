"""``robustlabels.evaluate``: every figure of one model on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels import factories
from robustlabels.attacks.base import Attack, held_still
from robustlabels.attacks.official_autoattack import AutoAttack, default_batch_size
from robustlabels.data import DataSet, as_dataset
from robustlabels.devices import named_device, on_device
from robustlabels.display import shown
from robustlabels.errors import BadValueError
from robustlabels.evaluation.accuracy import Progress, device_of, wilson_interval
from robustlabels.evaluation.checks import check_classifier, check_input_range
from robustlabels.evaluation.context import Context, Evaluation
from robustlabels.evaluation.held_out import (
    HeldOut,
    given_held_out,
    held_out_of,
    none_held_out,
)
from robustlabels.evaluation.judge import Judge, Stages
from robustlabels.evaluation.plans import Named, plan_attacks, plan_evaluations
from robustlabels.loading import OPAQUE, load_run
from robustlabels.models import real_classes
from robustlabels.models.zoo import is_zoo_name, zoo_classifier
from robustlabels.runs import versions
from robustlabels.threat import check_eps_given, check_norm, parse_eps

_SLICE_ONLY = "; AA+ (attack on K+V) not run"


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
    progress: Progress | bool | None = None,
    keep_adversarial: bool = False,
    num_classes: int | None = None,
    data_root: str | None = None,
    weights: str = "best",
    state: str | Path | None = None,
    held_out: Any = None,
) -> dict[str, Any]:
    """Clean accuracy, robust accuracy under each attack and in the worst case, and calibration.

    The model is judged in eval mode and float32, by hard labels, on its first K logits, and is
    left as it was. Each attack is seeded anew, so no figure depends on which others are asked
    for; the caller's random generators are left alone.

    Args:
        model: an ``nn.Module`` that maps images (N, C, H, W) in [0, 1] to logits (N, K or more),
            the path of a RUN folder, or ``robustbench:DATASET/THREAT/NAME``.
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
        progress: True for a progress bar, or a callback ``progress(share, text)``; the share rises
            from 0 to 1.
        keep_adversarial: return the adversarial inputs too, under "adversarial" (tensors).
        num_classes: K, where neither the data nor a scheme says it: a pair or a loader knows no
            more than its greatest label.
        data_root: the folder that holds the data, for a name or a run whose data has moved.
        weights: of a run: "best", "last" or "average".
        state: a folder that keeps what each attack finds, batch by batch; an evaluation that was
            killed goes on from there, with the same verdicts.
        held_out: a pair (x, y) of images that neither trained nor judge the model, or a function
            that reads them, for evaluations that fit something (``temperature-scaling``); of a
            run, the training images that it held out.

    With virtual classes AutoAttack gives its four figures (``figures``), the least of which per
    sample is its robust accuracy; ``per_attack`` is then that of the first K logits alone, which
    is what RobustBench would see. Several processes that torchrun started share the batches of
    every attack but the official AutoAttack's.

    Returns:
        What JSON can hold (but for "adversarial"): "n", "indices" (of the images in the test
        split), "dataset", "note", "eps", "norm", "seed", "batch_size", "num_classes",
        "virtual_classes", "clean" (top1, top5), "attacks" (name -> robust_accuracy, params,
        seconds, per_attack, flags, eps_bounded, max_perturbation; source, of ``transfer:NAME``),
        "robust_accuracy" (of what every attack within eps left; None without one on the model
        itself), "ece" (clean, and each attack), "ece_excluded" (name -> number of
        images with a NaN softmax, which have no confidence; only where there are some),
        "intervals" (95 % Wilson intervals: "clean", each attack, "worst case of all"),
        "verdicts" (name -> a bool for each image), "evaluations" (third parties'), "versions",
        "device".

    Raises:
        ValueError: a bad argument, inputs outside [0, 1], or a model that returns probabilities,
            other logits each time, or too few, or that knows images of another range.
        RuntimeError: ``state`` belongs to another evaluation.
        KeyError: no such attack, evaluation or data set.
    """
    if is_zoo_name(model):
        model, classes = zoo_classifier(model)
        num_classes = classes if num_classes is None and scheme is None else num_classes
    elif isinstance(model, str | Path):
        run = load_run(model, weights)
        model, scheme = run.model, run.scheme if scheme is None else scheme
        held_out = held_out_of(run, data_root) if held_out is None else held_out
        check_eps_given(eps, norm, run.config.eps, run.config.norm)
        eps = run.config.eps if eps is None else eps
        norm = run.config.norm if norm is None else norm
        if data is None and run.config.dataset.startswith(OPAQUE):
            raise BadValueError(f"{run.path}: its data were given from Python; give them as data=")
        if data is None:
            data = factories.make_dataset(
                run.config.dataset, root=data_root or run.config.data_root, **run.config.data
            )
    if not isinstance(model, nn.Module):
        raise BadValueError(f"model must be an nn.Module or a run's path, not {type(model)}")
    norm = check_norm("Linf" if norm is None else norm)
    radius = parse_eps("8/255" if eps is None else eps, norm)
    dataset, stated = _dataset(data, scheme, num_classes, data_root)
    there = None if device is None else named_device(device)
    indices, x, y = drawn_images(dataset, n, seed)
    size = default_batch_size(x) if batch_size is None else batch_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise BadValueError(f"batch_size must be an integer of at least 1, not {batch_size!r}")
    plans = plan_attacks(attacks, radius, norm, seed, size)
    for plan in plans:
        if isinstance(plan.attack, AutoAttack):
            plan.attack.check(x, dataset.num_classes)
    measures = plan_evaluations(evaluations)
    with (
        on_device(model, there),
        held_still(model),
        shown(progress, "evaluating") as report,
    ):
        outputs = check_classifier(model, x, dataset.num_classes, size)
        if outputs > dataset.num_classes and not stated:
            raise BadValueError(
                f"the model has {outputs} logits, but the greatest label is "
                f"{dataset.num_classes - 1}: give num_classes=, or the label scheme as scheme="
            )
        virtual = outputs - dataset.num_classes
        judged = real_classes(model, dataset.num_classes) if virtual else model
        check_input_range(judged, x, y, size)
        judge = Judge(
            model=judged,
            whole=model,
            outputs=outputs,
            x=x,
            y=y,
            context=Context(
                dataset.num_classes,
                radius,
                norm,
                seed,
                size,
                held_out=_held_out(held_out, dataset.num_classes, x),
                scheme=None if isinstance(scheme, int) else scheme,
                classes=tuple(dataset.classes),
            ),
            progress=Stages([1.0, *(p.weight for p in plans), *(1.0 for _ in measures)], report),
            state=None if state is None else Path(state),
        )
        result = judge.run(plans, measures)
        computed_on = device_of(model, x)
    notes = [dataset.note] if dataset.note else []
    if virtual:
        whole = any(isinstance(p.attack, AutoAttack) and not p.attack.official for p in plans)
        notes.append("judged on the first K logits" + ("" if whole else _SLICE_ONLY))
    adversarial = result.pop("adversarial")
    accuracies = {
        "clean": result["clean"]["top1"],
        **{name: found["robust_accuracy"] for name, found in result["attacks"].items()},
        "worst case of all": result["robust_accuracy"],
    }
    result["intervals"] = {
        name: None if accuracy is None else list(wilson_interval(accuracy, len(y)))
        for name, accuracy in accuracies.items()
    }
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


def _held_out(given: Any, num_classes: int, judged: Tensor) -> HeldOut:
    """What a context reads held-out images by."""
    if given is None:
        return none_held_out
    if callable(given):
        read: HeldOut = given
        return read
    return given_held_out(given, num_classes, judged)


def _dataset(
    data: Any, scheme: Any, num_classes: int | None, root: str | None
) -> tuple[DataSet, bool]:
    """The data set, and whether its K is stated rather than guessed from the labels."""
    if data is None:
        raise BadValueError("data is missing: a name, a pair (x, y), a data set or a loader")
    if isinstance(data, str | Path):
        data = factories.make_dataset(str(data), root)
    outer = scheme if isinstance(scheme, int) else getattr(scheme, "num_classes", None)
    if scheme is not None and outer is None:
        raise BadValueError(f"scheme must be a label scheme or K, not {scheme!r}")
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


def drawn_images(dataset: DataSet, n: int | None, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices, images and labels, in the split's order; on the CPU, for a GPU may not hold all."""
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
    batches = list(split.batches(indices.split(250), torch.device("cpu")))
    if not batches:
        raise BadValueError(f"the test split of {dataset.name!r} is empty")
    return indices, torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
