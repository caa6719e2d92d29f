"""The names of one kind of thing, and who brought them."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from robustlabels.errors import UnknownNameError, nearest
from robustlabels.hookspecs import PROJECT, Factory


@dataclass
class PluginRecord:
    """What became of one entry point.

    Attributes:
        name: the entry point's.
        distribution: that has it, as pip knows it.
        version: of the distribution.
        module: that the entry point names.
        builtin: whether the distribution is our own.
        hooks: those that it implements.
        names: kind of thing -> the names that it brought.
        errors: what is wrong with it, a line each.
        skipped: whether nothing of it is there.
        used: what was made of it in this process, e.g. "label scheme 'shy'".
    """

    name: str
    distribution: str
    version: str
    module: str
    builtin: bool
    hooks: tuple[str, ...] = ()
    names: dict[str, list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    skipped: bool = False
    used: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Claim:
    """One ``register(name, factory)`` call, and the plugin that made it."""

    name: str
    factory: Factory
    plugin: PluginRecord

    @property
    def distribution(self) -> str:
        """Of the plugin."""
        return self.plugin.distribution

    def members(self) -> list[str]:
        """The full names of a family's members, where it knows them."""
        if not self.name.endswith(":"):
            return []
        try:
            members: Sequence[str] = getattr(self.factory, "members", ())
            return [f"{self.name}{member}" for member in members]
        except Exception:  # a plugin's own property: the list must not end with it
            return []


class Registry:
    """The names of one kind of thing, and who brought them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._owned: dict[str, Claim] = {}
        self._contested: dict[str, list[Claim]] = {}
        self._qualified: dict[str, Claim] = {}

    @property
    def noun(self) -> str:
        """What users call such a thing."""
        return {"schemes": "label scheme", "datasets": "data set"}.get(self.kind, self.kind[:-1])

    def claim(self, claim: Claim) -> str | None:
        """Enter a claim. Returns the error where the name is taken, else None.

        Claims of two third parties on one name are entered both: see :meth:`clash`.
        """
        name, mine = claim.name, claim.distribution
        head, _, rest = name.partition(":")
        if rest and not claim.plugin.builtin and normalised(head) == PROJECT:
            return f"{self.noun} {name!r} would be the full name of a built-in: choose another"
        mine_already = self._qualified.setdefault(f"{normalised(mine)}:{name}", claim)
        if mine_already is not claim:
            return f"{self.noun} {name!r} is registered twice by {mine!r}: the first counts"
        if name in self._contested:
            self._contested[name].append(claim)
            return None
        family = self._owned.get(f"{head}:") if rest else None
        if family is not None and family.distribution == mine:
            family = None
        holder = self._owned.get(name) or family
        if holder is None:
            self._owned[name] = claim
            return None
        if holder.plugin.builtin or holder is family:
            return (
                f"{self.noun} {name!r} is already registered by {holder.distribution!r}; "
                f"{mine!r} cannot replace it (reach it as '{mine}:{name}')"
            )
        del self._owned[name]
        self._contested[name] = [holder, claim]
        return None

    def clash(self, name: str) -> str | None:
        """Who claims ``name``, where several third parties do and so none has it; else None."""
        return self._clash(name) if name in self._contested else None

    def names(self) -> list[str]:
        """Sorted names; families are listed by their members where they know them."""
        found: set[str] = set()
        for name, claim in self._owned.items():
            found.update(claim.members() or [name])
        found.update(f"{c.distribution}:{n}" for n, cs in self._contested.items() for c in cs)
        return sorted(found)

    def owner(self, name: str) -> PluginRecord:
        """The plugin that brought ``name``, which may be a family's ("npz:")."""
        family = self._owned.get(name)
        return (family or self._find(name)[0]).plugin

    def distribution(self, name: str) -> str:
        """The distribution that brought ``name``, which may be a family's ("npz:")."""
        return self.owner(name).distribution

    def factory(self, name: str) -> Factory:
        """The factory behind ``name``; for a family, with the rest of the name bound.

        Raises:
            UnknownNameError: with the nearest matches.
        """
        claim, rest = self._find(name)
        return claim.factory if rest is None else functools.partial(claim.factory, rest)

    def _find(self, name: str) -> tuple[Claim, str | None]:
        head, colon, rest = name.partition(":")
        places = ((self._owned, name), (self._qualified, normalised(head) + colon + rest))
        for table, key in places:
            if key in table and not key.endswith(":"):
                return table[key], None
        if name in self._contested:
            raise UnknownNameError(self._clash(name))
        for table, key in places:
            for prefix, claim in table.items():
                if prefix.endswith(":") and key.startswith(prefix) and key != prefix:
                    return claim, key[len(prefix) :]
        if name in self._owned:  # a family without a member
            raise UnknownNameError(f"{self.noun} {name!r} lacks what comes after the colon")
        raise UnknownNameError(f"unknown {self.noun} {name!r}; {nearest(name, self.names())}")

    def _clash(self, name: str) -> str:
        dists = sorted({c.distribution for c in self._contested[name]})
        return (
            f"{self.noun} {name!r} is claimed by {' and '.join(map(repr, dists))}, so neither "
            f"gets it: write {' or '.join(f'{d}:{name}' for d in dists)}"
        )


def normalised(distribution: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
