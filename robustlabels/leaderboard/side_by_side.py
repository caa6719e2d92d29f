"""Runs side by side: what they differ in, how robust each is, whether a lead is more than luck."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robustlabels.errors import RunError
from robustlabels.leaderboard.evaluated import Evaluation, read_judged
from robustlabels.runs import CONFIG, RunFolder

EVALUATION = "evaluation.json"
# Fields of a config that say where and how, not what was trained.
_ASIDE = {"data_root", "device", "save_every", "teacher_logits"}
# What two evaluations must share for their figures to mean the same.
_SAME = ("dataset", "norm", "eps", "n")


@dataclass(frozen=True)
class Side:
    """One of the runs.

    Attributes:
        run: as it was named.
        evaluation: what was measured.
        config: its config's fields, tables flattened (``labels.alpha``); empty without a run.
        settings: those of them that differ among the runs.
    """

    run: str
    evaluation: Evaluation
    config: Mapping[str, Any]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Paired:
    """A run against the first one, on the same images.

    Attributes:
        run: which.
        attack: the column; "worst case" is what every attack within eps left.
        points: its robust accuracy minus the first run's, as a share.
        gained: images that are robust in this run alone.
        lost: images that are robust in the first run alone.
        p: two-sided exact McNemar test: the chance of so uneven a split, or a more uneven one, if
            neither run were better on images that the two judge differently.
    """

    run: str
    attack: str
    points: float
    gained: int
    lost: int
    p: float


@dataclass(frozen=True)
class SideBySide:
    """What :func:`side_by_side` found.

    Attributes:
        sides: the runs, in the order given.
        attacks: the columns, those that any run has.
        paired: each later run against the first, for each attack that both have.
        unlike: why figures can't be compared, a line each.
    """

    sides: tuple[Side, ...]
    attacks: tuple[str, ...]
    paired: tuple[Paired, ...]
    unlike: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {
            "runs": [
                {
                    "run": side.run,
                    "settings": {k: str(v) for k, v in side.settings.items()},
                    "clean": side.evaluation.clean.top1,
                    "attacks": {k: a.robust_accuracy for k, a in side.evaluation.attacks.items()},
                    "robust_accuracy": side.evaluation.robust_accuracy,
                    "ece": side.evaluation.ece.get("clean"),
                    "audit": side.evaluation.audit and side.evaluation.audit.verdict,
                    **{name: getattr(side.evaluation, name) for name in _SAME},
                }
                for side in self.sides
            ],
            "paired": [asdict(pair) for pair in self.paired],
            "unlike": list(self.unlike),
        }


def side_by_side(paths: Sequence[str | Path]) -> SideBySide:
    """Compare evaluated runs; nothing is computed anew.

    Args:
        paths: RUN folders, or files of ``robustlabels evaluate``; at least one.

    Raises:
        RuntimeError: a run without an evaluation, or a file that is none.
    """
    found = [(str(path), _evaluation_file(Path(path))) for path in paths]
    evaluations = [read_judged(file).evaluation for _, file in found]
    configs = [_config(file.parent) for _, file in found]
    names = dict.fromkeys(name for config in configs for name in config)
    differ = [n for n in names if any(c.get(n) != configs[0].get(n) for c in configs)]
    sides = tuple(
        Side(run, evaluation, config, {n: config[n] for n in differ if n in config})
        for (run, _), evaluation, config in zip(found, evaluations, configs, strict=True)
    )
    first, *others = sides
    return SideBySide(
        sides,
        tuple(dict.fromkeys(name for e in evaluations for name in e.attacks)),
        tuple(pair for side in others for pair in _pairs(first, side)),
        tuple(line for side in others for line in _unlike(first, side)),
    )


def mcnemar(gained: int, lost: int) -> float:
    """The exact test's p, two-sided, of so many images each way; 1 where there are none."""
    n, more = gained + lost, max(gained, lost)
    tail = sum(math.comb(n, k) for k in range(more, n + 1))
    one_sided: float = tail / 2**n
    return min(1.0, 2 * one_sided)


def _evaluation_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    file = RunFolder.open(path).path / EVALUATION
    if not file.is_file():
        raise RunError(f"{path} has no {EVALUATION} yet: robustlabels evaluate {path}")
    return file


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        return {}
    values = RunFolder(folder).config.model_dump(exclude_none=True)
    return {k: v for k, v in flat(values).items() if k not in _ASIDE}


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config's fields with tables flattened: ``labels.alpha``."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _pairs(first: Side, other: Side) -> list[Paired]:
    """For each attack that both have; none where the images or the threat are others."""
    ours, theirs = other.evaluation, first.evaluation
    if _unlike(first, other):
        return []
    both = [name for name in theirs.verdicts if name in ours.verdicts]
    columns = {name: (theirs.verdicts[name], ours.verdicts[name]) for name in both}
    worst = _worst(theirs), _worst(ours)
    if len(both) > 1 and worst[0] and worst[1]:
        columns["worst case"] = worst
    return [_paired(other.run, name, *verdicts) for name, verdicts in columns.items()]


def _worst(evaluation: Evaluation) -> list[bool]:
    """Robust under every attack within eps, image by image."""
    kept = [
        evaluation.verdicts[name]
        for name, attack in evaluation.attacks.items()
        if attack.eps_bounded and name in evaluation.verdicts
    ]
    return [all(image) for image in zip(*kept, strict=True)]


def _paired(run: str, attack: str, before: Sequence[bool], after: Sequence[bool]) -> Paired:
    gained = sum(b and not a for a, b in zip(before, after, strict=True))
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    return Paired(run, attack, (gained - lost) / len(before), gained, lost, mcnemar(gained, lost))


def _unlike(first: Side, other: Side) -> list[str]:
    ours, theirs = other.evaluation, first.evaluation
    lines = [
        f"{other.run}: {name} {_shown(getattr(ours, name))}, {first.run} has "
        f"{_shown(getattr(theirs, name))}"
        for name in _SAME
        if getattr(ours, name) != getattr(theirs, name)
    ]
    if not lines and ours.indices != theirs.indices:
        lines.append(f"{other.run} was judged on other images than {first.run} (another seed)")
    return lines


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
