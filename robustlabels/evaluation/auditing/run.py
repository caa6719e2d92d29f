"""``audit``: every check, one after another, and the verdict."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels.attacks.base import held_still
from robustlabels.attacks.official_autoattack import default_batch_size
from robustlabels.display import shown
from robustlabels.errors import BadValueError
from robustlabels.evaluation.accuracy import Progress, device_of, predict, share
from robustlabels.evaluation.auditing.black_box import square, transfer
from robustlabels.evaluation.auditing.chance import same_answer
from robustlabels.evaluation.auditing.flags import autoattack_flags
from robustlabels.evaluation.auditing.gradients import (
    convergence,
    loss_grows,
    one_step,
    plain_pgd,
    restarts,
    zero_gradients,
)
from robustlabels.evaluation.auditing.losses import margin_and_dlr, rescaled
from robustlabels.evaluation.auditing.radii import sweep
from robustlabels.evaluation.auditing.report import AuditReport, Check
from robustlabels.evaluation.auditing.statistics import FEWEST
from robustlabels.evaluation.auditing.trial import Trial, connected
from robustlabels.evaluation.checks import check_inputs
from robustlabels.evaluation.context import Context
from robustlabels.evaluation.layout import channels_last
from robustlabels.models import RealClasses, real_classes
from robustlabels.randomness import preserved
from robustlabels.threat import parse_eps

NORMS = ("Linf", "L2")


def audit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: str | float,
    norm: str = "Linf",
    num_classes: int | None = None,
    seed: int = 0,
    surrogate: nn.Module | None = None,
    batch_size: int | None = None,
    progress: Progress | bool | None = None,
) -> AuditReport:
    """Whether a model's robustness is real, or only its gradients are masked.

    The model is attacked in eval mode, in many ways; where they contradict each other as they
    would not on a model whose gradients tell the truth, a check fails. About 200 images are
    enough; the docs (docs/audit.md) say what each check can and cannot see. The model, its mode
    and the caller's random generators are left as they were.

    Args:
        model: maps (N, C, H, W) in [0, 1] to logits (N, D). It may be random, have no gradient or
            return probabilities: that is found out, not refused.
        x: (N, C, H, W), floating, in [0, 1], N at least 1.
        y: int64 (N,).
        eps: radius; "8/255" is exact.
        norm: "Linf" or "L2".
        num_classes: K, at most D; D by default. Fewer are virtual classes: the first K logits are
            judged, and all D are attacked too.
        seed: of every random number.
        surrogate: a model whose adversarial inputs are tried on this one, on its device, e.g. one
            of the same architecture, trained elsewise. A small one is taught by default.
        batch_size: images at a time; 250 by default, 50 of those above 3x64x64.
        progress: True for a progress bar, or a callback ``progress(share, text)``.

    Raises:
        ValueError: a bad argument, or a model that gives no (N, D) for x.
    """
    started = time.perf_counter()
    if norm not in NORMS:
        raise BadValueError(f"norm must be one of {', '.join(NORMS)} for an audit, not {norm!r}")
    radius = parse_eps(eps, norm)
    if not isinstance(model, nn.Module):
        raise BadValueError(f"model must be an nn.Module, not {type(model)}")
    x = check_inputs(x)
    size = default_batch_size(x) if batch_size is None else batch_size
    for name, value, least in (("batch_size", size, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise BadValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    x = x.detach().float().cpu()
    with (
        shown(progress, "auditing") as report,
        preserved(),
        held_still(model, buffers=True),
        torch.no_grad(),
        channels_last(model, x) as last,
    ):
        outputs = _outputs(model, x)
        classes = outputs if num_classes is None else num_classes
        broken = int(predict(model, x, size)[:, :classes].isnan().any(dim=1).sum())
        if broken:
            raise BadValueError(
                f"the model's logits are NaN for {broken} of {len(x)} images, so an audit of it "
                "would mean nothing: fix the model or leave these images out"
            )
        y = _labels(y, x, classes, outputs)
        device = device_of(model, x)
        whole = connected(model, x[:1].to(device), last)
        trial = Trial(
            model=real_classes(whole, classes) if classes < outputs else whole,
            whole=whole,
            x=x,
            y=y,
            eps=radius,
            norm=norm,
            num_classes=classes,
            seed=seed,
            batch_size=size,
            device=device,
            progress=report,
        )
        checks = _checks(trial, surrogate) if bool(trial.clean.any()) else ()
        if report is not None:
            report(1.0, "done")
    attacks = {name: share(left) for name, left in trial.found.items()}
    attacks = attacks or {"PGD": 0.0}  # nothing is right: nothing to attack
    return AuditReport(
        checks=checks,
        attacks=attacks,
        worst_attack=min(attacks, key=lambda name: attacks[name]),
        robust_accuracy=share(torch.stack([trial.by_gradient, *trial.found.values()]).all(dim=0)),
        clean_accuracy=share(trial.clean),
        n=len(y),
        eps=radius,
        norm=norm,
        seed=seed,
        num_classes=classes,
        virtual_classes=outputs - classes,
        resolution=FEWEST / len(y),
        seconds=time.perf_counter() - started,
    )


class Audit:
    """The audit as one of :func:`robustlabels.evaluate`'s evaluations.

    Args:
        n: so many of the images, the first, are enough.
    """

    def __init__(self, n: int = 200) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise BadValueError(f"n must be an integer of at least 1, not {n!r}")
        self.n = n

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, context: Context
    ) -> Mapping[str, Any]:
        """:meth:`AuditReport.to_dict`."""
        # With virtual classes: all outputs, which the audit attacks too.
        whole = model.model if isinstance(model, RealClasses) else model
        return audit(
            whole,
            x[: self.n],
            y[: self.n],
            eps=context.eps,
            norm=context.norm,
            num_classes=context.num_classes,
            seed=context.seed,
            batch_size=context.batch_size,
            progress=context.progress,
        ).to_dict()


def _checks(trial: Trial, surrogate: nn.Module | None) -> tuple[Check, ...]:
    """In the order in which they are read; those that need others' figures come later."""
    plain = plain_pgd(trial)
    same = same_answer(trial)
    found = [
        zero_gradients(trial),
        loss_grows(trial, plain),
        *one_step(trial),
        convergence(plain),
        restarts(trial),
        margin_and_dlr(trial),
        rescaled(trial),
        sweep(trial),
        square(trial),
        transfer(trial, surrogate),
        autoattack_flags(trial),
    ]
    return (same, *found)


def _outputs(model: nn.Module, x: Tensor) -> int:
    """D, seen on one image."""
    try:
        logits = predict(model, x[:1])
    except (RuntimeError, TypeError, AttributeError, IndexError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise BadValueError(
            f"the model fails on an image {tuple(x.shape[1:])} in float32: "
            f"{type(error).__name__}: {first}"
        ) from error
    if logits.dim() != 2 or len(logits) != 1:
        raise BadValueError(f"the model must return logits (1, D), not {tuple(logits.shape)}")
    return logits.shape[1]


def _labels(y: Tensor, x: Tensor, classes: int, outputs: int) -> Tensor:
    if isinstance(classes, bool) or not isinstance(classes, int) or not 2 <= classes <= outputs:
        raise BadValueError(
            f"num_classes must be from 2 to the model's {outputs} outputs, not {classes!r}"
        )
    if y.is_floating_point() or y.shape != (len(x),):
        raise BadValueError(f"y must be {len(x)} class indices, not {y.dtype} {tuple(y.shape)}")
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise BadValueError(
            f"y must be in [0, {classes - 1}], but goes from {int(y.min())} to {int(y.max())}"
        )
    return y.detach().long().cpu()
