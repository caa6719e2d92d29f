"""Accuracy on the held-out part of the training split: what chooses the best checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustlabels.attacks import Attack, held_still
from robustlabels.data import Split
from robustlabels.models import real_classes


@dataclass(frozen=True)
class Accuracy:
    """Shares of the held-out samples, in [0, 1]; ``robust`` is None where it wasn't asked for."""

    clean: float
    robust: float | None

    @property
    def rank(self) -> tuple[float, float]:
        """What a better checkpoint has more of: robust accuracy first, where there is one."""
        return (self.clean if self.robust is None else self.robust, self.clean)


def validate(
    model: nn.Module,
    split: Split,
    indices: Tensor,
    *,
    num_classes: int,
    attack: Attack | None,
    batch_size: int,
    device: torch.device,
) -> Accuracy:
    """Clean and robust accuracy of the first K logits in eval mode, with hard labels.

    Args:
        model: (N, C, H, W) -> (N, at least K).
        split: where the samples are.
        indices: int64 (N,), which of them.
        num_classes: K.
        attack: an attack on the K-class model, or None for clean accuracy only.
        batch_size: of both.
        device: of the model.
    """
    clean = torch.zeros((), dtype=torch.int64, device=device)
    robust = torch.zeros_like(clean)
    with held_still(model):
        judged = real_classes(model, num_classes)
        for x, y in split.batches(indices.split(batch_size), device):
            with torch.no_grad():
                right = judged(x).argmax(dim=1) == y
            clean += right.sum()
            if attack is not None:
                x_adv = attack(judged, x, y)
                with torch.no_grad():
                    robust += (right & (judged(x_adv).argmax(dim=1) == y)).sum()
    n = max(len(indices), 1)
    return Accuracy(int(clean) / n, None if attack is None else int(robust) / n)
