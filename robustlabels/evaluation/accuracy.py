"""Predictions and accuracies: the model in eval mode, in float32, left as it was."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustlabels.attacks.base import Attack, held_still
from robustlabels.errors import BadValueError

Progress = Callable[[float, str], None]


def predict(model: nn.Module, x: Tensor, batch_size: int = 250) -> Tensor:
    """Logits, without gradient.

    Args:
        model: maps (N, C, H, W) to logits (N, D); judged in eval mode, left as it was.
        x: (N, C, H, W), on any device.
        batch_size: images at a time, each batch on the model's device.

    Returns:
        float32 (N, D), on x's device.
    """
    device = device_of(model, x)
    with held_still(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        parts = [model(b.to(device)).float().to(x.device) for b in x.split(batch_size)]
    return torch.cat(parts)


def correct(logits: Tensor, y: Tensor) -> Tensor:
    """Which rows have their greatest logit at y; a row with NaN never has.

    Args:
        logits: (N, K).
        y: int64 (N,).

    Returns:
        bool (N,).
    """
    return (logits.argmax(dim=1) == y) & ~logits.isnan().any(dim=1)


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
    device = device_of(model, x)
    robust, found = [], []
    done = survivors = 0
    # Slow attacks report more often.
    size = min(batch_size, getattr(attack, "at_a_time", None) or batch_size)
    for xb, yb in zip(x.split(size), y.split(size), strict=True):
        here, labels = xb.to(device), yb.to(device)
        with held_still(model), torch.autocast(device.type, enabled=False):
            x_adv = attack(model, here, labels).detach()
        if x_adv.shape != xb.shape:
            raise BadValueError(
                f"{attack!r} returned {tuple(x_adv.shape)} for inputs {tuple(xb.shape)}"
            )
        # predict sets the mode itself: an attack may leave the model in another.
        right = correct(predict(model, here, batch_size), labels) & correct(
            predict(model, x_adv, batch_size), labels
        )
        robust.append(right.to(y.device))
        found.append(x_adv.to(x.device))
        done, survivors = done + len(yb), survivors + int(right.sum())
        if progress is not None:
            progress(done / len(y), f"{survivors} robust of {done}")
    return torch.cat(robust), torch.cat(found)


def share(found: Tensor) -> float:
    """The exact share of True in a bool tensor (N,), N at least 1."""
    return int(found.sum()) / len(found)


def device_of(model: nn.Module, x: Tensor) -> torch.device:
    """Where the model's first parameter is; x's device if it has none."""
    return next((p.device for p in model.parameters()), x.device)


def _some(y: Tensor) -> None:
    if len(y) == 0:
        raise BadValueError("no samples to judge: x and y are empty")
