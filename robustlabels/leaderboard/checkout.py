"""A snapshot from a RobustBench checkout: ``model_info/DATASET/THREAT/ID.json``."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import subprocess
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from robustlabels.errors import BadValueError
from robustlabels.leaderboard.boards import usual_eps
from robustlabels.leaderboard.snapshot import CORRUPTIONS, OTHER_EPS, SOURCE, Entry, Snapshot

FOLDER = "model_info"
_SYNTHETIC = re.compile(r"(~?[\d.]+[KMB]?)\s+synthetic", re.IGNORECASE)
_OTHER_EPS = re.compile(r"=\s*([\d./]+).*instead of")
_COMPRESSED = re.compile(r"compressed|pruned|binary weight", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """What is missing or odd in one file.

    Attributes:
        file: below ``model_info``.
        what: in words.
        left_out: whether the entry could not be used.
    """

    file: str
    what: str
    left_out: bool = False


def refresh(
    checkout: str | Path, date: str | datetime.date | None = None
) -> tuple[Snapshot, list[Finding]]:
    """Read all entries of a RobustBench checkout.

    Entries whose figures can't be ranked are left out; what is odd about a file is told.

    Args:
        checkout: the folder that holds ``model_info``.
        date: what the snapshot is of, "2025-03-31"; by default the day of the checkout's newest
            commit.

    Returns:
        The snapshot, and the findings by file.

    Raises:
        ValueError: no such folder, nothing usable in it, or its date is unknown.
    """
    root = Path(checkout)
    info = root / FOLDER
    files = sorted(info.glob("*/*/*.json"), key=lambda p: p.relative_to(info).parts)
    if not files:
        raise BadValueError(
            f"{root} is not a RobustBench checkout: it has no {FOLDER}/DATASET/THREAT/*.json"
        )
    day = _day(date) if date is not None else _committed(root)
    found: list[Entry] = []
    findings: list[Finding] = []
    for path in files:
        reading = _Reading(path)
        name = path.relative_to(info).as_posix()
        try:
            found.append(reading.entry())
        except BadValueError as error:
            findings.append(Finding(name, str(error), left_out=True))
        findings += [Finding(name, what) for what in reading.odd]
    if not found:
        raise BadValueError(
            f"no file of {info} can be used; {findings[0].file}: {findings[0].what}"
        )
    boards: dict[tuple[str, str], list[Entry]] = {}
    for entry in found:
        boards.setdefault((entry.dataset, entry.threat), []).append(entry)
    usual = {name: usual_eps(entries) for name, entries in boards.items()}
    marked = (_with_eps_flag(e, usual[e.dataset, e.threat]) for e in found)
    return Snapshot(SOURCE, day, tuple(marked)), findings


class _Reading:
    """One file, and what is odd about it; a BadValueError where it can't be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dataset, self.threat = path.parts[-3:-1]
        self.odd: list[str] = []
        self.facts: dict[str, Any] = {}

    def entry(self) -> Entry:
        """Its facts."""
        self.facts = self._load()
        architecture = self._text("architecture")
        if not architecture:
            raise BadValueError("no 'architecture'")
        extra = self.facts.get("additional_data")
        if not isinstance(extra, bool):
            raise BadValueError(f"'additional_data' must be true or false, not {extra!r}")
        clean = self._share("clean_acc")
        if clean is None:
            raise BadValueError("no 'clean_acc'")
        if self.facts.get("dataset") != self.dataset:
            self.odd.append(f"'dataset' is {self.facts.get('dataset')!r}: the folder's name counts")
        footnote = str(self.facts.get("footnote") or "")
        on_corruptions = self.threat == CORRUPTIONS
        figures = self._corruptions() if on_corruptions else self._attacked(clean)
        return Entry(
            dataset=self.dataset,
            threat=self.threat,
            id=self.path.stem,
            title=self._text("name"),
            authors=self._text("authors"),
            venue=self._text("venue"),
            link=self._text("link"),
            architecture=architecture,
            clean=clean,
            **figures,
            extra_data=extra,
            synthetic=self._synthetic(footnote),
            flags=tuple(self._flags(footnote)),
        )

    def _load(self) -> dict[str, Any]:
        try:
            facts = json.loads(self.path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadValueError(f"cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise BadValueError(f"not JSON: {error}") from None
        if not isinstance(facts, dict):
            raise BadValueError("not a JSON object")
        return facts

    def _attacked(self, clean: float) -> dict[str, Any]:
        robust, external = self._share("autoattack_acc"), self._share("external")
        if robust is None:
            raise BadValueError("no 'autoattack_acc'")
        if robust > clean:
            self.odd.append("'autoattack_acc' is above 'clean_acc'")
        if external is not None and external > robust:
            self.odd.append("'external' is above 'autoattack_acc': the worst of both counts")
        eps = self.facts.get("eps")
        return {
            "autoattack": robust,
            "external": external,
            "eps": None if eps is None else str(eps).strip(),
        }

    def _corruptions(self) -> dict[str, Any]:
        if self.facts.get("eps") is not None:
            self.odd.append(f"'eps' is {self.facts['eps']!r}: corruptions have none")
        return {
            "corruptions": self._share("corruptions_acc"),
            "mce": self._share("corruptions_mce", limit=1000),
            "corruptions_3d": self._share("corruptions_acc_3d"),
            "mce_3d": self._share("corruptions_mce_3d", limit=1000),
        }

    def _share(self, field: str, limit: int = 100) -> float | None:
        """A percentage, mostly written as text, as a share; None where there is none."""
        given = self.facts.get(field)
        if given is None or given == "":
            return None
        try:
            value = Decimal("NaN" if isinstance(given, bool) else str(given).strip())
        except InvalidOperation:
            value = Decimal("NaN")
        if not value.is_finite() or not 0 <= value <= limit:
            raise BadValueError(f"{field!r} must be a percentage from 0 to {limit}, not {given!r}")
        return float(value / 100)

    def _text(self, field: str) -> str:
        given = self.facts.get(field)
        if not isinstance(given, str) or not given.strip():
            self.odd.append(f"no {field!r}")
            return ""
        text = " ".join(re.sub(r"<[^>]*>", " ", given).split())
        if text != given:
            self.odd.append(f"{field!r} holds markup or stray spaces: {given!r}")
        return text

    def _synthetic(self, footnote: str) -> str | None:
        if "synthetic" not in footnote.lower():
            return None
        found = _SYNTHETIC.search(footnote)
        if found is None:
            self.odd.append("the footnote tells of synthetic images, but not how many")
        return "unstated" if found is None else found[1]

    def _flags(self, footnote: str) -> list[str]:
        flags = []
        if self.threat != CORRUPTIONS:
            doubted = self.facts.get("unreliable")
            if not isinstance(doubted, bool):
                self.odd.append("no 'unreliable': unknown whether AutoAttack's figure is doubted")
                flags.append("unchecked")
            elif doubted:
                flags.append("unreliable")
        passes = self.facts.get("number_forward_passes")
        if isinstance(passes, bool) or not isinstance(passes, int):
            self.odd.append(f"'number_forward_passes' must be an integer, not {passes!r}")
        elif passes > 1:
            flags.append("ensemble")
        if _COMPRESSED.search(footnote):
            flags.append("compressed")
        other = _OTHER_EPS.search(footnote)
        if other is not None:
            flags.append(OTHER_EPS)
            if other[1] != self.facts.get("eps"):
                eps = self.facts.get("eps")
                self.odd.append(f"'eps' is {eps!r}, but the footnote says {other[1]}")
        return flags


def _with_eps_flag(entry: Entry, usual: str | None) -> Entry:
    if entry.eps == usual or OTHER_EPS in entry.flags:
        return entry
    return dataclasses.replace(entry, flags=(*entry.flags, OTHER_EPS))


def _day(date: str | datetime.date) -> datetime.date:
    try:
        return date if isinstance(date, datetime.date) else datetime.date.fromisoformat(date)
    except ValueError:
        raise BadValueError(f"date must be like 2025-03-31, not {date!r}") from None


def _committed(root: Path) -> datetime.date:
    """The day of the newest commit, if the folder itself is a repository and not in one."""
    command = ["git", "-C", str(root), "log", "-1", "--format=%cs"]
    try:
        if not (root / ".git").exists():
            raise OSError
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return datetime.date.fromisoformat(done.stdout.strip())
    except (OSError, ValueError, subprocess.SubprocessError):
        raise BadValueError(
            f"git knows no date of {root}: say what day the snapshot is of, e.g. --date 2025-03-31"
        ) from None
