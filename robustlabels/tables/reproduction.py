"""A paper's table beside runs of ours: published, measured, and in what the runs are others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustlabels.config import Config
from robustlabels.errors import RunError
from robustlabels.factories import make_trainer
from robustlabels.leaderboard.evaluated import Attacked, Evaluation, read_judged
from robustlabels.leaderboard.side_by_side import EVALUATION, flat
from robustlabels.plugins import default_params
from robustlabels.runs import CONFIG, RunFolder
from robustlabels.tables import Column, Row, Table, difference

NOT_MEASURED, UNFINISHED, NOT_JUDGED = "not measured", "training not finished", "not judged"
MEASURED, OTHER_SETTING = "measured", "another setting"
_RUNNING = "running"
# Where and how fast, not what; a paper has no seed; a teacher is another run.
_ASIDE = {"data_root", "device", "save_every", "seed", "channels_last", "compile", "deterministic"}
_ASIDE |= {"teacher", "teacher_logits"}
_NAMED = {"labels": "schemes", "trainer": "trainers", "model": "models", "attack": "attacks"}
_USUAL_DECAY, _USUAL_HELD_OUT = 0.995, 1000


@dataclass(frozen=True)
class Figure:
    """One figure of a row.

    Attributes:
        published: as printed.
        measured: in the paper's unit; None where there is none.
        difference: measured minus published.
    """

    published: str
    measured: float | None = None
    difference: float | None = None


@dataclass(frozen=True)
class Beside:
    """A row beside its run.

    Attributes:
        row: of the table.
        run: where its run is, or would be.
        state: "measured" only where nothing that we know of differs from the row's setting; else
            "another setting", "not judged", "training not finished" or "not measured".
        figures: column -> figure.
        notes: in what the run differs from the row's setting, and what else its figures lack.
    """

    row: Row
    run: Path
    state: str
    figures: Mapping[str, Figure]
    notes: tuple[str, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether there are measured figures."""
        return self.state in (MEASURED, OTHER_SETTING)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {
            "row": self.row.id,
            "label": self.row.label,
            "recipe": self.row.recipe,
            "run": str(self.run),
            "state": self.state,
            "figures": {name: vars(figure) for name, figure in self.figures.items()},
            "notes": list(self.notes),
        }


def beside(table: Table, row: Row, folder: Path) -> Beside:
    """Put a row beside the run ``folder / row.id``; nothing is computed anew.

    Raises:
        RuntimeError: what is there is a broken run or no evaluation.
    """
    run = folder / row.id
    unmeasured = {name: Figure(figure) for name, figure in row.figures.items()}
    if not (run / CONFIG).is_file():
        if run.is_file() or (run.is_dir() and any(run.iterdir())):
            raise RunError(f"{run} is not a run: it has no {CONFIG}; name another --runs folder")
        return Beside(row, run, NOT_MEASURED, unmeasured)
    opened = RunFolder.open(run)
    wanted = _written_out(table.config(row))
    notes = _config_notes(wanted, opened.config)
    if opened.summary.get("status") == _RUNNING:
        return Beside(row, run, UNFINISHED, unmeasured, notes)
    if not (run / EVALUATION).is_file():
        return Beside(row, run, NOT_JUDGED, unmeasured, notes)
    judged = read_judged(run / EVALUATION).evaluation
    found = {name: attacked(judged, table.columns[name]) for name in row.figures}
    figures = {
        name: _figure(table, row.figures[name], judged, table.columns[name], found[name])
        for name in row.figures
    }
    lines = [*notes, *_evaluation_notes(table, row, wanted, judged)]
    lines += [
        f"{name}: the evaluation has no such attack"
        for name, figure in figures.items()
        if figure.measured is None
    ]
    state = OTHER_SETTING if lines else MEASURED
    told = [*lines, *_flags(found)]
    if opened.config.teacher is not None:
        told.append(f"its teacher is {opened.config.teacher}, whose own settings are not compared")
    return Beside(row, run, state, figures, tuple(told))


def attacked(judged: Evaluation, column: Column) -> tuple[str, Attacked] | None:
    """A column's attack in an evaluation, by name: the one that was asked for in the same words."""
    asked = [] if judged.request is None else judged.request.attacks
    for wanted, found in zip(asked, judged.attacks.items(), strict=False):
        if column.attack is not None and _named(wanted) == _named(column.attack):
            return found
    return None


