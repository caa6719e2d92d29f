"""The RUN folder: atomic files, provenance, and what a finished run gives back.

RUN holds ``config.toml`` (resolved, complete), ``weights.safetensors`` (best by validation),
``last.safetensors``, ``average.safetensors`` (with weight averaging), ``state/`` for resuming,
``metrics.jsonl`` (a line an epoch) and ``run.json`` (versions, seeds, device, git, hashes).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import pickle
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from robustlabels.config import Config, make_config, read_toml, write_toml
from robustlabels.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, BEST, LAST, AVERAGE = (
    "config.toml",
    "weights.safetensors",
    "last.safetensors",
    "average.safetensors",
)
METRICS, SUMMARY, STATE = "metrics.jsonl", "run.json", "state"
WEIGHTS = {"best": BEST, "last": LAST, "average": AVERAGE}
# Where training loops keep the state dict in a checkpoint; the first one is used.
_STATE_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "module",
    "ema",
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
)
_PACKAGES = [
    "robustlabels",
    "torch",
    "torchvision",
    "torchattacks",
    "adversarial-robustness-toolbox",
    "robustbench",
    "pyautoattack",
    "pluggy",
    "torchmetrics",
    "safetensors",
    "pydantic",
    "scikit-learn",
    "numpy",
    "timm",
]


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file whole or not at all: a crash leaves the old one, or none.

    Raises:
        RunError: the folder can't be written to, or the disk is full.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:  # a full disk
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file, atomically."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """A JSON file, atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file; a RunError in one line if it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise RunError(f"{path} is not JSON: {error}") from None


def new_folder(path: Path, what: str = "output") -> Path:
    """Make an empty folder, or take one that is empty; never one that holds something.

    Raises:
        RunError: it is a file, holds something, or can't be made or written to.
    """
    try:
        if path.exists() and not path.is_dir():
            raise RunError(f"{what} folder {path} is a file; name another")
        if path.is_dir() and any(path.iterdir()):
            run = (path / CONFIG).exists()
            hint = ", or go on with this run by train --resume" if run else ""
            raise RunError(f"{what} folder {path} already holds files; name another{hint}")
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise RunError(f"cannot write to {what} folder {path}: {error.strerror}") from None


