"""The papers' tables as data: a wrong figure, or a row of other settings, would be believed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from robustlabels.errors import BadValueError
from robustlabels.factories import make_scheme, make_trainer
from robustlabels.tables import (
    Row,
    Table,
    decimals,
    difference,
    make_table,
    read_table,
    table_names,
)

PAPERS = Path(__file__).parents[3] / "shared" / "papers"
ROWS = [(name, row.id) for name in table_names() for row in read_table(name).rows]
CLASSES = {"cifar10": 10, "cifar100": 100, "tiny-imagenet": 200, "mnist": 10}

TINY: dict[str, Any] = {
    "title": "t",
    "paper": "p",
    "place": "table 1",
    "text": "none.txt",
    "images": 40,
    "columns": {"clean": "clean", "FGSM": "fgsm"},
    "rows": [
        {
            "id": "a",
            "label": "A",
            "recipe": "goibert-ls-mnist",
            "figures": {"clean": "0.990"},
            "quotes": ["0.990"],
        }
    ],
}


def of(table: Table, row: str) -> Row:
    (found,) = table.picked([row])
    return found


def test_every_paper_with_a_table_is_there() -> None:
    """A file that the package leaves out would be missed by nobody."""
    texts = {read_table(name).text.partition("-")[0] for name in table_names()}
    assert texts == {"adr", "alps", "als", "ltd", "vs"}


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_a_row_can_be_trained(name: str, row: str) -> None:
    """Its recipe is there, and takes what is set over it."""
    table = read_table(name)
    config = table.config(of(table, row))
    make_scheme(config.labels.name, CLASSES[config.dataset], **config.labels.params)
    make_trainer(config.trainer.name, **config.trainer.params)
    assert table.radius(of(table, row)) > 0


@pytest.mark.parametrize("name", table_names())
def test_no_two_rows_are_one(name: str) -> None:
    """Rows of other figures and the same settings: an override was forgotten."""
    table = read_table(name)
    configs = [table.config(row).model_dump_json() for row in table.rows]
    assert len(set(configs)) == len(configs)


@pytest.mark.parametrize("name", table_names())
def test_figures_are_in_the_papers(name: str) -> None:
    """Each line that a row quotes is in the paper's text, and each of its figures in a line."""
    table = read_table(name)
    if not (PAPERS / table.text).is_file():
        pytest.skip("the papers' texts are not here")
    text = " ".join((PAPERS / table.text).read_text(encoding="utf-8").split())
    for row in table.rows:
        for quote in row.quotes:
            assert quote in text
        printed = re.findall(r"\d+(?:\.\d+)?", " ".join(row.quotes))
        for figure in row.figures.values():
            assert figure in printed


@pytest.mark.parametrize(
    ("name", "row", "column", "figure"),
    [
        # Goibert 1.4: "FGSM attack with eps = 0.2 for the BLS-regularized model with alpha = 0.005
        # using MNIST LeNet set-up is shown in Table 2 and is equal to 0.838"
        ("goibert-mnist", "bls-0.005", "FGSM .2", "0.838"),
        # VS 4.2: "VS labels improve AT's AA+ robustness from 51.88% to 53.16%"
        ("vs-table-6", "at", "AA+", "51.88"),
        ("vs-table-6", "at-vs", "AA+", "53.16"),
        # LTD 5.1: "combining LTD with TRADES increases its robustness from 53.08% to 55.09%";
        # 5.2: "the best temperature for the teacher model is 5.0"
        ("ltd-table-4", "t-5", "AutoAttack", "55.09"),
        # LTD 5.3: "the lowest natural accuracy occurs when lambda is 7.0"
        ("ltd-table-5", "lambda-7", "clean", "84.97"),
        # ADR table 2 (a), read across from table 1
        ("adr-table-2a", "resnet18-adr", "AutoAttack", "50.38"),
        ("adr-table-2a", "wrn-34-10-wa-awp-adr", "clean", "86.11"),
        ("adr-table-1", "tiny-trades-adr", "AutoAttack", "19.17"),
        # ALPS 5.3: PGD on CIFAR-10, "ALPS appears weaker than Label Smoothing ... gap 1.77%"
        ("alps-cifar10", "alps", "PGD", "44.55"),
        ("alps-cifar10", "label-smoothing", "PGD", "42.78"),
        ("alps-cifar10", "vgg16-alps", "clean", "5.19"),
    ],
)
def test_figures_by_hand(name: str, row: str, column: str, figure: str) -> None:
    """What the papers' prose says of their own tables: a figure of the next column is wrong too."""
    assert of(read_table(name), row).figures[column] == figure


