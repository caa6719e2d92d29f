"""Compiled steps, where they are asked for: ``torch.compile`` on the model's forward pass.

Only the forward pass is compiled (and with it the backward): attack, labels, objective and
optimizer stay as they are, so every scheme, trainer and plugin works with it. torch makes one
graph for the attack (eval mode, frozen parameters) and one for the training pass.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec

import torch
from torch import nn

from robustlabels.errors import BadValueError, RobustLabelsWarning, TrainingError

TRIALS = 4
"""Steps of each kind, one of them to warm up, on which "auto" decides."""
WORTH_TRYING = 900.0
"""Seconds of training that must be left: compiling takes minutes."""
CLEARLY_FASTER = 0.97
GRAPHS = 256
"""That torch keeps of one forward function. Its own 8 are spent after a few runs in one process,
and those that follow would run eagerly."""


def check_compiler(device: torch.device) -> None:
    """A ValueError where ``torch.compile`` lacks what it needs."""
    if device.type == "cuda" and find_spec("triton") is None:
        raise BadValueError("compile needs triton on a GPU: pip install triton, or compile=off")
    if shutil.which(os.environ.get("CXX") or "g++") is None and shutil.which("clang++") is None:
        raise BadValueError(
            "compile needs a C++ compiler, and neither g++ nor clang++ is on the PATH: "
            "install one, name it in CXX, or take compile=off"
        )


class Compiling:
    """Runs steps with the model's forward pass compiled or not.

    "auto" takes a few steps of each kind at the start, where training is long enough, and stays
    with the faster. They are ordinary steps of the run: nothing is computed for the clock alone.

    Args:
        model: whose forward pass it is; replaced on the object for the length of a step, so that
            it stays what it was to everybody else.
        how: "off", "on" or "auto".
        device: of the model.
        alone: whether this process trains alone.

    Attributes:
        chosen: whether steps are compiled; None while "auto" is undecided.
    """

    def __init__(
        self, model: nn.Module, how: str, device: torch.device, alone: bool = True
    ) -> None:
        self.chosen = {"off": False, "on": True}.get(how)
        if how != "off":
            if not alone:
                raise BadValueError("compile is for a single process: take compile=off here")
            check_compiler(device)
        self._model, self._device, self._required = model, device, how == "on"
        self._eager, self._compiled = list[float](), list[float]()
        self._rows = 0
        self._forward: Callable[..., object] | None = None
        self._room: AbstractContextManager[None]

    def run(self, step: Callable[[], None], rows: int, left: int) -> None:
        """Take a step.

        Args:
            step: takes it; may be called again where compiling failed.
            rows: of the batch; smaller ones than before would be compiled anew, so they are not.
            left: steps of the run, this one included.
        """
        self._rows = max(rows, self._rows)
        if self.chosen is False or rows < self._rows:
            step()
        elif self.chosen:
            self._run_compiled(step)
        elif len(self._eager) < TRIALS:
            self._eager.append(self._timed(step))
            if len(self._eager) == TRIALS and _typical(self._eager) * left < WORTH_TRYING:
                self.chosen = False
        else:
            self._compiled.append(self._timed(lambda: self._run_compiled(step)))
            if self.chosen is None and len(self._compiled) == TRIALS:
                faster = CLEARLY_FASTER * _typical(self._eager)
                self.chosen = _typical(self._compiled) < faster

    def _run_compiled(self, step: Callable[[], None]) -> None:
        from torch._dynamo.exc import TorchDynamoException

        try:
            with self._swapped():
                step()
        except TorchDynamoException as error:  # before the optimizer moved anything
            why = f"the model cannot be compiled ({str(error).strip().splitlines()[0][:200]})"
            if self._required:
                raise TrainingError(f"{why}: train with compile=off") from error
            warnings.warn(f"{why}: it runs eagerly", RobustLabelsWarning, stacklevel=2)
            self.chosen = False
            step()

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        """The compiled forward pass on the model object itself, which others hold too."""
        own = self._model.__dict__.get("forward")  # a user may have put one on the object
        if self._forward is None:
            self._forward = torch.compile(self._model.forward, dynamic=False)
            self._room = torch._dynamo.config.patch(cache_size_limit=GRAPHS)
        self._model.forward = self._forward
        try:
            with self._room:
                yield
        finally:
            del self._model.forward
            if own is not None:
                self._model.forward = own

    def _timed(self, step: Callable[[], None]) -> float:
        self._wait()
        started = time.perf_counter()
        step()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _typical(seconds: list[float]) -> float:
    """The median without the first, which warms up."""
    return statistics.median(seconds[1:])
