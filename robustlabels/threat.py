"""The radius of a threat model: parsed exactly, refused where it is surely a mistake."""

from __future__ import annotations

import math
from fractions import Fraction

from robustlabels.errors import BadValueError

NORMS = ("Linf", "L2", "L1")


def check_norm(norm: str) -> str:
    """One of the norms that a threat model may have."""
    if norm not in NORMS:
        raise BadValueError(f"norm must be one of {', '.join(NORMS)}, not {norm!r}")
    return norm


def check_eps_given(
    eps: str | float | None, norm: str | None, run_eps: float | str, run_norm: str
) -> None:
    """Raise ValueError if a norm other than a run's would be combined with the run's radius.

    Args:
        eps: Radius that was given, or None for the run's.
        norm: Norm that was given, or None for the run's.
        run_eps: Radius of the run.
        run_norm: Norm of the run.
    """
    if norm is not None and eps is None and check_norm(norm) != run_norm:
        raise BadValueError(
            f"the run's eps, {run_eps}, is a radius in {run_norm}, not in {norm}: give eps (--eps) "
            "too"
        )


def parse_eps(value: str | float, norm: str = "Linf") -> float:
    """The radius as a float, in units of the inputs' range [0, 1].

    Args:
        value: a number, or text such as "8/255", which is divided exactly.
        norm: "Linf" (eps at most 1), "L2" or "L1".

    Raises:
        ValueError: not a number, not above 0, or, for Linf, above 1.
    """
    check_norm(norm)
    if isinstance(value, bool):
        raise BadValueError(f"eps must be a number or a ratio like 8/255, not {value!r}")
    try:
        eps = float(Fraction(value.strip())) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, ArithmeticError):  # 8/0, 1e400
        raise BadValueError(f"eps must be a number or a ratio like 8/255, not {value!r}") from None
    if not math.isfinite(eps) or eps <= 0:
        raise BadValueError(f"eps must be above 0, not {value!r}")
    if norm == "Linf" and eps > 1:
        steps = f"; in 8-bit steps write {int(eps)}/255" if eps == int(eps) else ""
        raise BadValueError(
            f"eps must be at most 1 for Linf (inputs are in [0, 1]), not {value!r}{steps}"
        )
    return eps
