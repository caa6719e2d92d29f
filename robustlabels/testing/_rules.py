"""Rules, and how a broken one is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from robustlabels.plugins import shown

Case = TypeVar("Case")


class Broken(Exception):  # noqa: N818 - not an error of anybody's program
    """What was seen where a rule is broken."""


@dataclass(frozen=True)
class Rule(Generic[Case]):
    """Something that must hold.

    Attributes:
        name: the rule in a few words.
        why: what goes wrong where it is broken, a sentence.
        check: raises :class:`Broken` where it is.
    """

    name: str
    why: str
    check: Callable[[Case], None]


class Rules(Generic[Case]):
    """The rules of one kind of thing, in the order in which they are tried."""

    def __init__(self) -> None:
        self.rules: list[Rule[Case]] = []

    def add(self, name: str, why: str) -> Callable[[Callable[[Case], None]], Callable[..., None]]:
        """Make a rule of the function below."""

        def keep(check: Callable[[Case], None]) -> Callable[..., None]:
            self.rules.append(Rule(name, why, check))
            return check

        return keep

    def check(self, subject: str, case: Case) -> None:
        """Try every rule on a case.

        Raises:
            AssertionError: the first that is broken; from what the subject raised, if it did.
        """
        for rule in self.rules:
            try:
                rule.check(case)
            except Broken as broken:
                raise AssertionError(_told(subject, rule, str(broken))) from broken.__cause__
            except Exception as error:
                raise AssertionError(_told(subject, rule, f"it raised {shown(error)}")) from error


def _told(subject: str, rule: Rule[Any], seen: str) -> str:
    return f"{subject} breaks the rule '{rule.name}': {seen}. {rule.why}."


def require(held: bool, seen: str) -> None:
    """Raise :class:`Broken` with what was seen, unless the rule is held."""
    if not held:
        raise Broken(seen)


def named(factory: Callable[..., Any] | str, **params: Any) -> str:
    """How messages call what a factory makes, e.g. ``MyScheme(alpha=0.3)``."""
    name = factory if isinstance(factory, str) else getattr(factory, "__name__", repr(factory))
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in params.items())})"
