"""Standard, adversarial, Boltzmann and second-best label smoothing (Goibert and Dohmatob 2019).

All four are (1 - alpha) e_y + alpha q', and differ in where q' puts its mass.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from robustlabels.labels import _checks
from robustlabels.labels.base import LabelScheme, one_hot, shared_mass


class _Goibert(LabelScheme):
    parameters: ClassVar[tuple[str, ...]] = ("alpha",)

    def __init__(self, num_classes: int, alpha: float = 0.1) -> None:
        super().__init__(num_classes)
        self.alpha = _checks.check_share("alpha", alpha)

    def _labels(self, y: Tensor, logits: Tensor | None, *_: Any, like: Tensor, **__: Any) -> Tensor:
        hot = one_hot(y, self.num_classes, like)
        return (1 - self.alpha) * hot + self.alpha * self._elsewhere(hot, logits)

    def _elsewhere(self, hot: Tensor, logits: Tensor | None) -> Tensor:
        """q', (N, K); ``hot`` is e_y."""
        raise NotImplementedError(f"{type(self).__name__} must define _elsewhere")  # abstract


class StandardLabelSmoothing(_Goibert):
    """SLS: alpha / (K - 1) on every class but y (eq. 5).

    Args:
        num_classes: K.
        alpha: the smoothed mass, in [0, 1].
    """

    linear = True

    def _elsewhere(self, hot: Tensor, logits: Tensor | None) -> Tensor:
        del logits
        return (1 - hot) / (self.num_classes - 1)


class AdversarialLabelSmoothing(_Goibert):
    """ALS: alpha on the least likely class, which may be y; ties share equally (eq. 4).

    Args:
        num_classes: K.
        alpha: the smoothed mass, in [0, 1].
    """

    needs = frozenset({"logits"})
    linear = True

    def _elsewhere(self, hot: Tensor, logits: Tensor | None) -> Tensor:
        assert logits is not None  # labels() has checked ``needs``
        return shared_mass(logits == logits.amin(dim=1, keepdim=True), hot)


class BoltzmannLabelSmoothing(_Goibert):
    """BLS: alpha spread as exp(-z_k / T) over the classes k other than y (eq. 6).

    T to 0 is ALS where the least likely class is not y; T to infinity is SLS.

    Args:
        num_classes: K.
        alpha: the smoothed mass, in [0, 1].
        temperature: T above 0; ``math.inf`` is allowed.
        on: what z is: "logits" (the paper) or "probabilities" (the authors' code).
    """

    needs = frozenset({"logits"})
    parameters: ClassVar[tuple[str, ...]] = ("alpha", "temperature", "on")

    def __init__(
        self,
        num_classes: int,
        alpha: float = 0.1,
        temperature: float = 0.001,
        on: str = "logits",
    ) -> None:
        super().__init__(num_classes, alpha)
        self.temperature = _checks.check_positive("temperature", temperature, infinite=True)
        self.on = _checks.check_choice("on", on, ("logits", "probabilities"))

    def _elsewhere(self, hot: Tensor, logits: Tensor | None) -> Tensor:
        assert logits is not None  # labels() has checked ``needs``
        energy = logits if self.on == "logits" else logits.softmax(dim=1)
        # Measured from the lowest, so that the division by a small T overflows to exp(-inf) = 0.
        energy = energy.masked_fill(hot.bool(), torch.inf)
        energy = energy - energy.amin(dim=1, keepdim=True)
        weight = torch.exp(-energy / self.temperature).masked_fill(hot.bool(), 0.0)
        return weight / weight.sum(dim=1, keepdim=True)


class SecondBestLabelSmoothing(_Goibert):
    """SBLS: alpha on the most likely class other than y; ties share equally (eq. 7).

    Args:
        num_classes: K.
        alpha: the smoothed mass, in [0, 1].
    """

    needs = frozenset({"logits"})

    def _elsewhere(self, hot: Tensor, logits: Tensor | None) -> Tensor:
        assert logits is not None  # labels() has checked ``needs``
        others = logits.masked_fill(hot.bool(), -torch.inf)
        return shared_mass(others == others.amax(dim=1, keepdim=True), hot)
