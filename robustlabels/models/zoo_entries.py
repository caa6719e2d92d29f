"""A model-zoo entry as text: the Python that RobustBench needs to build a classifier."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from torch import nn

from robustlabels.models.normalize import Normalize
from robustlabels.models.preact_resnet import PreActResNet18
from robustlabels.models.wide_resnet import WideResNet

ARCHITECTURES = "robustbench.model_zoo.architectures"
DATASETS = {"cifar10": "cifar_10", "cifar100": "cifar_100", "imagenet": "imagenet"}
"""RobustBench's data sets, and their names in its enum."""
DRIVE_ID = "<id of the file on Google Drive>"


@dataclass(frozen=True)
class Blueprint:
    """How RobustBench builds a network, before any normalisation.

    Attributes:
        architecture: as it is published, e.g. "WideResNet-28-10".
        imports: the line that RobustBench's module needs.
        base: the class.
        arguments: what it is called with, K included.
        renamed: our state-dict keys' parts -> RobustBench's.
    """

    architecture: str
    imports: str
    base: str
    arguments: str
    renamed: tuple[tuple[str, str], ...] = ()

    def key(self, ours: str) -> str:
        """RobustBench's name of a tensor of ours."""
        for pattern, name in self.renamed:
            ours = re.sub(pattern, name, ours)
        return ours


def blueprint(network: nn.Module, num_classes: int, dataset: str) -> Blueprint | None:
    """RobustBench's architecture that computes what one of ours does; None if it has none.

    Args:
        network: without normalisation; its own number of outputs doesn't count.
        num_classes: K.
        dataset: one of :data:`DATASETS`.
    """
    classes = f"num_classes={num_classes}"
    other = any(isinstance(module, nn.SiLU) for module in network.modules())  # they have ReLU
    if other or (dataset == "imagenet" and not _is_resnet18(network, stem=7)):
        return None
    if dataset == "imagenet":
        imports = "from torchvision import models as pt_models"
        return Blueprint("ResNet-18", imports, "pt_models.resnet18", classes)
    if isinstance(network, WideResNet):
        depth, widen = 6 * len(network.block1.layer) + 4, network.fc.in_features // 64
        return Blueprint(
            f"WideResNet-{depth}-{widen}",
            f"from {ARCHITECTURES}.wide_resnet import WideResNet",
            "WideResNet",
            f"depth={depth}, widen_factor={widen}, {classes}",
        )
    imports = f"from {ARCHITECTURES}.resnet import "
    if isinstance(network, PreActResNet18):
        settings = f"{classes}, bn_before_fc={network.bn is not None}"
        block = network.layer2[0]
        if getattr(block, "preact_shortcut", False):
            settings += ", out_shortcut=True"
        return Blueprint(
            "PreActResNet-18",
            f"{imports}PreActBlock, PreActResNet",
            "PreActResNet",
            f"PreActBlock, [2, 2, 2, 2], {settings}",
        )
    if _is_resnet18(network, stem=3):
        return Blueprint(
            "ResNet-18",
            f"{imports}BasicBlock, ResNet",
            "ResNet",
            f"BasicBlock, [2, 2, 2, 2], {classes}",
            renamed=((r"\.downsample\.", ".shortcut."), (r"^fc\.", "linear.")),
        )
    return None


def entry_text(
    name: str,
    dataset: str,
    threat: str,
    plan: Blueprint,
    normalize: Normalize | None,
    own_code: bool = False,
) -> str:
    """A module that defines the model, and enters it into RobustBench's zoo.

    Args:
        name: RobustBench's id for the model.
        dataset: one of :data:`DATASETS`.
        threat: "Linf" or "L2".
        plan: the network.
        normalize: what stands before it.
        own_code: the network's file lies in ``architectures`` beside the module.
    """
    imports, definition = [plan.imports], ""
    build = f"lambda: {plan.base}({plan.arguments})"
    extra = ""
    if dataset == "imagenet":
        imports.append(f"from {ARCHITECTURES}.utils_architectures import normalize_model")
        # Its loader puts every key below "model.", so there must be a layer of that name.
        numbers = normalize or Normalize([0.0] * 3, [1.0] * 3)
        mu, sigma = (tuple(_numbers(v)) for v in (numbers.mean, numbers.std))
        build = f"lambda: normalize_model({plan.base}({plan.arguments}), {mu}, {sigma})"
        extra = "    'preprocessing': 'Res256Crop224',\n"
    elif normalize is not None:
        imports.insert(0, "import torch")
        build = f"{re.sub(r'[^0-9A-Za-z_]', '_', name)}Net"
        definition = _NORMALIZED.format(
            name=build,
            base=plan.base,
            arguments=plan.arguments,
            mu=_numbers(normalize.mean),
            sigma=_numbers(normalize.std),
        )
    if own_code:
        imports = [_OWN_CODE, *imports]
    return _entry(name, dataset, threat, imports, definition, build, extra)


