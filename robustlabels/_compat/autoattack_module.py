"""``autoattack`` as RobustBench calls it, over pyautoattack.

robustbench 1.1.1 imports ``autoattack`` (github.com/fra31/auto-attack), which the package index
lacks. It declares pyautoattack instead; version 0.2.0 runs the same attacks, but its module's name,
its constructor (keywords only, no ``log_path``) and its ``run_standard_evaluation``
(``batch_size``, a pair) differ. Symptom: ``No module named 'autoattack'``.

``state_path`` is broken in both: the set of attacks is stored as a string, so that a resumed run
raises; one that did not would return its own images only. Here it works, see
:class:`EvaluationState`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pyautoattack import AutoAttack as PyAutoAttack
from pyautoattack import checks
from torch import Tensor

from robustlabels._compat.autoattack_state import EvaluationState, fingerprint
from robustlabels.errors import BadValueError


class AutoAttack(PyAutoAttack):  # type: ignore[misc]  # pyautoattack has no types
    """AutoAttack with the signature of fra31/auto-attack.

    Args:
        model: maps (N, C, H, W) in [0, 1] to logits (N, K).
        norm: "Linf", "L2" or "L1".
        eps: radius.
        seed: of the attacks' random starts; None takes the clock.
        verbose: tell what happens on stdout.
        attacks_to_run: names, for version "custom".
        version: "standard", "plus", "rand" or "custom".
        is_tf_model: must be False.
        device: where to compute.
        log_path: a file to which everything that is told is added.
    """

    def __init__(
        self,
        model: Any,
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: str | torch.device = "cuda",
        log_path: str | Path | None = None,
    ) -> None:
        if is_tf_model:
            raise BadValueError("is_tf_model must be False: pyautoattack has no TensorFlow")
        super().__init__(
            model,
            attacks=list(attacks_to_run) or None,
            device=device,
            eps=eps,
            norm=norm,
            seed=seed,
            version=version,
        )
        self.attacks_to_run: list[str] = list(self.attacks_to_run or ())
        self.verbose = verbose
        self.log_path = log_path

    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: str | Path | None = None,
    ) -> Any:
        """Attack.

        Args:
            x_orig: (N, C, H, W) in [0, 1].
            y_orig: int64 (N,).
            bs: images at a time.
            return_labels: return the predictions too.
            state_path: a file; if it is there, go on after the last attack that it has. The
                verdicts are then those of a run that was never stopped.

        Returns:
            The adversarial inputs, x itself where none was found; with ``return_labels`` the pair
            of them and the predictions.

        Raises:
            RunError: the state is of another run, or not readable.
        """
        with self._told():
            if state_path is None:
                found = super().run_standard_evaluation(x_orig, y_orig, batch_size=bs)
            else:
                found = self._resumed(x_orig, y_orig, bs, Path(state_path))
        return found if return_labels else found[0]

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Any]:
        """Each attack alone, on all inputs: name -> what ``run_standard_evaluation`` returns."""
        found = {}
        for attack in self.attacks_to_run:
            with self._only(attack):
                found[attack] = self.run_standard_evaluation(x_orig, y_orig, bs, return_labels)
        return found

    def set_version(self, version: str = "standard") -> None:
        """Set the attacks and their parameters: "standard", "plus" or "rand"."""
        self.version = version
        self._set_version(version)

    def _resumed(self, x: Tensor, y: Tensor, bs: int, path: Path) -> tuple[Tensor, Tensor]:
        """One attack at a time; each seeds itself anew for each batch, so nothing else changes."""
        if self.version == "custom":
            raise BadValueError("state_path needs version 'standard', 'plus' or 'rand'")
        settings = (self.norm, self.epsilon, self.seed, self.version, bs)
        mark = fingerprint(self.model, x, y, settings)
        start = time.perf_counter()
        if path.exists():
            state = EvaluationState.from_disk(path)
            state.check(mark)
            self._tell(f"restored {path}: {', '.join(state.done) or 'no attack'} done")
        else:
            y_pred = torch.cat([self._predicted(batch) for batch in x.split(bs)])
            state = EvaluationState(path, mark, y_pred == y.cpu(), x.detach().cpu().clone(), y_pred)
            self._tell(f"initial accuracy: {state.robust_accuracy:.2%}")
            state.to_disk()
        for attack in self.attacks_to_run:
            alive = state.robust.nonzero().flatten()
            if attack in state.done or not len(alive):
                continue
            with self._only(attack), self._brief(attack):
                x_adv, y_adv = super().run_standard_evaluation(x[alive], y[alive], batch_size=bs)
            state.add(
                attack, alive, y_adv.cpu() != y[alive].cpu(), x_adv.detach().cpu(), y_adv.cpu()
            )
            state.to_disk()
            share, seconds = state.robust_accuracy, time.perf_counter() - start
            self._tell(f"robust accuracy after {attack.upper()}: {share:.2%} ({seconds:.1f} s)")
        checks.check_square_sr(state.accuracies, logger=self.logger)
        return state.x_adv.to(x.device), state.y_adv.to(y.device)

    def _predicted(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.get_logits(x.to(self.device)).cpu()
        # argmax takes NaN for the maximum; -1 is no class, so such an image is misclassified.
        return logits.argmax(dim=1).masked_fill(logits.isnan().any(dim=1), -1)

    @contextmanager
    def _only(self, attack: str) -> Iterator[None]:
        everything, self.attacks_to_run = self.attacks_to_run, [attack]
        try:
            yield
        finally:
            self.attacks_to_run = everything

    @contextmanager
    def _brief(self, attack: str) -> Iterator[None]:
        """Only what is said of batches: a share of what is left would mislead."""

        def told(record: logging.LogRecord) -> bool:
            return record.levelno >= logging.WARNING or f"{attack} - " in record.getMessage()

        self.logger.addFilter(told)
        try:
            yield
        finally:
            self.logger.removeFilter(told)

    def _tell(self, text: str) -> None:
        self.logger.debug(text)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """pyautoattack's log records go to stdout and into the file.

        It also counts calls in a global that it never resets, so that one dynamic defence taints
        every later model; and it ends the tracing of a debugger or a coverage run.
        """
        checks.funcs.update(dict.fromkeys(checks.funcs, 0))
        trace = sys.gettrace()
        logger, handler = self.logger, _Teller(self.log_path)
        level, propagate = logger.level, logger.propagate
        logger.setLevel(logging.DEBUG if self.verbose else logging.WARNING)
        logger.propagate = False
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagate
            logger.setLevel(level)
            sys.settrace(trace)


class _Teller(logging.Handler):
    """Prints, and adds to a file."""

    def __init__(self, path: str | Path | None) -> None:
        super().__init__()
        self.path = path

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        print(text, flush=True)
        if self.path is not None:
            with Path(self.path).open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")


def modules() -> dict[str, ModuleType]:
    """The stand-ins, by their names."""
    package, state = ModuleType("autoattack", __doc__), ModuleType("autoattack.state", __doc__)
    vars(state)["EvaluationState"] = EvaluationState
    vars(package).update(AutoAttack=AutoAttack, state=state, __path__=[])
    return {module.__name__: module for module in (package, state)}
