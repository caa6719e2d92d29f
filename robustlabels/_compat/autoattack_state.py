"""How far a run of AutoAttack is, on disk: a state that resumes, and refuses another run's."""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustlabels import runs
from robustlabels.errors import RunError

_FIELDS = ("mark", "robust", "x_adv", "y_adv", "accuracies", "done")


def fingerprint(model: Any, x: Tensor, y: Tensor, settings: tuple[Any, ...]) -> str:
    """What a run's verdicts follow from: weights, data, settings and versions."""
    digest = hashlib.sha256(repr(settings).encode())
    for package in ("torch", "pyautoattack"):
        digest.update(importlib.metadata.version(package).encode())
    weights = model.state_dict() if hasattr(model, "state_dict") else {}
    for name, tensor in {**weights, "x": x, "y": y}.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass
class EvaluationState:
    """AutoAttack's verdicts so far.

    Attributes:
        path: the file.
        mark: :func:`fingerprint` of the run.
        robust: bool (N,): what every attack so far has left.
        x_adv: (N, C, H, W): adversarial inputs, x itself where none was found.
        y_adv: int64 (N,): predictions on ``x_adv``.
        accuracies: "clean" and each attack that is done -> the share of robust inputs.
        done: the attacks that are done.
    """

    path: Path
    mark: str
    robust: Tensor
    x_adv: Tensor
    y_adv: Tensor
    accuracies: dict[str, float] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.accuracies.setdefault("clean", self.robust_accuracy)

    @property
    def robust_flags(self) -> Tensor:
        """The verdicts as RobustBench takes them: float64, for it calls ``.mean()``."""
        return self.robust.double()

    @property
    def robust_accuracy(self) -> float:
        """The share of inputs that are robust so far."""
        return int(self.robust.sum()) / len(self.robust)

    def add(self, attack: str, tried: Tensor, broken: Tensor, x_adv: Tensor, y_adv: Tensor) -> None:
        """Enter what an attack made of the inputs of indices ``tried``; everything on the CPU."""
        fallen = tried[broken]
        self.robust[fallen] = False
        self.x_adv[fallen] = x_adv[broken]
        self.y_adv[fallen] = y_adv[broken]
        self.done.append(attack)
        self.accuracies[attack] = self.robust_accuracy

    def check(self, mark: str) -> None:
        """Refuse to go on with another run's verdicts.

        Raises:
            RunError: the model, the data, a setting or a version differs.
        """
        if mark != self.mark:
            raise RunError(
                f"{self.path} is the state of another run: its model, data, norm, eps, seed, "
                "version, batch size, torch or pyautoattack differs; name another file"
            )

    def to_disk(self) -> None:
        """Write the file, atomically."""
        with runs.atomic_file(self.path) as file:
            torch.save({name: getattr(self, name) for name in _FIELDS}, file)

    @classmethod
    def from_disk(cls, path: str | Path) -> EvaluationState:
        """Read the file.

        Raises:
            RunError: it is no state, or not one of ours.
        """
        try:
            values = torch.load(path, map_location="cpu", weights_only=True)
            return cls(Path(path), **{name: values[name] for name in _FIELDS})
        except Exception as error:  # whatever a corrupt file makes the reader raise
            raise RunError(
                f"{path} is not an AutoAttack state of robustlabels ({type(error).__name__}): name "
                "another file"
            ) from error
