"""A classifier of ours as RobustBench builds and loads it; the loaded one is compared with it."""

from __future__ import annotations

import re
import runpy
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robustlabels._compat.robustbench_package import robustbench
from robustlabels._compat.robustbench_zoo import ZooModel
from robustlabels.errors import BadValueError
from robustlabels.models.attached import AttachedCode
from robustlabels.models.heads import RealClasses, real_classes
from robustlabels.models.normalize import Normalize
from robustlabels.models.zoo_entries import (
    ARCHITECTURES,
    DATASETS,
    Blueprint,
    blueprint,
    code_module,
    entry_text,
    same_entry_text,
)

TOLERANCE = 1e-5
"""Of the logits, relative to the greatest: what another order of summation may change."""
ENTRY = "model_zoo_entry.py"


@dataclass(frozen=True)
class Export:
    """A classifier in RobustBench's terms.

    Attributes:
        architecture: as published, e.g. "WideResNet-28-10"; attached code's class name.
        entry: text of the module that enters it into RobustBench's zoo.
        checkpoint: what the ``.pt`` file holds: ``load_model`` cuts parts off some keys, and here
            they are as they must be before that.
        model: what RobustBench's ``load_model`` made of entry and checkpoint, in eval mode, on the
            CPU: images (N, C, H, W) in [0, 1] to K logits.
        code: the attached file's text; "" where RobustBench has the architecture.
        code_file: its name in RobustBench's ``architectures``.
        difference: greatest difference of the logits on random images, relative to the greatest.
    """

    architecture: str
    entry: str
    checkpoint: Mapping[str, Tensor]
    model: nn.Module
    code: str
    code_file: str
    difference: float


def export(
    model: nn.Module,
    *,
    num_classes: int,
    name: str,
    dataset: str,
    threat: str,
    zoo: str | None = None,
    code: AttachedCode | None = None,
) -> Export:
    """Make RobustBench's version of a classifier, load it by ``load_model``, and compare.

    What is deployed are the first K logits: rows of the last linear layer beyond them are cut.

    Args:
        model: images (N, C, H, W) in [0, 1] to K logits or more.
        num_classes: K.
        name: RobustBench's id for it.
        dataset: "cifar10", "cifar100" or "imagenet".
        threat: "Linf" or "L2".
        zoo: the zoo's model that it was made of, DATASET/THREAT/NAME.
        code: its architecture, where RobustBench lacks it.

    Raises:
        ValueError: a bad argument, RobustBench has no such architecture, the head is not one
            linear layer, or the loaded model gives other logits.
        KeyError: the zoo has no such model.
        RuntimeError: RobustBench can't load it.
        ImportError: RobustBench is missing or broken; the message says what to do.
    """
    if dataset not in DATASETS:
        raise BadValueError(f"dataset must be one of {', '.join(DATASETS)}, not {dataset!r}")
    if not re.fullmatch(r"[A-Za-z][\w.+-]*", name):
        raise BadValueError(f"name must be letters, digits, '_', '-', '+' and '.', not {name!r}")
    if zoo is not None:
        if code is not None:
            raise BadValueError("give zoo or code, not both: the one is the other's architecture")
        ZooModel.by_name(zoo)  # that there is such a model
    network, normalize = _unwrapped(model)
    plan: Blueprint | None = None
    if code is not None:
        code.build(num_classes)  # its own errors, before RobustBench's
        imports = f"from {ARCHITECTURES}.{code_module(name)} import {code.name}"
        plan = Blueprint(code.name, imports, code.name, code.arguments(num_classes))
    elif zoo is None:
        plan = blueprint(network, num_classes, dataset)
        if plan is None:
            raise BadValueError(
                f"RobustBench has no architecture like this {type(network).__name__}: attach it, "
                "code=FILE.py:Class"
            )
    if zoo is not None:
        text = same_entry_text(name, dataset, threat, zoo)
    else:
        assert plan is not None
        text = entry_text(name, dataset, threat, plan, normalize, own_code=code is not None)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / ENTRY).write_text(text, encoding="utf-8")
        if code is not None:
            (place / "architectures").mkdir()
            file = place / "architectures" / f"{code_module(name)}.py"
            file.write_text(code.source, encoding="utf-8")
        with _entered(place / ENTRY, dataset, threat, name) as entry:
            target = entry.architecture()
            state = network.state_dict()
            if plan is not None:
                state = {plan.key(key): value for key, value in state.items()}
            checkpoint = _checkpoint(state, target, normalize, dataset, zoo, num_classes)
            path = place / "models" / dataset / threat / f"{name}.pt"
            path.parent.mkdir(parents=True)
            torch.save(checkpoint, path)
            loaded = entry.load(place / "models")
    return Export(
        architecture=plan.architecture if plan is not None else str(zoo),
        entry=text,
        checkpoint=checkpoint,
        model=loaded,
        code="" if code is None else code.source,
        code_file="" if code is None else f"{code_module(name)}.py",
        difference=_compare(model, loaded, num_classes, 224 if dataset == "imagenet" else 32),
    )


def _unwrapped(model: nn.Module) -> tuple[nn.Module, Normalize | None]:
    """The network itself, and the normalisation before it."""
    while isinstance(model, RealClasses):
        model = model.model
    children = dict(model.named_children())
    first = children.get("normalize")
    if (
        isinstance(model, nn.Sequential)
        and list(children) == ["normalize", "model"]
        and isinstance(first, Normalize)
    ):
        return children["model"], first
    return model, None


