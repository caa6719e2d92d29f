"""Accuracy on the held-out part of the training split: what chooses the best checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustlabels.attacks.base import Attack, correct, held_still
from robustlabels.data import Split
from robustlabels.models import real_classes
from robustlabels.randomness import drawing_for
from robustlabels.training.sharing import ALONE, Share


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
    share: Share = ALONE,
) -> Accuracy:
    """Clean and robust accuracy of the first K logits in eval mode, with hard labels.

    Args:
        model: (N, C, H, W) -> (N, at least K).
        split: where the samples are.
        indices: int64 (N,), which of them.
        num_classes: K.
        attack: an attack on the K-class model, or None for clean accuracy only.
        batch_size: of both, all processes' samples together.
        device: of the model.
        share: of each batch, where several processes judge; all get the figures of the whole. The
            global generators must be in the same state in all of them.
    """
    clean = torch.zeros((), dtype=torch.int64, device=device)
    robust = torch.zeros_like(clean)
    whole = indices.split(batch_size)
    rows = [None if share.alone else share.rows(len(batch), device)[0] for batch in whole]
    mine = [b if r is None else b[r.own.cpu()] for b, r in zip(whole, rows, strict=True)]
    mine = [batch for batch in mine if len(batch)]  # a last batch may be too small for all
    common = torch.Generator(device)
    common.manual_seed(torch.initial_seed())
    with held_still(model):
        judged = real_classes(model, num_classes)
        for own, (x, y) in zip(rows, split.batches(mine, device), strict=False):
            with torch.no_grad():
                right = correct(judged(x), y)
            clean += right.sum()
            if attack is not None:
                with drawing_for(own, common), held_still(model, buffers=True):
                    x_adv = attack(judged, x, y)
                with torch.no_grad():
                    robust += (right & correct(judged(x_adv), y)).sum()
    n = max(len(indices), 1)
    clean, robust = share.summed(torch.stack([clean, robust]))
    return Accuracy(int(clean) / n, None if attack is None else int(robust) / n)
