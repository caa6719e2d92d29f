"""A leaderboard: the entries of one data set and threat, in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from robustlabels.errors import UnknownNameError, nearest
from robustlabels.leaderboard.architectures import architecture_key, known_architecture
from robustlabels.leaderboard.snapshot import Entry, Snapshot, read_snapshot
from robustlabels.threat import parse_eps


@dataclass(frozen=True)
class Board:
    """One leaderboard.

    Attributes:
        dataset: its images.
        threat: "Linf", "L2" or "corruptions".
        entries: the most robust first, equals by id.
    """

    dataset: str
    threat: str
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """As the command line's options have it."""
        return f"{self.dataset} {self.threat}"

    @property
    def eps(self) -> str | None:
        """The radius of most entries, as published; None for corruptions."""
        return usual_eps(self.entries)

    @property
    def radius(self) -> float | None:
        """``eps`` as a number."""
        return None if self.eps is None else parse_eps(self.eps, self.threat)

    def rank(self, robust: float) -> int:
        """1 and as many as are more robust: equals share a rank."""
        return 1 + sum(entry.robust > robust for entry in self.entries)

    def of_architecture(self, name: str) -> Board:
        """The entries of one architecture, however it is spelt; there may be none."""
        key = architecture_key(name)
        return self._only(e for e in self.entries if architecture_key(e.architecture) == key)

    def without_extra_data(self) -> Board:
        """The entries that were trained on the data set alone: no extra and no synthetic data."""
        return self._only(e for e in self.entries if not e.data)

    def _only(self, entries: Iterable[Entry]) -> Board:
        return Board(self.dataset, self.threat, tuple(entries))


def board(dataset: str, threat: str, snapshot: Snapshot | None = None) -> Board:
    """A leaderboard of a snapshot, of the packed one by default.

    Raises:
        KeyError: there is none for this data set and threat.
    """
    everything = read_snapshot() if snapshot is None else snapshot
    threats: dict[str, set[str]] = {}
    for entry in everything.entries:
        threats.setdefault(entry.dataset, set()).add(entry.threat)
    if dataset not in threats:
        raise UnknownNameError(_unknown("data set", dataset, threats))
    if threat not in threats[dataset]:
        raise UnknownNameError(_unknown(f"{dataset} for threat", threat, threats[dataset]))
    found = (e for e in everything.entries if (e.dataset, e.threat) == (dataset, threat))
    return Board(dataset, threat, tuple(sorted(found, key=lambda e: (-e.robust, e.id))))


def entries(
    dataset: str = "cifar10",
    threat: str = "Linf",
    *,
    architecture: str | None = None,
    extra_data: bool = True,
    snapshot: Snapshot | None = None,
) -> list[Entry]:
    """Published entries, the most robust first.

    RobustBench sorts by the external figure where there is one, else by AutoAttack's, or by
    accuracy under corruptions. No external figure of the packed snapshot is above AutoAttack's, so
    that is the worst of both, which ``Entry.robust`` takes.

    Args:
        dataset: "cifar10", "cifar100" or "imagenet".
        threat: "Linf", "L2" or "corruptions".
        architecture: only this one, in any spelling: WideResNet-34-10, WRN-34-10, wrn_34_10.
        extra_data: False leaves out what was trained on extra or on synthetic data.
        snapshot: the packed one by default.

    Raises:
        KeyError: no such leaderboard, or nothing of this architecture on it.
    """
    found = board(dataset, threat, snapshot)
    if architecture is not None:
        known_architecture(architecture, (e.architecture for e in found.entries), found.name)
        found = found.of_architecture(architecture)
    return list((found if extra_data else found.without_extra_data()).entries)


def usual_eps(entries: Iterable[Entry]) -> str | None:
    """The radius that most entries have; None where none has one."""
    count = Counter(entry.eps for entry in entries if entry.eps is not None)
    return max(sorted(count), key=count.__getitem__, default=None)


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    allowed = ", ".join(sorted(known))
    hint = nearest(name, known)
    if not hint.startswith("known: "):
        hint += f" (there are {allowed})"
    return f"no leaderboard of {what} {name!r}; {hint}"
