"""LTD's temperature for a teacher, by the two steps of the paper's section 4.2.

First, substitutes: short natural trainings on the teacher's labels at rising temperatures, until
one's natural accuracy is below a threshold; its temperature is T_max. Then short LTD trainings at
temperatures that Optuna chooses in [1, T_max], to minimise the loss of eq. 9. Both are judged on
the images that the teacher and they held out, never on the test set.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from robustlabels import processes, runs
from robustlabels.attacks import held_still
from robustlabels.config import Config, make_config
from robustlabels.errors import BadValueError, RobustLabelsWarning, RunError, missing_extra
from robustlabels.loading import OPAQUE
from robustlabels.randomness import derived_seed, preserved, seed_everything
from robustlabels.training.api import fit_config
from robustlabels.training.assembly import Given, assemble
from robustlabels.training.result import FitResult
from robustlabels.training.step import Step

TEMPERATURES: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0, 8.0, 10.0, 12.0, 15.0, 20.0, 50.0)
"""Those of the paper's table 4."""
TOLERANCE = 0.05
"""Accuracy that a substitute may lose against that at T = 1, where no threshold is given; ours."""
STUDENT: dict[str, dict[str, Any]] = {
    "trainer": {"name": "trades", "inner": "ce"},
    "attack": {"name": "pgd", "steps": 8},
}
"""LTD's trainings: TRADES with the paper's attack, PGD-8 on the cross-entropy of the true class."""
OBJECTIVES = {"loss": "minimize", "robust_accuracy": "maximize"}
STARTUP_TRIALS = 4
RESULTS = "search.json"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TemperatureSearch:
    """What is searched, and how.

    Attributes:
        teacher: RUN folder of the natural teacher; its config is that of the substitutes.
        student: fields of the config of step 2 that differ from the teacher's, over ``STUDENT``.
        epochs: of each training.
        trials: trainings of step 2.
        threshold: natural accuracy below which a substitute is refused; by default that of the
            substitute at the first temperature, less .05.
        temperatures: of the substitutes, rising from 1.
        objective: "loss" (eq. 9) or "robust_accuracy" (under PGD-10; ours).
    """

    teacher: Path
    epochs: int
    student: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 12
    threshold: float | None = None
    temperatures: Sequence[float] = TEMPERATURES
    objective: str = "loss"

    def __post_init__(self) -> None:
        grid = list(self.temperatures)
        if len(grid) < 2 or grid[0] != 1 or sorted(set(grid)) != grid:
            raise BadValueError(f"temperatures must rise from 1, not {grid}")
        if self.objective not in OBJECTIVES:
            allowed = " or ".join(OBJECTIVES)
            raise BadValueError(f"objective must be {allowed}, not {self.objective!r}")
        if self.trials < 1:
            raise BadValueError(f"trials must be at least 1, not {self.trials}")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise BadValueError(f"threshold must be a share between 0 and 1, not {self.threshold}")

    def substitute(self, temperature: float) -> Config:
        """A natural training on the teacher's labels."""
        return self._config({"trainer": {"name": "standard"}}, temperature)

    def trial(self, temperature: float) -> Config:
        """A short LTD training."""
        return self._config({**STUDENT, **self.student}, temperature)

    def _config(self, changed: Mapping[str, Any], temperature: float) -> Config:
        folder = runs.RunFolder.open(self.teacher)
        values = folder.config.model_dump(exclude_none=True)
        opaque = [name for name in (values["dataset"], values["model"]["name"]) if OPAQUE in name]
        if opaque:
            raise RunError(f"{self.teacher} has {opaque[0]}, given from Python: it can't be named")
        values.update(
            changed,
            labels={"name": "ltd", "temperature": float(temperature)},
            teacher=str(self.teacher),
            epochs=self.epochs,
        )
        config = make_config(values)
        if config.validation == 0:
            raise BadValueError(
                f"{self.teacher} held out no images (validation = 0): nothing to judge by"
            )
        return config

    @property
    def facts(self) -> dict[str, Any]:
        """What a search that goes on must agree with; more trials may be asked for."""
        return {
            "teacher": str(self.teacher),
            "teacher_sha256": runs.sha256(runs.RunFolder.open(self.teacher).weights("best")),
            "epochs": self.epochs,
            "threshold": self.threshold,
            "temperatures": list(self.temperatures),
            "objective": self.objective,
            "student": self.trial(1.0).model_dump(mode="json", exclude={"labels", "device"}),
        }


