"""What a plugin may register. A plugin is any module or object with these hooks.

::

    import robustlabels

    @robustlabels.hookimpl
    def register_schemes(register):
        register("my-scheme", MyScheme)

``register(name, factory)`` may be called any number of times. A name that ends with a colon
registers a family: ``npz:`` serves ``npz:PATH``, and its factory gets PATH as first argument.
The module or object is named by an entry point of the group ``robustlabels``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pluggy

PROJECT = "robustlabels"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Factory = Callable[..., Any]
Register = Callable[[str, Factory], None]


@hookspec
def register_schemes(register: Register) -> None:
    """Label schemes: ``factory(num_classes=K, **params)`` -> a scheme (``robustlabels.Scheme``)."""


@hookspec
def register_trainers(register: Register) -> None:
    """Trainers: ``factory(**params)`` -> an object with ``setup``, ``inputs`` and ``loss``."""


@hookspec
def register_attacks(register: Register) -> None:
    """Attacks: ``factory(eps=float, norm="Linf"|"L2", **params)`` -> ``attack(model, x, y)``."""


@hookspec
def register_models(register: Register) -> None:
    """Models: ``factory(num_classes=K, input_shape=(C, H, W), **params)`` -> ``nn.Module``."""


@hookspec
def register_datasets(register: Register) -> None:
    """Data sets: ``factory(root=path_or_None, **params)`` -> ``robustlabels.data.DataSet``."""


@hookspec
def register_evaluations(register: Register) -> None:
    """Evaluations: ``factory(**params)`` -> ``evaluation(model, x, y, context)`` -> a JSON dict."""


HOOKS = {
    "schemes": "register_schemes",
    "trainers": "register_trainers",
    "attacks": "register_attacks",
    "models": "register_models",
    "datasets": "register_datasets",
    "evaluations": "register_evaluations",
}
"""Kind of thing -> the hook that registers it."""
