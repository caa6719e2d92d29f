"""A row beside a run: what differs must be told, for nothing else makes a figure comparable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from robustlabels.cli import main
from robustlabels.config import make_config, set_field
from robustlabels.errors import RunError
from robustlabels.recipes import read_recipe
from robustlabels.tables import Table, make_table
from robustlabels.tables.reproduction import beside
from robustlabels.training import fit_config

SMALL = ("model=linear", "epochs=1", "eps=0.1", "validation=100", "optimizer.lr=0.05")
SETTINGS = ("dataset=digits", *SMALL)


def tiny_table(*settings: str, recipe: str = "goibert-at-mnist", **more: Any) -> Table:
    """Adversarial training of a linear model on the digits, "published" as .9 and .5."""
    row = {
        "id": "row",
        "label": "Row",
        "recipe": recipe,
        "set": settings,
        "figures": {"clean": "0.90", "FGSM": "0.5"},
        "quotes": ["0.90 0.5"],
    }
    facts = {"title": "t", "paper": "p", "place": "table 1", "text": "none.txt", "images": 40}
    columns = {"clean": "clean", "FGSM": {"attack": {"name": "fgsm", "step_size": 0.05}}}
    return make_table(
        "tiny",
        {**facts, "scale": "share", "set": SETTINGS, "columns": columns, "rows": [row], **more},
    )


def train(table: Table, folder: Path, *settings: str, **options: Any) -> None:
    """The row's run, with further settings."""
    values = read_recipe(table.rows[0].recipe)
    for setting in (*table.settings(table.rows[0]), *settings, "device=cpu"):
        set_field(values, setting)
    fit_config(make_config(values), out=folder / "row", **options)


def judge(folder: Path, *more: str) -> dict[str, Any]:
    """As the row's command line does, but for what is given."""
    attack = ("--attacks", "", "--attack", '{ name = "fgsm", step_size = 0.05 }', "--n", "40")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(folder / "row"), *attack, "--device", "cpu", *more])
    assert ended.value.code == 0
    found: dict[str, Any] = json.loads((folder / "row" / "evaluation.json").read_text())
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train(tiny_table(), folder)
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A folder with the row's finished run, not judged."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def test_measured(runs: Path) -> None:
    """A run by the row's own setting has no note; its figures are the evaluation's."""
    judged = judge(runs)
    found = beside(tiny_table(), tiny_table().rows[0], runs)
    assert (found.state, found.notes) == ("measured", ())
    clean, fgsm = judged["clean"]["top1"], judged["attacks"]["fgsm"]["robust_accuracy"]
    assert 0 < fgsm < clean
    assert (found.figures["clean"].measured, found.figures["FGSM"].measured) == (clean, fgsm)
    assert found.figures["clean"].difference == pytest.approx(clean - 0.9)
    assert found.figures["FGSM"].difference == pytest.approx(fgsm - 0.5)
    error = tiny_table(scale="percent", quantity="error")
    as_error = beside(error, error.rows[0], runs).figures["FGSM"]
    assert as_error.measured == pytest.approx(100 * (1 - fgsm))


def test_no_number_without_a_measurement(runs: Path, tmp_path: Path) -> None:
    """Not begun, trained but not judged: there is nothing to show."""
    table = tiny_table()
    for folder, state in ((tmp_path / "none", "not measured"), (runs, "not judged")):
        found = beside(table, table.rows[0], folder)
        assert (found.state, found.judged) == (state, False)
        assert {f.measured for f in found.figures.values()} == {None}
        assert [f.published for f in found.figures.values()] == ["0.90", "0.5"]


def test_training_that_was_interrupted(tmp_path: Path) -> None:
    """It is no run to judge yet."""

    def interrupt(done: int, *_: Any) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_table(), tmp_path, "save_every=1", progress=interrupt)
    found = beside(tiny_table(), tiny_table().rows[0], tmp_path)
    assert (found.state, found.notes) == ("training not finished", ())


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("epochs=2", "epochs is 2, the row's is 1"),
        ("eps=0.2", "eps is 0.2, the row's is 0.1"),
        ("attack.steps=1", "attack.steps is 1, the row's is 3"),
        ("attack.start=none", "attack.start is none, the row's is uniform"),
        ("labels=ls", "labels.name is ls, the row's is one-hot"),
        ("trainer.clean_weight=0.25", "trainer.clean_weight is 0.25, the row's is 0.5"),
        ("model=mlp", "model.name is mlp, the row's is linear"),
        ("awp=0.01", "awp.gamma is 0.01, the row's is none"),
        ("weight_averaging=0.5", "weight_averaging is 0.5, the row's is none"),
        ("optimizer.lr=0.01", "optimizer.lr is 0.01, the row's is 0.05"),
        ("batch_size=50", "batch_size is 50, the row's is 100"),
        ("normalize=true", "normalize is True, the row's is False"),
        ("dropout=0.5", "dropout is 0.5, the row's is 0"),
        ("validation=50", "validation is 50, the row's is 100"),
    ],
)
def test_another_training(tmp_path: Path, setting: str, said: str) -> None:
    """Whatever is set otherwise, a default that the row's recipe leaves alone too."""
    train(tiny_table(), tmp_path, setting)
    assert said in beside(tiny_table(), tiny_table().rows[0], tmp_path).notes


