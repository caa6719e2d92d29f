"""``autoattack``: the official verdicts, resumable, with virtual classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels.attacks.base import held_still
from robustlabels.attacks.official_autoattack import AutoAttack, default_batch_size
from robustlabels.devices import on_device
from robustlabels.errors import BadValueError
from robustlabels.evaluation.accuracy import share
from robustlabels.evaluation.auto_run import AutoRun, Progress, Verdicts
from robustlabels.evaluation.auto_state import VerdictState, fingerprint
from robustlabels.evaluation.checks import (
    check_classifier,
    check_input_range,
    check_inputs,
    check_mode,
    optimises,
)
from robustlabels.models import real_classes
from robustlabels.runs import versions
from robustlabels.threat import check_norm, parse_eps


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
    x = x.detach().float().cpu()
    y = y.detach().long().to("cpu")
    size = default_batch_size(x) if batch_size == "auto" else batch_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise BadValueError(f"batch_size must be 'auto' or at least 1, not {batch_size!r}")
    official = AutoAttack(radius, norm, version, seed, size)
    x = check_inputs(x)
    with on_device(model, device):
        check_mode(model, x)
        with held_still(model, buffers=True):
            outputs = check_classifier(model, x, num_classes or 2)
            classes = outputs if num_classes is None else num_classes
            if len(y) != len(x) or int(y.min()) < 0 or int(y.max()) >= classes:
                raise BadValueError(f"y must be {len(x)} classes in [0, {classes - 1}]")
            check_input_range(model, x, y)
            if version != "standard":
                return _official(official, model, x, y, classes, state)
            return standard_verdicts(
                model, x, y, radius, norm, seed, outputs, classes, size, state, progress
            )


def standard_verdicts(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: str,
    seed: int,
    outputs: int,
    classes: int,
    batch_size: int,
    state: str | Path | None,
    progress: Progress | None,
) -> Verdicts:
    """:func:`autoattack` of a model that has been checked: D outputs, K classes."""
    AutoAttack(eps, norm).check(x, classes)
    kept = None
    if state is not None:
        header = {
            **fingerprint(model, x, y),
            "attack": "autoattack",
            "eps": eps,
            "norm": norm,
            "seed": seed,
            "num_classes": classes,
            "batch_size": batch_size,
            **{name: versions()[name] for name in ("robustlabels", "torch")},
        }
        kept = VerdictState(Path(state), header)
    run = AutoRun(model, x, y, outputs, classes, batch_size, kept, progress)
    if optimises(model, x):
        run.flags.append(
            "the model computes gradients in its forward pass: a dynamic defence needs an attack "
            "made for it"
        )
    return run.judge(eps, norm, seed)


def _official(
    attack: AutoAttack, model: nn.Module, x: Tensor, y: Tensor, classes: int, state: Any
) -> Verdicts:
    if state is not None:
        raise BadValueError(
            f"version {attack.version!r} runs the official code, which keeps no state"
        )
    found = attack.run(real_classes(model, classes), x, y)
    return Verdicts(
        robust=found.robust.cpu(),
        x_adv=found.x_adv.cpu(),
        clean_accuracy=found.clean_accuracy,
        per_attack=found.after,
        figures={"AutoAttack": share(found.robust)},
        flags=found.flags,
        seconds=found.seconds,
    )
