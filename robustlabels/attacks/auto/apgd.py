"""AutoPGD: steps that halve where the loss stops growing (Croce & Hein 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlabels.attacks.auto.judged import Judged, Loss

RHO = 0.75
_DROP = 0.05  # leave out fallen samples once they are this share: copying has a price too


@dataclass
class _Climb:
    """What is carried from step to step, all with one row per sample."""

    row: Tensor
    x: Tensor
    y: Tensor
    target: Tensor
    x_adv: Tensor
    x_old: Tensor
    x_best: Tensor
    grad: Tensor
    grad_best: Tensor
    loss_best: Tensor
    loss_checked: Tensor
    reduced: Tensor
    step: Tensor
    rises: Tensor
    loss_before: Tensor
    topk: Tensor
    sparsity: Tensor

    def keep(self, mask: Tensor) -> None:
        """Leave out the other rows."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[mask])


class APGD:
    """AutoPGD on the cross-entropy, the DLR loss or the targeted DLR loss.

    Args:
        model: what is attacked.
        eps: radius.
        norm: "Linf", "L2" or "L1".
        loss: "ce", "dlr", "dlr-targeted", or "margin-targeted", which needs no third class.
        seed: of the random starts.
        restarts: of each target, or of the untargeted loss.
        targets: how many of the greatest other logits are targets in turn; 0: untargeted.
        skip: how many of these to leave out at the front.
        iterations: steps.
        large_radii: begin at three and two times eps (L1).
    """

    def __init__(
        self,
        model: Judged,
        eps: float,
        norm: str,
        loss: str,
        seed: int,
        restarts: int = 1,
        targets: int = 0,
        skip: int = 0,
        iterations: int = 100,
        large_radii: bool = False,
    ) -> None:
        self.model, self.eps, self.norm, self.loss, self.seed = model, eps, norm, loss, seed
        self.restarts, self.targets, self.skip = restarts, targets, skip
        self.iterations = iterations
        self.large_radii = large_radii
        self.zero_gradients = 0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Adversarial inputs, x itself where none is found; draws from the global generator.

        Args:
            x: (N, C, H, W) in [0, 1].
            y: int64 (N,).
        """
        torch.manual_seed(self.seed)
        self.zero_gradients = 0
        self.model.nonfinite_gradients = False
        adv = x.clone()
        logits = self.model(x)
        alive = ~self.model.fooled(logits, y)
        targets = self.model.targets(logits, y, max(self.targets, 1))
        for number in range(self.skip, max(self.targets, 1)):
            for _ in range(self.restarts):
                rows = alive.nonzero().flatten()
                if len(rows) == 0:
                    return adv
                found, where = self._run(x[rows], y[rows], targets[rows, number])
                adv[rows[where]] = found
                alive[rows[where]] = False
        return adv

    def _run(self, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The fooling inputs of one run, and the rows that they belong to."""
        if not self.large_radii:
            found, where, _ = self._climb(x, y, target, None, self.eps, self.iterations, True)
            return found, where
        radii = [3.0 * self.eps, 2.0 * self.eps, self.eps]
        steps = [math.ceil(0.3 * self.iterations)] * 2
        steps.append(self.iterations - sum(steps))
        start = x + torch.randn_like(x)
        start += _l1(x, start - x, radii[0])
        for eps, count in zip(radii, steps, strict=True):
            start = start + _l1(x, start - x, eps)
            last = eps == radii[-1]
            # Only what is found within eps itself counts.
            found, where, start = self._climb(x, y, target, start, eps, count, last)
        return found, where

    def _climb(
        self,
        x: Tensor,
        y: Tensor,
        target: Tensor,
        start: Tensor | None,
        eps: float,
        iterations: int,
        drop: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One run of the ascent; returns inputs that fool, their rows, and the best-loss inputs."""
        x_adv = self._start(x, eps)
        if start is not None:
            x_adv = start
        x_adv = x_adv.clamp(0.0, 1.0)
        look, loss_of = self.model.look, _LOSSES[self.loss]
        logits, loss, grad = look(x_adv, y, target, loss_of)
        if self.loss.startswith("dlr"):
            self.zero_gradients += int((grad.flatten(1).abs().sum(1) == 0).sum())
        n, pixels = len(x), x[0].numel()
        view = (-1, *[1] * (x.dim() - 1))
        first = 2.0 if self.norm in ("Linf", "L2") else 1.0
        ones = torch.ones_like(loss)
        if self.norm == "L1" and start is not None:
            sparsity = _l0(x_adv - x)
            topk = sparsity / pixels / 1.5
        else:
            topk, sparsity = 0.2 * ones, pixels * ones
        s = _Climb(
            row=torch.arange(n, device=x.device),
            x=x,
            y=y,
            target=target,
            x_adv=x_adv,
            x_old=x_adv,
            x_best=x_adv.clone(),
            grad=grad,
            grad_best=grad.clone(),
            loss_best=loss.clone(),
            loss_checked=loss.clone(),
            reduced=ones.clone(),
            step=(first * eps * ones).view(view),
            rises=torch.zeros_like(loss),
            loss_before=loss,
            topk=topk,
            sparsity=sparsity,
        )
        out, fallen = x_adv.clone(), self.model.fooled(logits, y)
        every = max(int(0.04 * iterations), 1) if self.norm == "L1" else self._window(0.22)
        since = 0
        for i in range(iterations):
            if drop:
                standing = ~fallen[s.row]
                if not bool(standing.any()):
                    break
                if float((~standing).float().mean()) >= _DROP:
                    s.keep(standing)
            x_new = self._step(s, eps, 0.75 if i > 0 else 1.0)
            s.x_old, s.x_adv = s.x_adv, x_new
            logits, loss, s.grad = look(s.x_adv, s.y, s.target, loss_of)
            fooled = self.model.fooled(logits, s.y)
            out[s.row[fooled]] = s.x_adv[fooled]
            fallen[s.row[fooled]] = True
            better = loss > s.loss_best
            s.x_best[better], s.grad_best[better] = s.x_adv[better], s.grad[better]
            s.loss_best = torch.where(better, loss, s.loss_best)
            # The official compares the losses of the window's own steps and the one before it,
            # and at the very first step with a row of the same buffer that is still empty (0).
            s.rises += (loss > (s.loss_before if i > 0 else torch.zeros_like(loss))).float()
            s.loss_before = loss
            since += 1
            if since == every:
                self._adapt(s, eps, every, pixels)
                if self.norm != "L1":
                    every = max(every - self._window(0.03), self._window(0.06))
                since = 0
                s.rises = torch.zeros_like(s.rises)
        return out[fallen], fallen.nonzero().flatten(), s.x_best

    def _window(self, share: float) -> int:
        """Steps between checkpoints, as a share of all."""
        return max(int(share * self.iterations), 1)

    def _start(self, x: Tensor, eps: float) -> Tensor:
        if self.norm == "Linf":
            t = 2 * torch.rand(x.shape).to(x.device) - 1
            return x + eps * _normalised(t, self.norm)
        t = torch.randn(x.shape).to(x.device)
        if self.norm == "L2":
            return x + eps * _normalised(t, self.norm)
        return x + t + _l1(x, t, eps)

    def _step(self, s: _Climb, eps: float, share: float) -> Tensor:
        """Along the gradient, with momentum, into the ball and [0, 1]."""
        momentum = s.x_adv - s.x_old
        if self.norm == "Linf":
            low, high = (s.x - eps).clamp_(min=0.0), (s.x + eps).clamp_(max=1.0)
            moved = (s.x_adv + s.step * s.grad.sign()).clamp_(low, high)
            moved = s.x_adv + (moved - s.x_adv) * share + momentum * (1 - share)
            return moved.clamp_(low, high)
        if self.norm == "L2":
            moved = _into_l2(s.x, s.x_adv + s.step * _normalised(s.grad, "L2"), eps)
            moved = s.x_adv + (moved - s.x_adv) * share + momentum * (1 - share)
            return _into_l2(s.x, moved, eps)
        size = s.grad.abs()
        ordered = size.flatten(1).sort(dim=1).values
        place = ((1.0 - s.topk) * ordered.shape[1]).clamp(0, ordered.shape[1] - 1).long()
        least = ordered.gather(1, place.unsqueeze(1)).view_as(s.step)
        sparse = (s.grad * (size >= least).float()).sign()
        moved = s.x_adv + s.step * sparse / (sparse.flatten(1).abs().sum(1).view_as(s.step) + 1e-10)
        return moved + _l1(s.x, moved - s.x, eps)

    def _adapt(self, s: _Climb, eps: float, every: int, pixels: int) -> None:
        """At a checkpoint: halve the steps that do not help, and go back to the best input."""
        if self.norm == "L1":
            now = _l0(s.x_best - s.x)
            sparser = (now / s.sparsity) < 0.95
            s.topk = now / pixels / 1.5
            smaller = s.step / 1.5
            s.step = torch.where(sparser.view_as(s.step), torch.full_like(s.step, eps), smaller)
            s.step = s.step.clamp(eps / 10.0, eps)
            s.sparsity = now
            back = sparser
        else:
            stalled = s.rises <= every * RHO
            stalled |= (s.reduced == 0) & (s.loss_checked >= s.loss_best)
            s.reduced = stalled.float()
            s.loss_checked = s.loss_best.clone()
            s.step = torch.where(stalled.view_as(s.step), s.step / 2.0, s.step)
            back = stalled
        s.x_adv = torch.where(back.view_as(s.step), s.x_best, s.x_adv)
        s.grad = torch.where(back.view_as(s.step), s.grad_best, s.grad)


def _ce(z: Tensor, y: Tensor, _: Tensor) -> Tensor:
    return F.cross_entropy(z, y, reduction="none")


def margin(z: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """z_t - z_y: (N, D), (N,), (N,) -> (N,)."""
    return z.gather(1, t.unsqueeze(1)).squeeze(1) - z.gather(1, y.unsqueeze(1)).squeeze(1)


def _dlr(z: Tensor, y: Tensor, _: Tensor) -> Tensor:
    ordered, order = z.sort(dim=1)
    true = z.gather(1, y.unsqueeze(1)).squeeze(1)
    other = torch.where(order[:, -1] == y, ordered[:, -2], ordered[:, -1])
    return -(true - other) / (ordered[:, -1] - ordered[:, -3] + 1e-12)


def _dlr_targeted(z: Tensor, y: Tensor, t: Tensor) -> Tensor:
    ordered = z.sort(dim=1).values
    scale = ordered[:, -1] - 0.5 * (ordered[:, -3] + ordered[:, -4]) + 1e-12
    return margin(z, y, t) / scale


_LOSSES: dict[str, Loss] = {
    "ce": _ce,
    "dlr": _dlr,
    "dlr-targeted": _dlr_targeted,
    "margin-targeted": margin,
}


def _normalised(t: Tensor, norm: str) -> Tensor:
    flat = t.flatten(1)
    size = flat.abs().amax(1) if norm == "Linf" else (flat**2).sum(1).sqrt()
    return t / (size.view(-1, *[1] * (t.dim() - 1)) + 1e-12)


def _into_l2(x: Tensor, moved: Tensor, eps: float) -> Tensor:
    delta = moved - x
    size = (delta.flatten(1) ** 2).sum(1).sqrt().view(-1, *[1] * (x.dim() - 1))
    return (x + _normalised(delta, "L2") * size.clamp(max=eps)).clamp(0.0, 1.0)


def _l0(t: Tensor) -> Tensor:
    return (t != 0).flatten(1).sum(1).float()


def _l1(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """What must be added to ``delta`` to be in the L1 ball and x + delta in [0, 1]."""
    from pyautoattack.autopgd_base import L1_projection

    moved: Tensor = L1_projection(x.contiguous(), delta.contiguous(), eps)
    return moved
