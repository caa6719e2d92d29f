"""The nearest point on a hyperplane within [0, 1], which FAB asks for twice a step.

In Linf it is found without sorting: the official sorts all pixels of all images, which takes longer
than a small net's own passes. L2 and L1 are the official's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Projection = Callable[[Tensor, Tensor, Tensor], Tensor]


def projection(norm: str) -> Projection:
    """(points (n, d) in [0, 1], normals (n, d), offsets (n,)) -> the moves (n, d).

    Args:
        norm: "Linf", "L2" or "L1".
    """
    from pyautoattack.fab_projections import projection_l1, projection_l2

    official: dict[str, Projection] = {"L2": projection_l2, "L1": projection_l1}
    return projection_linf if norm == "Linf" else official[norm]


def projection_linf(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The smallest move in Linf that takes x onto the hyperplane w.x = b and keeps it in [0, 1].

    Every pixel moves by lambda, or to the edge where that is nearer. What the move gains,
    sum |w| min(lambda, room), is concave in lambda, so Newton's method from below climbs to the
    solution in a few steps and stops there.

    Args:
        x: (n, d) in [0, 1].
        w: (n, d).
        b: (n,).

    Returns:
        (n, d); to the edges where the hyperplane is out of reach.
    """
    gap = (w * x).sum(dim=1) - b
    w = torch.where((gap >= 0).unsqueeze(1), w, -w)
    gap = gap.abs()
    up = w < 0
    room = torch.where(up, 1 - x, x)
    weight = w.abs()
    step = gap / weight.sum(dim=1).clamp_min(torch.finfo(w.dtype).tiny)
    same = 1 + 2 * torch.finfo(w.dtype).eps
    while True:
        reach = step.unsqueeze(1)
        missing = gap - (weight * torch.minimum(room, reach)).sum(dim=1)
        slope = (weight * (room > reach).to(weight.dtype)).sum(dim=1)
        # Rounding must not bring it down again; out of reach, every pixel ends at its edge.
        better = torch.where(slope > 0, step + missing / slope, torch.inf).maximum(step)
        if not bool((better > step * same).any()):
            break
        step = better
    move = torch.minimum(room, step.unsqueeze(1))
    return torch.where(up, move, -move) * (weight > 0).to(weight.dtype)