@pytest.mark.filterwarnings("ignore:attack .* is not used")
def test_another_thing(tmp_path: Path) -> None:
    """Of another model the name is told, not each parameter that the row's has not."""
    train(tiny_table(), tmp_path, "model=mlp", "model.hidden=[8]", "trainer=standard")
    assert beside(tiny_table(), tiny_table().rows[0], tmp_path).notes == (
        "model.name is mlp, the row's is linear",
        "trainer.name is standard, the row's is pgd-at",
        "attack.name is none, the row's is pgd",
    )


def test_what_is_no_other_training(tmp_path: Path) -> None:
    """Another seed or order in memory is the same setting."""
    train(tiny_table(), tmp_path, "seed=7", "channels_last=false", "save_every=100")
    assert beside(tiny_table(), tiny_table().rows[0], tmp_path).notes == ()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--n", "30"), "images judged: 30, the row's: 40"),
        (("--eps", "0.2"), "eps of the evaluation: 0.2, the row's: 0.1"),
        (("--weights", "last"), "weights: last, the row's: best"),
    ],
)
def test_another_evaluation(runs: Path, more: tuple[str, ...], said: str) -> None:
    """The figures stand there, and so does why they are others."""
    judge(runs, *more)
    found = beside(tiny_table(), tiny_table().rows[0], runs)
    assert (found.state, found.notes) == ("another setting", (said,))


def test_another_attack_is_not_the_columns(runs: Path) -> None:
    """FGSM of another step is not the paper's; the clean figure is there all the same."""
    table = tiny_table(columns={"clean": "clean", "FGSM": {"attack": {"name": "fgsm"}}})
    judge(runs)
    found = beside(table, table.rows[0], runs)
    assert found.figures["FGSM"].measured is None
    assert found.figures["clean"].measured is not None
    assert (found.state, found.notes) == (
        "another setting",
        ("FGSM: the evaluation has no such attack",),
    )


def test_another_data_set(runs: Path) -> None:
    """Never comparable, whatever else is the same."""
    table = tiny_table(set=SMALL)
    judge(runs)
    notes = beside(table, table.rows[0], runs).notes
    assert notes[:2] == (
        "dataset is digits, the row's is mnist",
        "judged on: digits, the row's: mnist",
    )


def test_a_teacher(runs: Path, tmp_path: Path) -> None:
    """How it was trained is beyond what a row can check, so that is said."""
    table = tiny_table("labels=ltd", "labels.temperature=5.0", "teacher=elsewhere")
    train(table, tmp_path, f"teacher={runs / 'row'}")
    judge(tmp_path)
    found = beside(table, table.rows[0], tmp_path)
    said = f"its teacher is {runs / 'row'}, whose own settings are not compared"
    assert (found.state, found.notes) == ("measured", (said,))


def test_virtual_classes(tmp_path: Path) -> None:
    """VS's AA and AA+ are two of AutoAttack's four figures, and neither is their minimum."""
    figures = {"AA": "0.5", "AA+": "0.5"}
    columns = {
        name: {"attack": "autoattack", "figure": figure}
        for name, figure in (("AA", "AA-9"), ("AA+", "AA+"))
    }
    row = {**tiny_table("labels=vs").rows[0].model_dump(), "figures": figures}
    table = tiny_table(columns=columns, rows=[row], images=8)
    train(table, tmp_path)
    judged = judge(tmp_path, "--attacks", "autoattack", "--n", "8", "--eps", "0.9")
    attack = judged["attacks"]["autoattack"]
    # Four figures that differ; a model that resists long enough for them takes too long here.
    assert attack["figures"].keys() == {"AA-9", "AA+", "slice", "minimum"}
    attack["figures"] = {"AA-9": 0.75, "AA+": 0.5, "slice": 0.625, "minimum": 0.375}
    (tmp_path / "row" / "evaluation.json").write_text(json.dumps(judged))
    found = beside(table, table.rows[0], tmp_path)
    assert (found.figures["AA"].measured, found.figures["AA+"].measured) == (0.75, 0.5)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    """Its files are somebody's."""
    (tmp_path / "row").mkdir()
    (tmp_path / "row" / "thesis.tex").touch()
    with pytest.raises(
        RunError, match=r"is not a run: it has no config\.toml; name another --runs"
    ):
        beside(tiny_table(), tiny_table().rows[0], tmp_path)
