"""Things by name: ``make_*`` and ``list_*``, plugins' included.

The one module that turns names into objects, so that labels, attacks, models and data need not
know of each other or of the plugin host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from robustlabels.errors import BadValueError
from robustlabels.plugins import build, host

if TYPE_CHECKING:
    from torch import nn

    from robustlabels.attacks import Attack
    from robustlabels.data import DataSet


def list_schemes() -> list[str]:
    """Sorted names of the label schemes."""
    return host()["schemes"].names()


def list_trainers() -> list[str]:
    """Sorted names of the trainers."""
    return host()["trainers"].names()


def list_attacks() -> list[str]:
    """Sorted names of the attacks."""
    return host()["attacks"].names()


def list_models() -> list[str]:
    """Sorted names of the models."""
    return host()["models"].names()


def list_datasets() -> list[str]:
    """Sorted names of the data sets; a name that ends with a colon takes an argument."""
    return host()["datasets"].names()


def list_evaluations() -> list[str]:
    """Sorted names of the evaluations."""
    return host()["evaluations"].names()


def make_scheme(name: str, num_classes: int, **params: Any) -> Any:
    """A label scheme by name.

    Args:
        name: one of :func:`list_schemes`.
        num_classes: K, the data set's classes, at least 2.
        **params: the scheme's own. ``inner`` (of ``vs``) may be a name, or a table with ``name``
            and parameters.

    Returns:
        The scheme, with every attribute of the contract.

    Raises:
        KeyError: no such scheme; the message has the nearest matches.
        ValueError: a bad parameter, or what is registered is not a scheme.
    """
    inner = params.get("inner")
    if isinstance(inner, str):
        params["inner"] = make_scheme(inner, num_classes)
    elif isinstance(inner, Mapping):
        table = dict(inner)
        if not isinstance(table.get("name"), str):
            raise BadValueError("inner needs a name, e.g. inner={'name': 'adr'}")
        if "num_classes" in table:
            raise BadValueError("inner takes no num_classes: it has those of the outer scheme")
        params["inner"] = make_scheme(table.pop("name"), num_classes, **table)
    made = build("schemes", name, params, num_classes=num_classes)
    from robustlabels.labels import complete

    with _named_source("schemes", name):
        return complete(made, name)


def make_trainer(name: str, **params: Any) -> Any:
    """A trainer by name; see :class:`robustlabels.training.Trainer`."""
    made = build("trainers", name, params)
    with _named_source("trainers", name):
        return check_trainer(made, name)


def check_trainer(trainer: Any, name: str) -> Any:
    """The trainer itself; a ValueError if an object is none."""
    if isinstance(trainer, type):
        raise BadValueError(f"{name} is a class, not a trainer: give an instance, {name}(...)")
    missing = [m for m in ("setup", "inputs", "loss") if not callable(getattr(trainer, m, None))]
    if missing:
        raise BadValueError(f"{name} is not a trainer: it lacks {', '.join(missing)}")
    return trainer


def make_attack(name: str, eps: float, norm: str = "Linf", **params: Any) -> Attack:
    """An attack by name.

    Args:
        name: one of :func:`list_attacks`, e.g. ``pgd`` or ``torchattacks:PGD``.
        eps: radius of the threat model, in the inputs' units ([0, 1]); above 0.
        norm: "Linf" or "L2".
        **params: the attack's own.
    """
    attack: Attack = build("attacks", name, params, eps=eps, norm=norm)
    with _named_source("attacks", name):
        if isinstance(attack, type) or not callable(attack):
            raise BadValueError(f"{name} is not an attack: {attack!r} is not callable")
    return attack


def make_model(
    name: str, num_classes: int, input_shape: tuple[int, int, int], **params: Any
) -> nn.Module:
    """A model by name, with random weights from torch's global generator (zoo models: their own).

    Args:
        name: one of :func:`list_models`.
        num_classes: the number of logits.
        input_shape: (C, H, W).
        **params: the architecture's own; ``mean`` and ``std`` put a normalisation layer inside.
    """
    from torch import nn

    model: nn.Module = build(
        "models", name, params, num_classes=num_classes, input_shape=input_shape
    )
    with _named_source("models", name):
        if not isinstance(model, nn.Module):
            raise BadValueError(f"{name} is not a model: {model!r} is no nn.Module")
    return model


def make_dataset(name: str, root: str | None = None, **params: Any) -> DataSet:
    """A data set by name; nothing is ever downloaded.

    Args:
        name: one of :func:`list_datasets`, ``npz:PATH`` or ``folder:PATH``.
        root: the folder that holds the data, for those that are not embedded.
        **params: the data set's own.
    """
    from robustlabels.data import DataSet

    data: DataSet = build("datasets", name, params, root=root)
    with _named_source("datasets", name):
        if not isinstance(data, DataSet):
            raise BadValueError(f"{name} is not a data set: {data!r} is no robustlabels DataSet")
    return data


def make_evaluation(name: str, **params: Any) -> Any:
    """An evaluation by name: ``evaluation(model, x, y, context)`` -> a dict that JSON can hold.

    Args:
        name: one of :func:`list_evaluations`.
        **params: the evaluation's own.
    """
    evaluation = build("evaluations", name, params)
    with _named_source("evaluations", name):
        if isinstance(evaluation, type) or not callable(evaluation):
            raise BadValueError(f"{name} is not an evaluation: {evaluation!r} is not callable")
    return evaluation


@contextmanager
def _named_source(kind: str, name: str) -> Iterator[None]:
    """Add to the refusal of a third party's thing who registered it."""
    try:
        yield
    except BadValueError as error:
        plugin = host()[kind].owner(name)
        if plugin.builtin:
            raise
        source = f"{plugin.distribution} {plugin.version}"
        raise BadValueError(f"{error} (registered by {source})") from error
