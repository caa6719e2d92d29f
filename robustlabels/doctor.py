"""What is installed here, what works, and which defects of others are worked around."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import asdict, dataclass
from typing import Any

from robustlabels import runs
from robustlabels._compat import robustbench_package
from robustlabels.plugins import host

# Distributions, not modules: torchattacks brings a module robustbench that is not RobustBench.
EXTRAS = {
    "torchattacks": ("torchattacks",),
    "art": ("adversarial-robustness-toolbox",),
    "robustbench": ("robustbench",),
    "vision": ("torchvision", "timm"),
    "search": ("optuna",),
    "distributed": ("accelerate",),
}


@dataclass(frozen=True)
class Combination:
    """A set of versions that the unit tests pass with.

    Attributes:
        name: Name that ``doctor`` prints.
        pythons: Versions of Python, major and minor.
        versions: Version of each distribution.
    """

    name: str
    pythons: tuple[str, ...]
    versions: dict[str, str]


# The first is .ci/lowest.txt; the second is what `.ci/run` and `.ci/versions` last installed.
TESTED = (
    Combination(
        "lowest",
        ("3.11",),
        {
            "matplotlib": "3.8.0",
            "numpy": "1.26.0",
            "packaging": "22.0",
            "pluggy": "1.5.0",
            "pyautoattack": "0.2.0",
            "pydantic": "2.7.0",
            "rich": "13.7.0",
            "safetensors": "0.4.3",
            "scikit-learn": "1.4.0",
            "torch": "2.4.0",
            "torchmetrics": "1.4.0",
            "typer": "0.19.2",
            "torchattacks": "3.5.1",
            "adversarial-robustness-toolbox": "1.20.0",
            "robustbench": "1.1.1",
            "torchvision": "0.19.0",
            "timm": "1.0.9",
            "optuna": "3.6.0",
            "accelerate": "1.0.0",
        },
    ),
    Combination(
        "newest, December 2026",
        ("3.11",),
        {
            "matplotlib": "3.11.2",
            "numpy": "2.4.6",
            "packaging": "26.4",
            "pluggy": "1.7.0",
            "pyautoattack": "0.2.0",
            "pydantic": "2.14.4",
            "rich": "15.0.0",
            "safetensors": "0.8.0",
            "scikit-learn": "1.9.1",
            "torch": "2.14.1",
            "torchmetrics": "1.9.0",
            "typer": "0.29.2",
            "torchattacks": "3.5.1",
            "adversarial-robustness-toolbox": "1.20.1",
            "robustbench": "1.1.1",
            "torchvision": "0.29.1",
            "timm": "1.0.9",
            "optuna": "5.0.0",
            "accelerate": "1.15.0",
        },
    ),
)


@dataclass(frozen=True)
class Defect:
    """A third party's defect that we met, measured, and work around or warn of."""

    package: str
    versions: str
    symptom: str
    remedy: str


