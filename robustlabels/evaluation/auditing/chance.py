"""Models that answer differently each time: found out, and attacked in expectation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustlabels.evaluation.accuracy import share
from robustlabels.evaluation.auditing.report import Check
from robustlabels.evaluation.auditing.trial import Trial

CHANGE = 1e-4
"""Relative to the logits' norm, as in AutoAttack's own check."""
PASSES, DRAWS = 5, 8


class Expected(nn.Module):
    """A random model's mean logits over several draws (expectation over transformation)."""

    def __init__(self, model: nn.Module, draws: int = DRAWS) -> None:
        super().__init__()
        self.model, self.draws = model, draws

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K)."""
        return torch.stack([self.model(x) for _ in range(self.draws)]).mean(dim=0)


def same_answer(trial: Trial) -> Check:
    """Whether the same images get the same logits; if not, PGD on their mean."""
    trial.begin("same answer")
    first = trial.logits(trial.x)
    size = first.norm(dim=1).clamp_min(1e-10)
    change, moved = torch.zeros(len(first)), torch.zeros(len(first), dtype=torch.bool)
    for _ in range(PASSES - 1):
        again = trial.logits(trial.x)
        change = change.maximum((again - first).norm(dim=1) / size)
        moved |= again.argmax(dim=1) != first.argmax(dim=1)
    same = bool((change <= CHANGE).all())  # NaN is not the same
    measured = {
        "greatest relative change of an image's logits": float(change.max().nan_to_num(1.0)),
        "images whose class changes": share(moved),
    }
    if not same:
        name = f"PGD, mean of {DRAWS} draws"
        found, _ = trial.climb(name, (10, 20), model=Expected(trial.model))
        trial.record(name, found[20])
        measured[name] = trial.accuracy(name)
    return Check(
        name="same answer",
        measured=measured,
        threshold=f"a relative change of at most {CHANGE:g} over {PASSES} passes",
        passed=same,
        why="a random model's figures are those of one draw: single gradients are noise, and an "
        "attacker may simply ask again",
        source="Athalye et al. 2018, sec. 4.2 (EOT); Croce & Hein 2020, version='rand'",
    )
