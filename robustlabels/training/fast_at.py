"""Fast adversarial training: one FGSM step from a random start (Wong et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from robustlabels.training.pgd_at import PGDTraining


@dataclass
class FastTraining(PGDTraining):
    """CE(f(x'), q), x' by FGSM-RS: torchattacks' FFGSM, step 1.25 eps.

    Cheap, and prone to catastrophic overfitting: the engine looks for it several times an
    epoch and stops with the best checkpoint.
    """

    single_step: ClassVar[bool] = True

    def attack_defaults(self, eps: float) -> dict[str, Any]:
        """FGSM-RS."""
        return {"steps": 1, "step_size": 1.25 * eps}
