"""Divergence, seen early: NaN, and catastrophic overfitting of single-step training."""

from __future__ import annotations

import torch
from torch import Tensor

CHANCE_FACTOR = 1.5
FALL = 0.5


class LossWatch:
    """Notices a loss that is not finite without making a GPU wait at every step.

    Args:
        device: where the losses are.
        every: steps between two looks; 1 on a CPU, where looking is free.
    """

    def __init__(self, device: torch.device, every: int | None = None) -> None:
        self._every = every or (1 if device.type == "cpu" else 25)
        self._broken = torch.zeros((), dtype=torch.bool, device=device)
        self._seen = 0

    def saw(self, loss: Tensor) -> bool:
        """Note a loss; True once one of them was NaN or infinite."""
        self._broken |= ~torch.isfinite(loss.detach())
        self._seen += 1
        return self._seen % self._every == 0 and bool(self._broken)

    def broken(self) -> bool:
        """Whether any loss so far was not finite."""
        return bool(self._broken)


class OverfittingWatch:
    """Catastrophic overfitting: robust accuracy under PGD falls to half of its best, or to chance.

    Single-step training can lose all robustness within an epoch while its own attack says that
    it gains some (Wong et al. 2020; Andriushchenko and Flammarion 2020).

    Args:
        num_classes: K; nothing is said until robust accuracy was 1.5 times chance, 1/K.
        best: the best robust accuracy so far.
    """

    def __init__(self, num_classes: int, best: float = 0.0) -> None:
        self._floor = CHANCE_FACTOR / num_classes
        self.best = best

    def saw(self, clean: float, robust: float, training: float) -> str | None:
        """Note a look at held-out samples; the message, once it has happened.

        Args:
            clean: accuracy on held-out samples, in [0, 1].
            robust: the same under PGD.
            training: accuracy under the training attack, lately.
        """
        fallen = self.best > self._floor and robust < FALL * self.best
        # The others must hold: where all fall together, the learning rate is too high.
        if fallen and clean > self.best and training > self.best:
            return (
                f"catastrophic overfitting: robust accuracy under PGD fell from {self.best:.1%} to "
                f"{robust:.1%}, while accuracy under the training attack is {training:.1%}"
            )
        self.best = max(self.best, robust)
        return None
