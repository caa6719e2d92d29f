"""The radius and the norm of a threat model."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlabels.errors import BadValueError
from robustlabels.threat import check_norm, parse_eps


@given(st.integers(1, 255), st.integers(255, 10**6))
def test_ratios_are_divided_exactly(a: int, b: int) -> None:
    """8/255 parsed with two roundings would be another threat model than the published one."""
    assert Fraction(parse_eps(f"{a}/{b}")) == Fraction(a / b)  # IEEE division rounds once
    assert parse_eps(f" {a}/{b}\n") == a / b


@pytest.mark.parametrize(("value", "eps"), [("0.031", 0.031), (1, 1.0), ("1e-2", 0.01), (1.0, 1)])
def test_numbers(value: str | float, eps: float) -> None:
    """Decimal text and numbers, the greatest allowed included."""
    assert parse_eps(value) == eps


@pytest.mark.parametrize(
    "value",
    ["", "x", "8/", "/255", "8/0", "8/255/2", "nan", "inf", "1e400", "1e-400", "-8/255"],
)
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_text_that_is_refused(value: str, norm: str) -> None:
    """A radius of 0, NaN or infinity gives a figure, and a meaningless one."""
    refuse(value, norm)


@pytest.mark.parametrize("value", [0, -0.1, float("nan"), float("inf"), None, [1]])
def test_what_else_is_refused(value: object) -> None:
    """From Python anything may come."""
    refuse(value, "L2")


def refuse(value: object, norm: str) -> None:
    with pytest.raises(BadValueError, match=r"^eps must be .*, not ") as info:
        parse_eps(value, norm)  # type: ignore[arg-type]
    assert repr(value) in str(info.value)


@pytest.mark.parametrize("value", ["8", 8, 8.0, "16/2"])
def test_eight_bit_steps_for_linf(value: str | float) -> None:
    """--eps 8 means 8/255: taken literally, nothing survives, and nobody would know why."""
    with pytest.raises(BadValueError, match=r"at most 1 for Linf.*, not .*write 8/255$"):
        parse_eps(value)
    assert parse_eps("8/255") == 8 / 255  # what is advised is allowed
    assert parse_eps(value, "L2") == parse_eps(value, "L1") == 8.0
    with pytest.raises(BadValueError, match=r"at most 1 for Linf \(.*\), not 1.0001$"):
        parse_eps(1.0001)


def test_norms() -> None:
    """A misspelt norm must not fall through to some branch."""
    assert [check_norm(n) for n in ("Linf", "L2", "L1")] == ["Linf", "L2", "L1"]
    for norm in ("linf", "L0", "", "l2"):
        with pytest.raises(BadValueError, match=f"norm must be one of Linf, L2, L1, not '{norm}'"):
            parse_eps(0.1, norm)
