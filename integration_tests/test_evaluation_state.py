"""Hours of evaluation: killed, resumed, shared between processes, and the same verdicts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

BIN = Path(sys.executable).parent

ATTACKS = "pgd,autoattack"
EVALUATE = ["robustlabels", "evaluate", "--n", "9", "--batch-size", "3", "--device", "cpu"]
EVALUATE += ["--attacks", ATTACKS, "--eps", "0.15"]


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=pipe, stderr=pipe
    )


def run(command: list[str], folder: Path) -> tuple[int, str, str]:
    process = start(command, folder)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train = ["robustlabels", "train", "--model", "mlp", "--labels", "vs", "--epochs", "8"]
    train += [
        "--device",
        "cpu",
        "--set",
        "attack.steps=3",
        "--eps",
        "0.1",
        "--set",
        "labels.virtual_classes=3",
    ]
    code, _, err = run([*train, "--out", "run"], folder)
    assert code == 0, err
    return folder / "run"


@pytest.fixture(scope="module")
def whole(trained: Path) -> dict[str, object]:
    """An evaluation that nothing disturbed."""
    code, out, err = run([*EVALUATE, "run", "--out", "whole.json", "--json"], trained.parent)
    assert code == 0, err
    result: dict[str, object] = json.loads(out)
    return result


def same(result: dict[str, object], whole: dict[str, object]) -> None:
    assert result["verdicts"] == whole["verdicts"]
    for name in ATTACKS.split(","):
        for key in ("robust_accuracy", "per_attack", "figures", "flags"):
            found = [r["attacks"][name].get(key) for r in (result, whole)]  # type: ignore[index]
            assert found[0] == found[1], (name, key)


def test_four_figures_are_told(trained: Path, whole: dict[str, object]) -> None:
    """AutoAttack on K + V logits as it is overestimates; RobustBench would see the slice."""
    found = whole["attacks"]["autoattack"]  # type: ignore[index]
    figures = found["figures"]
    assert list(figures) == ["AA-9", "AA+", "slice", "minimum"]
    assert 0 < figures["minimum"] < whole["clean"]["top1"]  # type: ignore[index]
    assert found["robust_accuracy"] == figures["minimum"] <= figures["AA+"] <= figures["AA-9"]
    assert list(found["per_attack"]) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert found["per_attack"]["square"] == figures["slice"]
    inputs = torch.load(trained.parent / "whole-adversarial.pt", weights_only=True)
    assert inputs["autoattack"].shape == (9, 1, 8, 8)
    assert not (trained.parent / "whole-state").exists()


def test_killed_and_resumed(trained: Path, whole: dict[str, object]) -> None:
    """SIGKILL in the middle of AutoAttack: what was found stays, and the verdicts are the same."""
    folder = trained.parent
    command = [*EVALUATE, "run", "--out", "killed.json"]
    process = start(command, folder)
    state = folder / "killed-state" / "autoattack"
    until = time.monotonic() + 200
    while len(list(state.glob("apgd-t-*.pt"))) < 2 and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {p: p.stat().st_mtime_ns for p in (folder / "killed-state").rglob("*.pt")}
    assert len(kept) >= 2
    assert not (folder / "killed.json").exists()
    # Without --resume nothing is thrown away; with another eps nothing is mixed.
    code, _, err = run(command, folder)
    assert (code, err.count("\n")) == (2, 1)
    assert "was not finished: --resume goes on with it" in err
    code, _, err = run([*command, "--resume", "--eps", "0.1"], folder)
    assert (code, err.count("\n")) == (2, 1)
    assert "is the state of another evaluation" in err
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    code, out, err = run([*command, "--resume", "--json"], folder)
    assert code == 0, err
    same(json.loads(out), whole)
    assert not (folder / "killed-state").exists()
    code, again, _ = run([*command, "--resume", "--json"], folder)
    assert (code, again) == (0, out), "a finished evaluation is finished"
    for other, said in (("--eps=0.1", "eps is 0.15 there"), ("--seed=1", "seed is 0 there")):
        code, _, err = run([*command, "--resume", other], folder)
        assert (code, err.count("\n")) == (2, 1), "these figures are of another request"
        assert said in err


def test_two_processes_share_the_work(trained: Path, whole: dict[str, object]) -> None:
    """torchrun's processes find what one finds, and write it once."""
    folder = trained.parent
    shutil.copytree(trained, folder / "shared")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["torchrun", "--nproc-per-node", "2", "--master-port", str(port)]
    # "--", or torchrun takes our --n for a short form of its own --nnodes.
    command += ["--no-python", "--", *EVALUATE, "shared", "--json"]
    code, out, err = run(command, folder)
    assert code == 0, err
    same(json.loads(out), whole)
    written = json.loads((folder / "shared" / "evaluation.json").read_text())
    same(written, whole)
    assert not (folder / "shared" / "evaluation-state").exists()
