"""What the commands do when all is well."""

from __future__ import annotations

import io
import json
import re
import shutil
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import robustlabels
import robustlabels.training
from robustlabels.cli import app

COMMANDS = sorted(
    [c.name or c.callback.__name__ for c in app.registered_commands]
    + [g.name for g in app.registered_groups]
)
KINDS = ("schemes", "trainers", "attacks", "models", "datasets", "evaluations")
FILES = ["config.toml", "last.safetensors", "metrics.jsonl", "run.json", "state"]
FILES += ["weights.safetensors"]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_commands_are_those_documented() -> None:
    """docs/cli.md's table is what users choose from."""
    docs = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    assert sorted(re.findall(r"^\| `([\w-]+)", docs, re.MULTILINE)) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(cli: Any, command: str, flag: str) -> None:
    """Every command explains itself, and asking for it is no error."""
    ran = cli(command, flag)
    assert (ran.code, ran.err) == (0, "")
    assert "Usage: robustlabels " + command in ran.out


def test_help_of_all(cli: Any) -> None:
    """The first thing that a user tries; without a command it is shown too, but exits with 2."""
    ran = cli("--help")
    assert (ran.code, ran.err) == (0, "")
    bare = cli()
    assert (bare.code, bare.err) == (2, "")
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", ran.out)
        assert re.search(rf"\b{command}\b", bare.out)


