"""robustlabels: any label scheme, with any adversarial trainer, attack, torch model and data set.

Importing it loads no torch: every public name is imported when it is first used (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from robustlabels.hookspecs import hookimpl

__version__ = "0.1.0"

_PUBLIC = {
    "LabelLoss": "robustlabels.labels",
    "LabelScheme": "robustlabels.labels",
    "Mix": "robustlabels.labels",
    "Scheme": "robustlabels.labels",
    "adapt_model": "robustlabels.models",
    "audit": "robustlabels.evaluation",
    "real_classes": "robustlabels.models",
    "evaluate": "robustlabels.evaluation",
    "fit": "robustlabels.training",
    "list_attacks": "robustlabels.factories",
    "list_datasets": "robustlabels.factories",
    "list_evaluations": "robustlabels.factories",
    "list_models": "robustlabels.factories",
    "list_schemes": "robustlabels.factories",
    "list_trainers": "robustlabels.factories",
    "make_attack": "robustlabels.factories",
    "make_dataset": "robustlabels.factories",
    "make_evaluation": "robustlabels.factories",
    "make_model": "robustlabels.factories",
    "make_scheme": "robustlabels.factories",
    "make_trainer": "robustlabels.factories",
}

if TYPE_CHECKING:
    from robustlabels.evaluation import audit as audit
    from robustlabels.evaluation import evaluate as evaluate
    from robustlabels.factories import list_attacks as list_attacks
    from robustlabels.factories import list_datasets as list_datasets
    from robustlabels.factories import list_evaluations as list_evaluations
    from robustlabels.factories import list_models as list_models
    from robustlabels.factories import list_schemes as list_schemes
    from robustlabels.factories import list_trainers as list_trainers
    from robustlabels.factories import make_attack as make_attack
    from robustlabels.factories import make_dataset as make_dataset
    from robustlabels.factories import make_evaluation as make_evaluation
    from robustlabels.factories import make_model as make_model
    from robustlabels.factories import make_scheme as make_scheme
    from robustlabels.factories import make_trainer as make_trainer
    from robustlabels.labels import LabelLoss as LabelLoss
    from robustlabels.labels import LabelScheme as LabelScheme
    from robustlabels.labels import Mix as Mix
    from robustlabels.labels import Scheme as Scheme
    from robustlabels.models import adapt_model as adapt_model
    from robustlabels.models import real_classes as real_classes
    from robustlabels.training import fit as fit

__all__ = ["__version__", "hookimpl", *sorted(_PUBLIC)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'robustlabels' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
