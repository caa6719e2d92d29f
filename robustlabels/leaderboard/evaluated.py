"""What ``evaluation.json`` says, and the RUN folder beside it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from robustlabels.errors import BadValueError, RunError
from robustlabels.leaderboard.snapshot import Share, explain
from robustlabels.runs import CONFIG, SUMMARY, RunFolder, read_json

# What the official AutoAttack's standard version is made of (Croce & Hein 2020).
STANDARD = {"apgd-ce", "apgd-t", "fab-t", "square"}
TOLERANCE = 1e-9
AUDIT = "audit.json"


class _Clean(BaseModel):
    top1: Share


class Attacked(BaseModel):
    """One attack's part of an evaluation."""

    robust_accuracy: Share
    params: dict[str, Any] = {}
    per_attack: dict[str, float] | None = None
    figures: dict[str, float] = {}
    flags: list[str] = []
    eps_bounded: bool = True


class Audit(BaseModel):
    """The audit's part of an evaluation, where one was run."""

    consistent: bool
    verdict: str


class Request(BaseModel):
    """What an evaluation was asked for on the command line."""

    attacks: list[str | dict[str, Any]]


class Evaluation(BaseModel):
    """The fields of :func:`robustlabels.evaluate` and ``robustlabels evaluate`` that count here."""

    dataset: str
    norm: str
    eps: Annotated[float, Field(gt=0, lt=float("inf"))]
    n: Annotated[int, Field(ge=1)]
    indices: list[int]
    num_classes: int
    virtual_classes: int = 0
    clean: _Clean
    attacks: dict[str, Attacked]
    robust_accuracy: Share | None
    verdicts: dict[str, list[bool]] = {}
    ece: dict[str, float | None] = {}
    note: str = ""
    audit: Audit | None = None
    run: str | None = None
    weights: str | None = None
    weights_sha256: str | None = None
    training: str | None = None
    request: Request | None = None

    @property
    def official(self) -> Attacked | None:
        """AutoAttack's standard version at the evaluation's own radius; the worst of several."""
        found = [a for a in self.attacks.values() if self._is_official(a)]
        return min(found, key=lambda a: a.robust_accuracy, default=None)

    def _is_official(self, attack: Attacked) -> bool:
        eps, norm = attack.params.get("eps"), attack.params.get("norm")
        return (
            attack.params.get("version") == "standard"
            and set(attack.per_attack or ()) == STANDARD
            and isinstance(eps, int | float)
            and abs(eps - self.eps) <= TOLERANCE
            and norm == self.norm
        )


@dataclass(frozen=True)
class Judged:
    """An evaluation, and its run as far as that is at hand.

    Attributes:
        evaluation: what was measured.
        run: run.json, or None without a run.
        model: the name of its model, or None where that was given from Python.
        data: the parameters of its data set, where it is the evaluation's; else none.
    """

    evaluation: Evaluation
    run: dict[str, Any] | None
    model: str | None
    data: Mapping[str, Any] = field(default_factory=dict)


def read_judged(evaluation: Mapping[str, Any] | str | Path) -> Judged:
    """An evaluation from its file, or as :func:`robustlabels.evaluate` returns it.

    The run is the folder that the file lies in, else the one that it names.

    Raises:
        RuntimeError: a missing file, one that is no evaluation, or a broken run beside it.
    """
    path = Path(evaluation) if isinstance(evaluation, str | Path) else None
    facts: Any = evaluation if path is None else read_json(path)
    try:
        found = Evaluation.model_validate(facts)
    except ValidationError as error:
        what = "the mapping" if path is None else path
        raise RunError(f"{what} is not an evaluation of robustlabels: {explain(error)}") from None
    folders = [path.parent] if path is not None else []
    folders += [Path(found.run)] if found.run else []
    for folder in folders:
        if (folder / CONFIG).is_file() and (folder / SUMMARY).is_file():
            run = RunFolder(folder)
            with suppress(BadValueError):  # another evaluation's
                audit = None if found.audit else audit_of(folder, facts)
                if audit is not None:
                    found.audit = Audit.model_validate(audit)
            given = "model" in run.summary.get("opaque", ())
            config = run.config
            return Judged(
                found,
                run.summary,
                None if given else config.model.name,
                config.data if config.dataset == found.dataset else {},
            )
    return Judged(found, None, None)


def audit_of(folder: Path, evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """What ``robustlabels audit`` wrote into a run; None if it did not.

    Args:
        folder: the RUN folder.
        evaluation: what was evaluated.

    Raises:
        ValueError: it is of other weights, data, norm or eps than the evaluation.
        RuntimeError: the file is not JSON.
    """
    path = folder / AUDIT
    if not path.is_file():
        return None
    found = read_json(path)
    about = ("weights_sha256", "dataset", "norm", "eps")
    if not isinstance(found, dict) or any(found.get(k) != evaluation.get(k) for k in about):
        raise BadValueError(f"{path} is not of these weights, data, norm and eps")
    return found
