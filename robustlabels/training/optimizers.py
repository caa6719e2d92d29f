"""The optimizer, and the learning rate as a pure function of progress (so it resumes exactly)."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from robustlabels.config import OptimizerConfig, ScheduleConfig
from robustlabels.errors import BadValueError


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD (Nesterov where there is momentum) or AdamW over the parameters that train."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if config.name == "adamw":
        return torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, foreach=True
        )
    return torch.optim.SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        weight_decay=config.weight_decay,
        foreach=True,
    )


def resolve_optimizer(
    model: nn.Module, optimizer: Any, scheduler: Any, config: OptimizerConfig
) -> tuple[torch.optim.Optimizer | None, LRScheduler | None]:
    """Return the caller's optimizer and scheduler, made where the caller gave a factory.

    Args:
        model: Model to train.
        optimizer: Optimizer of the model's parameters; its class, or a ``functools.partial`` of it,
            which is called with the parameters that train; a function of the model; or None.
        scheduler: Scheduler of that optimizer, a function of the optimizer, or None.
        config: Settings of the optimizer that a scheduler without an optimizer gets.

    Returns:
        Both, or None for what was not given.

    Raises:
        ValueError: One of them is something else, or belongs to other parameters.
    """
    if optimizer is None and scheduler is None:
        return None, None
    made = _made_optimizer(model, optimizer, config)
    if scheduler is None:
        return made, None

    if not isinstance(scheduler, LRScheduler) and callable(scheduler):
        scheduler = scheduler(made)
    if isinstance(scheduler, ReduceLROnPlateau) or not isinstance(scheduler, LRScheduler):
        raise BadValueError(
            "scheduler must be a torch scheduler that needs no metric, or a function of the "
            f"optimizer that returns one, not {type(scheduler).__name__}"
        )
    if scheduler.optimizer is not made:
        raise BadValueError(
            "scheduler belongs to another optimizer: give that one as optimizer=, or a function, "
            "scheduler=lambda optimizer: ..."
        )
    return made, scheduler


def _made_optimizer(
    model: nn.Module, optimizer: Any, config: OptimizerConfig
) -> torch.optim.Optimizer:
    if optimizer is None:
        return make_optimizer(model, config)
    target = optimizer.func if isinstance(optimizer, functools.partial) else optimizer
    if isinstance(target, type) and issubclass(target, torch.optim.Optimizer):
        optimizer = optimizer([p for p in model.parameters() if p.requires_grad])
    elif not isinstance(optimizer, torch.optim.Optimizer) and callable(optimizer):
        optimizer = optimizer(model)

    if isinstance(optimizer, torch.optim.LBFGS) or not isinstance(optimizer, torch.optim.Optimizer):
        raise BadValueError(
            "optimizer must be a table, a torch optimizer that needs no closure, or a function of "
            f"the model that returns one, not {type(optimizer).__name__}"
        )
    own = set(map(id, model.parameters()))
    if any(id(p) not in own for p in trained(optimizer)):
        raise BadValueError(
            "optimizer has parameters that are not the model's (a scheme with more outputs "
            "replaces its last layer): give a function, optimizer=lambda model: torch.optim.SGD("
            "model.parameters(), lr=0.1)"
        )
    return optimizer


def rate_factor(config: ScheduleConfig, step: int, total_steps: int, epochs: int) -> float:
    """What the base learning rate is multiplied by at a step.

    Args:
        config: the schedule. ``step``: times gamma at each milestone, a share of training below
            1, else an epoch. ``cosine``: half a cosine to 0. ``cyclic``: up from 0 to 1 at
            ``peak`` of training, then down to 0, both linearly. ``constant``. All may begin with
            ``warmup_epochs`` of linear growth.
        step: completed steps, 0 at the start.
        total_steps: of the whole run.
        epochs: of the whole run.
    """
    progress = step / total_steps
    warmup = config.warmup_epochs / epochs
    factor = (step + 1) / (warmup * total_steps) if progress < warmup else 1.0
    factor = min(factor, 1.0)
    if config.name == "step":
        for milestone in config.milestones:
            if progress >= (milestone if milestone < 1 else milestone / epochs):
                factor *= config.gamma
    elif config.name == "cosine":
        factor *= 0.5 * (1 + math.cos(math.pi * progress))
    elif config.name == "cyclic":
        # (step + 1): the first step must move, the last must not stand still.
        here = (step + 1) / (total_steps + 1)
        factor *= here / config.peak if here < config.peak else (1 - here) / (1 - config.peak)
    return factor


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """One learning rate for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def trained(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The parameters that an optimizer holds; of a given one, maybe not all of the model's."""
    return [p for group in optimizer.param_groups for p in group["params"]]
