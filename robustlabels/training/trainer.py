"""What a trainer is: an objective and the inputs that it needs. Three methods, no internals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from robustlabels.data.extra import ExtraData
from robustlabels.errors import BadValueError
from robustlabels.training.step import Step


@dataclass(frozen=True)
class Run:
    """What a trainer may ask for once, in ``setup``.

    Attributes:
        model: the model that is trained.
        scheme: the label scheme.
        num_classes: K, the data set's classes.
        device: where everything is.
        config: the run's config, resolved.
        teacher: ``teacher()`` gives the model named by ``fit(teacher=...)``, frozen, in eval
            mode, with K outputs; a ValueError where none was named.
        extra_data: the run's extra data (``len``, ``name``, ``labelled``), or None.
        average: the engine's exponential moving average of the model at the trainer's
            ``ema_decay``: frozen, in eval mode, with all its outputs; None without a decay.
    """

    model: nn.Module
    scheme: Any
    num_classes: int
    device: torch.device
    config: Any
    teacher: Callable[[], nn.Module]
    extra_data: ExtraData | None = None
    average: nn.Module | None = None


class Trainer(Protocol):
    """``factory(**params)`` makes one; ``params`` are the trainer's, not the scheme's.

    Optional attributes, with their defaults:

    - ``extra_outputs`` (0): outputs beside the data set's classes, ordinary to the scheme.
    - ``attack_defaults(eps)`` ({}): parameters of the run's ``pgd``; the user's own override them.
    - ``adversarial`` (True): whether the best checkpoint is chosen by robust accuracy.
    - ``uses_attack`` (as ``adversarial``): whether it ever calls ``step.attack()``. Where it does
      not, an attack that the user names is warned of, and the run's config has none.
    - ``takes_extra`` (False): extra data come as ``step.extra`` beside the batch, instead of
      samples in it.
    - ``ema_decay`` (None): the decay, in [0, 1), of an average of the model that it learns from:
      ``run.average``. The engine updates it after each optimizer step, batch norm's statistics
      included, and saves it; where the decays agree it is ADR's teacher and ``weight_averaging``.
    - ``single_step`` (False): whether to look for catastrophic overfitting within the epoch.
    """

    def setup(self, run: Run) -> None:
        """Called once, before the first step."""

    def inputs(self, step: Step) -> None:
        """Called once a step, without a graph: makes ``step.x_adv`` by ``step.attack()``."""

    def loss(self, step: Step) -> Tensor:
        """The differentiable loss, a scalar. It may be called again for the same step."""


@dataclass
class BaseTrainer:
    """Defaults for the built-in trainers; plugins need not use it."""

    extra_outputs: ClassVar[int] = 0
    adversarial: ClassVar[bool] = True
    single_step: ClassVar[bool] = False
    takes_extra: ClassVar[bool] = False

    def attack_defaults(self, eps: float) -> dict[str, Any]:
        """PGD's own defaults."""
        del eps
        return {}

    def setup(self, run: Run) -> None:
        """Nothing to set up."""

    def inputs(self, step: Step) -> None:
        """Attack the batch."""
        step.x_adv = step.attack()


def uses_attack(trainer: Any) -> bool:
    """Whether a trainer makes adversarial inputs, as far as it says."""
    return bool(getattr(trainer, "uses_attack", getattr(trainer, "adversarial", True)))


def adversarial_inputs(step: Step) -> Tensor:
    """``step.x_adv``, which the engine guarantees once ``inputs`` has run."""
    if step.x_adv is None:
        raise RuntimeError("loss() was called before inputs() made step.x_adv")
    return step.x_adv


def check_weight(name: str, value: Any) -> None:
    """A ValueError unless the weight of a term is a finite number of at least 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise BadValueError(f"{name} must be a number of at least 0, not {value!r}")