def search_temperature(
    search: TemperatureSearch,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Search, and keep what each training gave in ``out/search.json``.

    Args:
        search: what to search.
        out: a new or empty folder, or that of the search to ``resume``.
        resume: go on after the last finished training; what comes is as if it had not stopped.
        progress: called with (what is trained, its completed steps, all its steps).

    Returns:
        The search's facts, and:

        - substitutes: a list of "temperature", "accuracy" (natural).
        - accepted_above: the threshold.
        - upper: T_max; bounded: whether a substitute set it, or the last temperature did.
        - trials: a list of "temperature", "loss" (eq. 9), "label_entropy" (which is in it),
          "accuracy", "robust_accuracy", all on held-out images.
        - best: the best trial.

    Raises:
        ValueError: a bad argument, or a threshold that T = 1 does not reach.
        RuntimeError: no finished run, another search in ``out``, or training that diverged.
        ImportError: Optuna is not installed.
    """
    _optuna()  # before hours of training
    if processes.started() > 1:
        raise BadValueError("the temperature search runs in one process: start it without torchrun")
    facts = search.facts
    path = out / RESULTS
    if resume:
        found: dict[str, Any] = runs.read_json(path)
        other = next((k for k, v in facts.items() if found.get(k) != v), None)
        if other is not None:
            raise RunError(
                f"{path} is of a search with another {other}: go on with the same settings, or "
                "search into another folder"
            )
    else:
        runs.new_folder(out)
        found = {**facts, "substitutes": [], "trials": []}

    def trained(config: Config, what: str) -> FitResult:
        def step(done: int, total: int, _: Any) -> None:
            if progress is not None:
                progress(what, done, total)

        return fit_config(config, progress=step)

    with warnings.catch_warnings():
        # That high temperatures mask is for the one that is chosen; looking at them is the task.
        warnings.filterwarnings("ignore", "ltd with temperature", RobustLabelsWarning)
        _find_upper(search, found, trained, path)
        _find_best(search, found, trained, path)
    return found


def _find_upper(
    search: TemperatureSearch,
    found: dict[str, Any],
    trained: Callable[[Config, str], FitResult],
    path: Path,
) -> None:
    """Step 1: substitutes, until one is refused."""
    substitutes = found["substitutes"]
    for temperature in search.temperatures[len(substitutes) :]:
        if "upper" in found:
            return
        result = trained(search.substitute(temperature), f"substitute, T = {temperature:g}")
        accuracy = float(result.best["validation_accuracy"])
        substitutes.append({"temperature": temperature, "accuracy": accuracy})
        first = substitutes[0]["accuracy"]
        floor = first - TOLERANCE if search.threshold is None else search.threshold
        if first < floor:
            raise BadValueError(
                f"threshold {floor} is above the natural accuracy at T = 1, {first:.3f}: lower it, "
                "or train for more epochs"
            )
        refused = accuracy < floor
        found["accepted_above"] = floor
        if refused or temperature == search.temperatures[-1]:
            found.update(upper=temperature, bounded=refused)
        runs.write_json(path, found)


def _find_best(
    search: TemperatureSearch,
    found: dict[str, Any],
    trained: Callable[[Config, str], FitResult],
    path: Path,
) -> None:
    """Step 2: LTD trainings in the range that is left."""
    trials = found["trials"]
    better = min if OBJECTIVES[search.objective] == "minimize" else max
    while len(trials) < search.trials:
        temperature = propose(trials, found["upper"], search)
        name = f"trial {len(trials) + 1} of {search.trials}, T = {temperature:g}"
        result = trained(search.trial(temperature), name)
        trials.append({"temperature": temperature, **_measured(result)})
        found["best"] = better(trials, key=lambda trial: trial[search.objective])
        runs.write_json(path, found)


def propose(
    trials: Sequence[Mapping[str, float]], upper: float, search: TemperatureSearch
) -> float:
    """The next temperature in [1, upper], by a tree of Parzen estimators.

    It is a function of the finished trials and the teacher's seed alone, so that a search which
    goes on proposes what it would have.
    """
    optuna = _optuna()
    seed = search.trial(1.0).seed
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS,
        seed=derived_seed(seed, "temperature", len(trials)) % 2**32,
    )
    study = optuna.create_study(sampler=sampler, direction=OBJECTIVES[search.objective])
    ranges = {"temperature": optuna.distributions.FloatDistribution(1.0, upper, log=True)}
    for trial in trials:
        study.add_trial(
            optuna.trial.create_trial(
                params={"temperature": trial["temperature"]},
                distributions=ranges,
                value=trial[search.objective],
            )
        )
    return float(study.ask(ranges).params["temperature"])


def _measured(result: FitResult) -> dict[str, float]:
    """The objective of a finished training, on its held-out images in eval mode."""
    with preserved():
        engine = assemble(result.config, Given()).engine
        engine.model.load_state_dict(result.model.state_dict())
        assert engine.teacher is not None  # ltd has one
        indices = engine.validation_indices
        loss = entropy = 0.0
        seed_everything(derived_seed(result.config.seed, "validate"))
        with held_still(engine.model):
            parts = indices.split(result.config.batch_size)
            for x, y in engine.split.batches(parts, engine.device):
                with torch.no_grad():
                    teacher_logits = engine.teacher(x).float()
                step = Step(
                    model=engine.model,
                    x=x,
                    y=y,
                    scheme=engine.scheme,
                    attack=engine.attack,
                    num_classes=engine.num_classes,
                    teacher_logits=teacher_logits,
                )
                engine.trainer.inputs(step)
                with torch.no_grad():
                    loss += float(engine.trainer.loss(step)) * len(x)
                    entropy += float(torch.special.entr(step.labels()).sum())
    return {
        "loss": loss / len(indices),
        "label_entropy": entropy / len(indices),
        "accuracy": result.best["validation_accuracy"],
        "robust_accuracy": result.best["validation_robust_accuracy"],
    }


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise missing_extra("the search for a temperature", "search") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
