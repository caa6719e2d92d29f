"""Divergence, seen early: NaN, and catastrophic overfitting of single-step training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

CHANCE_FACTOR = 1.5
FALL = 0.5
CAUSES = (
    "training images",
    "teacher's logits",
    "adversarial images",
    "model's logits",
    "labels",
    "loss",
    "gradients",
    "weights",
)
"""What can be not finite in a step, in the order in which a step makes them."""
STEPS_PER_LOOK = 1  # on a CPU, where looking is free
LOOKS = 2  # in a row: of 14 healthy fast-at runs on digits, one fallen look alone stopped 4


class LossWatch:
    """Notices a loss that is not finite without making a GPU wait at every step.

    Args:
        device: where the losses are.
        every: steps between two looks; 1 on a CPU, where looking is free.
        alone: whether this process decides alone. Of several, each must hear of the others'
            losses before it looks: :meth:`saw` only notes, :meth:`due` looks.

    Attributes:
        flag: bool (), whether any loss so far was not finite.
        first: int64 (), 1 + the place in ``CAUSES`` of what was not finite first; 0 for nothing.
    """

    def __init__(self, device: torch.device, every: int | None = None, alone: bool = True) -> None:
        self._every = every or (STEPS_PER_LOOK if device.type == "cpu" else 25)
        self.flag = torch.zeros((), dtype=torch.bool, device=device)
        self.first = torch.zeros((), dtype=torch.int64, device=device)
        self._seen = 0
        self._alone = alone

    @torch.no_grad()
    def note(self, cause: str, values: Tensor | None, masked: bool = False) -> None:
        """Note values of a step; what is not finite first explains a loss that is not.

        Args:
            cause: One of ``CAUSES``.
            values: Tensor, or None for nothing.
            masked: Whether -inf is allowed, as in the logits of classes that are ruled out.
        """
        if values is None or not values.is_floating_point():
            return
        fine = values < torch.inf if masked else values.isfinite()
        self._note(cause, fine.all())

    @torch.no_grad()
    def note_each(self, cause: str, tensors: Iterable[Tensor]) -> None:
        """Note many tensors, such as a model's gradients."""
        dense = [t.detach() for t in tensors if t.layout == torch.strided and t.numel()]
        if not dense:
            return
        if self.first.is_cuda:  # one kernel for all tensors
            values = torch._foreach_norm(dense, torch.inf)
        else:  # 15 times as fast as the norm there, and as telling: NaN and inf stay in a sum
            values = tuple(t.sum() for t in dense)
        self._note(cause, torch.stack([v.float() for v in values]).isfinite().all())

    def _note(self, cause: str, fine: Tensor) -> None:
        # Arithmetic, because asking would make a GPU wait.
        new = (self.first == 0) & ~fine
        self.first += (CAUSES.index(cause) + 1) * new

    def saw(self, loss: Tensor) -> bool:
        """Note a loss; True once one of them was NaN or infinite."""
        self.flag |= ~torch.isfinite(loss.detach())
        self.note("loss", loss.detach())
        self._seen += 1
        return self._alone and self.due()

    def due(self) -> bool:
        """Whether it is time to look, and a loss was not finite."""
        return self._seen % self._every == 0 and self.broken()

    def broken(self) -> bool:
        """Whether any loss so far was not finite."""
        return bool(self.flag)


def describe_break(cause: str, step: int, total: int) -> tuple[str, str]:
    """Return what became not finite, and what to do about it.

    Args:
        cause: One of ``CAUSES``.
        step: Step by which it was noticed.
        total: Steps of the run.
    """
    # The first step has changed no weights yet: its learning rate is not to blame.
    rate = "lower optimizer.lr or set optimizer.clip_grad_norm=1"
    later = f", or {rate}" if step > 1 else ""
    advice = {
        "training images": "check the data and its transforms, e.g. by x.isfinite().all()",
        "teacher's logits": "check the teacher; it gets images in [0, 1]",
        "adversarial images": "check the training attack and the model's input gradients",
        "model's logits": "check the model's forward pass for a division by 0, a logarithm of 0 or "
        f"an overflow{later}",
        "labels": "check the label scheme",
        "loss": f"check the trainer's loss for a division by 0 or a logarithm of 0{later}",
        "gradients": "check the model and the loss for a sqrt, norm or logarithm at 0, whose "
        f"gradient is infinite{later}",
        "weights": rate,
    }
    return f"the {cause} became NaN or infinite by step {step} of {total}", advice[cause]


class OverfittingWatch:
    """Catastrophic overfitting: robust accuracy under PGD falls below half of its best, and stays.

    Single-step training can lose all robustness within an epoch while its own attack says that
    it gains some (Wong et al. 2020; Andriushchenko and Flammarion 2020).

    Args:
        num_classes: K; nothing is said until robust accuracy was 1.5 times chance, 1/K.

    Attributes:
        best: the best robust accuracy so far.
        falls: how many of the last looks in a row found it fallen.
    """

    def __init__(self, num_classes: int) -> None:
        self._floor = CHANCE_FACTOR / num_classes
        self.best = 0.0
        self.falls = 0

    def saw(self, clean: float, robust: float, training: float | None) -> str | None:
        """Note a look at held-out samples; the message, once it has happened.

        Args:
            clean: accuracy on held-out samples, in [0, 1].
            robust: the same under PGD.
            training: accuracy under the training attack, lately; None if unknown.
        """
        fallen = self.best > self._floor and robust < FALL * self.best
        # The others must hold: where all fall together, the learning rate is too high.
        others = clean if training is None else min(clean, training)
        fallen = fallen and others >= self.best
        self.falls = self.falls + 1 if fallen else 0
        if self.falls >= LOOKS:
            held = (
                f"clean accuracy is {clean:.1%}"
                if training is None
                else f"accuracy under the training attack is {training:.1%}"
            )
            return (
                f"catastrophic overfitting: robust accuracy under PGD fell from {self.best:.1%} to "
                f"{robust:.1%}, while {held}"
            )
        self.best = max(self.best, robust)
        return None
