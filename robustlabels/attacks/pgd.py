"""Projected gradient descent, Linf and L2: the attack inside training, so it must be fast."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlabels.attacks.base import correct, finite_gradient, held_still, input_gradient
from robustlabels.attacks.passes import parts_for
from robustlabels.errors import BadValueError
from robustlabels.randomness import normal_like, per_row, uniform_like
from robustlabels.threat import parse_eps

LOSSES = ("ce", "kl", "margin")
STARTS = ("uniform", "gaussian", "none")
MODES = ("eval", "train", "train-but-norm")
_LOWEST = -1e30
_START_SIGMA = 0.001


class PGD:
    """Projected gradient ascent on a loss of the model's logits (Madry et al. 2018).

    Args:
        eps: radius, in the inputs' units.
        norm: "Linf" or "L2".
        steps: gradient steps, at least 1.
        step_size: of one step; 2.5 eps / steps by default (2/255 for PGD-10 at 8/255).
        start: "uniform" in the ball, "gaussian" (0.001 N(0, 1), TRADES) or "none".
        loss: "ce" (hard or soft labels), "kl" (KL(f(x) || f(x')), TRADES; labels unused) or
            "margin" (largest other logit minus the true one; hard labels).
        mode: the model's mode meanwhile: "eval", "train" or "train-but-norm".
        restarts: at least 1; of several, each sample keeps the best: misclassified first, then
            the highest loss.
    """

    def __init__(
        self,
        eps: float,
        norm: str = "Linf",
        steps: int = 10,
        step_size: float | None = None,
        start: str = "uniform",
        loss: str = "ce",
        mode: str = "eval",
        restarts: int = 1,
    ) -> None:
        self.eps = parse_eps(eps, norm)
        for name, value, allowed in (
            ("norm", norm, ("Linf", "L2")),
            ("start", start, STARTS),
            ("loss", loss, LOSSES),
            ("mode", mode, MODES),
        ):
            if value not in allowed:
                raise BadValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
        for name, count in (("steps", steps), ("restarts", restarts)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise BadValueError(f"{name} must be an integer of at least 1, not {count!r}")
        self.norm, self.steps, self.start = norm, steps, start
        self.loss, self.mode, self.restarts = loss, mode, restarts
        self.takes_soft_labels = loss != "margin"
        self._nonfinite: list[Tensor] = []  # per part of the last batch; read without waiting
        self.step_size = 2.5 * self.eps / steps
        if step_size is not None:
            try:
                self.step_size = parse_eps(step_size, "L2")
            except BadValueError as error:
                raise BadValueError(f"step_size: {error}".replace(": eps must", " must")) from None

    def __repr__(self) -> str:
        shown = f"eps={self.eps:g}, steps={self.steps}, loss={self.loss!r}"
        return f"{type(self).__name__}({shown})"

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, start: Tensor | None = None
    ) -> Tensor:
        """See :class:`robustlabels.attacks.Attack`.

        Args:
            model: maps x to logits (N, D); with "kl" it is run once more, on x itself.
            x: (N, C, H, W) in [0, 1].
            y: int64 (N,), or soft labels (N, D) for "ce".
            start: where to begin, instead of a random point; projected onto the ball.
        """
        x = x.detach()
        if self.loss == "margin" and y.is_floating_point():
            raise BadValueError("loss='margin' takes class indices only, not soft labels")
        if len(x) == 0:
            return x.clone()
        begin = self._begin(x) if start is None else self._project(start.detach() - x, x)
        starts = [begin, *(self._begin(x) for _ in range(self.restarts - 1))]
        # In train mode samples share their statistics.
        count = parts_for(model, x) if self.mode == "eval" else 1
        with held_still(model, self.mode), torch.enable_grad():
            parts = zip(*(t.tensor_split(count) for t in (x, y, *starts)), strict=True)
            self._nonfinite = []
            found = [self._attacked(model, *part) for part in parts]
        return found[0] if count == 1 else torch.cat(found)

    @property
    def nonfinite_gradients(self) -> int:
        """Number of images of the last call for which an input gradient was NaN or infinite."""
        return sum(int(rows.sum()) for rows in self._nonfinite)

    def _attacked(self, model: nn.Module, x: Tensor, y: Tensor, *starts: Tensor) -> Tensor:
        """The best of what each start leads to."""
        objective = self._objective(model, x, y)
        self._nonfinite.append(torch.zeros(len(x), dtype=torch.bool, device=x.device))
        best = self._climb(model, x, objective, starts[0])
        if len(starts) > 1:
            best_score = self._score(model, best, y, objective)
            for start in starts[1:]:
                other = self._climb(model, x, objective, start)
                score = self._score(model, other, y, objective)
                better = score > best_score
                best = torch.where(better.view(-1, *[1] * (x.dim() - 1)), other, best)
                best_score = torch.where(better, score, best_score)
        return best

    def _climb(
        self, model: nn.Module, x: Tensor, objective: Callable[[Tensor], Tensor], x_adv: Tensor
    ) -> Tensor:
        for _ in range(self.steps):
            x_adv.requires_grad_()
            # A sum, not a mean: a sample's step must not depend on the size of its batch.
            grad = input_gradient(objective(model(x_adv)).sum(), x_adv)
            with torch.no_grad():
                self._nonfinite[-1] |= ~grad.flatten(1).isfinite().all(dim=1)
                moved = x_adv + self.step_size * self._direction(grad)
                x_adv = self._project(moved - x, x)
        return x_adv.detach()

    def _objective(self, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        """What each sample climbs: logits (N, D) -> (N,)."""
        if self.loss == "kl":
            with torch.no_grad():
                reference = F.log_softmax(_bounded(model(x).float()), dim=1)
            weights = reference.exp()
            # KL(p || q) without the entropy of p, which does not depend on x'
            return lambda z: (
                weights * (reference - F.log_softmax(_bounded(z.float()), dim=1))
            ).sum(dim=1)
        if self.loss == "margin":
            return lambda z: _margin(z, y)
        if y.is_floating_point():
            return lambda z: F.cross_entropy(_bounded(_floating(z)), y, reduction="none")
        return lambda z: F.cross_entropy(_floating(z), y, reduction="none")

    def _score(
        self, model: nn.Module, x: Tensor, y: Tensor, objective: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Higher is better for the attacker; misclassified samples come before all others."""
        with torch.no_grad():
            z = model(x)
            true = y if y.dim() == 1 else y.argmax(dim=1)
            loss = objective(z).nan_to_num(neginf=-1e30, posinf=1e30)
            return torch.where(correct(z, true), loss.double(), torch.inf)

    def _begin(self, x: Tensor) -> Tensor:
        if self.start == "none":
            return x.clone()
        if self.start == "gaussian":
            return (x + _START_SIGMA * normal_like(x)).clamp_(0, 1)
        if self.norm == "Linf":
            return (x + uniform_like(x, -self.eps, self.eps)).clamp_(0, 1)
        delta = normal_like(x)
        share = per_row(
            len(x), lambda n, g: torch.rand(n, generator=g, device=x.device, dtype=x.dtype)
        )
        radius = self.eps * share.view(-1, *[1] * (x.dim() - 1))
        return (x + delta / _norms(delta) * radius).clamp_(0, 1)

    def _direction(self, grad: Tensor) -> Tensor:
        if self.norm == "Linf":
            return grad.sign().nan_to_num(nan=0.0)
        grad = finite_gradient(grad)
        norms = _norms(grad)
        # The sum of squares of a huge finite gradient overflows, although its direction is known.
        largest = grad.flatten(1).abs().amax(dim=1).clamp_min(1e-30).view_as(norms)
        scaled = grad / largest
        safe = scaled / (_norms(scaled) + 1e-10)
        return torch.where(norms.isinf(), safe, grad / (norms + 1e-10))

    def _project(self, delta: Tensor, x: Tensor) -> Tensor:
        if self.norm == "Linf":
            delta = delta.clamp(-self.eps, self.eps)
        else:
            delta = delta * (self.eps / _norms(delta)).clamp(max=1.0)
        return (x + delta).clamp_(0, 1)


def _norms(t: Tensor) -> Tensor:
    """L2 norm of each sample, shaped to divide by: (N, 1, 1, 1)."""
    norms: Tensor = torch.linalg.vector_norm(t.flatten(1), dim=1)
    return norms.view(-1, *[1] * (t.dim() - 1))


def _margin(z: Tensor, y: Tensor) -> Tensor:
    true = z.gather(1, y.unsqueeze(1)).squeeze(1)
    return z.scatter(1, y.unsqueeze(1), -torch.inf).amax(dim=1) - true


def _bounded(z: Tensor) -> Tensor:
    """Return logits without -inf: a class of probability 0 would make the sum over classes NaN."""
    return z.masked_fill(z.isneginf(), _LOWEST)


def _floating(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()