def _named(attack: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(attack, str):
        return {"name": attack}
    return {**{k: v for k, v in attack.items() if k != "params"}, **attack.get("params", {})}


def _figure(
    table: Table,
    published: str,
    judged: Evaluation,
    column: Column,
    found: tuple[str, Attacked] | None,
) -> Figure:
    if column.attack is None:
        accuracy = judged.clean.top1
    elif found is None:
        return Figure(published)
    elif column.figure is not None and judged.virtual_classes:
        if column.figure not in found[1].figures:
            return Figure(published)
        accuracy = found[1].figures[column.figure]
    else:
        accuracy = found[1].robust_accuracy
    measured = table.in_its_unit(accuracy)
    return Figure(published, measured, difference(measured, published))


def _written_out(config: Config) -> dict[str, Any]:
    """A config's fields as a run has them: flat, with the defaults of what it names."""
    from robustlabels.training.trainer import uses_attack

    values = config.model_dump(exclude_none=True)
    trainer = make_trainer(config.trainer.name, **config.trainer.params)
    if not uses_attack(trainer):
        values.pop("attack", None)
    elif config.attack is None or config.attack.name == "pgd":
        usual = getattr(trainer, "attack_defaults", None)
        given = values.get("attack", {"name": "pgd"})
        values["attack"] = {**(usual(config.radius) if usual else {}), **given}
    for field, kind in _NAMED.items():
        if field in values:
            values[field] = {**default_params(kind, values[field]["name"]), **values[field]}
    if config.weight_averaging == "auto":
        kept = [values[field].get("ema_decay") for field in ("labels", "trainer")]
        values["weight_averaging"] = next((d for d in kept if d is not None), _USUAL_DECAY)
    values.setdefault("validation", _USUAL_HELD_OUT)
    values["optimizer"]["lr"] = config.optimizer.learning_rate
    values["eps"] = config.radius
    return _comparable(values)


def _config_notes(wanted: Mapping[str, Any], config: Config) -> tuple[str, ...]:
    """Each field in which the run's config is another; of another thing, the name alone."""
    values = config.model_dump(exclude_none=True)
    values["eps"] = config.radius
    values["optimizer"]["lr"] = config.optimizer.learning_rate
    ours = _comparable(values)
    differ = [f for f in dict.fromkeys((*wanted, *ours)) if ours.get(f) != wanted.get(f)]
    renamed = {f.removesuffix(".name") for f in differ if f.endswith(".name")}
    return tuple(
        f"{field} is {_shown(ours.get(field))}, the row's is {_shown(wanted.get(field))}"
        for field in differ
        if field.endswith(".name") or field.partition(".")[0] not in renamed
    )


def _comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    fields = {k: v for k, v in flat(values).items() if k.partition(".")[0] not in _ASIDE}
    if fields.get("normalize"):  # a run has the data set's own
        fields = {k: v for k, v in fields.items() if k not in ("model.mean", "model.std")}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def _evaluation_notes(
    table: Table, row: Row, wanted: Mapping[str, Any], judged: Evaluation
) -> list[str]:
    radius = table.radius(row)
    facts = {
        "judged on": (judged.dataset, wanted["dataset"]),
        "images judged": (judged.n, table.images),
        "eps of the evaluation": (judged.eps, radius),
        "norm of the evaluation": (judged.norm, wanted["norm"]),
        "training": (judged.training, "finished"),
        "weights": (judged.weights, "best"),
    }
    lines = [
        f"{what}: {_shown(ours)}, the row's: {_shown(theirs)}"
        for what, (ours, theirs) in facts.items()
        if ours != theirs
    ]
    if judged.audit is not None and not judged.audit.consistent:
        lines.append(f"audit: {judged.audit.verdict}")
    # What a data set says of itself, e.g. that it has not the original pixels.
    return lines + ([judged.note] if judged.note and judged.dataset != wanted["dataset"] else [])


def _flags(found: Mapping[str, tuple[str, Attacked] | None]) -> list[str]:
    flagged = dict(each for each in found.values() if each is not None)
    return [f"{name}: {flag}" for name, attack in flagged.items() for flag in attack.flags]


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