def enter(file: str | Path) -> None:
    """Make RobustBench know the model of a submission: run its ``model_zoo_entry.py``.

    Until the process ends, ``load_model`` finds it by its name.

    Raises:
        ValueError: the file fails.
        ImportError: RobustBench is missing or broken; the message says what to do.
    """
    robustbench()  # mended, whatever imports it afterwards
    try:
        runpy.run_path(str(file))
    except Exception as error:  # of attached code, whatever it is
        why = " ".join(str(error).split())[:200]
        raise BadValueError(f"{Path(file).name} fails ({type(error).__name__}: {why})") from error


@contextmanager
def _entered(file: Path, dataset: str, threat: str, name: str) -> Iterator[ZooModel]:
    """RobustBench knows the model for a while."""
    zoo = robustbench().model_zoo
    (tables,) = (tables for data, tables in zoo.model_dicts.items() if data.value == dataset)
    found = [models for threat_model, models in tables.items() if threat_model.value == threat]
    if not found:
        raise BadValueError(f"RobustBench has no models of {dataset} for threat {threat}")
    models = found[0]
    if name in models:
        raise BadValueError(f"RobustBench has a model of the name {name!r} on {dataset} {threat}")
    paths = list(zoo.architectures.__path__)
    before = set(sys.modules)
    try:
        enter(file)
        yield ZooModel(dataset, threat, name)
    finally:
        models.pop(name, None)
        zoo.architectures.__path__[:] = paths
        for module in set(sys.modules) - before:
            if module == f"{ARCHITECTURES}.{code_module(name)}":
                del sys.modules[module]


def _checkpoint(
    state: dict[str, Tensor],
    target: nn.Module,
    normalize: Normalize | None,
    dataset: str,
    zoo: str | None,
    num_classes: int,
) -> dict[str, Tensor]:
    """The tensors of which RobustBench's ``load_model`` makes the target's."""
    prefixed = dataset == "imagenet"  # there its loader puts "model." before every key
    if prefixed and zoo is None:
        target = target.get_submodule("model")
    elif normalize is not None:
        numbers = {"mu": normalize.mean, "sigma": normalize.std}
        state = {**state, **{k: v.view(1, -1, 1, 1) for k, v in numbers.items()}}
    fitted = _fitted(state, target, num_classes)
    if prefixed and zoo is not None:
        start = "model."
        fitted = {k.removeprefix(start): v for k, v in fitted.items() if k.startswith(start)}
    return {_escaped(key): value.detach().cpu().clone() for key, value in fitted.items()}


def _fitted(state: Mapping[str, Tensor], target: nn.Module, num_classes: int) -> dict[str, Tensor]:
    """The state of a module with K outputs, cut from that of one with more."""
    wanted = target.state_dict()
    odd = sorted(set(wanted) ^ set(state))
    if odd:
        owner = "the model" if odd[0] in state else type(target).__name__
        raise BadValueError(
            f"the weights don't fit {type(target).__name__}: only {owner} has {odd[0]}"
            + (f" and {len(odd) - 1} more" * (len(odd) > 1))
        )
    linear = {n for n, m in target.named_modules() if isinstance(m, nn.Linear)}
    fitted, cut = {}, set()
    for key, value in state.items():
        shape, layer = wanted[key].shape, key.rpartition(".")[0]
        fitted[key] = value
        if value.shape != shape:
            fitted[key] = value[:num_classes]
            if layer not in linear or fitted[key].shape != shape:
                raise BadValueError(
                    f"the weights don't fit {type(target).__name__}: {key} is "
                    f"{tuple(value.shape)}, not {tuple(shape)}, and virtual classes can be cut "
                    "off one linear layer only"
                )
            cut.add(layer)
    if len(cut) > 1:
        raise BadValueError(
            f"virtual classes can be cut off one linear layer, not off {', '.join(sorted(cut))}"
        )
    return fitted


def _escaped(key: str) -> str:
    """What RobustBench's ``rm_substr_from_state_dict`` turns into this key.

    It cuts the length of "module.", then that of "model.", off every key that has it anywhere.
    """
    for part in ("model.", "module."):
        key = part + key if part in key else key
    return key


def _compare(model: nn.Module, loaded: nn.Module, num_classes: int, side: int) -> float:
    x = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    modes = {module: module.training for module in model.modules()}
    device = next((p.device for p in model.parameters()), x.device)
    try:
        with torch.no_grad():
            ours = real_classes(model.eval(), num_classes)(x.to(device)).cpu()
            try:
                theirs = loaded(x)
            except Exception as error:  # of attached code, whatever it is
                why = " ".join(str(error).split())[:200]
                raise BadValueError(
                    f"what RobustBench loads fails on images {tuple(x.shape)} "
                    f"({type(error).__name__}: {why})"
                ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if theirs.shape != ours.shape:
        raise BadValueError(
            f"the loaded model returns {tuple(theirs.shape)}, not logits {tuple(ours.shape)}"
        )
    difference = float((ours - theirs).abs().max() / ours.abs().max().clamp_min(1e-12))
    if not difference <= TOLERANCE:
        raise BadValueError(
            f"what RobustBench loads is another function: on random images its logits differ by "
            f"{difference:.1e} of the greatest, and {TOLERANCE:.0e} is allowed"
        )
    return difference
