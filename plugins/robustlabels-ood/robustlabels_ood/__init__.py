"""Out-of-distribution (OOD) detection for robustlabels, as in VS 4.3.

Trainers ``oe`` and ``ssl`` learn from auxiliary outliers, the evaluation ``ood`` tells how well a
model detects those of test sets, and the data sets are outliers of both kinds.
"""

from __future__ import annotations

import robustlabels
from robustlabels.hookspecs import Register
from robustlabels_ood.datasets import DATASETS
from robustlabels_ood.evaluation import OODDetection
from robustlabels_ood.metrics import detection
from robustlabels_ood.scores import SCORES
from robustlabels_ood.trainers import OutlierExposure, RejectClasses

__all__ = ["SCORES", "OODDetection", "OutlierExposure", "RejectClasses", "detection"]


@robustlabels.hookimpl
def register_trainers(register: Register) -> None:
    """``--trainer oe`` and ``--trainer ssl``."""
    register("oe", OutlierExposure)
    register("ssl", RejectClasses)


@robustlabels.hookimpl
def register_evaluations(register: Register) -> None:
    """``evaluations=[{"name": "ood", "sets": [...]}]``."""
    register("ood", OODDetection)


@robustlabels.hookimpl
def register_datasets(register: Register) -> None:
    """``--extra random-images`` and so on."""
    for name, factory in DATASETS.items():
        register(name, factory)
