"""Models that answer differently each time: found out, and attacked in expectation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustlabels.attacks.pgd import PGD
from robustlabels.evaluation.accuracy import correct, predict
from robustlabels.evaluation.auditing.report import Check
from robustlabels.evaluation.auditing.trial import STEP

CHANGE = 1e-4  # relative to the logits' norm, as in AutoAttack's own check
PASSES, DRAWS, JUDGED = 5, 8, 16


class Expected(nn.Module):
    """A random model's mean logits over several draws (expectation over transformation)."""

    def __init__(self, model: nn.Module, draws: int = DRAWS) -> None:
        super().__init__()
        self.model, self.draws = model, draws

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K)."""
        return torch.stack([self.model(x) for _ in range(self.draws)]).mean(dim=0)


def same_answer(model: nn.Module, x: Tensor, batch_size: int) -> Check:
    """Whether the same images get the same logits.

    Args:
        model: any.
        x: (N, C, H, W).
        batch_size: images at a time.
    """
    first = predict(model, x, batch_size)
    change, others = 0.0, torch.zeros(len(x), dtype=torch.bool)
    for _ in range(PASSES - 1):
        again = predict(model, x, batch_size)
        size = first.norm(dim=1).clamp_min(1e-10)
        change = max(change, float(((again - first).norm(dim=1) / size).max()))
        others |= again.argmax(dim=1) != first.argmax(dim=1)
    return Check(
        name="same answer",
        measured={
            "greatest relative change of an image's logits": change,
            "images whose class changes": float(others.float().mean()),
        },
        threshold=f"a relative change of at most {CHANGE:g} over {PASSES} passes",
        passed=change <= CHANGE,
        why="a random model's figures are those of one draw: single gradients are noise, and an "
        "attacker may simply ask again; its figure can't be repeated",
        source="Athalye et al. 2018, sec. 4.2 (EOT); Croce & Hein 2020, version='rand'",
    )


def attack_in_expectation(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str, batch_size: int
) -> dict[str, float]:
    """Mean accuracy over single passes, under no attack, PGD, and PGD on the mean logits.

    Args:
        model: a random model, K logits.
        x: (N, C, H, W), on the CPU.
        y: int64 (N,).
        eps: radius.
        norm: "Linf" or "L2".
        batch_size: images at a time.
    """
