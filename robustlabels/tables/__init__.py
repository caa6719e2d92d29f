"""The papers' tables, as data: what was published, and which of our recipes would give it.

Each is a TOML file beside this one: where the table stands, what its columns are in an evaluation
of ours, and for each row a recipe, what is set over it, and the figures as the paper prints them.
"""

from __future__ import annotations

import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from robustlabels.config import Config, make_config, set_field
from robustlabels.errors import BadValueError, UnknownNameError, nearest
from robustlabels.recipes import read_recipe
from robustlabels.threat import parse_eps

CLEAN = "clean"
_HERE = Path(__file__).parent
Text = Annotated[str, Field(min_length=1)]
# As printed: its decimals say how finely the paper tells it.
Figure = Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Part):
    """A column: ``"clean"``, an attack's name, or a table.

    Attributes:
        attack: as ``evaluate --attack`` takes it; None for the accuracy on clean images.
        figure: which of AutoAttack's figures, where the model has virtual classes; without them
            there is only one.
    """

    attack: Text | dict[str, Any] | None = None
    figure: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return {} if value == CLEAN else {"attack": value}


class Row(_Part):
    """A row.

    Attributes:
        id: the name of its RUN folder.
        label: the row's head in the paper, and what tells it from others.
        recipe: its settings, one of ``robustlabels list recipes``.
        set: what differs from them, as ``train --set`` takes it.
        figures: column -> the figure, as printed.
        quotes: the lines of the paper that hold the figures.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    label: Text
    recipe: Text
    set: tuple[str, ...] = ()
    figures: dict[str, Figure] = Field(min_length=1)
    quotes: tuple[Text, ...] = Field(min_length=1)


class Table(_Part):
    """A table of a paper, or what several say of the same models.

    Attributes:
        name: of the file.
        title: what it shows.
        paper: authors, year, short title.
        place: table and section.
        text: the file of the paper's text that the quotes are from.
        images: so many test images were judged.
        eps: radius of the judging attacks; that of each row's recipe by default.
        scale: "percent" or "share", as the paper has it.
        quantity: "accuracy" or "error", as the paper has it.
        set: set in every row, before its own.
        notes: in what the rows cannot be the paper's models, and what was left out.
        columns: by their names.
        rows: in the paper's order.
    """

    name: Text
    title: Text
    paper: Text
    place: Text
    text: Text
    images: Annotated[int, Field(ge=1)]
    eps: str | float | None = None
    scale: Literal["percent", "share"] = "percent"
    quantity: Literal["accuracy", "error"] = "accuracy"
    set: tuple[str, ...] = ()
    notes: tuple[Text, ...] = ()
    columns: dict[str, Column] = Field(min_length=1)
    rows: tuple[Row, ...] = Field(min_length=1)

    @field_validator("rows")
    @classmethod
    def _once(cls, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        ids = [row.id for row in rows]
        if twice := {i for i in ids if ids.count(i) > 1}:
            raise ValueError(f"two rows are called {min(twice)!r}")
        return rows

    @model_validator(mode="after")
    def _known_columns(self) -> Table:
        for row in self.rows:
            if unknown := set(row.figures) - set(self.columns):
                raise ValueError(f"row {row.id!r} has a figure of no column: {min(unknown)!r}")
        return self

    def attacks(self, row: Row) -> list[str | dict[str, Any]]:
        """What judges a row: the attacks of its columns, each once."""
        found: list[str | dict[str, Any]] = []
        for name in row.figures:
            attack = self.columns[name].attack
            if attack is not None and attack not in found:
                found.append(attack)
        return found

    def settings(self, row: Row) -> tuple[str, ...]:
        """What is set over a row's recipe, as ``train --set`` takes it."""
        return (*self.set, *row.set)

    def config(self, row: Row) -> Config:
        """A row's config.

        Raises:
            KeyError, ValueError: no such recipe, or something in it can't be set so.
        """
        values = read_recipe(row.recipe)
        for setting in self.settings(row):
            set_field(values, setting)
        return make_config(values)

    def radius(self, row: Row) -> float:
        """Of the judging attacks."""
        config = self.config(row)
        return parse_eps(config.eps if self.eps is None else self.eps, config.norm)

    def in_its_unit(self, accuracy: float) -> float:
        """An accuracy in [0, 1] as the paper would print it."""
        share = accuracy if self.quantity == "accuracy" else 1 - accuracy
        return 100 * share if self.scale == "percent" else share

    def picked(self, ids: list[str] | None) -> list[Row]:
        """Rows by their ids, in the table's order; all by default.

        Raises:
            KeyError: no such row. ValueError: none at all.
        """
        known = [row.id for row in self.rows]
        if ids == []:
            raise BadValueError(f"rows must name at least one of {', '.join(known)}")
        for wanted in ids or ():
            if wanted not in known:
                raise UnknownNameError(
                    f"{self.name} has no row {wanted!r}; {nearest(wanted, known)}"
                )
        return [row for row in self.rows if ids is None or row.id in ids]


def decimals(figure: str) -> int:
    """How many a printed figure has."""
    return len(figure.partition(".")[2])


def difference(measured: float, published: str) -> float:
    """Measured minus published, without binary rounding of the latter."""
    return float(Fraction(measured) - Fraction(published))


def table_names() -> list[str]:
    """Sorted names."""
    return sorted(path.stem for path in _HERE.glob("*.toml"))


def read_table(name: str) -> Table:
    """One of :func:`table_names`.

    Raises:
        KeyError: with the nearest matches.
    """
    if name not in table_names():
        raise UnknownNameError(f"unknown table {name!r}; {nearest(name, table_names())}")
    return make_table(name, tomllib.loads((_HERE / f"{name}.toml").read_text(encoding="utf-8")))


def make_table(name: str, values: dict[str, Any]) -> Table:
    """A table from what its TOML file holds.

    Raises:
        ValueError: what is wrong with it, in one line.
    """
    try:
        return Table.model_validate({"name": name, **values})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadValueError(f"table {name!r}: {where}: {first['msg']}") from None