def test_an_interrupt_that_a_library_swallowed(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while torch.save writes comes out as a RuntimeError: a traceback about positions in
    a zip file, where one line is promised."""

    class Stopped(io.BytesIO):
        def write(self, content: Any) -> int:
            if self.tell() > 0:
                raise KeyboardInterrupt
            return super().write(content)

    def interrupted(*args: Any, **options: Any) -> None:
        torch.save({"weight": torch.zeros(9)}, Stopped())

    with pytest.raises(RuntimeError):  # what torch makes of it
        interrupted()
    monkeypatch.setattr(robustlabels.training, "fit_config", interrupted)
    ran = cli("train", "--model", "linear", "--out", "run")
    assert (ran.code, ran.out, ran.err) == (130, "", "robustlabels: interrupted\n")


def test_version(cli: Any) -> None:
    """The version in the package, in pyproject.toml and on the command line are one."""
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert robustlabels.__version__ == pyproject["project"]["version"]
    assert cli("--version").out == f"robustlabels {robustlabels.__version__}\n"


@pytest.mark.parametrize("kind", KINDS)
def test_list(cli: Any, kind: str) -> None:
    """JSON and the table hold the same names, those that Python's list_* gives."""
    names = getattr(robustlabels, f"list_{kind}")()
    found = json.loads(cli("list", kind, "--json").out)
    assert [row["name"] for row in found] == names
    table = [line.split() for line in cli("list", kind).out.splitlines() if line.strip()]
    assert [(row["name"], row["distribution"]) for row in found] == [
        (line[0], line[1]) for line in table[2:]
    ]


def test_plugins(cli: Any) -> None:
    """Each entry point of ours is there, and works."""
    found = {row["name"]: row for row in json.loads(cli("plugins", "--json").out)}
    ours = {e.name for e in entry_points(group="robustlabels") if e.dist.name == "robustlabels"}
    assert ours
    assert ours <= set(found)
    for name in ours:
        assert found[name]["builtin"]
        assert found[name]["status"] == "ok"
    assert {"vs", "one-hot", "adr"} <= set(found["labels"]["names"]["schemes"])
    assert "robustlabels" in cli("plugins").out


def test_output_to_a_pipe_is_not_wrapped(cli: Any) -> None:
    """At 80 columns a plugin's names would be folded, and grep would miss them."""
    out = cli("plugins").out
    line = next(line for line in out.splitlines() if "register_attacks" in line)
    assert len(line) > 120
    assert all(name in line for name in ("autoattack", "fgsm", "pgd", "torchattacks:"))


def test_a_title_is_neither_wrapped_nor_read_as_markup(cli: Any, run: Path) -> None:
    """rich folds a table's title at the table's width, and swallows [red] in a path."""
    long = run.parent / ("[red]" + "x" * 100)
    shutil.move(run, long)
    ran = cli("evaluate", long.name, "--n", "4", "--attacks", "pgd")
    assert ran.code == 0
    first = ran.out.splitlines()[0].strip()
    assert first == f"{long.name}: 4 test images of digits, Linf eps 0.03137"


def test_the_contents_of_a_run(train: Any) -> None:
    """The contract: other tools read these files."""
    run = train("run", "--seed", "3", "--set", "labels.alpha=0.2", "--labels", "ls")
    assert names(run) == sorted(FILES)
    assert names(run / "state") == ["state.pt"]
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["model"] == {"name": "linear"}
    assert config["labels"] == {"name": "ls", "alpha": 0.2}
    assert (config["seed"], config["epochs"], config["dataset"]) == (3, 1, "digits")
    summary = json.loads((run / "run.json").read_text())
    assert summary["status"] == "finished"
    assert summary["seed"] == 3
    assert summary["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert summary["device"] == "cpu"
    assert "git" in summary
    assert len(summary["data_sha256"]) == 64
    assert summary["train_samples"] + summary["validation_samples"] == 1437
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1]
    assert 0 <= lines[0]["validation_accuracy"] <= 1
    weights = load_file(run / "weights.safetensors")
    assert {k: tuple(v.shape) for k, v in weights.items()} == {
        "fc.weight": (10, 64),
        "fc.bias": (10,),
    }


def test_weight_averaging_adds_a_file(train: Any) -> None:
    """The average is kept beside the others, and can be evaluated."""
    run = train("run", "--set", "weight_averaging=0.9")
    assert names(run) == sorted([*FILES, "average.safetensors"])
    last, average = (load_file(run / f"{n}.safetensors")["fc.weight"] for n in ("last", "average"))
    assert not torch.equal(last, average)


def test_evaluate(cli: Any, run: Path) -> None:
    """evaluation.json, --json and the table say the same; accuracies are whole images."""
    arguments = ("--n", "20", "--eps", "8/255", "--attacks", "pgd,fgsm", "--seed", "1")
    ran = cli("evaluate", "run", *arguments, "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert json.loads((run / "evaluation.json").read_text()) == found
    assert found["n"] == len(found["indices"]) == len(set(found["indices"])) == 20
    assert found["eps"] == 8 / 255
    assert found["weights"] == "best"
    assert found["labels"] == {"name": "one-hot"}
    assert list(found["attacks"]) == ["pgd", "fgsm"]
    clean = found["clean"]["top1"]
    for attack in found["attacks"].values():
        assert attack["robust_accuracy"] <= clean
        assert attack["robust_accuracy"] * 20 == pytest.approx(
            round(attack["robust_accuracy"] * 20), abs=1e-9
        )
    (run / "evaluation.json").unlink()
    table = cli("evaluate", "run", *arguments).out
    for name, accuracy in (("clean", clean), ("pgd", found["attacks"]["pgd"]["robust_accuracy"])):
        assert re.search(rf"^ *{name} .* {accuracy:.1%} ", table, re.MULTILINE)


def test_evaluate_reports_the_accuracy_of_the_weights_it_names(cli: Any, run: Path) -> None:
    """By hand: logits of the saved matrix on the digits' test split, chosen as the JSON says."""
    found = json.loads(cli("evaluate", "run", "--attacks", "pgd", "--n", "50", "--json").out)
    weights = load_file(run / "weights.safetensors")
    split = robustlabels.make_dataset("digits").test_split()
    x, y = next(iter(split.batches([torch.tensor(found["indices"])], torch.device("cpu"))))
    logits = x.flatten(1) @ weights["fc.weight"].T + weights["fc.bias"]
    assert found["clean"]["top1"] == pytest.approx((logits.argmax(1) == y).double().mean().item())


def test_an_infinite_temperature_is_evaluated(cli: Any, train: Any) -> None:
    """JSON has no infinity: the evaluation was made, and then lost in a traceback."""
    train("run", "--labels", "bls", "--set", "labels.temperature=inf")
    ran = cli("evaluate", "run", "--n", "4", "--attacks", "pgd", "--json")
    assert ran.code == 0
    labels = json.loads(ran.out)["labels"]
    assert (labels["name"], labels["temperature"]) == ("bls", "inf")


def test_evaluate_more(cli: Any, run: Path) -> None:
    """Evaluations of plugins, and their parameters, could be had from Python alone."""
    arguments = ("evaluate", "run", "--n", "20", "--attacks", "", "--evaluation")
    ran = cli(*arguments, '{ name = "calibration", bins = 1 }')
    assert (ran.code, ran.err) == (0, "")
    assert "calibration-2: figures in run/evaluation.json" in ran.out
    found = json.loads((run / "evaluation.json").read_text())
    assert list(found["evaluations"]) == ["calibration-2"]
    assert 0 < found["evaluations"]["calibration-2"]["clean"] < 1
    wrong = (
        ("calibratoin", "did you mean 'calibration'?"),
        ("{ bins = 1 }", "a table needs a 'name'"),
        ("{ name = 'calibration', bins = 0 }", "bins must be an integer of at least 1, not 0"),
    )
    for given, message in wrong:
        ran = cli(*arguments, given, "--out", "e.json")
        assert (ran.code, len(ran.err.splitlines())) == (2, 1)
        assert message in ran.err


def test_evaluate_by_transfer(cli: Any, run: Path, train: Any) -> None:
    """ALPS's black-box columns; the source is part of what was asked for: --resume would else hand
    out figures of another source's inputs."""
    source = train("erm", "--seed", "5")
    given = '{ name = "transfer:fgsm", source = "erm" }'
    arguments = ("evaluate", "run", "--n", "20", "--attacks", "fgsm", "--attack", given)
    ran = cli(*arguments)
    assert (ran.code, ran.err) == (0, "")
    assert "transfer:fgsm: made on erm, not on this model: no measure of its robustness" in ran.out
    found = json.loads((run / "evaluation.json").read_text())
    told = found["attacks"]["transfer:fgsm"]["source"]
    sha256 = json.loads((source / "run.json").read_text())["weights_sha256"]
    assert told["weights_sha256"] == found["request"]["attacks"][1]["source_sha256"] == sha256
    assert cli(*arguments, "--resume").code == 0
    shutil.rmtree(source)
    train("erm", "--seed", "6")
    ran = cli(*arguments, "--resume")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
    assert "of another request: attacks" in ran.err
    wrong = (
        ("transfer:fgsm", "needs source="),
        ('{ name = "transfer:fgms", source = "erm" }', "did you mean 'fgsm'?"),
        ('{ name = "transfer:fgsm", source = "nowhere" }', "no checkpoint at nowhere"),
        (
            '{ name = "transfer:fgsm", source = "erm", weights = ["best"] }',
            "weights must be one of",
        ),
        ('{ source = "erm" }', "a table needs a 'name'"),
    )
    for attack, message in wrong:
        ran = cli("evaluate", "run", "--n", "4", "--attack", attack, "--out", "e.json")
        assert (ran.code, len(ran.err.splitlines())) == (2, 1)
        assert message in ran.err


def test_evaluate_elsewhere(cli: Any, run: Path, disk: Any) -> None:
    """--out leaves the run alone."""
    before = disk()
    assert cli("evaluate", "run", "--n", "4", "--attacks", "pgd", "--out", "e.json").code == 0
    assert {k: v for k, v in disk().items() if k != "e.json"} == before


def test_resuming_a_finished_run(cli: Any, run: Path) -> None:
    """Nothing is left to do: the weights and the metrics stay as they are."""
    before = {n: (run / n).read_bytes() for n in ("config.toml", "metrics.jsonl")}
    tensors = {n: load_file(run / f"{n}.safetensors") for n in ("weights", "last")}
    ran = cli("train", "--resume", "--out", "run")
    assert (ran.code, ran.err) == (0, "")
    assert {n: (run / n).read_bytes() for n in before} == before
    for name, old in tensors.items():
        new = load_file(run / f"{name}.safetensors")
        assert all(torch.equal(new[k], old[k]) for k in old)
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


def test_which_setting_wins(cli: Any, train: Any, tmp_path: Path) -> None:
    """--set over options over --config over defaults; and another thing's parameters go."""
    (tmp_path / "c.toml").write_text(
        'model = "linear"\nepochs = 7\nbatch_size = 64\nseed = 1\ndevice = "cpu"\n'
        '[labels]\nname = "ls"\nalpha = 0.4\n[trainer]\nname = "standard"\n'
    )
    arguments = ("--config", "c.toml", "--epochs", "3", "--seed", "2", "--set", "epochs=1")
    run = train("run", *arguments, quick=False)
    config = tomllib.loads((run / "config.toml").read_text())
    assert (config["epochs"], config["seed"], config["batch_size"]) == (1, 2, 64)
    assert config["labels"] == {"name": "ls", "alpha": 0.4}
    assert config["norm"] == "Linf"
    kept = train("kept", *arguments, "--labels", "ls", quick=False)
    assert tomllib.loads((kept / "config.toml").read_text())["labels"]["alpha"] == 0.4
    renamed = train("renamed", *arguments, "--labels", "one-hot", quick=False)
    assert tomllib.loads((renamed / "config.toml").read_text())["labels"] == {"name": "one-hot"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--labels", "vs", "--set", 'labels.inner={name="adr", ema_decay=0.9}'),
        ("--trainer", "trades", "--set", "attack.steps=2", "--eps", "4/255", "--seed", "5"),
        ("--set", "optimizer.name=adamw", "--set", "schedule.name=cyclic", "--set", "normalize=1"),
    ],
)
def test_a_config_makes_the_same_run_again(train: Any, arguments: tuple[str, ...]) -> None:
    """config.toml is complete: trained again from it, every bit of the weights is the same."""
    first = train("first", *arguments, "--set", "augment.crop_padding=1")
    again = train("again", "--config", str(first / "config.toml"), quick=False)
    assert (again / "config.toml").read_text() == (first / "config.toml").read_text()
    old, new = (load_file(r / "weights.safetensors") for r in (first, again))
    assert all(torch.equal(old[k], new[k]) for k in old)
    other = train("other", "--config", str(first / "config.toml"), "--seed", "99", quick=False)
    changed = load_file(other / "weights.safetensors")
    assert not all(torch.equal(changed[k], new[k]) for k in new)


def test_without_out_a_run_gets_a_name(cli: Any, tmp_path: Path) -> None:
    """Two runs in a row must not fall into one folder that nobody named."""
    ran = cli("train", "--model", "linear", "--trainer", "standard", "--epochs", "1")
    assert ran.code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-digits-linear-one-hot-standard", folder.name)
    assert f"next: robustlabels evaluate runs/{folder.name}" in ran.out


def test_a_teacher_that_is_a_run(train: Any, run: Path) -> None:
    """The documented way to LTD: train a teacher, then name it; the labels must use it."""
    first = train("one", "--labels", "ltd", "--teacher", "run")
    weights = load_file(run / "weights.safetensors")
    assert tomllib.loads((first / "config.toml").read_text())["teacher"] == "run"
    torch.save({k: -v for k, v in weights.items()}, run.parent / "other.pt")
    second = train("two", "--labels", "ltd", "--teacher", "other.pt")
    a, b = (load_file(r / "weights.safetensors")["fc.weight"] for r in (first, second))
    assert not torch.equal(a, b)


def test_an_attack_stronger_than_training(cli: Any, train: Any) -> None:
    """The whole path of adversarial training on the command line, vs and its slice included."""
    train("run", "--trainer", "pgd-at", "--labels", "vs", "--set", "attack.steps=2")
    ran = cli("evaluate", "run", "--n", "8", "--attacks", "pgd,torchattacks:PGD", "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert (found["num_classes"], found["virtual_classes"]) == (10, 10)
    assert "K+V" in found["note"]


@pytest.mark.parametrize("command", ["evaluate", "audit"])
def test_another_norm_needs_its_own_eps(cli: Any, run: Path, command: str) -> None:
    """8/255 is a usual radius in Linf and almost nothing in L2."""
    ran = cli(command, str(run), "--norm", "L2")
    assert ran.code == 2
    assert "is a radius in Linf, not in L2" in ran.err


def test_an_attack_with_its_own_radius(cli: Any, run: Path) -> None:
    """Its accuracy is shown with its radius; outside the threat model it is no worst case."""
    wide = "{ name = 'pgd', eps = '128/255' }"
    ran = cli("evaluate", "run", "--n", "20", "--attacks", "pgd", "--attack", wide)
    assert (ran.code, ran.err) == (0, "")
    assert "pgd-2 (Linf eps 0.502)" in ran.out
    assert "95 % interval of pgd-2: " in ran.out
    found = json.loads((run / "evaluation.json").read_text())
    assert found["attacks"]["pgd-2"]["params"]["eps"] == 128 / 255
    assert not found["attacks"]["pgd-2"]["eps_bounded"]
    assert list(found["intervals"]) == ["clean", "pgd", "pgd-2", "worst case of all"]
    assert found["robust_accuracy"] == found["attacks"]["pgd"]["robust_accuracy"]
    other = "{ name = 'pgd', norm = 'L2' }"
    ran = cli("evaluate", "run", "--attacks", "", "--attack", other, "--out", "e.json")
    assert ran.code == 2
    assert "give the attack its own eps too" in ran.err


def test_list_without_a_kind_lists_all(cli: Any) -> None:
    """New users do not know the kinds."""
    found = json.loads(cli("list", "--json").out)
    assert {"name": "adr", "distribution": "robustlabels"} in found["schemes"]
    assert {e["name"] for e in found["attacks"]} >= {"pgd", "autoattack"}
    assert found["recipes"][0].keys() == {"name", "source"}
    assert "trainers" in cli("list").out.splitlines()