def same_entry_text(name: str, dataset: str, threat: str, zoo: str) -> str:
    """As :func:`entry_text`, for a model that the zoo's entry DATASET/THREAT/NAME builds."""
    their_data, their_threat, theirs = zoo.split("/")
    table = f"model_dicts[BenchmarkDataset.{DATASETS[their_data]}][ThreatModel.{their_threat}]"
    extra = f"    'preprocessing': {table}[{theirs!r}].get('preprocessing'),\n"
    extra = extra if dataset == "imagenet" else ""
    return _entry(name, dataset, threat, [], "", f"{table}[{theirs!r}]['model']", extra)


def code_module(name: str) -> str:
    """The module that attached code becomes in RobustBench's ``architectures``."""
    return re.sub(r"\W", "_", name).lower()


_OWN_CODE = f"""\
# Until RobustBench has the architecture: the folder beside this file.
from pathlib import Path

import {ARCHITECTURES} as architectures

architectures.__path__.append(str(Path(__file__).parent / "architectures"))
"""

_NORMALIZED = """\


class {name}({base}):

    def __init__(self):
        super().__init__({arguments})
        self.register_buffer('mu', torch.tensor({mu}).view(1, 3, 1, 1))
        self.register_buffer('sigma', torch.tensor({sigma}).view(1, 3, 1, 1))

    def forward(self, x):
        return super().forward((x - self.mu) / self.sigma)
"""

_ENTRY = '''\
"""{name}, for robustbench/model_zoo/{dataset}.py.

Imports and class belong to the top of that file, the entry into its dictionary `{table}`. Until
then, importing this file makes an installed RobustBench know the model.
"""

{imports}
from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
from robustbench.model_zoo.models import model_dicts
{definition}
{table} = model_dicts[BenchmarkDataset.{member}][ThreatModel.{threat}]
{table}['{name}'] = {{
    'model': {build},
    'gdrive_id': '{drive}',
{extra}}}
'''


def _entry(
    name: str,
    dataset: str,
    threat: str,
    imports: list[str],
    definition: str,
    build: str,
    extra: str,
) -> str:
    text = _ENTRY.format(
        name=name,
        dataset=dataset,
        threat=threat,
        table=threat.lower(),
        imports="\n".join(imports),
        definition=f"{definition}\n" if definition else "",
        member=DATASETS[dataset],
        build=build,
        drive=DRIVE_ID,
        extra=extra,
    )
    return text.replace('"""\n\n\n', '"""\n\n')


def _numbers(values: object) -> list[float]:
    """As a person would write them: the shortest that give the same float32."""
    return [float(str(v)) for v in np.asarray(values, dtype=np.float32).flatten()]


def _is_resnet18(network: nn.Module, stem: int) -> bool:
    """Whether this is torchvision's ResNet-18 with a stem of so many pixels."""
    try:
        from torchvision.models.resnet import BasicBlock, ResNet
    except ImportError:
        return False
    if not isinstance(network, ResNet):
        return False
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    blocks = [block for stage in stages for block in stage]
    return (
        [len(stage) for stage in stages] == [2, 2, 2, 2]
        and all(isinstance(block, BasicBlock) for block in blocks)
        and network.conv1.kernel_size == (stem, stem)
        and isinstance(network.maxpool, nn.Identity) == (stem == 3)
    )
