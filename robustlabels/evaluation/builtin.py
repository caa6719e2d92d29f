"""The evaluations that come with us."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from robustlabels.errors import BadValueError
from robustlabels.evaluation.accuracy import predict, top_k_accuracy
from robustlabels.evaluation.calibration import (
    error_of_confidence,
    expected_calibration_error,
    fitted_temperature,
    normalized,
    range_of_labels,
)
from robustlabels.evaluation.context import Context


class Accuracy:
    """Clean accuracy: top-1, and top-5 where there are five classes."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, context: Context
    ) -> dict[str, float | None]:
        """``top1`` and ``top5``."""
        logits = predict(model, x, context.batch_size)
        return {
            "top1": top_k_accuracy(logits, y, 1),
            "top5": top_k_accuracy(logits, y, 5) if context.num_classes >= 5 else None,
        }


class Calibration:
    """Expected calibration error on the inputs themselves and on each attack's.

    Args:
        bins: at least 1.
    """

    def __init__(self, bins: int = 15) -> None:
        self.bins = bins

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, context: Context
    ) -> dict[str, float | None]:
        """``clean``, and each attack by its name."""
        return {
            name: _or_none(expected_calibration_error(logits, y, self.bins))
            for name, logits in _predicted(model, x, context).items()
        }


class TemperatureScaling:
    """Calibration error of softmax(z / T), T fitted on held-out images (Guo et al. 2017).

    One T, fitted to clean inputs, serves the attacked ones too. It changes no prediction.

    Args:
        bins: at least 1.
    """

    def __init__(self, bins: int = 15) -> None:
        self.bins = bins

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> dict[str, Any]:
        """``temperature``, ``held_out`` (how many), ``ece`` and, without scaling, ``unscaled``."""
        held_out, labels = context.held_out()
        temperature = fitted_temperature(predict(model, held_out, context.batch_size), labels)
        found = _predicted(model, x, context)
        scaled, unscaled = (
            {
                name: _or_none(expected_calibration_error(z / t, y, self.bins))
                for name, z in found.items()
            }
            for t in (temperature, 1.0)
        )
        return {
            "temperature": temperature,
            "held_out": len(labels),
            "ece": scaled,
            "unscaled": unscaled,
        }


class NormalizedPredictions:
    """Calibration error of predictions that are normalised from their labels' range to [0, 1].

    A model that learns (1 - alpha) e_y + alpha / K is right to give its class at most
    1 - alpha + alpha / K. "Normalizing LS model predictions to the range [0, 1]" (VS 4.1) has no
    formula in the text that we have; ours is the map that takes these labels to one-hot ones:
    (p - alpha / K) / (1 - alpha), cut to [0, 1]. It changes no prediction.

    Args:
        alpha: of ``ls``, in [0, 1), where the model's label scheme is not known or another's is
            wanted; else the range is that of the scheme's own labels.
        bins: at least 1.
    """

    def __init__(self, alpha: float | None = None, bins: int = 15) -> None:
        number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
        if alpha is not None and not (number and 0 <= alpha < 1):
            raise BadValueError(f"alpha must be in [0, 1), not {alpha!r}")
        self.alpha, self.bins = alpha, bins

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> dict[str, Any]:
        """``least`` and ``greatest`` label, ``ece`` and, as they are, ``unnormalized``."""
        least, greatest = self._range(context)
        found = _predicted(model, x, context)
        return {
            "least": least,
            "greatest": greatest,
            "ece": {
                name: _or_none(
                    error_of_confidence(
                        normalized(z.double().softmax(dim=1), least, greatest), y, self.bins
                    )
                )
                for name, z in found.items()
            },
            "unnormalized": {
                name: _or_none(expected_calibration_error(z, y, self.bins))
                for name, z in found.items()
            },
        }

    def _range(self, context: Context) -> tuple[float, float]:
        if self.alpha is not None:
            least = self.alpha / context.num_classes
            return least, 1 - self.alpha + least
        if context.scheme is None:
            raise BadValueError(
                "the model's label scheme is not known: judge a run, give scheme=, or alpha= of ls"
            )
        return range_of_labels(context.scheme, context.num_classes)


def _or_none(error: float) -> float | None:
    """Return None for NaN, which JSON cannot hold."""
    return None if math.isnan(error) else error


def _predicted(model: nn.Module, x: Tensor, context: Context) -> dict[str, Tensor]:
    """Logits (N, K) of the inputs themselves, "clean", and of each attack's."""
    inputs = {"clean": x, **context.adversarial}
    return {name: predict(model, each, context.batch_size) for name, each in inputs.items()}
