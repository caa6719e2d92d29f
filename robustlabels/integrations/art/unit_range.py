"""An ART classifier's model as our engine trains it: on inputs in [0, 1].

ART's inputs may have any range, shape and preprocessing; attacks and eps of ours are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustlabels.errors import BadValueError
from robustlabels.integrations.art.numbered import Array


@dataclass(frozen=True)
class UnitRange:
    """The affine map between a classifier's inputs and [0, 1].

    Attributes:
        low: of the inputs.
        high: of the inputs.
        shape: of one input.
    """

    low: float
    high: float
    shape: tuple[int, ...]

    @property
    def width(self) -> float:
        """high - low."""
        return self.high - self.low

    @property
    def images(self) -> bool:
        """Whether inputs have three axes; others are trained on as (D, 1, 1)."""
        return len(self.shape) == 3

    def to_unit(self, x: Any, what: str = "x") -> Tensor:
        """(N, *shape) of the classifier's range -> float32 (N, C, H, W) in [0, 1].

        Raises:
            ValueError: another shape, or values outside the range.
        """
        unit = torch.as_tensor(np.asarray(x))
        if tuple(unit.shape[1:]) != self.shape:
            raise BadValueError(f"{what} must have inputs {self.shape}, not {tuple(unit.shape)}")
        inside = self.low - self._slack, self.high + self._slack
        if len(unit) and not (unit.min() >= inside[0] and unit.max() <= inside[1]):  # NaN too
            raise BadValueError(
                f"{what} must be in the classifier's clip_values [{self.low:g}, {self.high:g}], "
                f"not in [{float(unit.min()):g}, {float(unit.max()):g}]"
            )
        if not self.images:
            unit = unit.reshape(len(unit), -1, 1, 1)
        if (self.low, self.high) == (0.0, 255.0) and unit.dtype == torch.uint8:
            return unit  # the engine divides by 255 itself
        unit = unit.to(torch.float32)
        return unit if self._same else self.scaled(unit).clamp_(0, 1)

    def scaled(self, x: Tensor) -> Tensor:
        """(N, ...) of the classifier's range, whose values may leave it, -> those of [0, 1]."""
        return x if self._same else (x - self.low) / self.width

    def from_unit(self, x: Tensor) -> Tensor:
        """Back, with a graph: (N, C, H, W) -> (N, *shape)."""
        if not self.images:
            x = x.reshape(len(x), *self.shape)
        return x if self._same else self.low + self.width * x

    @property
    def _same(self) -> bool:
        return (self.low, self.high) == (0.0, 1.0)

    @property
    def _slack(self) -> float:
        """Rounding of float32, in which ART keeps clip values."""
        return 0.0 if self._same else 1e-6 * max(abs(self.low), abs(self.high))


def unit_range(classifier: Any, x: Sequence[Any], eps: float) -> UnitRange:
    """The range that a classifier's ``clip_values`` name.

    Args:
        classifier: of ART.
        x: training and validation inputs, which tell the range where there are no clip values.
        eps: that range is wider by twice this, so that it never clips an attack.

    Raises:
        ValueError: clip values that differ between features, or none and no inputs.
    """
    shape = tuple(classifier.input_shape)
    if classifier.clip_values is None:
        if not x:
            raise BadValueError(
                "a generator does not tell its range: give the classifier clip_values, e.g. (0, 1)"
            )
        known = [np.asarray(part) for part in x]
        low = min(float(part.min()) for part in known) - 2 * eps
        high = max(float(part.max()) for part in known) + 2 * eps
        return UnitRange(low, high, shape)
    lows, highs = (np.unique(np.asarray(v, dtype=np.float64)) for v in classifier.clip_values)
    if len(lows) != 1 or len(highs) != 1 or not lows[0] < highs[0]:
        raise BadValueError(
            "clip_values must be one (low, high) for all features; an eps-ball has one radius"
        )
    return UnitRange(float(lows[0]), float(highs[0]), shape)


class ClassifierModel(nn.Module):
    """A classifier's model behind its range and preprocessing: (N, C, H, W) in [0, 1] -> logits.

    In train mode the defences with ``apply_fit`` come first, in eval mode, and so for attacks,
    those with ``apply_predict``: as ART has it.

    Args:
        classifier: a ``PyTorchClassifier``; its model's weights are shared.
        span: of its inputs.
    """

    def __init__(self, classifier: Any, span: UnitRange) -> None:
        super().__init__()
        self.model = classifier.model
        self.span = span
        self.defences = list(classifier.preprocessing_operations)
        self.train(self.model.training)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_outputs)."""
        x = self.span.from_unit(x)
        for defence in self.defences:
            if defence.apply_fit if self.training else defence.apply_predict:
                x = _defended(defence, x)
        logits: Tensor = self.model(x)
        return logits


def _defended(defence: Any, x: Tensor) -> Tensor:
    from art.defences.preprocessor.preprocessor import PreprocessorPyTorch

    if isinstance(defence, PreprocessorPyTorch):
        found: Tensor = defence.forward(x, None)[0]
        return found
    return _NumpyDefence.apply(x, defence)  # type: ignore[no-any-return]


class _NumpyDefence(torch.autograd.Function):
    """A defence that only exists in numpy, with the gradient that ART estimates for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, defence: Any) -> Tensor:
        ctx.defence, ctx.x = defence, x.detach().cpu().numpy()
        return torch.as_tensor(defence(ctx.x)[0], device=x.device, dtype=x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        estimated: Array = ctx.defence.estimate_gradient(ctx.x, grad.cpu().numpy())
        return torch.as_tensor(estimated, device=grad.device, dtype=grad.dtype), None


class OnUnitRange(nn.Module):
    """Any module on a classifier's inputs, behind the map from [0, 1]: the teacher."""

    def __init__(self, module: nn.Module, span: UnitRange) -> None:
        super().__init__()
        self.module, self.span = module, span

    def forward(self, x: Tensor) -> Tensor:
        """The module's outputs."""
        found: Tensor = self.module(self.span.from_unit(x))
        return found
