"""RobustBench's own ``load_model`` and ``benchmark``, which do not run as installed, mended.

What is mended, and why, is told by the modules of :mod:`robustlabels._compat`. RobustBench is
imported when a function is called.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels._compat.robustbench_corruptions import corruptions_evaluation, has_alexnet
from robustlabels._compat.robustbench_package import robustbench
from robustlabels._compat.robustbench_zoo import ZooModel
from robustlabels._compat.substitution import substituted
from robustlabels.devices import named_device
from robustlabels.errors import BadValueError, DataError, nearest
from robustlabels.randomness import preserved
from robustlabels.threat import parse_eps

__all__ = ["benchmark", "load_model"]


def load_model(
    model_name: str,
    model_dir: str | Path = "./models",
    dataset: Any = "cifar10",
    threat_model: Any = "Linf",
    custom_checkpoint: str | Path = "",
    norm: str | None = None,
) -> nn.Module:
    """A model of RobustBench's zoo: ``robustbench.load_model``.

    A missing checkpoint is fetched and checked; the first use of each is recorded by its hash, and
    later uses are compared with it. Checkpoints are read by ``weights_only``.

    Args:
        model_name: RobustBench's id.
        model_dir: the folder with DATASET/THREAT/NAME.pt.
        dataset: "cifar10", "cifar100" or "imagenet", or RobustBench's enum.
        threat_model: "Linf", "L2", "corruptions" or "corruptions_3d", or RobustBench's enum.
        custom_checkpoint: other weights, for the models that timm builds; else refused.
        norm: deprecated by RobustBench; ``threat_model`` under its old name.

    Returns:
        The model, in eval mode, on the CPU: (N, 3, H, W) in [0, 1] to logits (N, K).

    Raises:
        KeyError: no such model; the message has the nearest matches.
        RuntimeError: a checkpoint can't be had, is not what it was, could run code or doesn't fit.
        ImportError: RobustBench is missing or broken; the message says what to do.
    """
    if norm is not None:
        warnings.warn("norm is deprecated: use threat_model", DeprecationWarning, stacklevel=2)
        threat_model = norm
    entry = ZooModel(_value(dataset), _value(threat_model), model_name)
    return entry.load(Path(model_dir), custom_checkpoint)


def benchmark(
    model: nn.Module,
    n_examples: int = 10000,
    dataset: Any = "cifar10",
    threat_model: Any = "Linf",
    to_disk: bool = False,
    model_name: str | None = None,
    data_dir: str | Path = "./data",
    corruptions_data_dir: str | Path | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 32,
    eps: str | float | None = None,
    log_path: str | Path | None = None,
    preprocessing: str | Callable[..., Any] | None = None,
    aa_state_path: str | Path | None = None,
    *,
    seed: int | None = 0,
) -> tuple[float, float]:
    """Judge a model as the leaderboard does: ``robustbench.benchmark``.

    Args:
        model: (N, 3, H, W) in [0, 1] to logits (N, K), exactly the data set's K. It is moved to
            ``device`` and stays there.
        n_examples: the first so many test images.
        dataset: "cifar10", "cifar100" or "imagenet", or RobustBench's enum.
        threat_model: "Linf", "L2", "corruptions" or "corruptions_3d", or RobustBench's enum.
        to_disk: write model_info/DATASET/THREAT/NAME.json below the working folder.
        model_name: for ``to_disk``, and for the preprocessing of ImageNet.
        data_dir: the data set's folder, in torchvision's layout; for CIFAR, what is missing is
            downloaded.
        corruptions_data_dir: the folder of CIFAR-10-C and so on; ``data_dir`` by default.
        device: where to compute; the CPU by default.
        batch_size: images at a time.
        eps: radius for Linf and L2, a number or "8/255".
        log_path: a file for what AutoAttack tells.
        preprocessing: of ImageNet: a name of RobustBench's, or a function.
        aa_state_path: a file; a benchmark that was stopped goes on after the last of AutoAttack's
            attacks that it has. It always takes pyautoattack.
        seed: of AutoAttack's random starts; None takes the clock, as RobustBench itself does.

    Returns:
        The clean accuracy, and the accuracy in the threat model, in [0, 1].

    Raises:
        ValueError: a bad argument, a model with other outputs, or data that aren't there.
        RuntimeError: the state is of another run.
        ImportError: RobustBench is missing or broken; the message says what to do.
    """
    package = robustbench()
    dataset, threat_model = _value(dataset), _value(threat_model)
    classes = _check_threat(package, dataset, threat_model)
    norm = threat_model in ("Linf", "L2")
    if norm == (eps is None):
        raise BadValueError(f"eps is {eps!r}: Linf and L2 need it, corruptions have none")
    compared = norm or has_alexnet(dataset, threat_model)
    _check_data(package, dataset, n_examples, model_name, preprocessing)
    _check_to_disk(to_disk, model_name, compared)
    adversary = package.eval.AutoAttack
    mended: dict[str, Any] = {}
    if aa_state_path is not None:
        from robustlabels._compat.autoattack_module import AutoAttack
        from robustlabels._compat.autoattack_state import EvaluationState

        adversary, mended["EvaluationState"] = AutoAttack, EvaluationState
    mended["AutoAttack"] = partial(adversary, seed=seed)
    if not compared:
        mended["corruptions_evaluation"] = corruptions_evaluation
    with (
        substituted(package.eval, **mended),
        _only_outputs(model, classes),
        _in_one_line(package, data_dir),
        preserved(),
    ):
        clean, robust = package.eval.benchmark(
            model,
            n_examples=n_examples,
            dataset=dataset,
            threat_model=threat_model,
            to_disk=to_disk,
            model_name=model_name,
            data_dir=str(data_dir),
            corruptions_data_dir=corruptions_data_dir and str(corruptions_data_dir),
            device=named_device("cpu" if device is None else device),
            batch_size=batch_size,
            eps=None if eps is None else parse_eps(eps, threat_model),
            log_path=log_path,
            preprocessing=preprocessing,
            aa_state_path=None if aa_state_path is None else Path(aa_state_path),
        )
    return float(clean), float(robust)


def _value(name: Any) -> str:
    """The name, or that of a member of RobustBench's enums."""
    return str(getattr(name, "value", name))


