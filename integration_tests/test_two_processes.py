"""Training under torchrun: two processes of batch 32 are one of batch 64; killed and resumed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import robustlabels as rl
from robustlabels.runs import load_weights

SCRIPT = Path(__file__).with_name("two_processes.py")
EXACT = ["pgd-at", "trades-vs-awp", "adr", "mart-train-mode", "fast-at", "extra"]
EXACT += ["ltd", "ltd-cached", "ltd-read"]
TRAIN = ["-m", "robustlabels", "train", "--model", "small-cnn", "--labels", "adr", "--epochs", "4"]
TRAIN += [
    "--set",
    "attack.steps=2",
    "--set",
    "save_every=3",
    "--set",
    "model.width=8",
    "--set",
    "validation=40",
    "--device",
    "cpu",
]


def torchrun() -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return [*command, "--master-port", str(port)]


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of one process and of two."""
    folder = tmp_path_factory.mktemp("cases")
    one, two = folder / "one", folder / "two"
    one.mkdir()
    two.mkdir()
    started = [
        start([sys.executable, str(SCRIPT), str(one)], folder),
        start([*torchrun(), str(SCRIPT), str(two)], folder),
    ]
    for process in started:
        finished(process)
    return one, two


def found(folder: Path, case: str) -> dict[str, Any]:
    result: dict[str, Any] = torch.load(folder / f"{case}.pt", weights_only=True)
    return result


@pytest.mark.parametrize("case", EXACT)
def test_two_processes_are_one_with_twice_the_batch(both: tuple[Path, Path], case: str) -> None:
    """Own batch statistics, a mean of means, an ascent by half the batch, other noise, other
    labels or a validation of its own: each would show here."""
    one, two = (found(folder, case) for folder in both)
    assert (one["processes"], two["processes"]) == (1, 2)
    for kind in ("last", "average"):
        assert (one[kind] is None) == (two[kind] is None)
        for name, weights in (one[kind] or {}).items():
            torch.testing.assert_close(two[kind][name], weights, rtol=1e-9, atol=1e-9)
    assert two["test"] == one["test"]
    assert two["robust"] == one["robust"]
    for ours, theirs in zip(two["history"], one["history"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("case", [*EXACT, "alps"])
def test_the_processes_stay_alike(both: tuple[Path, Path], case: str) -> None:
    """Copies that drift apart are two trainings, of which one is thrown away."""
    assert found(both[1], case)["alike"]


def test_run_folders_are_written_once(both: tuple[Path, Path]) -> None:
    """Two writers of one file leave either's."""
    for folder in both:
        lines = (folder / "adr" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    summary = json.loads((both[1] / "adr" / "run.json").read_text())
    assert (summary["status"], summary["processes"]) == ("finished", 2)


def test_a_diverged_training_ends_in_all(both: tuple[Path, Path]) -> None:
    """A process that stops alone leaves the others waiting."""
    said = [(both[i] / f"diverged-{rank}.txt").read_text() for i, rank in ((0, 0), (1, 0), (1, 1))]
    assert len(set(said)) == 1
    assert "became NaN or infinite" in said[0]


FAILS = """
import os, sys
import torch.distributed as dist
import robustlabels as rl
from robustlabels.training import PGDTraining

leave = dist.destroy_process_group

def noted():
    open("took-leave-" + os.environ["RANK"], "w").close()
    leave()

dist.destroy_process_group = noted

class FailsAlone(PGDTraining):
    def inputs(self, step):
        if sys.argv[1] == "fails" and os.environ["RANK"] == "1" and step.progress:
            raise MemoryError("mine alone")
        super().inputs(step)

rl.fit("linear", "digits", trainer=FailsAlone(), epochs=1, device="cpu")
"""


@pytest.mark.parametrize("how", ["fails", "ends"])
def test_who_fails_alone_takes_no_leave(tmp_path: Path, how: str) -> None:
    """nccl's leave waits for all, who wait for the next sum of gradients: the job would stand still
    on paid GPUs. After a training that ends well, each takes it."""
    (tmp_path / "script.py").write_text(FAILS)
    job = start([*torchrun(), "script.py", how], tmp_path)
    _, err = job.communicate(timeout=200)
    left = sorted(path.name for path in tmp_path.glob("took-leave-*"))
    if how == "fails":
        assert job.returncode != 0
        assert "MemoryError: mine alone" in err
        assert left == []
    else:
        assert job.returncode == 0, err
        assert left == ["took-leave-0", "took-leave-1"]


def test_an_audit_is_done_once(tmp_path: Path) -> None:
    """Every process audited, printed its table and wrote the file, or found it there already."""
    rl.fit("linear", "digits", trainer="standard", epochs=1, device="cpu", out=tmp_path / "run")
    command = ["-m", "--", "robustlabels", "audit", "run", "--n", "8"]
    out = finished(start([*torchrun(), *command], tmp_path))
    assert out.count("written: ") == out.count("8 test images of digits") == 1
    assert json.loads((tmp_path / "run" / "audit.json").read_text())["n"] == 8


def test_killed_and_resumed(tmp_path: Path) -> None:
    """SIGKILL of all processes: --resume ends with the bits of the run that nothing disturbed; with
    another number of processes it goes on where a step has the same samples, or refuses."""
    two = [*torchrun(), *TRAIN, "--batch-size", "32"]
    whole = start([*two, "--out", "whole"], tmp_path)
    killed = start([*torchrun(), *two[len(torchrun()) :], "--out", "killed"], tmp_path)
    until = time.monotonic() + 200
    while not (tmp_path / "killed" / "state" / "state.pt").exists():
        assert time.monotonic() < until
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.02)
    # torchrun puts its processes into sessions of their own, so their group is not enough.
    launcher = psutil.Process(killed.pid)
    for process in [launcher, *launcher.children(recursive=True)]:
        process.kill()
    killed.communicate()
    assert json.loads((tmp_path / "killed" / "run.json").read_text())["status"] == "running"
    shutil.copytree(tmp_path / "killed", tmp_path / "alone")

    resume = ["--resume", "--out"]
    alone = start([sys.executable, *TRAIN, "--batch-size", "64", *resume, "alone"], tmp_path)
    out = finished(whole)
    assert out.count("run: whole") == 1, "one process talks"
    finished(start([*torchrun(), *two[len(torchrun()) :], *resume, "killed"], tmp_path))
    ours, theirs = (
        load_weights(tmp_path / run / "last.safetensors") for run in ("killed", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    metrics = []
    for run in ("killed", "whole", "alone"):
        lines = (tmp_path / run / "metrics.jsonl").read_text().splitlines()
        metrics.append([{**json.loads(line), "seconds": 0} for line in lines])
    finished(alone)
    assert metrics[0] == metrics[1]
    summary = json.loads((tmp_path / "alone" / "run.json").read_text())
    assert (summary["processes"], summary["processes_resumed"]) == (2, 1)
    assert summary["status"] == "finished"

    other = start([sys.executable, *TRAIN, "--batch-size", "32", *resume, "killed"], tmp_path)
    _, err = other.communicate(timeout=100)
    assert (other.returncode, err.count("\n")) == (2, 1)
    assert "batch_size = 32 in each of 2 processes, 64 samples a step, not 32" in err