DEFECTS = (
    Defect(
        "torchattacks",
        "3.5.1",
        "restores modes wrongly: a frozen batch norm comes back in train mode, an exception "
        "leaves eval mode",
        "every module's mode and every parameter's requires_grad are saved and restored",
    ),
    Defect(
        "torchattacks",
        "3.5.1",
        "APGD, APGDT and AutoAttack return tensors that carry a graph; attacks that call backward "
        "leave gradients in the parameters",
        "outputs are detached, parameters frozen",
    ),
    Defect(
        "torchattacks",
        "3.5.1",
        "attacks seed torch's global generator, AutoAttack with the clock",
        "the caller's generator is restored; by name, AutoAttack's seed comes from the run's",
    ),
    Defect(
        "torchattacks",
        "3.5.1",
        "SPSA and PIFGSMPP ignore the target of their targeted mode and aim at the true label",
        "that mode is refused",
    ),
    Defect(
        "torchattacks",
        "3.5.1",
        "EADEN and EADL1 change their reference images in place, and may leave [0, 1]",
        "outputs are clamped",
    ),
    Defect(
        "torchattacks",
        "3.5.1",
        "TIFGSM and PIFGSM* fail on images of one channel, FAB with norm L1, Square with L2 on "
        "images of 12, 14, 18, 19 or 24 pixels",
        "none: use another attack there (docs/torchattacks.md has a table)",
    ),
    Defect(
        "torchattacks",
        "3.5.1",
        "its wheel brings an old copy of the top-level package robustbench: of the two, whichever "
        "was installed last wins",
        "RobustBench is refused where it is overwritten, with the command that brings it back",
    ),
    Defect(
        "torchattacks",
        "3.5.1",
        "the default step (2/255) does not follow eps",
        "alpha is scaled with eps unless it is given",
    ),
    Defect(
        "adversarial-robustness-toolbox",
        "1.20.1",
        "AutoConjugateGradient and RescalingAutoConjugateGradient drop the sign of their direction "
        "for Linf: steps as small as the gradient, and far too much robustness",
        "art:... refuses Linf for them",
    ),
    Defect(
        "adversarial-robustness-toolbox",
        "1.20.1",
        "BoundaryAttack and HopSkipJump start from generators that nobody can seed, and hand "
        "float64 images to float32 models with numpy 2",
        "they draw from numpy's global generator; images are cast",
    ),
    Defect(
        "adversarial-robustness-toolbox",
        "1.20.1",
        "GeoDA fails with numpy 2 and writes files into the working folder; AutoAttack fails "
        "without multiprocess, which is not declared; ShadowAttack given labels aims at them",
        "mended while they run; ShadowAttack gets no labels",
    ),
    Defect(
        "adversarial-robustness-toolbox",
        "1.20.1",
        "attacks erase the gradients that a step has accumulated in the model's parameters",
        "attacks by name never see the parameters; for ready objects gradients are kept",
    ),
    Defect(
        "pyautoattack",
        "0.2.0",
        "state_path: a resumed evaluation raises, or returns only its own images",
        "state_path is not used; a state of our own resumes",
    ),
    Defect(
        "robustbench",
        "1.1.1",
        "does not import as installed: needs pkg_resources (setuptools < 81) and a module "
        "'autoattack' that the package index lacks",
        "robustlabels.evaluation.robustbench brings both while it is imported",
    ),
    Defect(
        "robustbench",
        "1.1.1",
        "downloads are not checked: a web page or half a file becomes a checkpoint; custom "
        "checkpoints may run code, or are ignored",
        "downloads are checked and recorded, files read by weights_only",
    ),
    Defect(
        "robustbench",
        "1.1.1",
        "benchmark: device as a string, CIFAR-10-C, CIFAR-100-C and resuming fail; AutoAttack's "
        "seed is the clock",
        "all work with robustlabels.evaluation.robustbench.benchmark; seed=0 by default",
    ),
    Defect(
        "robustbench",
        "1.1.1",
        "the Bai2023 models can't be built without CUDA",
        "they are",
    ),
)


def examine() -> dict[str, Any]:
    """The facts, as JSON: versions, devices, extras, defects of what is installed, plugins."""
    return {
        "versions": runs.versions(),
        "tested": tested_versions(),
        "devices": _devices(),
        "extras": [_extra(name, distributions) for name, distributions in EXTRAS.items()],
        "defects": [asdict(d) for d in DEFECTS if _installed(d.package)],
        "plugin_errors": [
            {"plugin": r.name, "distribution": r.distribution, "error": error}
            for r in host().records
            for error in r.errors
        ],
    }


def tested_versions() -> dict[str, Any]:
    """Compare the installed versions with the combinations in :data:`TESTED`.

    Patch releases count as equal, and so does a distribution that is not installed.

    Returns:
        ``combination``, the name of the one that is installed, or None; and ``untested``, what
        differs from the nearest one, as ``"torch 2.10.0 (tested: 2.14.1)"``.
    """
    python = platform.python_version()
    nearest: tuple[Combination, list[str]] | None = None
    for combination in TESTED:
        different = []
        if _minor(python) not in combination.pythons:
            different.append(f"python {python} (tested: {', '.join(combination.pythons)})")
        for package, tested in combination.versions.items():
            installed = _version(package)
            if installed is not None and _minor(installed) != _minor(tested):
                different.append(f"{package} {installed} (tested: {tested})")

        if nearest is None or len(different) < len(nearest[1]):
            nearest = combination, different

    assert nearest is not None
    found, untested = nearest
    return {"combination": None if untested else found.name, "untested": untested}


def _minor(version: str) -> str:
    """Return a version's major and minor number, as "2.14"."""
    return ".".join(version.split("+", maxsplit=1)[0].split(".")[:2])


def _devices() -> list[dict[str, str]]:
    import torch

    devices = [
        {"device": "cpu", "detail": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"}
    ]
    devices += [
        {"device": f"cuda:{i}", "detail": torch.cuda.get_device_name(i)}
        for i in range(torch.cuda.device_count())
    ]
    return devices


def _extra(name: str, distributions: tuple[str, ...]) -> dict[str, str]:
    missing = [d for d in distributions if not _installed(d)]
    wrong = robustbench_package.fault() if name == "robustbench" else None
    if wrong is not None:
        return {"extra": name, "state": wrong.state, "command": wrong.command}
    return {
        "extra": name,
        "state": f"missing: {', '.join(missing)}" if missing else "installed",
        "command": f"pip install 'robustlabels[{name}]'" if missing else "",
    }


def _installed(package: str) -> bool:
    return _version(package) is not None


def _version(package: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
