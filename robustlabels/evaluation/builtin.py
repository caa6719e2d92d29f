"""The evaluations that come with us."""

from __future__ import annotations

from torch import Tensor, nn

from robustlabels.evaluation.accuracy import predict, top_k_accuracy
from robustlabels.evaluation.calibration import expected_calibration_error
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
    ) -> dict[str, float]:
        """``clean``, and each attack by its name."""
        inputs = {"clean": x, **context.adversarial}
        return {
            name: expected_calibration_error(predict(model, each, context.batch_size), y, self.bins)
            for name, each in inputs.items()
        }
