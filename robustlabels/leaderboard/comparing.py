"""Where a model would stand, and whether the comparison is fair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustlabels.errors import BadValueError
from robustlabels.leaderboard.boards import Board, board
from robustlabels.leaderboard.evaluated import Evaluation, read_judged
from robustlabels.leaderboard.fairness import Reason, unfair
from robustlabels.leaderboard.snapshot import CORRUPTIONS, Entry, Snapshot, read_snapshot

_NEIGHBOURS = 2


@dataclass(frozen=True)
class Standing:
    """A model's place among some published entries.

    Attributes:
        among: which entries: "all", an architecture, "without extra or synthetic data".
        rank: 1 and as many as are more robust.
        published: so many entries there are, the model itself not counted.
        above: the two nearest that are more robust, the nearer one last.
        level: those that are exactly as robust.
        below: the two nearest that are less robust, the nearer one first.
    """

    among: str
    rank: int
    published: int
    above: tuple[Entry, ...]
    level: tuple[Entry, ...]
    below: tuple[Entry, ...]


@dataclass(frozen=True)
class Comparison:
    """A model beside the published entries of one leaderboard.

    Attributes:
        board: the leaderboard.
        robust: the figure that counts, a share rounded to four places as RobustBench does.
        figure: what it is, in words.
        clean: clean accuracy, rounded likewise.
        architecture: the model's, or None if unknown.
        standings: among all, among its architecture where that is published, and among the
            entries without extra or synthetic data.
        reasons: what makes the comparison unfair.
        notes: what else a reader should know.
    """

    board: Board
    robust: float
    figure: str
    clean: float
    architecture: str | None
    standings: tuple[Standing, ...]
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]

    @property
    def fair(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons


def compare(
    evaluation: Mapping[str, Any] | str | Path,
    *,
    dataset: str | None = None,
    threat: str | None = None,
    architecture: str | None = None,
    snapshot: Snapshot | None = None,
) -> Comparison:
    """Put an evaluation beside the published entries. An unfair comparison is made, and told.

    The figure that counts is the official AutoAttack's on the deployed classifier; for a model
    with virtual classes the evaluation's ``robust_accuracy``, what every attack left; and so it
    is, unfairly, where AutoAttack was not run.

    Args:
        evaluation: the path of an ``evaluation.json``, best in its RUN folder, or what
            :func:`robustlabels.evaluate` returned.
        dataset: of the leaderboard; by default the evaluation's, a variant's original
            ("cifar10-jpeg75": "cifar10").
        threat: of the leaderboard; the evaluation's norm by default.
        architecture: the model's, in any spelling; the run's by default.
        snapshot: the packed one by default.

    Raises:
        RuntimeError: no such file, or no evaluation.
        KeyError: no such leaderboard.
        ValueError: no robust accuracy to compare, or a leaderboard of corruptions.
    """
    judged = read_judged(evaluation)
    found = judged.evaluation
    snapshot = read_snapshot() if snapshot is None else snapshot
    place = board(
        _original(found, snapshot) if dataset is None else dataset,
        found.norm if threat is None else threat,
        snapshot,
    )
    if place.threat == CORRUPTIONS:
        raise BadValueError(
            "an evaluation has no figure on common corruptions: compare for threat Linf or L2"
        )
    robust, figure = _figure(found)
    robust = round(robust, 4)
    named = judged.model if architecture is None else architecture
    groups = {"all": place}
    notes = _notes(found, robust)
    if named is None:
        notes.append("its architecture is unknown: name it, e.g. --architecture WRN-34-10")
    elif same := place.of_architecture(named).entries:
        groups[same[0].architecture] = place.of_architecture(named)
    else:
        notes.append(f"no published entry of {place.name} has its architecture, {named}")
    groups["without extra or synthetic data"] = place.without_extra_data()
    return Comparison(
        board=place,
        robust=robust,
        figure=figure,
        clean=round(found.clean.top1, 4),
        architecture=named,
        standings=tuple(_standing(among, group, robust) for among, group in groups.items()),
        reasons=tuple(unfair(judged, place)),
        notes=tuple(notes),
    )


def _original(evaluation: Evaluation, snapshot: Snapshot) -> str:
    """The leaderboard's data set that the evaluation's is, or is a variant of."""
    known = sorted({entry.dataset for entry in snapshot.entries})
    for name in known:
        if evaluation.dataset == name or evaluation.dataset.startswith(f"{name}-"):
            return name
    raise BadValueError(
        f"the evaluation is of {evaluation.dataset!r}, which has no leaderboard; to compare all "
        f"the same name one: --dataset {', '.join(known)}"
    )


def _figure(evaluation: Evaluation) -> tuple[float, str]:
    official, worst = evaluation.official, evaluation.robust_accuracy
    if official is not None and not evaluation.virtual_classes:
        return official.robust_accuracy, "AutoAttack (standard)"
    if worst is None:
        raise BadValueError(
            "the evaluation has no robust accuracy: robustlabels evaluate RUN --attacks autoattack"
        )
    attacks = ", ".join(evaluation.attacks)
    virtual = evaluation.virtual_classes
    why = f"; {virtual} virtual classes" if virtual else ""
    return worst, f"robust_accuracy, the worst of {attacks}{why}"


def _notes(evaluation: Evaluation, robust: float) -> list[str]:
    notes = [evaluation.note] if evaluation.note else []
    worst, official = evaluation.robust_accuracy, evaluation.official
    if worst is not None and round(worst, 4) < robust:
        notes.append(
            f"all attacks together leave {worst:.2%}: RobustBench would rank such a figure, as "
            "an external one"
        )
    notes += [f"AutoAttack: {flag}" for flag in (official.flags if official else ())]
    return notes


def _standing(among: str, group: Board, robust: float) -> Standing:
    above = [e for e in group.entries if e.robust > robust]
    below = [e for e in group.entries if e.robust < robust]
    return Standing(
        among=among,
        rank=group.rank(robust),
        published=len(group.entries),
        above=tuple(above[-_NEIGHBOURS:]),
        level=tuple(e for e in group.entries if e.robust == robust),
        below=tuple(below[:_NEIGHBOURS]),
    )
