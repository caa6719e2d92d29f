"""``robustlabels teach``: the natural teacher, and what LTD makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robustlabels.cli.teach import RECIPE
from robustlabels.config import make_config, read_toml

TINY = ("--model", "linear", "--epochs", "2", "--device", "cpu")


def config_of(run: str) -> Any:
    return make_config(read_toml(Path(run) / "config.toml"))


def test_the_teacher_is_natural_and_its_recipe_the_papers(cli: Any) -> None:
    """An adversarially trained teacher costs the student's accuracy (LTD, 5.4), and another
    schedule than appendix A's is another teacher."""
    ran = cli("teach", *TINY, "--out", "teacher")
    assert ran.code == 0, ran.err
    config = config_of("teacher")
    assert (config.trainer.name, config.labels.name) == ("standard", "one-hot")
    assert config.schedule.milestones == [2 / 3, 5 / 6]  # of 120 epochs: 80 and 100
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (0.1, 5e-4)
    assert config.optimizer.nesterov
    assert not config.normalize
    assert not config.augment.flip  # a mirrored digit is another one
    summary = json.loads(Path("teacher/run.json").read_text())
    assert summary["status"] == "finished"
    assert summary["test_accuracy"] > 0.5


def test_ltd_learns_from_it_as_the_last_line_says(cli: Any) -> None:
    """The command that is printed is what a user copies."""
    ran = cli("teach", *TINY, "--out", "teacher")
    command = ran.out.splitlines()[-1].removeprefix("or: robustlabels ").split()
    ran = cli(*command, *TINY, "--set", "attack.steps=1", "--out", "student")
    assert ran.code == 0, ran.err
    student = config_of("student")
    assert (student.labels.name, student.trainer.name) == ("ltd", "trades")
    assert student.teacher == "teacher"


def test_an_adversarially_trained_teacher(cli: Any) -> None:
    """LTD's 5.4 tries one: it must be robust, and the student must learn from that very run."""
    usual = ("--model", "mlp", "--epochs", "8", "--device", "cpu", "--eps", "0.15")
    for name, trainer in (("natural", "standard"), ("robust", "pgd-at")):
        ran = cli("teach", *usual, "--trainer", trainer, "--out", name)
        assert ran.code == 0, ran.err
    assert config_of("robust").trainer.name == "pgd-at"
    assert config_of("robust").schedule == config_of("natural").schedule
    accuracy = {}
    for name in ("natural", "robust"):
        ran = cli("evaluate", name, "--attacks", "pgd", "--device", "cpu", "--json")
        assert ran.code == 0, ran.err
        accuracy[name] = json.loads(ran.out)["robust_accuracy"]
        ran = cli(
            "train", "--labels", "ltd", "--teacher", name, "--trainer", "trades", *usual,
            "--set", "attack.steps=2", "--out", f"from-{name}",
        )  # fmt: skip
        assert ran.code == 0, ran.err
        assert json.loads(Path(f"from-{name}/run.json").read_text())["test_accuracy"] > 0.5
    assert accuracy["robust"] > accuracy["natural"] + 0.1
    weights = [Path(f"from-{n}/weights.safetensors").read_bytes() for n in ("natural", "robust")]
    assert weights[0] != weights[1]


def test_training_starts_from_a_run(cli: Any) -> None:
    """--init must reach training: ADR from adversarially trained weights is its table 9."""
    assert cli("train", *TINY, "--out", "start").code == 0
    usual = ("train", "--labels", "vs", "--model", "linear", "--epochs", "1", "--device", "cpu")
    assert cli(*usual, "--init", "start", "--out", "warm").code == 0
    assert cli(*usual, "--out", "cold").code == 0
    losses = [
        json.loads(Path(run, "metrics.jsonl").read_text().splitlines()[0])["train_loss"]
        for run in ("warm", "cold")
    ]
    assert losses[0] < losses[1]
    summary = json.loads(Path("warm/run.json").read_text())
    start = json.loads(Path("start/run.json").read_text())
    assert summary["init_sha256"] == start["weights_sha256"]
    ran = cli(*usual, "--init", "nowhere", "--out", "none")
    assert ran.code == 2
    assert ran.err.strip().endswith("no checkpoint at nowhere")


def test_what_is_given_overrides_the_recipe(cli: Any) -> None:
    """Options that a recipe overrides would be worse than none; --resume keeps the run's own."""
    Path("t.toml").write_text("batch_size = 64\n[schedule]\nname = 'cosine'\n")
    set_ = ("--set", "optimizer.lr=0.05", "--set", "augment.crop_padding=1")
    ran = cli("teach", *TINY, "--config", "t.toml", "--seed", "3", *set_, "--out", "teacher")
    assert ran.code == 0, ran.err
    config = config_of("teacher")
    assert (config.seed, config.batch_size, config.optimizer.lr) == (3, 64, 0.05)
    assert (config.schedule.name, config.augment.crop_padding) == ("cosine", 1)
    again = cli("teach", "--resume", "--out", "teacher")
    assert again.code == 0, again.err
    assert config_of("teacher") == config


def test_options_name_what_the_run_has(cli: Any) -> None:
    """--trainer dropped the parameters of the trainer that it named, so --resume was refused; and
    --set changed the recipe itself, for all later teachers of the process."""
    set_ = ("--set", "trainer.clean_weight=0.5", "--set", "schedule.gamma=0.5")
    usual = ("--trainer", "pgd-at", "--out", "teacher")
    ran = cli("teach", *TINY, *set_, "--set", "attack.steps=1", *usual)
    assert ran.code == 0, ran.err
    assert RECIPE["schedule"]["gamma"] == 0.1
    ran = cli("teach", "--resume", *usual)
    assert ran.code == 0, ran.err
    assert config_of("teacher").trainer.params == {"clean_weight": 0.5}


def test_cifar_images_are_augmented(cli: Any, monkeypatch: Any) -> None:
    """Appendix A crops and mirrors CIFAR's images; without it the teacher overfits."""
    seen = []
    monkeypatch.setattr("robustlabels.training.fit_config", lambda c, **_: seen.append(c) or 1 / 0)
    for extra in ((), ("--set", "augment.flip=false")):
        try:
            cli("teach", "--dataset", "cifar10", *extra)
        except ZeroDivisionError:
            continue
    assert [(c.augment.crop_padding, c.augment.flip) for c in seen] == [(4, True), (4, False)]
    assert seen[0].epochs == 120


def test_resume_needs_a_run(cli: Any) -> None:
    """Without --out there is nothing to go on with."""
    ran = cli("teach", "--resume")
    assert (ran.code, ran.err) == (
        2,
        "robustlabels: --resume needs --out, the run to go on with\n",
    )