def save_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A state dict as safetensors, atomically."""
    from safetensors.torch import save

    # Clones: safetensors refuses tensors that share memory (tied weights, views of one storage).
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    with atomic_file(path) as file:
        file.write(save(tensors, metadata=dict(metadata)))


def load_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from ``.safetensors``, or from a torch file by ``weights_only``.

    Raises:
        RunError: missing, corrupt, or holding something else than named tensors.
    """
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise RunError(f"no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of pickle protocols
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises to load the file unsafely: not ours to pass on.
        raise RunError(
            f"{path} is not a readable checkpoint: no torch file, or one that holds more than "
            "tensors and plain values, which could run code; save the state_dict() alone"
        ) from error
    except Exception as error:
        # Whatever a corrupt or hostile file makes the reader raise, the user's view is the same.
        raise RunError(f"{path} is not a readable checkpoint: {_first_line(error)}") from error
    state = _innermost(state)
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise RunError(f"{path} holds no state dict of tensors")
    return state


def _innermost(state: Any) -> Any:
    """Return the state dict inside a training loop's checkpoint, at any depth."""
    while isinstance(state, dict):
        inner = next((k for k in _STATE_KEYS if isinstance(state.get(k), dict)), None)
        if inner is None:
            break
        state = state[inner]
    return state


def matched(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's tensors under the names that a model uses for them.

    ``DataParallel`` and ``AveragedModel`` put ``module.`` in front of each name, and
    ``torch.compile`` puts ``_orig_mod.`` in front or inside; either side may have them. Checkpoints
    from before torch 0.4.1 have no ``num_batches_tracked``: the model's values are used.

    Args:
        state: Checkpoint.
        own: State dict of the model.
    """
    found = dict(state)
    if set(found) != set(own):
        plain_own = {_plain_name(name): name for name in own}
        renamed = {plain_own.get(_plain_name(name), name): v for name, v in state.items()}
        if len(plain_own) == len(own) and len(renamed) == len(state):
            found = renamed
    if "n_averaged" not in own:  # AveragedModel's counter
        found.pop("n_averaged", None)

    for name in set(own) - set(found):
        layer, _, what = name.rpartition("num_batches_tracked")
        if not what and f"{layer}running_mean" in found:
            found[name] = own[name]
    return found


def _plain_name(name: str) -> str:
    """Return a parameter's name without what wrappers of the model put into it."""
    name = "".join(f"{part}." for part in name.split(".") if part != "_orig_mod").removesuffix(".")
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def load_into(model: Any, state: Mapping[str, Tensor], path: Path | str) -> None:
    """Load weights into a model, with :func:`matched` names.

    Raises:
        RunError: The weights do not fit; the message names what differs, prefixes first.
    """
    own = model.state_dict()
    state = matched(state, own)
    missing, foreign = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    wrong = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or foreign or wrong:
        prefix = _other_prefix(list(state), list(own))
        if prefix is not None:
            what = prefix
        elif wrong:
            name = wrong[0]
            what = f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        elif missing:
            what = f"it lacks {missing[0]}" + (f" and {len(missing) - 1} more" * (len(missing) > 1))
        else:
            what = f"it has {foreign[0]}, which the model has not"
        raise RunError(f"{path} is not a checkpoint of this {type(model).__name__}: {what}")
    model.load_state_dict(dict(state))


def _other_prefix(names: list[str], own: list[str]) -> str | None:
    """Describe a prefix that only one of checkpoint and model has, or return None."""
    for longer, shorter, fix in (
        (names, own, "its names begin with {!r}, the model's do not: remove it from the names"),
        (own, names, "the model's names begin with {!r}, its do not: put it before the names"),
    ):
        shortest = set(shorter)
        for name in longer:
            tails = [name[i + 1 :] for i, letter in enumerate(name) if letter == "."]
            tail = next((tail for tail in tails if tail in shortest), None)
            if tail is None:
                continue
            prefix = name.removesuffix(tail)
            fitting = sum(n.startswith(prefix) and n[len(prefix) :] in shortest for n in longer)
            if 2 * fitting > len(shortest) and not any(n.startswith(prefix) for n in shorter):
                return fix.format(prefix)
    return None


def sha256(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of weights and buffers with their names, where they are no file."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Python's and the installed packages' versions."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def git_commit() -> str | None:
    """The commit of the working folder's repository with "+changes" if dirty; None outside one."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


class RunFolder:
    """A run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: Config, summary: Mapping[str, Any]) -> RunFolder:
        """A new run; refuses a folder that holds something."""
        run = cls(new_folder(path))
        (run.path / STATE).mkdir()
        write_json(run.path / SUMMARY, dict(summary))
        # Last, because a folder is a run from here on.
        write_text(run.path / CONFIG, write_toml(config.model_dump()))
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """A run that is there.

        Raises:
            RunError: it isn't one.
        """
        if not (path / CONFIG).is_file():
            raise RunError(f"{path} is not a run: it has no {CONFIG}")
        return cls(path)

    def discard(self) -> None:
        """Remove the folder of a run that failed before it had anything to keep."""
        shutil.rmtree(self.path)

    @property
    def config(self) -> Config:
        """The resolved config."""
        return make_config(read_toml(self.path / CONFIG))

    @property
    def summary(self) -> dict[str, Any]:
        """run.json."""
        found = read_json(self.path / SUMMARY)
        if not isinstance(found, dict):
            raise RunError(f"{self.path / SUMMARY} is not a run summary")
        return found

    def update_summary(self, **values: Any) -> None:
        """Change fields of run.json."""
        write_json(self.path / SUMMARY, {**self.summary, **values})

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl so far; a line that a crash cut short is left out."""
        path = self.path / METRICS
        lines: list[dict[str, Any]] = []
        if path.exists():
            for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    lines.append(json.loads(text))
        return lines

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Replace metrics.jsonl."""
        write_text(self.path / METRICS, "".join(json.dumps(line) + "\n" for line in lines))

    def weights(self, which: str = "best") -> Path:
        """Path of the best, last or average weights.

        Raises:
            RunError: there are none (yet).
        """
        if which not in list(WEIGHTS):
            raise RunError(f"weights must be one of {', '.join(WEIGHTS)}, not {which!r}")
        path = self.path / WEIGHTS[which]
        if not path.is_file():
            raise RunError(f"{self.path} has no {which} weights; is its training finished?")
        return path


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
