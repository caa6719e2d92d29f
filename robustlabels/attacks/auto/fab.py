"""Targeted FAB: towards the nearest decision boundary of each target (Croce & Hein 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from robustlabels.attacks.auto.apgd import margin
from robustlabels.attacks.auto.judged import Judged
from robustlabels.attacks.auto.projections import projection

ALPHA_MAX, ETA, BETA = 0.1, 1.05, 0.9
_DROP = 0.05


@dataclass
class _State:
    """What is carried from step to step, all with one row per sample."""

    row: Tensor
    x: Tensor
    y: Tensor
    target: Tensor
    x_adv: Tensor
    gap: Tensor
    grad: Tensor

    def keep(self, mask: Tensor) -> None:
        """Leave out the other rows."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[mask])


class FAB:
    """Minimal-norm steps on the difference of the target's and the true logit.

    While few inputs cross the boundary, a step's new inputs are looked at once, with a graph: that
    gives the verdict and the next step's gradient. The official always looks at them twice.

    Args:
        model: what is attacked.
        eps: radius; only what is found within it counts.
        norm: "Linf", "L2" or "L1".
        seed: kept for the protocol; without random starts nothing is drawn.
        targets: how many of the greatest other logits are targets in turn.
        skip: how many of these to leave out at the front.
        iterations: steps of each target.
    """

    def __init__(
        self,
        model: Judged,
        eps: float,
        norm: str,
        seed: int,
        targets: int = 9,
        skip: int = 0,
        iterations: int = 100,
    ) -> None:
        self.model, self.eps, self.norm, self.seed = model, eps, norm, seed
        self.targets, self.skip, self.iterations = targets, skip, iterations
        self._project, self._size = projection(norm), _SIZES[norm]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Adversarial inputs, x itself where none is found.

        Args:
            x: (N, C, H, W) in [0, 1].
            y: int64 (N,).
        """
        torch.manual_seed(self.seed)
        adv = x.clone()
        logits = self.model(x)
        alive = ~self.model.fooled(logits, y)
        targets = self.model.targets(logits, y, self.targets)
        for number in range(self.skip, self.targets):
            rows = alive.nonzero().flatten()
            if len(rows) == 0:
                break
            found, where = self._run(x[rows], y[rows], targets[rows, number])
            adv[rows[where]] = found
            alive[rows[where]] = False
        return adv

    @torch.no_grad()
    def _run(self, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs within eps that fool, and their rows."""
        gap, grad, _ = self._look(x, y, target)
        s = _State(torch.arange(len(x), device=x.device), x, y, target, x.clone(), gap, grad)
        out, fallen = x.clone(), torch.zeros_like(y, dtype=torch.bool)
        crossing = False  # whether most inputs crossed the boundary at the last step
        for _ in range(self.iterations):
            s.x_adv = self._step(s)
            if crossing:
                logits = self.model(s.x_adv)
            else:
                s.gap, s.grad, logits = self._look(s.x_adv, s.y, s.target)
            fooled = self.model.fooled(logits, s.y)
            near = fooled & (self._size(s.x_adv - s.x) <= self.eps)
            out[s.row[near]] = s.x_adv[near]
            fallen[s.row[near]] = True
            s.x_adv[fooled] = s.x[fooled] + (s.x_adv[fooled] - s.x[fooled]) * BETA
            standing = ~fallen[s.row]
            if not bool(standing.any()):
                break
            if float((~standing).float().mean()) >= _DROP:
                s.keep(standing)
                fooled = fooled[standing]
            # What has moved back, or was looked at without a graph, is looked at again.
            again = torch.ones_like(fooled) if crossing else fooled
            if bool(again.any()):
                found = self._look(s.x_adv[again], s.y[again], s.target[again])
                s.gap[again], s.grad[again] = found[0], found[1]
            crossing = float(fooled.float().mean()) > 0.5
        return out[fallen], fallen.nonzero().flatten()

    def _look(self, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z_target - z_y, its input gradient, and the logits."""
        logits, gap, grad = self.model.look(x, y, target, margin)
        return gap, grad, logits

    def _step(self, s: _State) -> Tensor:
        """Onto the linearised boundary, from here and from x, and in between."""
        n, shape = len(s.x), s.x.shape
        view = (-1, *[1] * (s.x.dim() - 1))
        here, origin, w = s.x_adv.flatten(1), s.x.flatten(1), s.grad.flatten(1)
        b = -s.gap + (w * here).sum(1)
        both = self._project(torch.cat([here, origin]), torch.cat([w, w]), torch.cat([b, b]))
        d1, d2 = both[:n].view(shape), both[n:].view(shape)
        size = self._size(both).clamp(min=1e-8)
        a1, a2 = size[:n].view(view), size[n:].view(view)
        alpha = (a1 / (a1 + a2)).clamp(0.0, ALPHA_MAX)
        moved = (s.x_adv + ETA * d1) * (1 - alpha) + (s.x + d2 * ETA) * alpha
        moved = torch.where(moved.isnan(), s.x_adv, moved)  # of infinite logits or gradients
        return moved.clamp(0.0, 1.0)


_SIZES: dict[str, Callable[[Tensor], Tensor]] = {
    "Linf": lambda t: t.flatten(1).abs().amax(1),
    "L2": lambda t: (t.flatten(1) ** 2).sum(1).sqrt(),
    "L1": lambda t: t.flatten(1).abs().sum(1),
}
