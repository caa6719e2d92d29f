"""How attacks of ART are run: silently, repeatably, and with errors in one line.

Works around, without touching its files (ART 1.20.1): random generators that nobody can seed and
float64 inputs for float32 models (BoundaryAttack, HopSkipJump), ``np.mat``, which numpy 2 lacks,
and a file written where one stands (GeoDA), a package that ART does not declare (AutoAttack),
progress bars that no parameter silences (AutoAttack, UniversalPerturbation), and attacks that
remember their first batch (SpatialTransformation).
"""

from __future__ import annotations

import copy
import importlib.util
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustlabels.attacks._art_members import Member
from robustlabels.errors import BadValueError, MissingExtraError, UserError


def generate(attack: Any, member: Member, x: Tensor, y: Tensor, quiet: bool = True) -> Tensor:
    """What an attack of ART makes of a batch; the attack itself stays as it is.

    Args:
        attack: an ``EvasionAttack``.
        member: how it wants to be called.
        x: (N, C, H, W), in its estimator's units.
        y: int64 (N,), or soft labels (N, D).
        quiet: without progress bars.

    Returns:
        Like x, detached.
    """
    # A copy: some attacks write into their input. One-hot: (N, 1) would be misread.
    inputs = _array(x)
    rows = y if y.is_floating_point() else F.one_hot(y, attack.estimator.nb_classes)
    labels = _array(rows) if member.labels else None
    with ExitStack() as stack, np.errstate(all="ignore"):
        for cls in type(attack).__mro__:
            stack.enter_context(_mended(cls))
        if x.device.type == "cuda":
            stack.enter_context(torch.cuda.device(x.device))
        parts = [slice(i, i + 1) for i in range(len(x))] if member.alone else [slice(None)]
        found = []
        for part in parts:
            given = None if labels is None else labels[part]
            found.append(_fresh(attack, quiet).generate(x=inputs[part], y=given))
    if not all(isinstance(f, np.ndarray) for f in found) or sum(map(len, found)) != len(x):
        raise BadValueError(f"art:{type(attack).__name__} does not return inputs")
    return torch.from_numpy(np.concatenate(found)).to(x)


def _fresh(attack: Any, quiet: bool) -> Any:
    """A copy of an attack and of those inside it: what a batch leaves on it must not stay.

    Quiet ones show no progress bars.
    """
    twin = copy.copy(attack)
    for name, value in vars(attack).items():
        if isinstance(value, tuple) and any(getattr(v, "__self__", None) is attack for v in value):
            # CompositeAdversarialAttack's methods, which would work on the original.
            setattr(twin, name, tuple(getattr(twin, v.__name__) for v in value))
    if quiet and hasattr(twin, "verbose"):
        twin.verbose = False
    if quiet and getattr(twin, "attacker", "fgsm") != "fgsm":  # UniversalPerturbation's; fgsm: none
        twin.attacker_params = {"verbose": False} | (twin.attacker_params or {})
    if type(twin).__name__ in _DOUBLE:
        twin._estimator = copy.copy(twin.estimator)
        predict = twin._estimator.predict
        twin._estimator.predict = lambda x, *a, **k: predict(x.astype(np.float32), *a, **k)
    if hasattr(getattr(twin, "_attack", None), "generate"):  # of others it is a method
        twin._attack = _fresh(twin._attack, quiet)
    if getattr(twin, "attacks", None):
        twin.attacks = [_fresh(a, quiet) for a in twin.attacks]
    return twin


_DOUBLE = ("BoundaryAttack", "HopSkipJump")  # with numpy 2: float64 inputs
_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def in_one_line(name: str, where: str) -> Iterator[None]:
    """What ART can't do, it says by a traceback from deep inside: one line instead."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise MissingExtraError(
            f"{name} needs {error.name}, which ART does not bring: run  pip install {error.name}"
        ) from error
    except _ERRORS as error:
        text = " ".join(str(error).split())[:200]
        raise BadValueError(f"{name} failed {where}: {type(error).__name__}: {text}") from error


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().float().numpy().copy()


class _View:
    """A module, but for some names."""

    def __init__(self, module: ModuleType, **changes: Any) -> None:
        self.__dict__ |= changes
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _with_global_generator() -> Any:
    """numpy, where ``RandomState()`` is the global generator instead of a fresh one."""
    return _View(np, random=_View(np.random, RandomState=lambda: np.random))


_NUMPY: dict[str, Callable[[], Any]] = {
    "BoundaryAttack": _with_global_generator,
    "GeoDA": lambda: _View(np, mat=np.asmatrix, save=lambda *_: None),
    "HopSkipJump": _with_global_generator,
}


@contextmanager
def _mended(cls: type) -> Iterator[None]:
    """One class of ART without its defects, for a while."""
    if not cls.__module__.startswith("art."):
        yield
    elif cls.__name__ in _NUMPY:
        module: Any = sys.modules[cls.__module__]
        before, module.np = module.np, _NUMPY[cls.__name__]()
        try:
            yield
        finally:
            module.np = before
    elif cls.__name__ == "AutoAttack" and importlib.util.find_spec("multiprocess") is None:
        # It imports this fork of multiprocessing always, and uses it for parallel_pool_size only.
        sys.modules["multiprocess"] = multiprocessing
        try:
            yield
        finally:
            del sys.modules["multiprocess"]
    else:
        yield
