"""RobustBench's three rules for a model, tried on a few images.

"(1) have in general non-zero gradients wrt the inputs, (2) have a fully deterministic forward pass
(i.e. no randomness) that (3) does not have an optimization loop" (its README).
"""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn

from robustlabels.leaderboard.submission.parts import Finding

SAME = 1e-4
"""Of a logits' vector, relative to its norm: below, two forward passes agree."""
ZERO_GRADIENTS = 0.1
"""Share of images without gradient that is not "in general non-zero" any more."""
CALLS = 10
"""So often a layer may be used in one forward pass before it looks like a loop."""


def behaviour(model: nn.Module, x: Tensor, num_classes: int) -> list[Finding]:
    """What of a model breaks the rules, as far as trying can show.

    Detected are: random numbers drawn in the forward pass, another output the second time, for
    another batch, or with gradients on or off; autograd used inside the forward pass; input
    gradients that are zero or missing. A loop without autograd is not told from a recurrent
    network: a layer that is used often gives a warning.

    Args:
        model: in eval mode; images (N, C, H, W) in [0, 1] to logits (N, K).
        x: a few images, on the model's device.
        num_classes: K.
    """
    try:
        with torch.no_grad():
            z = model(x)
    except Exception as error:  # whatever the model raises
        why = " ".join(str(error).split())[:200]
        remedy = f"it must take images {tuple(x.shape[1:])} in [0, 1]"
        return [Finding("model", f"fails ({type(error).__name__}: {why})", remedy)]
    if z.shape != (len(x), num_classes) or not bool(z.isfinite().all()):
        value = f"returns {tuple(z.shape)}" if z.shape[1:] != (num_classes,) else "NaN or infinite"
        return [Finding("logits", value, f"it must return {num_classes} finite logits an image")]
    return [
        *_logits(z),
        *_deterministic(model, x, z),
        *_no_optimisation(model, x, z),
        *_gradients(model, x),
    ]


def _logits(z: Tensor) -> Iterator[Finding]:
    if bool((z >= 0).all()) and bool(((z.sum(dim=1) - 1).abs() < SAME).all()):
        yield Finding("logits", "probabilities", "drop the final softmax: AutoAttack needs logits")


def _deterministic(model: nn.Module, x: Tensor, z: Tensor) -> Iterator[Finding]:
    remedy = "RobustBench takes deterministic models only: remove the randomness"
    before = _generators(x.device)
    with torch.no_grad():
        again = model(x)
    if _generators(x.device) != before:
        yield Finding("deterministic", "the forward pass draws random numbers", remedy)
    elif not _same(z, again):
        yield Finding("deterministic", f"the second pass differs by {_gap(z, again):.1e}", remedy)
    with torch.no_grad():
        alone = torch.cat([model(image) for image in x[:4].split(1)])
    if not _same(z[:4], alone):
        yield Finding(
            "deterministic",
            f"an image's logits depend on the others of its batch, by {_gap(z[:4], alone):.1e}",
            "judge each image by itself: no statistics of the batch",
        )
    modes = [name or "it" for name, module in model.named_modules() if module.training]
    if modes:
        yield Finding("deterministic", f"{modes[0]} is in training mode", "call model.eval()")


def _no_optimisation(model: nn.Module, x: Tensor, z: Tensor) -> Iterator[Finding]:
    remedy = "RobustBench takes no optimisation in the forward pass: submit the classifier alone"
    try:
        # Autograd is off in here, whatever the model switches on; what needs it fails or differs.
        with torch.inference_mode():
            without = model(x)
    except Exception as error:  # torch's, mostly; or what the model makes of it
        why = " ".join(str(error).split())[:120]
        yield Finding("optimisation", f"the forward pass needs autograd ({why})", remedy)
    else:
        with torch.enable_grad():
            with_gradient = model(x.detach().clone().requires_grad_()).detach()
        for what, other in (("without autograd", without), ("with gradients on", with_gradient)):
            if not _same(z, other):
                value = f"the logits are others {what}, by {_gap(z, other):.1e}"
                yield Finding("optimisation", value, remedy)
    calls: Counter[str] = Counter()
    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():
            if (
                next(module.children(), None) is None
                and next(module.parameters(), None) is not None
            ):
                count = _Count(name, calls)
                stack.callback(module.register_forward_hook(count).remove)
        model(x[:1])
    for name, number in calls.most_common(1):
        if number > CALLS:
            yield Finding(
                "optimisation",
                f"{name or 'the model'} is used {number} times in one forward pass",
                "make sure that this is no optimisation loop, and tell of it in the form",
                fails=False,
            )


class _Count:
    """A forward hook that counts."""

    def __init__(self, name: str, calls: Counter[str]) -> None:
        self.name, self.calls = name, calls

    def __call__(self, *_: object) -> None:
        self.calls[self.name] += 1


def _gradients(model: nn.Module, x: Tensor) -> Iterator[Finding]:
    remedy = "RobustBench takes models with gradients in general: see robustlabels audit"
    inputs = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        z = model(inputs)
        if not z.requires_grad:
            yield Finding("gradients", "the logits have no gradient to the input", remedy)
            return
        top = z.topk(2, dim=1).values
        # The logits' margin, which does not saturate as cross-entropy does.
        margin = (top[:, 0] - top[:, 1]).sum()
        (found,) = torch.autograd.grad(margin, inputs, materialize_grads=True)
    if not bool(found.isfinite().all()):
        yield Finding("gradients", "NaN or infinite", remedy)
        return
    zero = int((found.flatten(1).abs().amax(dim=1) == 0).sum())
    if zero:
        value = f"{zero} of {len(x)} images have a gradient of zero"
        yield Finding("gradients", value, remedy, fails=zero > ZERO_GRADIENTS * len(x))


def _same(z: Tensor, other: Tensor) -> bool:
    if z.shape != other.shape:
        return False
    return bool(((z - other).norm(dim=1) <= SAME * z.norm(dim=1).clamp_min(1e-10)).all())


def _gap(z: Tensor, other: Tensor) -> float:
    """The greatest difference, relative to a logits' vector's norm."""
    if z.shape != other.shape:
        return float("inf")
    return float(((z - other).norm(dim=1) / z.norm(dim=1).clamp_min(1e-10)).max())


def _generators(device: torch.device) -> list[bytes]:
    """The states of the global generators that a model could draw from."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    others = (random.getstate(), np.random.get_state())
    return [bytes(state.numpy()) for state in states] + [pickle.dumps(other) for other in others]
