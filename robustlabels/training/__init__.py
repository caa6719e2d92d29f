"""Training: trainers (one file each), the engine, teachers, weight averaging."""

from __future__ import annotations

from robustlabels.hookspecs import Register, hookimpl
from robustlabels.loading import LoadedRun, load_run
from robustlabels.training.api import fit, fit_config
from robustlabels.training.averaging import ExponentialAverage
from robustlabels.training.fast_at import FastTraining
from robustlabels.training.mart import Mart
from robustlabels.training.mean_teacher import MeanTeacher
from robustlabels.training.pgd_at import PGDTraining
from robustlabels.training.result import FitResult
from robustlabels.training.standard import Standard
from robustlabels.training.step import ExtraBatch, Step
from robustlabels.training.trades import Trades
from robustlabels.training.trainer import BaseTrainer, Run, Trainer

__all__ = [
    "BaseTrainer",
    "ExponentialAverage",
    "ExtraBatch",
    "FastTraining",
    "FitResult",
    "LoadedRun",
    "Mart",
    "MeanTeacher",
    "PGDTraining",
    "Run",
    "Standard",
    "Step",
    "Trades",
    "Trainer",
    "fit",
    "fit_config",
    "load_run",
]


@hookimpl
def register_trainers(register: Register) -> None:
    """One factory for each trainer of the design's section 6 that is here."""
    register("standard", Standard)
    register("pgd-at", PGDTraining)
    register("trades", Trades)
    register("mart", Mart)
    register("mean-teacher", MeanTeacher)
    register("fast-at", FastTraining)
