"""The fast gradient sign method: one step of the whole radius (Goodfellow et al. 2015)."""

from __future__ import annotations

from robustlabels.attacks.pgd import PGD


class FGSM(PGD):
    """One gradient step of size eps from the input itself, or from a random start.

    Args:
        eps: radius, in the inputs' units.
        norm: "Linf" (the sign of the gradient) or "L2" (its direction).
        step_size: eps by default.
        start: "none", "uniform" (FGSM-RS, Wong et al. 2020, there with step_size 1.25 eps) or
            "gaussian".
        mode: as in :class:`PGD`.
    """

    def __init__(
        self,
        eps: float,
        norm: str = "Linf",
        step_size: float | None = None,
        start: str = "none",
        mode: str = "eval",
    ) -> None:
        size = eps if step_size is None else step_size
        super().__init__(eps, norm, steps=1, step_size=size, start=start, mode=mode)
