"""The facts: one entry for each published model, read from and written to one JSON file."""

from __future__ import annotations

import dataclasses
import datetime
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from robustlabels.errors import BadValueError, RunError
from robustlabels.threat import NORMS, parse_eps

SOURCE = "https://github.com/RobustBench/robustbench"
PACKED = "robustbench.json"
CORRUPTIONS, OTHER_EPS = "corruptions", "other-eps"

Share = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(ge=0, lt=float("inf"))]


@dataclass(frozen=True)
class Entry:
    """A published model on one leaderboard. Accuracies are shares in [0, 1].

    Attributes:
        dataset: "cifar10", "cifar100", "imagenet".
        threat: "Linf", "L2" or "corruptions".
        id: RobustBench's name of the model, unique on its leaderboard.
        title: of the paper.
        authors: as published.
        venue: as published, or "".
        link: to the paper, or "".
        architecture: as published.
        clean: accuracy on the images themselves.
        eps: radius as published, "8/255" or "0.031"; None for corruptions.
        autoattack: accuracy under AutoAttack; None for corruptions.
        external: accuracy under a stronger attack, evaluated by others; None without one.
        corruptions: accuracy under common corruptions (CIFAR-10-C, CIFAR-100-C, ImageNet-C).
        mce: mean corruption error on ImageNet-C, relative to AlexNet's, which is 1.
        corruptions_3d: accuracy on ImageNet-3DCC.
        mce_3d: mean corruption error on ImageNet-3DCC, relative to AlexNet's.
        extra_data: whether it was trained on other images than the data set's.
        synthetic: generated training images, as published ("50M", "~6M"), "unstated" where
            no number is given; None without any.
        flags: "unreliable" (RobustBench doubts AutoAttack's figure), "unchecked" (it doesn't
            say), "other-eps" (not the leaderboard's radius), "ensemble" (several forward passes),
            "compressed" (pruned or binary weights).
    """

    dataset: str
    threat: str
    id: str
    title: str
    authors: str
    venue: str
    link: str
    architecture: str
    clean: Share
    eps: str | None = None
    autoattack: Share | None = None
    external: Share | None = None
    corruptions: Share | None = None
    mce: Ratio | None = None
    corruptions_3d: Share | None = None
    mce_3d: Ratio | None = None
    extra_data: bool = False
    synthetic: str | None = None
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self._figures():
            raise BadValueError(f"{self.id} has no robust accuracy for threat {self.threat}")
        if self.threat in NORMS and self.eps is None:
            raise BadValueError(f"{self.id} has no eps")
        _ = self.radius  # a BadValueError where eps is no number

    def _figures(self) -> list[float]:
        given = (
            (self.corruptions,) if self.threat == CORRUPTIONS else (self.autoattack, self.external)
        )
        return [] if given[0] is None else [v for v in given if v is not None]

    @property
    def robust(self) -> float:
        """What ranks it: the worst of AutoAttack and external, or accuracy under corruptions."""
        return min(self._figures())

    @property
    def radius(self) -> float | None:
        """``eps`` as a number."""
        return parse_eps(self.eps, self.threat) if self.eps and self.threat in NORMS else None

    @property
    def data(self) -> str:
        """What it was trained on besides the data set: "extra", "50M synthetic", both or ""."""
        synthetic = f"{self.synthetic} synthetic" if self.synthetic else ""
        return " + ".join(filter(None, ("extra" if self.extra_data else "", synthetic)))


@dataclass(frozen=True)
class Snapshot:
    """All leaderboards at one date.

    Attributes:
        source: where the facts are from.
        date: of the source's last change.
        entries: sorted by data set, threat and id.
    """

    source: str
    date: datetime.date
    entries: tuple[Entry, ...]

    def text(self) -> str:
        """The file's content: JSON, one entry a line, without what has its default value."""
        head = json.dumps({"source": self.source, "date": self.date.isoformat()})
        lines = ",\n".join(json.dumps(_facts(e), ensure_ascii=False) for e in self.entries)
        return f'{head[:-1]}, "entries": [\n{lines}\n]}}\n'


def read_snapshot(path: str | Path | None = None) -> Snapshot:
    """The snapshot that is packed in the wheel, or that of a file of :func:`refresh`.

    Raises:
        RuntimeError: the file is missing or is no snapshot.
    """
    packed = resources.files(__package__) / PACKED
    file = packed if path is None else Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RunError(f"{file} is not a snapshot: it is no text") from None
    try:
        return TypeAdapter(Snapshot).validate_json(text)
    except ValidationError as error:
        raise RunError(f"{file} is not a snapshot of leaderboards: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Where the first error of a JSON file is, and what it is."""
    first = error.errors()[0]
    message: str = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {message}" if where else message


def _facts(entry: Entry) -> dict[str, Any]:
    return {
        field.name: value
        for field in dataclasses.fields(entry)
        if (value := getattr(entry, field.name)) != field.default
    }
