"""The optimizer, and the learning rate as a pure function of progress (so it resumes exactly)."""

from __future__ import annotations

import math

import torch
from torch import nn

from robustlabels.config import OptimizerConfig, ScheduleConfig


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
