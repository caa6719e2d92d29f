"""What a label scheme asks of a model's last layer: virtual classes, and how to drop them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from robustlabels.errors import BadValueError
from robustlabels.models._checks import check_count

Head = nn.Linear | nn.Conv2d


def adapt_model(model: nn.Module, scheme: Any, layer: str | None = None) -> nn.Module:
    """Widen a model's last linear layer to the number of outputs that a label scheme needs.

    The rows of the old classes stay as they are, bit for bit; the new ones are drawn as PyTorch
    initialises such a layer, from torch's global generator. Device, dtype, ``requires_grad`` and
    train or eval mode stay too. The layer gets new parameters: make the optimizer afterwards.

    Args:
        model: a classifier with ``scheme.num_classes`` logits; changed in place.
        scheme: anything with ``num_classes`` and ``num_outputs``.
        layer: the layer's name (as in ``model.named_modules()``), a ``Linear`` or a 1x1
            ``Conv2d``; by default the last ``Linear``, or, in a model without any, the last 1x1
            ``Conv2d`` (SqueezeNet).

    Returns:
        ``model``; where it is itself the layer, a widened copy of it.

    Raises:
        ValueError: there is no such layer, or its width is neither ``num_classes`` nor
            ``num_outputs``.
    """
    old, new = int(scheme.num_classes), int(scheme.num_outputs)
    name, head = _find(model, layer)
    width = head.out_channels if isinstance(head, nn.Conv2d) else head.out_features
    if width == new:
        return model
    shown = repr(name) if name else "the model itself"
    if width != old:
        fitting = [n for n, m in _linears(model) if m.out_features in (old, new)]
        hint = f"; layer= names another one: {', '.join(fitting)}" if fitting else ""
        raise BadValueError(
            f"layer {shown} has {width} outputs, not {old} (the scheme's classes) or {new} (its "
            f"outputs){hint}"
        )
    _check_plain(shown, head)
    if head is model:
        model = head = copy.deepcopy(head)
    _widen(head, new)
    return model


def real_classes(model: nn.Module, scheme: Any) -> RealClasses:
    """The deployed classifier: a model's first K logits, K the data set's classes.

    Args:
        model: a module that returns logits (N, K or more).
        scheme: a label scheme, or K itself.

    Returns:
        A module that shares the model's weights; ``model`` itself where it is already one.

    Raises:
        ValueError: K is not an integer of at least 2.
    """
    classes = scheme if isinstance(scheme, int) else getattr(scheme, "num_classes", scheme)
    classes = check_count("num_classes", classes, 2)
    if isinstance(model, RealClasses) and model.num_classes == classes:
        return model
    return RealClasses(model, classes)


class RealClasses(nn.Module):
    """A model's first ``num_classes`` logits; see :func:`real_classes`.

    Attributes:
        model: the model with all its outputs.
        num_classes: K.
    """

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.model = model
        self.num_classes = num_classes
        self.training = model.training  # wrapping must not change the mode that is reported

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K); a ValueError if the model has fewer than K outputs."""
        logits: Tensor = self.model(x)
        if logits.dim() != 2 or logits.shape[1] < self.num_classes:
            raise BadValueError(
                f"the model must return logits (N, {self.num_classes} or more), "
                f"not {tuple(logits.shape)}"
            )
        return logits[:, : self.num_classes]


def _linears(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]


def last_linear(model: nn.Module, purpose: str) -> tuple[str, nn.Linear]:
    """The last linear layer and its name; a ValueError that tells the purpose if there is none."""
    linears = _linears(model)
    if not linears:
        raise BadValueError(f"{type(model).__name__} has no Linear layer {purpose}")
    return linears[-1]


def _find(model: nn.Module, layer: str | None) -> tuple[str, Head]:
    if layer is None:
        convolutions = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
        ]
        if convolutions and not _linears(model):
            return convolutions[-1]
        return last_linear(model, "to widen; layer= names a 1x1 Conv2d")
    linears = _linears(model)
    known = dict(model.named_modules())
    if layer not in known:
        last = ", ".join(n for n, _ in linears[-3:]) or "none"
        raise BadValueError(f"layer {layer!r} is not in the model; its last Linear layers: {last}")
    module = known[layer]
    if not isinstance(module, nn.Linear | nn.Conv2d):
        raise BadValueError(
            f"layer {layer!r} must be a Linear or a 1x1 Conv2d, not {type(module).__name__}"
        )
    return layer, module


def _check_plain(shown: str, head: Head) -> None:
    if isinstance(head, nn.Conv2d) and (head.kernel_size != (1, 1) or head.groups != 1):
        raise BadValueError(
            f"layer {shown} must be a 1x1 Conv2d of one group, not one with kernel "
            f"{head.kernel_size} and {head.groups} groups"
        )
    # spectral_norm and weight_norm compute the weight: widening it would undo them silently
    if head._parameters.get("weight") is None:
        raise BadValueError(
            f"layer {shown} is parametrized ({type(head).__name__}): widen it before that"
        )
    if isinstance(head.weight, UninitializedParameter):
        raise BadValueError(f"layer {shown} is not initialised yet: run one batch through it first")


def _widen(head: Head, new: int) -> None:
    """In place, so that hooks on the layer, and every module that shares it, stay."""
    weight, bias = head.weight, head.bias
    if isinstance(head, nn.Conv2d):
        added: Head = nn.Conv2d(head.in_channels, new - head.out_channels, 1, bias=bias is not None)
        head.out_channels = new
    else:
        added = nn.Linear(head.in_features, new - head.out_features, bias=bias is not None)
        head.out_features = new
    head.weight = _joined(weight, added.weight)
    if bias is not None:
        head.bias = _joined(bias, added.bias)


def _joined(old: Tensor, added: Tensor | None) -> nn.Parameter:
    assert added is not None
    rows = torch.cat([old.detach(), added.detach().to(old)])
    return nn.Parameter(rows, requires_grad=old.requires_grad)
