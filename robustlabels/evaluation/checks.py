"""What is refused before a figure is made: inputs and models that would make it meaningless."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustlabels.errors import BadValueError
from robustlabels.evaluation.accuracy import predict

_RANDOM = 1e-4  # relative to the logits' norm, as in AutoAttack's own check


def check_inputs(x: Tensor) -> None:
    """Inputs are floating, finite and in [0, 1]: what an eps-ball in pixel units means."""
    if not x.is_floating_point():
        raise BadValueError(f"inputs must be floating in [0, 1], not {x.dtype}")
    if x.dim() != 4 or len(x) == 0:
        raise BadValueError(
            f"inputs must be (N, C, H, W) with N of at least 1, not {tuple(x.shape)}"
        )
    low, high = (float(v) for v in x.aminmax())
    if not (low >= 0 and high <= 1):  # NaN fails both
        raise BadValueError(
            f"inputs must be finite and in [0, 1], not in [{low:.4g}, {high:.4g}]: put the "
            "normalisation inside the model"
        )


def check_classifier(model: nn.Module, x: Tensor, num_classes: int, batch_size: int = 250) -> int:
    """The inputs are images in [0, 1], and the model a deterministic source of logits.

    Args:
        model: maps x to logits (N, K or more), looked at on the first batch.
        x: (N, C, H, W).
        num_classes: K, at least 2.
        batch_size: of the batch.

    Returns:
        The number of the model's outputs.

    Raises:
        ValueError: anything else, in one line.
    """
    check_inputs(x)
    x = x[:batch_size]
    z = _output(model, x, num_classes)
    if not bool(z.isfinite().all()):
        raise BadValueError("the model's logits must be finite, but some are NaN or infinite")
    again = predict(model, x)
    if not bool(((z - again).norm(dim=1) <= _RANDOM * z.norm(dim=1).clamp_min(1e-10)).all()):
        raise BadValueError(
            "the model gives other logits for the same inputs the second time, in eval mode: a "
            "randomised defence needs robustlabels.attacks.AutoAttack(eps, version='rand').run"
        )
    if bool((z >= 0).all()) and bool(((z.sum(dim=1) - 1).abs() < 1e-4).all()):
        raise BadValueError(
            "the model returns probabilities; return logits (drop the final softmax): the attacks' "
            "losses need them"
        )
    return z.shape[1]


def _output(model: nn.Module, x: Tensor, num_classes: int) -> Tensor:
    try:
        z = predict(model, x)
    except (RuntimeError, TypeError, AttributeError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise BadValueError(
            f"the model fails on inputs {tuple(x.shape)}: {type(error).__name__}: {first}"
        ) from error
    if not isinstance(z, torch.Tensor) or z.dim() != 2 or len(z) != len(x):
        raise BadValueError(f"the model must return logits ({len(x)}, K), not {tuple(z.shape)}")
    if z.shape[1] < num_classes:
        raise BadValueError(
            f"the model must return at least {num_classes} logits, one a class, not {z.shape[1]}"
        )
    return z
