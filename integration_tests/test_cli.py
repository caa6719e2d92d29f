"""The command line as users have it: real processes, real signals, the README's own words."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ["ROBUSTLABELS_TEST_DATA"])
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
# Long enough to be stopped on the way: averages, an EMA teacher and saves within epochs.
TRAIN = shlex.split(
    "robustlabels train --model mlp --labels adr --epochs 5 --device cpu --set attack.steps=3 "
    "--set save_every=4 --set weight_averaging=0.9 --set labels.ema_decay=0.95"
)


def start(command: list[str], folder: Path, **options: object) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "ROBUSTLABELS_PLUGINS")}
    env["PATH"] = f"{BIN}{os.pathsep}{env.get('PATH', '')}"
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command,
        cwd=folder,
        env=env,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def run(command: list[str], folder: Path, **options: object) -> tuple[int, str, str]:
    process = start(command, folder, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


# Two averages beside each other: the user is told, once.
TWO_AVERAGES = "two averages are kept"


def quiet(err: str) -> bool:
    """Nothing was said but what had to be."""
    return err.count("\n") == 1 and TWO_AVERAGES in err


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("command", [["robustlabels"], [sys.executable, "-m", "robustlabels"]])
def test_both_ways_to_start_it(tmp_path: Path, command: list[str]) -> None:
    """The script of pip and ``python -m``: the same program, the same exit codes and streams."""
    code, out, err = run([*command, "--version"], tmp_path)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"robustlabels \d+\.\d+\.\d+\n", out)
    code, out, err = run([*command, "list", "scheme"], tmp_path)
    assert (code, out) == (2, "")
    assert err == "robustlabels: cannot list 'scheme'; did you mean 'schemes'?\n"
    assert list(tmp_path.iterdir()) == []


def test_debug(tmp_path: Path) -> None:
    """A bug report needs the traceback."""
    code, _, err = run(["robustlabels", "list", "scheme", "--debug"], tmp_path)
    assert code == 1
    assert err.startswith("Traceback")
    assert err.rstrip().endswith("did you mean 'schemes'?")


def test_tables_are_not_wrapped_in_a_pipe(tmp_path: Path) -> None:
    """COLUMNS and an 80-column default must not reach what grep reads."""
    _, out, _ = run(["bash", "-c", "COLUMNS=40 robustlabels plugins"], tmp_path)
    line = next(line for line in out.splitlines() if "register_attacks" in line)
    assert "torchattacks:" in line


@pytest.mark.skipif(not (DATA / "MNIST").is_dir(), reason=f"needs MNIST in {DATA}")
def test_the_commands_of_the_readme(tmp_path: Path) -> None:
    """Who pastes them must get a run and an evaluation; only where data lie and how much differ."""
    (block,) = (s for s in snippets("sh") if "robustlabels evaluate runs/als" in s)
    assert "robustlabels train" in block
    for old, new in (
        ("../shared/data", str(DATA)),
        ("--epochs 3", "--epochs 1"),
        ("--n 200", "--n 8"),
    ):
        assert old in block
        block = block.replace(old, new)
    code, out, err = run(["bash", "-e", "-c", block], tmp_path)
    assert code == 0, err
    found = json.loads((tmp_path / "runs" / "als" / "evaluation.json").read_text())
    assert list(found["attacks"]) == ["pgd", "autoattack", "torchattacks:CW"]
    assert found["n"] == 8
    assert found["eps"] == 0.1
    assert (found["labels"]["name"], found["labels"]["alpha"]) == ("als", 0.1)
    assert found["clean"]["top1"] >= 0.7  # 98 % of all; 8 are few
    assert found["attacks"]["autoattack"]["robust_accuracy"] <= found["clean"]["top1"]
    assert "worst case of all" in out


def test_the_python_of_the_readme(tmp_path: Path) -> None:
    """The snippets run as they stand, on the embedded digits instead of CIFAR-10."""
    loop, trainers, _ = snippets("python")
    for old, new in (
        ('"resnet18", "cifar10"', '"linear", "digits"'),
        ("epochs=200", "epochs=1"),
        ('["pgd", "autoattack"], n=1000', '["pgd"], n=8'),
    ):
        assert old in trainers
        trainers = trainers.replace(old, new)
    code = (
        "import torch\n"
        "torch.manual_seed(0)\n"
        "model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 10))\n"
        "loader = [(torch.rand(5, 3, 2, 2), torch.arange(5)) for _ in range(2)]\n"
        f"{loop}\n"
        "loss.backward()\n"
        "assert model[1].weight.shape == (20, 12), model\n"
        "assert model[1].weight.grad.abs().sum() > 0\n"
        "assert classifier(loader[0][0]).shape == (5, 10)\n"
        f"{trainers}\n"
        "assert judged['n'] == 8, judged\n"
    )
    exit_code, _, err = run([sys.executable, "-c", code], tmp_path)
    assert exit_code == 0, err
    assert (tmp_path / "runs" / "adr" / "weights.safetensors").is_file()


@pytest.mark.parametrize("command", ["list attacks", "plugins --json", "--help"])
def test_a_reader_that_leaves(tmp_path: Path, command: str) -> None:
    """``| head -1``: the pipe is closed while we write, or before the last flush."""
    code, out, err = run(
        ["bash", "-o", "pipefail", "-c", f"robustlabels {command} | head -1"], tmp_path
    )
    assert err == ""
    assert code == 0
    assert len(out.splitlines()) == 1
    # The same without a race: there is no reader from the beginning.
    reader, writer = os.pipe()
    os.close(reader)
    code, _, err = run(["robustlabels", *shlex.split(command)], tmp_path, stdout=writer)
    os.close(writer)
    assert (code, err) == (0, "")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    code, _, err = run([*TRAIN, "--out", "run"], folder)
    assert (code, quiet(err)) == (0, True), err
    return folder / "run"


def stop_at(epoch: int, command: list[str], folder: Path, how: signal.Signals) -> tuple[int, str]:
    """Start, send the signal once the epoch is reported, and wait."""
    process = start(command, folder)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"epoch {epoch}:"):
            break
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def same(whole: Path, other: Path) -> None:
    for name in ("weights", "last", "average"):
        a, b = (load_file(r / f"{name}.safetensors") for r in (whole, other))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a), name
    a, b = ((r / "metrics.jsonl").read_text().splitlines() for r in (whole, other))
    assert len(a) == len(b) == 5
    for one, two in zip(a, b, strict=True):
        x, y = ({k: v for k, v in json.loads(s).items() if k != "seconds"} for s in (one, two))
        assert x == y
    assert sorted(p.name for p in whole.rglob("*")) == sorted(p.name for p in other.rglob("*"))
    assert (whole / "config.toml").read_bytes() == (other / "config.toml").read_bytes()
    assert json.loads((other / "run.json").read_text())["status"] == "finished"


def test_ctrl_c(tmp_path: Path, uninterrupted: Path) -> None:
    """One line, exit code 130, no traceback; and the run goes on as if nothing had been."""
    # Children inherit that it is ignored, as a job in the background has it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, err = stop_at(2, [*TRAIN, "--out", "run"], tmp_path, signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert err.splitlines()[1:] == ["robustlabels: interrupted"]
    assert TWO_AVERAGES in err.splitlines()[0]
    code, _, err = run(["robustlabels", "train", "--resume", "--out", "run"], tmp_path)
    assert (code, quiet(err)) == (0, True), err
    same(uninterrupted, tmp_path / "run")


def test_killed_twice(tmp_path: Path, uninterrupted: Path) -> None:
    """The out-of-memory killer and a full queue: --resume must end with the same bits."""
    code, _ = stop_at(1, [*TRAIN, "--out", "run"], tmp_path, signal.SIGKILL)
    assert code == -signal.SIGKILL
    resume = ["robustlabels", "train", "--resume", "--out", "run"]
    code, _ = stop_at(3, resume, tmp_path, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "running"
    code, out, err = run(resume, tmp_path)
    assert (code, quiet(err)) == (0, True), err
    assert "epoch 1:" not in out  # it went on, and did not begin anew
    same(uninterrupted, tmp_path / "run")


def test_killed_before_the_first_save(tmp_path: Path) -> None:
    """Seconds after the start there is a RUN folder without a state: --resume begins anew."""
    command = [*TRAIN, "--out", "run", "--set", "save_every=10000", "--epochs", "2"]
    process = start(command, tmp_path)
    wait_for((tmp_path / "run" / "config.toml").exists, process)
    process.kill()
    process.communicate()
    if (tmp_path / "run" / "state" / "state.pt").exists():
        pytest.skip("this machine ended an epoch before it could be stopped")
    code, _, err = run(
        ["robustlabels", "train", "--resume", "--out", "run"],
        tmp_path,
    )
    assert (code, quiet(err)) == (0, True), err
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def wait_for(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not there():
        assert process.poll() is None, process.communicate()


def test_the_readmes_lines_for_art(tmp_path: Path) -> None:
    """They need no more than a classifier, a trainer of ART's and data."""
    pytest.importorskip("art")
    _, _, lines = snippets("python")
    assert "nb_epochs=20" in lines
    code = (
        "import numpy as np, torch, robustlabels as rl\n"
        "from art.defences.trainer import AdversarialTrainerFBFPyTorch\n"
        "from art.estimators.classification import PyTorchClassifier\n"
        "def made():\n"
        "    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 10))\n"
        "    return PyTorchClassifier(model, torch.nn.CrossEntropyLoss(), (3, 2, 2), 10,\n"
        "        optimizer=torch.optim.SGD(model.parameters(), lr=0.1), clip_values=(0, 1))\n"
        "x = np.random.rand(40, 3, 2, 2).astype(np.float32)\n"
        "y = np.arange(40) % 10\n"
        "classifier, art_trainer = made(), AdversarialTrainerFBFPyTorch(made(), eps=0.1)\n"
        f"{lines.replace('nb_epochs=20', 'nb_epochs=1')}\n"
        "assert art_trainer.get_classifier().predict(x).shape == (40, 10)\n"
        "assert classifier.predict(x).shape == (40, 10)\n"
    )
    exit_code, _, err = run([sys.executable, "-c", code], tmp_path)
    assert exit_code == 0, err
