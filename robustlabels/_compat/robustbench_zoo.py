"""RobustBench's model zoo: its files fetched and checked before RobustBench asks for them.

What robustbench 1.1.1 does otherwise:

- downloads are not checked: see :mod:`robustlabels._compat.downloads`;
- checkpoints are read with torch's default, and a custom one by timm with ``weights_only=False``:
  before torch 2.6 every checkpoint, and that one still, can run code;
- a custom checkpoint is silently ignored for most models;
- the Bai2023 models call ``.cuda()`` when they are built: no CPU will do.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels._compat.downloads import check_record, download
from robustlabels._compat.robustbench_package import robustbench
from robustlabels._compat.substitution import substituted
from robustlabels.errors import BadValueError, RunError, UnknownNameError, nearest

DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
FORM = "DATASET/THREAT/NAME, e.g. cifar10/Linf/Chen2021LTD_WRN34_10"
_ONLY, _NOT_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True)
class ZooFile:
    """A checkpoint of the zoo: where RobustBench looks for it, and where it is to be had."""

    path: Path
    url: str

    def provide(self) -> None:
        """See that the file is there, is the one it was, and holds tensors and plain values only.

        Raises:
            RunError: one of this is not so.
        """
        if not self.path.is_file():
            # torch's own way of saying what the hash begins with
            named = re.search(r"-([0-9a-f]{8,})\.", self.path.name)
            download(self.url, self.path, sha256=named[1] if named else "")
        check_readable(self.path)
        check_record(self.path)


class ZooModel:
    """An entry of the zoo.

    Args:
        dataset: "cifar10", "cifar100" or "imagenet".
        threat_model: "Linf", "L2" or "corruptions", as far as the data set has it.
        name: RobustBench's id.

    Attributes:
        classes: K, the data set's.

    Raises:
        KeyError: no such entry; the message has the nearest matches.
        ImportError: RobustBench is missing or broken.
    """

    def __init__(self, dataset: str, threat_model: str, name: str) -> None:
        zoo = robustbench().model_zoo.model_dicts
        # RobustBench keeps the models for 3D corruptions with the others.
        threat_model = threat_model.replace("_3d", "")
        names = {d.value: {t.value: models for t, models in zoo[d].items()} for d in zoo}
        entries = _one_of(names, "data set", dataset)
        models = _one_of(entries, f"threat model of {dataset}", threat_model)
        self.entry: dict[str, Any] = _one_of(models, f"{dataset}/{threat_model} model", name)
        self.dataset, self.threat_model, self.name = dataset, threat_model, name
        utils = robustbench().utils
        self.classes = int(utils.DATASET_CLASSES[utils.BenchmarkDataset(dataset)])
        timm_name = f"{name}_{dataset}_{threat_model}".lower().replace("-", "_")
        self.timm_name = timm_name if utils.timm.is_model(timm_name) else None

    @classmethod
    def by_name(cls, name: str) -> ZooModel:
        """The entry DATASET/THREAT/NAME."""
        parts = name.split("/")
        if len(parts) != 3:
            raise BadValueError(f"a model of RobustBench is robustbench:{FORM}, not {name!r}")
        return cls(*parts)

    def files(self, model_dir: Path) -> list[ZooFile]:
        """What RobustBench will read, in its own layout; none where torchvision has the weights."""
        if self.timm_name is not None:
            url = robustbench().utils.timm.get_pretrained_cfg(self.timm_name).url
            return [ZooFile(Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name, url)]
        path = model_dir / self.dataset / self.threat_model / f"{self.name}.pt"
        drive = self.entry["gdrive_id"]
        if isinstance(drive, list):
            parts = [path.with_name(f"{path.name}_m{i}.pt") for i in range(len(drive))]
            return [ZooFile(p, DRIVE.format(d)) for p, d in zip(parts, drive, strict=True)]
        return [ZooFile(path, DRIVE.format(drive))] if drive else []

    def load(self, model_dir: Path, custom_checkpoint: str | Path = "") -> nn.Module:
        """The model, in eval mode, on the CPU.

        Args:
            model_dir: RobustBench's folder of models.
            custom_checkpoint: other weights, for models of timm.

        Raises:
            RunError: a checkpoint can't be had, isn't what it was, or doesn't fit.
        """
        files = self.files(model_dir)
        if custom_checkpoint and self.timm_name is None:
            raise BadValueError(
                f"custom_checkpoint: RobustBench would ignore it for {self.name}; put it at "
                f"{files[0].path if files else model_dir} instead"
            )
        for file in files:
            file.provide()
        if custom_checkpoint:
            check_readable(Path(custom_checkpoint))
        with _building():
            try:
                model: nn.Module = robustbench().utils.load_model(
                    self.name,
                    model_dir=model_dir,
                    dataset=self.dataset,
                    threat_model=self.threat_model,
                    custom_checkpoint=str(custom_checkpoint),
                )
            except (AttributeError, KeyError, OSError, RuntimeError, TypeError) as error:
                where = " or ".join(str(f.path) for f in files) or "torchvision's file"
                why = " ".join(str(error).split())[:200]
                raise RunError(f"{self.name} can't be loaded from {where}: {why}") from error
        return model

    def architecture(self) -> nn.Module:
        """The model with random weights, in eval mode; nothing is fetched.

        Raises:
            ValueError: RobustBench can't build it without fetching weights.
        """
        with _building():
            if self.timm_name is not None:
                create = robustbench().utils.timm.create_model
                model: nn.Module = create(self.timm_name, num_classes=self.classes)
            elif self.entry["gdrive_id"]:
                model = self.entry["model"]()
            else:
                raise BadValueError(f"{self.name} is only to be had with torchvision's weights")
        return model.eval()


def check_readable(path: Path) -> None:
    """Refuse a checkpoint that is corrupt, or would run code.

    Raises:
        RunError: it is.
    """
    try:
        # Mapped, so that a whole file costs nothing; the format before torch 1.6 is read.
        mapped = zipfile.is_zipfile(path)
        with warnings.catch_warnings(action="ignore"):  # of pickle protocols
            torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        text = str(error)
        found = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", text)
        if found is None:
            why = " ".join(text.split())[:100]
            raise RunError(f"{path} is not a readable checkpoint ({why}): delete it") from error
        raise RunError(
            f"{path} holds {found[1]}, so reading it could run code: where you trust it, read it "
            "with weights_only=False and save its state_dict alone in its place"
        ) from error


def _one_of(table: dict[str, Any], what: str, name: str) -> Any:
    if name not in table:
        raise UnknownNameError(f"RobustBench has no {what} {name!r}; {nearest(name, table)}")
    return table[name]


@contextmanager
def _building() -> Iterator[None]:
    """Checkpoints are read by weights_only, chatter goes to stderr, and the CPU will do."""
    before = {name: os.environ.pop(name, None) for name in (_ONLY, _NOT_ONLY)}
    os.environ[_ONLY] = "1"
    # Where there is no CUDA, .cuda() could do nothing but fail.
    here: Any = nullcontext() if torch.cuda.is_available() else substituted(Tensor, cuda=_stay)
    try:
        with here, redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _stay(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor
