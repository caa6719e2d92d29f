"""Discovery: built-ins and third-party entry points through one door.

A broken plugin is reported and skipped, never fatal. pluggy's own entry-point loader has no
try/except, so the entry points are loaded here, one by one, and handed to pluggy.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pluggy

from robustlabels import hookspecs
from robustlabels.errors import BadValueError, UnknownNameError, UserError, nearest
from robustlabels.hookspecs import HOOKS, PROJECT, Factory, Register

SELECT_VARIABLE = "ROBUSTLABELS_PLUGINS"
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*(:[\w.+*-]*)?")


@dataclass
class PluginRecord:
    """What became of one entry point."""

    name: str
    distribution: str
    version: str
    builtin: bool
    hooks: tuple[str, ...] = ()
    names: dict[str, list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    skipped: bool = False


@dataclass(frozen=True)
class Claim:
    """One ``register(name, factory)`` call."""

    name: str
    factory: Factory
    distribution: str
    builtin: bool


class Registry:
    """The names of one kind of thing, and who brought them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._owned: dict[str, Claim] = {}
        self._contested: dict[str, list[Claim]] = {}
        self._qualified: dict[str, Claim] = {}

    def claim(self, claim: Claim) -> str | None:
        """Enter a claim. Returns the error where the name is taken, else None.

        Claims of two third parties on one name are entered both: see :meth:`clash`.
        """
        name, mine = claim.name, claim.distribution
        head, _, rest = name.partition(":")
        if rest and not claim.builtin and _normalised(head) == PROJECT:
            return f"{self._noun()} {name!r} would be the full name of a built-in: choose another"
        mine_already = self._qualified.setdefault(f"{_normalised(mine)}:{name}", claim)
        if mine_already is not claim:
            return f"{self._noun()} {name!r} is registered twice by {mine!r}: the first counts"
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
        if holder.builtin or holder is family:
            return (
                f"{self._noun()} {name!r} is already registered by {holder.distribution!r}; "
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
            members: Sequence[str] = getattr(claim.factory, "members", ())
            found.update(f"{name}{m}" for m in members) if members else found.add(name)
        found.update(f"{c.distribution}:{n}" for n, cs in self._contested.items() for c in cs)
        return sorted(found)

    def distribution(self, name: str) -> str:
        """The distribution that brought ``name``, which may be a family's ("npz:")."""
        family = self._owned.get(name)
        return (family or self._find(name)[0]).distribution

    def factory(self, name: str) -> Factory:
        """The factory behind ``name``; for a family, with the rest of the name bound.

        Raises:
            UnknownNameError: with the nearest matches.
        """
        claim, rest = self._find(name)
        return claim.factory if rest is None else functools.partial(claim.factory, rest)

    def _find(self, name: str) -> tuple[Claim, str | None]:
        head, colon, rest = name.partition(":")
        places = ((self._owned, name), (self._qualified, _normalised(head) + colon + rest))
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
            raise UnknownNameError(f"{self._noun()} {name!r} lacks what comes after the colon")
        raise UnknownNameError(f"unknown {self._noun()} {name!r}; {nearest(name, self.names())}")

    def _clash(self, name: str) -> str:
        dists = sorted({c.distribution for c in self._contested[name]})
        return (
            f"{self._noun()} {name!r} is claimed by {' and '.join(map(repr, dists))}, so neither "
            f"gets it: write {' or '.join(f'{d}:{name}' for d in dists)}"
        )

    def _noun(self) -> str:
        return {"schemes": "label scheme", "datasets": "data set"}.get(self.kind, self.kind[:-1])


class PluginHost:
    """Every plugin that was found, and the registries that they filled.

    Args:
        entry_points: what to load, built-ins included.
        selected: the third-party distributions that may load; None for all of them.
    """

    def __init__(
        self,
        entry_points: Iterable[importlib.metadata.EntryPoint],
        selected: frozenset[str] | None = None,
    ) -> None:
        self.records: list[PluginRecord] = []
        self.registries = {kind: Registry(kind) for kind in HOOKS}
        for entry_point in sorted(_unique(entry_points), key=_built_ins_first):
            record = _record(entry_point)
            chosen = selected is None or _normalised(record.distribution) in selected
            if not (record.builtin or chosen):
                continue
            self.records.append(record)
            self._load(entry_point, record)
        for record in self.records:
            self._report_clashes(record)

    def __getitem__(self, kind: str) -> Registry:
        return self.registries[kind]

    def _load(self, entry_point: importlib.metadata.EntryPoint, record: PluginRecord) -> None:
        # A manager for each plugin: what one does can't reach another, and pluggy, which keeps a
        # manager's plugins in a set, also takes a lone one that has no hash.
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(hookspecs)
        claims: list[tuple[str, Claim]] = []
        # SystemExit too: a plugin that calls sys.exit at import must not end the host.
        try:
            plugin = entry_point.load()
            manager.register(plugin, name=record.name)
            self._report_unknown_hooks(manager.get_hookcallers(plugin) or [], record)
            for kind, hook in HOOKS.items():
                if hook in record.hooks:
                    register = _collector(kind, hook, record, claims)
                    getattr(manager.hook, hook)(register=register)
        except (Exception, SystemExit) as error:
            record.skipped = True
            record.errors.append(f"skipped: {type(error).__name__}: {_one_line(error)}")
            return
        for kind, claim in claims:
            refusal = self.registries[kind].claim(claim)
            if refusal is None:
                record.names.setdefault(kind, []).append(claim.name)
            else:
                record.errors.append(refusal)

    def _report_unknown_hooks(
        self, callers: Sequence[pluggy.HookCaller], record: PluginRecord
    ) -> None:
        record.hooks = tuple(sorted(c.name for c in callers if c.has_spec()))
        for name in [c.name for c in callers if not c.has_spec()]:
            record.errors.append(f"unknown hook {name!r}; {nearest(name, HOOKS.values())}")
        if not callers:
            record.errors.append(f"no hooks found; known: {', '.join(sorted(HOOKS.values()))}")

    def _report_clashes(self, record: PluginRecord) -> None:
        """Take contested names off what a plugin brought: every claimant is told, the first too."""
        for kind, mine in list(record.names.items()):
            clashes = {name: self.registries[kind].clash(name) for name in mine}
            record.errors += [clash for clash in clashes.values() if clash]
            record.names[kind] = [name for name in mine if not clashes[name]]
            if not record.names[kind]:
                del record.names[kind]


def _collector(
    kind: str, hook: str, record: PluginRecord, claims: list[tuple[str, Claim]]
) -> Register:
    """The ``register`` that a hook gets: it checks, and adds to ``claims``."""

    def register(name: str, factory: Factory) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadValueError(
                f"{hook}: name {name!r} must be letters, digits, '.', '_', '+' or '-'"
            )
        if not callable(factory):
            raise BadValueError(f"{hook}: the factory of {name!r} is not callable: {factory!r}")
        claims.append((kind, Claim(name, factory, record.distribution, record.builtin)))

    return register


def _unique(
    entry_points: Iterable[importlib.metadata.EntryPoint],
) -> list[importlib.metadata.EntryPoint]:
    # An editable install and its source folder on sys.path can both show the same entry point.
    first_wins = reversed(list(entry_points))
    return list({(_normalised(_dist(e)[0]), e.name): e for e in first_wins}.values())


def _dist(entry_point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    # An interrupted uninstall leaves a dist-info without METADATA, so without name and version.
    dist = entry_point.dist
    if dist is None or not dist.metadata["Name"]:
        return "unknown", "0"
    return dist.name, dist.version


def _record(entry_point: importlib.metadata.EntryPoint) -> PluginRecord:
    name, version = _dist(entry_point)
    return PluginRecord(entry_point.name, name, version, _normalised(name) == PROJECT)


def _built_ins_first(entry_point: importlib.metadata.EntryPoint) -> tuple[bool, str, str]:
    name = _normalised(_dist(entry_point)[0])
    return (name != PROJECT, name, entry_point.name)


def _normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _one_line(error: BaseException) -> str:
    try:
        return " ".join(str(error).split()) or "no message"
    except Exception:  # a plugin's own error class may be broken as well
        return "its message cannot be shown"


def _selected(environ: Mapping[str, str]) -> frozenset[str] | None:
    if SELECT_VARIABLE not in environ:
        return None
    return frozenset(_normalised(n) for n in re.split(r"[,\s]+", environ[SELECT_VARIABLE]) if n)


@functools.cache
def host() -> PluginHost:
    """The plugins of this environment, loaded at the first call; problems go to stderr once."""
    found = importlib.metadata.entry_points(group=PROJECT)
    loaded = PluginHost(found, _selected(os.environ))
    for record in loaded.records:
        for error in record.errors:
            who = f"{record.name!r} of {record.distribution} {record.version}"
            print(f"robustlabels: plugin {who}: {error}", file=sys.stderr)
    return loaded


def build(kind: str, name: str, params: Mapping[str, Any], **given: Any) -> Any:
    """Call the factory of ``name`` with ``given`` (by us) and ``params`` (by the user).

    Raises:
        UnknownNameError: no such name.
        BadValueError: a parameter that the factory doesn't know, or a value that it refuses.
    """
    factory = host()[kind].factory(name)
    check_params(f"{host()[kind]._noun()} {name!r}", factory, params, given)
    try:
        return factory(**given, **params)
    except UserError:
        raise
    except ValueError as error:
        raise BadValueError(f"{name}: {_one_line(error)}") from error


def default_params(kind: str, name: str) -> dict[str, Any]:
    """The defaults of a named thing's parameters, those that TOML can hold (None it can't)."""
    try:
        parameters = inspect.signature(host()[kind].factory(name)).parameters.values()
    except (
        TypeError,
        ValueError,
    ):  # builtins without a signature keep their defaults to themselves
        return {}
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    # What we hand over ourselves is no parameter of the user's.
    return {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in defaults.items()
        if k not in ("eps", "norm") and isinstance(v, bool | int | float | str | tuple)
    }


def check_params(
    what: str, factory: Factory, params: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """Refuse parameters that ``factory`` doesn't take, with the nearest that it does."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # builtins without a signature check their own arguments
        return
    kinds = inspect.Parameter
    named = [
        p.name
        for p in signature.parameters.values()
        if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    ]
    if any(p.kind is kinds.VAR_KEYWORD for p in signature.parameters.values()):
        return
    for param in params:
        if param in given or param not in named:
            own = [n for n in named if n not in given]
            raise BadValueError(f"{what} has no parameter {param!r}; {nearest(param, own)}")
    missing = [
        p.name
        for p in signature.parameters.values()
        if p.name in named and p.default is kinds.empty and p.name not in {**params, **given}
    ]
    if missing:
        raise BadValueError(f"{what} needs the parameter {missing[0]!r}")
