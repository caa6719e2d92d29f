"""Square: random search without gradients (Andriushchenko et al. 2020)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from robustlabels.attacks.auto.judged import Judged

P_INIT = 0.8
_SCHEDULE = [(8000, 512), (6000, 256), (4000, 128), (2000, 64), (1000, 32), (500, 16)]
_SCHEDULE += [(200, 8), (50, 4), (10, 2)]
_DROP = 0.02


class Square:
    """Random squares that lower the margin; those that do stay.

    Args:
        model: what is attacked.
        eps: radius.
        norm: "Linf", "L2" or "L1". The last two run the official code, which draws random
            numbers for each sample that is left.
        seed: of the search.
        queries: at most so many for each image.
    """

    def __init__(
        self, model: Judged, eps: float, norm: str, seed: int, queries: int = 5000
    ) -> None:
        self.model, self.eps, self.norm, self.seed = model, eps, norm, seed
        self.queries = queries

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Adversarial inputs, x itself where none is found; draws from the global generator.

        Args:
            x: (N, C, H, W) in [0, 1].
            y: int64 (N,).
        """
        if self.norm != "Linf":
            return self._official(x, y)
        adv = x.clone()
        alive = (~self.model.fooled(self.model(x), y)).nonzero().flatten()
        torch.manual_seed(self.seed)
        if len(alive) == 0:
            return adv
        found = self._search(x[alive], y[alive])
        wrong = self.model.fooled(self.model(found), y[alive])
        adv[alive[wrong]] = found[wrong]
        return adv

    def _search(self, x: Tensor, y: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        device = x.device
        x = self.model.laid_out(x)
        out = (x + self.eps * _signs([len(x), channels, 1, width], device)).clamp(0.0, 1.0)
        row = torch.arange(len(x), device=device)
        best = out.clone()
        margin, loss = self._margins(best, y)
        if bool((margin < 0).all()):
            return out
        low, high = (x - self.eps).clamp(min=0.0), (x + self.eps).clamp(max=1.0)
        for i in range(self.queries):
            standing = margin > 0
            fallen = int((~standing).sum())
            if fallen == len(standing):
                break
            if fallen >= _DROP * len(standing):
                out[row] = best
                row, best, y, low, high, margin, loss = (
                    t[standing] for t in (row, best, y, low, high, margin, loss)
                )
                standing = margin > 0
            side = max(round(math.sqrt(_share(i) * height * width)), 1)
            side = min(side, height, width)
            top, left = _integer(height - side), _integer(width - side)
            square = 2.0 * self.eps * _signs([channels, 1, 1], device)
            # The square is tried in place: nothing else of the images changes.
            window = (..., slice(top, top + side), slice(left, left + side))
            before = best[window].clone()
            best[window] = (before + square).clamp(low[window], high[window])
            new_margin, new_loss = self._margins(best, y)
            # Fallen samples that are still carried along keep what they have.
            better = ((new_loss < loss) | (new_margin <= 0)) & standing
            loss = torch.where((new_loss < loss) & standing, new_loss, loss)
            margin = torch.where(better, new_margin, margin)
            best[window] = torch.where(better.view(-1, 1, 1, 1), best[window], before)
        out[row] = best
        return out

    def _margins(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Margin on the first K logits, which decides; and on all, which is lowered."""
        logits = self.model(x)
        true = logits.gather(1, y.unsqueeze(1)).squeeze(1)
        others = logits.scatter(1, y.unsqueeze(1), -torch.inf)
        judged = true - others[:, : self.model.num_classes].amax(1)
        unknown = logits[:, : self.model.num_classes].isnan().any(dim=1)
        judged = judged.masked_fill(unknown, -torch.inf)  # NaN counts as misclassified
        everywhere = judged
        if logits.shape[1] > self.model.num_classes:
            everywhere = true - others.amax(1)
        return judged, everywhere

    def _official(self, x: Tensor, y: Tensor) -> Tensor:
        from pyautoattack.square import SquareAttack

        ours = self

        class Judging(SquareAttack):  # type: ignore[misc]
            def margin_and_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
                return ours._margins(x, y)

        k = self.model.num_classes
        attack: Any = Judging(
            lambda v: self.model(v)[:, :k],
            p_init=P_INIT,
            n_queries=self.queries,
            eps=self.eps,
            norm=self.norm,
            n_restarts=1,
            seed=self.seed,
            verbose=False,
            device=x.device,
            resc_schedule=False,
        )
        found: Tensor = attack.perturb(x, y)
        return found


def _share(query: int) -> float:
    """The share of the image that a square covers."""
    return P_INIT / next((d for after, d in _SCHEDULE if query > after), 1)


def _signs(shape: list[int], device: torch.device) -> Tensor:
    return (2 * torch.rand(shape).to(device) - 1).sign()


def _integer(high: int) -> int:
    return int((high * torch.rand([1])).long())
