"""What is refused before a figure is made: inputs and models that would make it meaningless."""

from __future__ import annotations

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import torch
from torch import Tensor, nn

from robustlabels.data.checks import check_range
from robustlabels.errors import BadValueError
from robustlabels.evaluation.accuracy import correct, device_of, predict, share
from robustlabels.randomness import preserved

_LOOKED_AT, _BETTER = 250, 0.1
_RANDOM = 1e-4  # relative to the logits' norm, as in AutoAttack's own check


def check_inputs(x: Tensor) -> Tensor:
    """Check that inputs are floating, finite and in [0, 1], where a radius in pixels has a meaning.

    Returns:
        ``x``, clamped where rounding put a pixel outside; see ``data.checks.check_range``.

    Raises:
        ValueError: Another type, shape or range.
    """
    if not x.is_floating_point():
        raise BadValueError(f"inputs must be floating in [0, 1], not {x.dtype}")
    if x.dim() != 4 or len(x) == 0:
        raise BadValueError(
            f"inputs must be (N, C, H, W) with N of at least 1, not {tuple(x.shape)}"
        )
    return check_range(x, "inputs")


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
    x = check_inputs(x)[:batch_size]
    z = _output(model, x, num_classes)
    finite = z.isfinite().all(dim=1)  # the other images count as misclassified where they are NaN
    if not bool(finite.any()):
        raise BadValueError(
            f"the model's logits must be finite, but are NaN or infinite for all of {len(x)} images"
        )
    again = predict(model, x)[finite]
    z = z[finite]
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


def check_mode(model: nn.Module, x: Tensor) -> None:
    """The model does not depend on being in train mode, if it is.

    Raises:
        ValueError: batch norm, dropout and their like are in train mode.
    """
    if not any(module.training for module in model.modules()):
        return
    x = x[:8].to(device_of(model, x))
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with preserved(), torch.no_grad():
        try:
            as_it_is = model(x)
        finally:
            for name, value in model.named_buffers():
                value.copy_(buffers[name])  # running statistics
    if not torch.allclose(as_it_is.float().cpu(), predict(model, x).cpu(), rtol=1e-3, atol=1e-5):
        raise BadValueError(
            "the model is in train mode, where its batch norm, dropout or the like give other "
            "logits: call model.eval() first"
        )


def check_input_range(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 250) -> None:
    """The model knows images in [0, 1], and not others only.

    Looked at on at most 250 images from all over the set: a model that is much better on the same
    images in [0, 255], in [-1, 1] or standardised was trained on those.

    Args:
        model: maps x to logits (N, K or more), in eval mode.
        x: (N, C, H, W) in [0, 1].
        y: int64 (N,).
        batch_size: images at a time.

    Raises:
        ValueError: naming the range that it seems to want.
    """
    rows = torch.linspace(0, len(x) - 1, min(len(x), _LOOKED_AT)).long()
    x, y = x[rows], y[rows]
    mean, spread = x.mean(dim=(0, 2, 3), keepdim=True), x.std(dim=(0, 2, 3), keepdim=True)
    others = {
        "in [0, 255]": 255 * x,
        "in [-1, 1]": 2 * x - 1,
        "standardised by mean and standard deviation": (x - mean) / spread.clamp_min(1e-6),
    }
    right = correct(predict(model, x, batch_size), y)
    guessing = int(y.bincount().max()) / len(y)
    for name, images in others.items():
        better = correct(predict(model, images, batch_size), y)
        gained, lost = int((better & ~right).sum()), int((right & ~better).sum())
        if gained - lost > _BETTER * len(y) + 3 * math.sqrt(gained + lost) and (
            share(better) > guessing + _BETTER
        ):
            raise BadValueError(
                f"the model seems to want images {name}: {share(better):.1%} of them right, and "
                f"{share(right):.1%} in [0, 1]; put that conversion inside the model"
            )


def optimises(model: nn.Module, x: Tensor) -> bool:
    """Whether a forward pass calls torch's backward pass: a defence that optimises its input.

    Args:
        model: maps x to logits.
        x: (N, C, H, W), of which one is looked at.
    """
    looked_for = {
        f.__code__ for f in (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward)
    }
    found = False

    def see(frame: FrameType, event: str, _: object) -> None:
        nonlocal found
        found |= event == "call" and frame.f_code in looked_for

    def look() -> None:
        sys.setprofile(see)
        predict(model, x[:1])

    # In a thread of its own: a profiler that watches this one stays, which a profiler in C
    # (cProfile's) would not, as Python cannot put it back.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(look).result()
    return found
