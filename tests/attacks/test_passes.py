"""Without these, a large model would end an evaluation by lack of memory, or a part be lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustlabels.attacks.passes import Passes


def small(limit: int, error: Exception) -> tuple[Callable[[Tensor], tuple[Tensor]], list[int]]:
    """Memory for so many rows."""
    seen: list[int] = []

    def double(x: Tensor) -> tuple[Tensor]:
        seen.append(len(x))
        if len(x) > limit:
            raise error
        return (2 * x,)

    return double, seen


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_parts_shrink_until_they_fit(error: Exception) -> None:
    double, seen = small(6, error)
    passes, x = Passes(), torch.arange(20.0)
    assert torch.equal(passes.over(double, x)[0], 2 * x)
    assert seen == [20, 10, 5, 5, 5, 5]
    assert passes.at_a_time == 5
    assert torch.equal(passes.over(double, x)[0], 2 * x)
    assert seen[6:] == [5, 5, 5, 5], "it must not try again what did not fit"


def test_one_row_that_does_not_fit_is_the_users_to_know() -> None:
    double, seen = small(0, torch.cuda.OutOfMemoryError("full"))
    with pytest.raises(torch.cuda.OutOfMemoryError, match="full"):
        Passes().over(double, torch.zeros(4))
    assert seen == [4, 2, 1]


def test_other_errors_are_not_taken_for_it() -> None:
    double, seen = small(1, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        Passes().over(double, torch.zeros(4))
    assert seen == [4]


def test_no_rows_are_a_pass_too() -> None:
    double, _ = small(9, RuntimeError())
    assert Passes(3).over(double, torch.zeros(0, 2))[0].shape == (0, 2)
