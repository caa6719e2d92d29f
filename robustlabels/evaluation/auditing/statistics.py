"""Two attacks on the same images: does one really break more than the other?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

ALPHA = 0.01
"""The level of every test: a dozen are made in an audit, so that .05 would ring too often."""

FEWEST = 7
"""So many images must be broken by one attack alone before its lead is significant: 2**-7 < .01."""


@dataclass(frozen=True)
class Lead:
    """How much more a second attack breaks than a first one, image by image.

    Attributes:
        points: robust accuracy under the first minus that under the second, as a share of all
            images; below 0 where the second is the weaker.
        gained: images that only the second breaks.
        lost: images that only the first breaks.
        p: one-sided exact McNemar test (McNemar 1947): the chance of at least ``gained`` heads in
            ``gained + lost`` throws of a fair coin; 1 where the two agree on every image.
    """

    points: float
    gained: int
    lost: int
    p: float

    def exceeds(self, points: float) -> bool:
        """Whether the lead is more than so many points, and significant."""
        return self.points > points + 1e-9 and self.p < ALPHA

    @staticmethod
    def rule(what: str, points: float) -> str:
        """:meth:`exceeds` as a check's threshold, in words."""
        return f"{what} by more than {100 * points:g} points with p < {ALPHA}"


def lead(first: Tensor, second: Tensor) -> Lead:
    """The second attack's lead over the first.

    Args:
        first: bool (N,), N at least 1: the images that are robust under the first attack.
        second: bool (N,), the same of the second.
    """
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    n = gained + lost
    heads = sum(math.comb(n, k) for k in range(gained, n + 1))
    return Lead((gained - lost) / len(first), gained, lost, heads / 2**n)