def _check_threat(package: Any, dataset: str, threat_model: str) -> int:
    """K, where RobustBench knows the data set and judges it by the threat model."""
    classes = {d.value: int(k) for d, k in package.utils.DATASET_CLASSES.items()}
    if dataset not in classes:
        raise BadValueError(f"RobustBench has no data set {dataset!r}; {nearest(dataset, classes)}")
    corruptions = package.data.CORRUPTIONS_DICT[package.eval.BenchmarkDataset(dataset)]
    threats = ["Linf", "L2", *(t.value for t in corruptions)]
    if threat_model not in threats:
        raise BadValueError(
            f"RobustBench has no threat model {threat_model!r} for {dataset}; "
            f"{nearest(threat_model, threats)}"
        )
    return classes[dataset]


def _check_data(
    package: Any, dataset: str, n_examples: int, model_name: str | None, preprocessing: Any
) -> None:
    most = 5000 if dataset == "imagenet" else 10000
    if isinstance(n_examples, bool) or not isinstance(n_examples, int):
        raise BadValueError(f"n_examples must be an integer, not {n_examples!r}")
    if not 1 <= n_examples <= most:
        raise BadValueError(f"n_examples must be from 1 to {most} for {dataset}, not {n_examples}")
    if dataset == "imagenet" and model_name is None and preprocessing is None:
        raise BadValueError("imagenet needs the preprocessing, or the model_name of a zoo model")
    known = [name for name in package.data.PREPROCESSINGS if name is not None]
    if isinstance(preprocessing, str) and preprocessing not in known:
        raise BadValueError(f"no preprocessing {preprocessing!r}; {nearest(preprocessing, known)}")


def _check_to_disk(to_disk: bool, model_name: str | None, compared: bool) -> None:
    """What RobustBench would find out after hours."""
    if to_disk and model_name is None:
        raise BadValueError("to_disk needs a model_name")
    if to_disk and not compared:
        raise BadValueError(
            "to_disk: RobustBench writes the error relative to AlexNet's, which are not in "
            "model_info below the working folder (its repository has them, for ImageNet)"
        )


@contextmanager
def _only_outputs(model: nn.Module, classes: int) -> Iterator[None]:
    """Refuse a model with more outputs: AutoAttack would take virtual classes for wrong ones."""

    def check(_module: nn.Module, _inputs: Any, logits: Tensor) -> None:
        if logits.dim() != 2 or logits.shape[1] != classes:
            raise BadValueError(
                f"RobustBench judges {classes} logits, not outputs {tuple(logits.shape)}: cut "
                "virtual classes off with robustlabels.real_classes(model, scheme)"
            )

    hook = model.register_forward_hook(check)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _in_one_line(package: Any, data_dir: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, package.data.DownloadError) as error:
        raise DataError(
            f"RobustBench's data are not in {data_dir} and can't be had ({error}): "
            "docs/robustbench.md says what lies where"
        ) from error
