"""Predictions and accuracies: the model in eval mode, in float32, left as it was."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustlabels.attacks.base import Attack, held_still
from robustlabels.attacks.base import correct as correct  # noqa: PLC0414
from robustlabels.attacks.passes import Passes, ran_out
from robustlabels.errors import BadValueError

Progress = Callable[[float, str], None]


def predict(model: nn.Module, x: Tensor, batch_size: int = 250) -> Tensor:
    """Logits, without gradient.

    Args:
        model: maps (N, C, H, W) to logits (N, D); judged in eval mode, left as it was.
        x: (N, C, H, W), on any device.
        batch_size: images at a time, each batch on the model's device; fewer where the memory
            does not suffice.

    Returns:
        float32 (N, D), on x's device.
    """
    device = device_of(model, x)
    with held_still(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        passes = Passes(batch_size)
        return passes.over(lambda part: (model(part.to(device)).float().to(x.device),), x)[0]


def top_k_accuracy(logits: Tensor, y: Tensor, k: int) -> float:
    """Share of the rows that have y among their k greatest logits; of equal ones the first count.

    Args:
        logits: (N, K), N at least 1.
        y: int64 (N,).
        k: from 1 to K.
    """
    if not 1 <= k <= logits.shape[1]:
        raise BadValueError(f"k must be from 1 to {logits.shape[1]}, not {k}")
    _some(y)
    if k == 1:
        found = correct(logits, y)
    else:
        # Stable, so that a constant classifier isn't right about every class at once.
        top = logits.argsort(dim=1, descending=True, stable=True)[:, :k]
        found = (top == y.unsqueeze(1)).any(dim=1) & ~logits.isnan().any(dim=1)
    return share(found)


def robust_accuracy(
    model: nn.Module,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    batch_size: int = 250,
    progress: Progress | None = None,
) -> tuple[float, Tensor]:
    """Share of the samples that are classified correctly before and after an attack.

    Args:
        model: maps (N, C, H, W) in [0, 1] to logits (N, K).
        attack: sees the hard labels.
        x: (N, C, H, W) in [0, 1], N at least 1.
        y: int64 (N,).
        batch_size: images at a time; fewer where the attack has an ``at_a_time``.
        progress: called as ``progress(share, text)`` after each batch.

    Returns:
        The accuracy, and the adversarial inputs (N, C, H, W) on x's device.
    """
    robust, x_adv = robust_verdicts(model, attack, x, y, batch_size, progress)
    return share(robust), x_adv


def robust_verdicts(
    model: nn.Module,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    batch_size: int = 250,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """As :func:`robust_accuracy`, with a bool (N,) on y's device instead of its mean."""
    _some(y)
    robust, found = [], []
    done = survivors = 0
    size = images_of(attack, batch_size)
    for xb, yb in zip(x.split(size), y.split(size), strict=True):
        right, x_adv = attacked(model, attack, xb, yb, batch_size)
        robust.append(right)
        found.append(x_adv)
        done, survivors = done + len(yb), survivors + int(right.sum())
        if progress is not None:
            progress(done / len(y), f"{survivors} robust of {done}")
    return torch.cat(robust), torch.cat(found)


def images_of(attack: Attack, batch_size: int) -> int:
    """Images that an attack is given at a time: slow attacks get fewer, to report more often."""
    return min(batch_size, getattr(attack, "at_a_time", None) or batch_size)


def attacked(
    model: nn.Module, attack: Attack, x: Tensor, y: Tensor, batch_size: int = 250
) -> tuple[Tensor, Tensor]:
    """One batch under attack.

    Args:
        model: maps (N, C, H, W) in [0, 1] to logits (N, K).
        attack: sees the hard labels.
        x: (N, C, H, W) in [0, 1].
        y: int64 (N,).
        batch_size: images at a time, where they are only judged.

    Returns:
        bool (N,), right before and after, on y's device; and the inputs (N, C, H, W), on x's.
    """
    device = device_of(model, x)
    here, labels = x.to(device), y.to(device)
    try:
        with held_still(model, buffers=True), torch.autocast(device.type, enabled=False):
            x_adv = attack(model, here, labels).detach()
    except RuntimeError as error:
        if not ran_out(error):
            raise
        raise BadValueError(
            f"{len(x)} images at a time do not fit into the memory of {device}: give a smaller "
            "batch_size"
        ) from error
    if x_adv.shape != x.shape:
        raise BadValueError(f"{attack!r} returned {tuple(x_adv.shape)} for inputs {tuple(x.shape)}")
    # predict sets the mode itself: an attack may leave the model in another.
    before, after = (correct(predict(model, v, batch_size), labels) for v in (here, x_adv))
    return (before & after).to(y.device), x_adv.to(x.device)


def share(found: Tensor) -> float:
    """The exact share of True in a bool tensor (N,), N at least 1."""
    return int(found.sum()) / len(found)


def wilson_interval(accuracy: float, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of an accuracy that was measured on n images."""
    z = 1.959963984540054
    middle = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(accuracy * (1 - accuracy) / n + (z / (2 * n)) ** 2)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def device_of(model: nn.Module, x: Tensor) -> torch.device:
    """Where the model's first parameter is; x's device if it has none."""
    return next((p.device for p in model.parameters()), x.device)


def _some(y: Tensor) -> None:
    if len(y) == 0:
        raise BadValueError("no samples to judge: x and y are empty")