def test_the_same_models_have_the_same_figures() -> None:
    """ADR prints its ResNet-18 rows of CIFAR-10 in two tables."""
    first, second = read_table("adr-table-1"), read_table("adr-table-2a")
    for one, other in (("cifar10-at", "resnet18-at"), ("cifar10-at-adr", "resnet18-adr")):
        assert of(first, one).figures == of(second, other).figures
        assert first.config(of(first, one)) == second.config(of(second, other))


def test_settings_by_hand() -> None:
    """What the papers' rows are: beta, alpha, temperature, architecture, averages."""
    vs = read_table("vs-table-6")
    assert vs.config(of(vs, "trades")).trainer.params["beta"] == 6
    assert vs.config(of(vs, "trades-vs")).trainer.params["beta"] == 12
    assert vs.config(of(vs, "at")).labels.name == "one-hot"
    assert vs.config(of(vs, "awp-vs")).labels.params["alpha"] == 0.8
    adr = read_table("adr-table-2a")
    averaged = {row.id for row in adr.rows if adr.config(row).weight_averaging}
    assert averaged == {row.id for row in adr.rows if "WA" in row.label}
    assert {r.id for r in adr.rows if adr.config(r).awp} == {
        r.id for r in adr.rows if "AWP" in r.label
    }
    assert {r.id for r in adr.rows if adr.config(r).labels.name == "adr"} == {
        r.id for r in adr.rows if "ADR" in r.label
    }
    assert all(adr.config(r).model.name == r.label.partition(",")[0].lower().replace(
        "resnet-18", "resnet18") for r in adr.rows)  # fmt: skip
    goibert = read_table("goibert-mnist")
    for row in goibert.rows[2:]:
        labels, (scheme, alpha) = goibert.config(row).labels, row.id.split("-")
        assert (labels.name, labels.params["alpha"]) == (scheme, float(alpha))
    ltd = read_table("ltd-table-4")
    assert [f"T = {ltd.config(r).labels.params['temperature']}" for r in ltd.rows] == [
        row.label for row in ltd.rows
    ]


def test_units() -> None:
    """4.15 % of error is an accuracy of .9585; differences are in the paper's unit."""
    alps, goibert = read_table("alps-cifar10"), read_table("goibert-mnist")
    assert alps.in_its_unit(0.9585) == pytest.approx(4.15)
    assert goibert.in_its_unit(0.9585) == 0.9585
    assert read_table("adr-table-1").in_its_unit(0.9585) == pytest.approx(95.85)
    assert difference(0.5, "0.25") == 0.25
    assert difference(95.85, "95.9") == pytest.approx(-0.05)
    assert (decimals("0.990"), decimals("50.1"), decimals("50")) == (3, 1, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": 0}, "table 'x': images: Input should be greater than or equal to 1"),
        ({"rows": []}, "rows: Tuple should have at least 1 item"),
        ({"rows": TINY["rows"] * 2}, "two rows are called 'a'"),
        ({"columns": {"FGSM": "fgsm"}}, "row 'a' has a figure of no column: 'clean'"),
        ({"unit": "percent"}, "unit: Extra inputs are not permitted"),
    ],
)
def test_a_bad_table(change: dict[str, Any], said: str) -> None:
    """Its author is told where."""
    with pytest.raises(BadValueError) as error:
        make_table("x", {**TINY, **change})
    assert said in str(error.value)
