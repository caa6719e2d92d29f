"""``robustlabels train``: the options of training, from the command line to the run's config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from robustlabels.cli import app
from robustlabels.errors import BadValueError
from robustlabels.runs import RunFolder, load_weights

QUICK = "train --model linear --trainer standard --epochs 1 --batch-size 512 --seed 3"


@pytest.fixture
def train(tmp_path: Path, monkeypatch: Any) -> Any:
    """Run ``train`` with these words; the run's folder."""
    monkeypatch.chdir(tmp_path)
    numbers = iter(range(99))

    printed: list[str] = []

    def run(words: str, fails: bool = False) -> Any:
        out = tmp_path / f"run{next(numbers)}"
        ran = CliRunner().invoke(app, [*QUICK.split(), *words.split(), "--out", str(out)])
        if fails:
            return ran.exception
        assert ran.exit_code == 0, ran.output
        printed.append(ran.output)
        return RunFolder.open(out)

    run.printed = lambda: printed[-1]  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", None),
        ("--awp 0.01", ("robustlabels", 0.01, 0.0)),
        ("--set awp.variant=wu", ("wu", 0.005, 0.0)),
        ("--awp 0.01 --set awp.variant=adr --set awp.warmup_epochs=2", ("adr", 0.01, 2.0)),
        ("--set awp=true", ("robustlabels", 0.005, 0.0)),
        ("--config file.toml --awp 0.2", ("wu", 0.2, 0.0)),
        ("--config file.toml --set awp=false", None),
    ],
)
def test_awp(train: Any, tmp_path: Path, words: str, expected: Any) -> None:
    """The config that reproduces the run must say how it was trained."""
    (tmp_path / "file.toml").write_text('[awp]\nvariant = "wu"\ngamma = 0.1\n')
    awp = train(words).config.awp
    assert (None if awp is None else (awp.variant, awp.gamma, awp.warmup_epochs)) == expected


def test_awp_refused(train: Any) -> None:
    """A value that switches it off by accident."""
    error = train("--awp 0", fails=True)
    assert isinstance(error, BadValueError)
    assert str(error) == "awp.gamma must be greater than 0, not 0.0"


def test_both_weights_are_printed(train: Any) -> None:
    """Whoever averages wants to know whether it helped."""
    run = train("--set weight_averaging=auto --set validation=100")
    printed = train.printed()
    each = run.summary["best_of_each"]
    for name in ("raw", "average"):
        accuracy = each[name]["validation_accuracy"]
        assert f"{name} weights' best: epoch 1, clean {accuracy:.1%}" in printed
    assert f"average: clean {each['average']['validation_accuracy']:.1%}" in printed


@pytest.fixture
def extra_file(tmp_path: Path) -> str:
    """Images without labels."""
    x = np.random.default_rng(0).integers(0, 256, (200, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "extra.npz", images=x)
    return "npz:extra.npz"


def test_extra_data(train: Any, extra_file: str) -> None:
    """Carmon's recipe: a natural model labels the images, a robust one is trained on both."""
    teacher = train("").path
    run = train(
        f"--extra {extra_file} --extra-fraction 0.25 --extra-labels pseudo "
        f"--extra-teacher {teacher} --labels ls"
    )
    config = run.config
    assert (config.extra.name, config.extra_fraction) == (extra_file, 0.25)
    assert (config.extra_labels, config.extra_teacher) == ("pseudo", str(teacher))
    facts = run.summary["extra"]
    assert (facts["samples"], facts["labels"], facts["in_a_batch"]) == (200, "pseudo", 128)
    labels = load_weights(run.path / "extra_labels.safetensors")["labels"]
    assert labels.shape == (200,) and labels.max() < 10
    again = train(f"--config {run.path / 'config.toml'}")
    assert again.config == config


def test_extra_data_refused(train: Any, extra_file: str) -> None:
    """Images without labels, and nobody to label them."""
    error = train(f"--extra {extra_file}", fails=True)
    assert "have no labels: extra_labels='pseudo'" in str(error)
    assert "data set 'digits' has no parameter 'k'" in str(
        train("--extra digits --set extra.k=3", fails=True)
    )
