"""What an attack is, and how a model is held while it is attacked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


class Attack(Protocol):
    """An untargeted evasion attack.

    ``factory(eps=float, norm="Linf"|"L2", **params)`` makes one. Calling it leaves the model as
    it was: modes and ``requires_grad`` of every module and parameter are restored, also after an
    exception.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Adversarial inputs.

        Args:
            model: maps (N, C, H, W) in [0, 1] to logits (N, D).
            x: (N, C, H, W), floating, in [0, 1].
            y: int64 (N,), or soft labels (N, D) for attacks that take them.

        Returns:
            (N, C, H, W) in [0, 1], detached, on x's device.
        """


@contextmanager
def held_still(model: nn.Module, mode: str = "eval", buffers: bool = False) -> Iterator[None]:
    """Set the model's mode and freeze its parameters; restore each module and parameter.

    Frozen parameters spare the attack their gradients, a third of each backward pass.

    Args:
        model: any module.
        mode: "eval"; "train": a model that is in train mode stays as it is, frozen batch norms
            included; or "train-but-norm": train mode with batch norm and dropout in eval mode
            (RNNs need it).
        buffers: Whether to restore the buffers too, because passes in train mode update batch
            norms' statistics. Evaluations do; training does not.
    """
    kept = _buffers(model) if buffers else []
    modules = {m: m.training for m in model.modules()}
    parameters = {p: p.requires_grad for p in model.parameters()}
    try:
        if mode == "eval" or not model.training:
            model.train(mode != "eval")
        if mode == "train-but-norm":
            for module in modules:
                if isinstance(module, _BatchNorm | _DropoutNd):
                    module.training = False
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modules.items():
            module.training = training  # not .train(): that would recurse into the children
        for parameter, requires_grad in parameters.items():
            parameter.requires_grad_(requires_grad)
        for module, name, buffer, value in kept:
            module._buffers[name] = buffer  # an attack may have replaced it
            with torch.no_grad():
                buffer.copy_(value)


def _buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor, Tensor]]:
    """Return each buffer's module and name, the buffer itself and a copy of it."""
    return [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def correct(logits: Tensor, y: Tensor) -> Tensor:
    """Return which rows have their greatest logit at y; a row with NaN is never correct.

    Args:
        logits: (N, K).
        y: int64 (N,).

    Returns:
        bool (N,).
    """
    # torch's argmax takes NaN for the maximum, so such a row would count as its first NaN's class.
    return (logits.argmax(dim=1) == y) & ~logits.isnan().any(dim=1)


def input_gradient(loss: Tensor, x: Tensor) -> Tensor:
    """d loss / d x, zero where the loss does not depend on x; nothing else is accumulated."""
    (grad,) = torch.autograd.grad(loss, x, allow_unused=True)
    return torch.zeros_like(x) if grad is None else grad


def finite_gradient(grad: Tensor) -> Tensor:
    """Replace what is not finite, so that a step along the gradient stays a valid image.

    NaN becomes 0 and an infinite entry the sign that it has, next to which the image's finite
    entries are negligible and become 0. Images with finite gradients keep their bits.

    Args:
        grad: (N, ...).
    """
    infinite = grad.isinf()
    direction = torch.where(infinite, grad.sign(), 0.0)
    row = infinite.flatten(1).any(dim=1).view(-1, *[1] * (grad.dim() - 1))
    return torch.where(row, direction, grad.nan_to_num(nan=0.0))


def shown_params(attack: Attack) -> dict[str, Any]:
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
