"""A run that was killed and resumed ends with the bits of one that never stopped.

The runs are processes of their own, and really killed by SIGKILL.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustlabels import runs
from robustlabels.errors import RunError
from robustlabels.training import PGDTraining, Standard, fit

K = 3
# "adr" keeps two averages, on purpose
pytestmark = pytest.mark.filterwarnings("ignore:weight_averaging is")

CHILD = """
import os, pathlib, signal
import torch
from robustlabels.training import fit

kind, _, count = death.partition(":")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def progress(done, total, record):
    if kind == "step" and record is None and done == int(count):
        die()

seen = 0
genuine = {"step": None, "write": os.fsync, "replace": pathlib.Path.replace}[kind]

def dying(*args):
    global seen
    name = os.readlink(f"/proc/self/fd/{args[0]}") if kind == "write" else str(args[0])
    if "/state/" in name:
        seen += 1
        if seen == int(count):
            if kind == "write":  # half of the file is on the disk
                os.truncate(args[0], os.fstat(args[0]).st_size // 2)
            die()
    return genuine(*args)

if kind == "write":
    os.fsync = dying
elif kind == "replace":
    pathlib.Path.replace = dying

x, y = torch.load(data)
fit(data=((x, y), (x[:9], y[:9])), out=out, resume=resume, progress=progress, **options)
"""

MODEL = {"name": "mlp", "hidden": [8], "dropout": 0.3}
SMALL = {
    "epochs": 3,
    "batch_size": 10,
    "validation": 8,
    "save_every": 2,
    "device": "cpu",
    "seed": 7,
}
CASES: dict[str, dict[str, Any]] = {
    # 40 samples: 4 steps an epoch, states after steps 2, 4, 6, 8, 10, 12
    "adr": {
        "model": MODEL,
        "scheme": "adr",
        "trainer": "pgd-at",
        "weight_averaging": 0.9,
        "schedule": {"name": "cyclic"},
        "augment": {"crop_padding": 1, "flip": True},
        "attack": {"name": "pgd", "steps": 2},
    },
    "batch norm": {
        "model": {"name": "small-cnn", "width": 2, "dropout": 0.2},
        "scheme": {"name": "vs", "inner": "als", "virtual_mass": "random"},
        "trainer": "trades",
        "weight_averaging": 0.7,
        "schedule": {"name": "cosine", "warmup_epochs": 1.0},
        "attack": {"name": "pgd", "steps": 2},
        "accumulate": 2,
    },
    "awp": {
        "model": {"name": "small-cnn", "width": 2, "dropout": 0.2},
        "scheme": "adr",
        "trainer": "pgd-at",
        "weight_averaging": 0.995,
        "awp": {"variant": "wu", "gamma": 0.1, "warmup_epochs": 1.0},
        "attack": {"name": "pgd", "steps": 2},
    },
    "mean teacher": {
        "model": {"name": "small-cnn", "width": 2, "dropout": 0.2},
        "scheme": {"name": "adr", "ema_decay": 0.8},
        "trainer": {"name": "mean-teacher", "ema_decay": 0.7},
        "awp": {"gamma": 0.1},
        "attack": {"name": "pgd", "steps": 2},
        "accumulate": 2,
    },
    "extra": {
        "model": MODEL,
        "scheme": "alps",
        "trainer": "pgd-at",
        "extra": torch.linspace(0, 1, 13 * 16).reshape(13, 1, 4, 4),
        "extra_labels": "pseudo",
        "extra_teacher": nn.Sequential(nn.Flatten(), nn.Linear(16, K)),
        "extra_fraction": 0.5,  # 8 steps an epoch, so it goes on within one
        "augment": {"flip": True},
        "attack": {"name": "pgd", "steps": 2},
    },
    "vit": {  # VS with MixUp and RandAugment, and dropout of the run beside the model's
        "model": MODEL,
        "scheme": {"name": "vs", "inner": {"name": "mixup", "alpha": 0.8}},
        "trainer": "standard",
        "dropout": 0.5,
        "optimizer": {"name": "adamw"},
        "schedule": {"name": "cosine"},
        "augment": {"crop_padding": 1, "flip": True, "randaugment": (2, 9)},
        "accumulate": 2,
    },
    "torchattacks": {
        "model": MODEL,
        "scheme": "mixup",
        "trainer": "fast-at",
        "attack": {"name": "torchattacks:FFGSM"},
        "optimizer": {"name": "adamw", "clip_grad_norm": 1.0},
        "augment": {"flip": True},
    },
}
# Where it dies, and whether a state was saved by then.
DEATHS = ["step:1", "step:7", "write:4", "replace:3"]


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes forked from one that has imported torch and nothing else has happened to."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["robustlabels.training", "torchattacks", "torch._dynamo"])
    return context


def run_child(
    processes: Any, tiny: Any, out: Path, case: str, death: str, resume: bool = False
) -> int:
    data = out.parent / "data.pt"
    if not data.exists():
        torch.save(tiny, data)
    given = {
        "data": str(data),
        "out": str(out),
        "options": CASES[case] | SMALL,
        "death": death,
        "resume": resume,
    }
    child = processes.Process(target=exec, args=(CHILD, given))
    child.start()
    child.join()
    return int(child.exitcode)


def fit_case(tiny: Any, out: Path, case: str, **more: Any) -> Any:
    x, y = tiny
    return fit(data=((x, y), (x[:9], y[:9])), out=out, **{**CASES[case], **SMALL, **more})


def assert_same(one: Path, other: Path) -> None:
    names = [runs.BEST, runs.LAST]
    assert (one / runs.AVERAGE).exists() == (other / runs.AVERAGE).exists()
    if (one / runs.AVERAGE).exists():
        names.append(runs.AVERAGE)
    for name in names:
        a, b = runs.load_weights(one / name), runs.load_weights(other / name)
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]), (name, key)
        assert (one / name).read_bytes() == (other / name).read_bytes()
    lines = []
    for folder in (one, other):
        found = [json.loads(s) for s in (folder / runs.METRICS).read_text().splitlines()]
        lines.append([{k: v for k, v in line.items() if k != "seconds"} for line in found])
    assert lines[0] == lines[1]
    summaries = [runs.RunFolder.open(f).summary for f in (one, other)]
    for field in ("test_accuracy", "status", "weights_sha256", "data_sha256"):
        assert summaries[0][field] == summaries[1][field]
    # no half-written files are left to fill the disk
    assert sorted(p.name for p in other.rglob("*")) == sorted(p.name for p in one.rglob("*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> dict[str, Path]:
    """The runs that never stopped, made when first asked for."""
    return {"": tmp_path_factory.mktemp("whole")}


def never_stopped(whole: dict[str, Path], tiny: Any, case: str) -> Path:
    if case not in whole:
        whole[case] = whole[""] / case.replace(" ", "-")
        fit_case(tiny, whole[case], case)
    return whole[case]


@pytest.mark.parametrize(
    ("case", "death"),
    [("adr", d) for d in DEATHS] + [(case, "step:7") for case in CASES if case != "adr"],
)
def test_killed_and_resumed(
    processes: Any, whole: Any, tiny: Any, tmp_path: Path, case: str, death: str
) -> None:
    """Every published resume that we know is broken: the EMA teacher restarts, the schedule
    restarts, the epoch's samples are drawn again, or the crash left half a file."""
    out = tmp_path / "run"
    assert run_child(processes, tiny, out, case, death) == -signal.SIGKILL
    state = out / runs.STATE / "state.pt"
    if death == "step:1":
        assert not state.exists()
    else:
        done = {"step:7": 6, "write:4": 6, "replace:3": 4}[death]
        assert torch.load(state, weights_only=True)["done"] == done
    assert not (out / runs.LAST).exists()
    fit_case(tiny, out, case, resume=True)
    assert_same(never_stopped(whole, tiny, case), out)


def test_killed_twice(processes: Any, whole: Any, tiny: Any, tmp_path: Path) -> None:
    """The second resume starts from a state that a resumed run wrote."""
    out = tmp_path / "run"
    assert run_child(processes, tiny, out, "adr", "step:3") == -signal.SIGKILL
    assert run_child(processes, tiny, out, "adr", "step:9", resume=True) == -signal.SIGKILL
    fit_case(tiny, out, "adr", resume=True)
    assert_same(never_stopped(whole, tiny, "adr"), out)


def test_saving_changes_nothing(whole: Any, tiny: Any, tmp_path: Path) -> None:
    """How often a state is written must not show in the weights."""
    fit_case(tiny, tmp_path / "run", "adr", save_every=None)
    assert_same(never_stopped(whole, tiny, "adr"), tmp_path / "run")


def test_a_finished_run_resumes_to_the_same_result(whole: Any, tiny: Any, tmp_path: Path) -> None:
    """A job queue restarts jobs: training on would change what was published."""
    done = never_stopped(whole, tiny, "adr")
    copy = tmp_path / "run"
    shutil.copytree(done, copy)
    steps = []
    result = fit_case(tiny, copy, "adr", resume=True, progress=lambda *a: steps.append(a))
    assert steps == []
    assert_same(done, copy)
    assert len(result.history) == 3
    best = runs.load_weights(done / runs.BEST)
    assert all(torch.equal(v, best[k]) for k, v in result.model.state_dict().items())
    assert result.average is not None


def test_an_interrupt_can_be_resumed(whole: Any, tiny: Any, tmp_path: Path) -> None:
    """Ctrl-C is the commonest end of a run."""

    def interrupt(done: int, total: int, record: Any) -> None:
        if done == 5:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit_case(tiny, out, "adr", progress=interrupt)
    fit_case(tiny, out, "adr", resume=True)
    assert_same(never_stopped(whole, tiny, "adr"), out)


def test_tuples_and_numpy_numbers_resume(tiny: Any, tmp_path: Path) -> None:
    """TOML has neither: the run would be refused as another one's."""
    import numpy as np

    scheme = {"name": "adr", "temperature": (2.0, np.float64(1.5)), "ema_decay": np.float32(0.5)}
    options: dict[str, Any] = {
        "model": {"name": "mlp", "hidden": (np.int64(4),), "dropout": 0},
        "scheme": scheme,
        "optimizer": {"lr": np.float64(0.05)},
        "epochs": np.int64(1),
        "eps": np.float64(0.1),
        "out": tmp_path / "run",
    }
    first = fit(data=tiny, **options)
    again = fit(data=tiny, resume=True, **options)
    assert first.config.labels.params == again.config.labels.params
    assert all(torch.equal(first.last[k], again.last[k]) for k in first.last)


def test_none_as_a_parameter_resumes(tiny: Any, tmp_path: Path) -> None:
    """TOML has no null: it means the default."""
    options: dict[str, Any] = {
        "model": {"name": "mlp", "hidden": [4]},
        "scheme": {"name": "vs", "virtual_classes": None},
        "epochs": 1,
        "out": tmp_path / "run",
    }
    fit(data=tiny, **options)
    fit(data=tiny, resume=True, **options)


class Stateful(Standard):
    """A plugin's trainer whose loss depends on what it has counted."""

    def __init__(self) -> None:
        self.count = 0

    def loss(self, step: Any) -> torch.Tensor:
        self.count += 1
        return super().loss(step) * (1 + self.count % 3)

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def test_a_trainers_own_state_is_kept(tiny: Any, tmp_path: Path) -> None:
    """A plugin that counts would start anew; so would objects given from Python, which must only
    be given again."""

    def net() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, K))

    def stop(done: int, total: int, record: Any) -> None:
        if done == 7:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"epochs": 3, "batch_size": 10, "save_every": 2, "validation": 8}
    whole = fit(net(), tiny, "ls", Stateful(), **options)
    with pytest.raises(KeyboardInterrupt):
        fit(net(), tiny, "ls", Stateful(), out=tmp_path / "r", progress=stop, **options)
    again = fit(net(), tiny, "ls", Stateful(), out=tmp_path / "r", resume=True, **options)
    assert all(torch.equal(whole.last[k], again.last[k]) for k in whole.last)


# Refusals.


@pytest.fixture
def half(tiny: Any, tmp_path: Path) -> Path:
    """A run that was interrupted after step 5 of 12."""

    def interrupt(done: int, total: int, record: Any) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_case(tiny, tmp_path / "half", "adr", progress=interrupt)
    return tmp_path / "half"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(tiny: Any, out: Path, **more: Any) -> str:
    before = contents(out)
    with pytest.raises(RunError) as caught:
        fit_case(tiny, out, "adr", resume=True, **more)
    assert contents(out) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 8),
        ("epochs", 4),
        ("eps", 0.2),
        ("weight_averaging", 0.8),
        ("optimizer", {"lr": 0.2}),
        ("schedule", {"name": "cosine"}),
        ("model", {**MODEL, "hidden": [9]}),
        ("attack", {"name": "pgd", "steps": 3}),
        ("save_every", 3),
    ],
)
def test_other_settings(half: Path, tiny: Any, field: str, value: Any) -> None:
    """A run half with one setting and half with another has the name of neither."""
    message = refused(tiny, half, **{field: value})
    assert f"with {field} =" in message
    assert "same settings" in message


def test_another_scheme(half: Path, tiny: Any) -> None:
    """The field's name in the config is labels."""
    message = refused(tiny, half, scheme={"name": "adr", "ema_decay": 0.9})
    assert "labels" in message


def test_other_data(half: Path, tiny: Any) -> None:
    """Even one changed pixel or label."""
    x, y = tiny
    other = x.clone()
    other[3, 0, 0, 0] = 0.123
    assert "other data" in refused((other, y), half)
    turned = y.clone()
    turned[0] = 1
    assert "other data" in refused((x, turned), half)


@pytest.mark.parametrize("name", ["missing", "empty", "foreign"])
def test_not_a_run(tiny: Any, tmp_path: Path, name: str) -> None:
    """Nothing may be written into somebody else's folder."""
    out = tmp_path / name
    if name != "missing":
        out.mkdir()
    if name == "foreign":
        (out / "thesis.txt").write_text("years of work")
    assert "not a run" in refused(tiny, out)
    assert out.exists() == (name != "missing")


@pytest.mark.parametrize("how", ["cut", "garbage", "pickle", "other", "keys", "list"])
def test_corrupt_state(half: Path, tiny: Any, how: str) -> None:
    """A traceback from inside torch, or worse, a run that starts anew in silence."""
    path = half / runs.STATE / "state.pt"
    state = torch.load(path, weights_only=True)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif how == "garbage":
        path.write_bytes(b"garbage" * 100)
    elif how == "pickle":
        torch.save({"state": PGDTraining()}, path)
    elif how == "other":  # of another model
        state["model"] = nn.Linear(2, 2).state_dict()
        torch.save(state, path)
    elif how == "keys":
        del state["averages"]
        torch.save(state, path)
    else:
        torch.save([1, 2], path)
    message = refused(tiny, half)
    assert "state.pt" in message
    assert "train afresh" in message


def test_corrupt_config_and_summary(half: Path, tiny: Any) -> None:
    """One line, not a parser's traceback."""
    summary = (half / runs.SUMMARY).read_bytes()
    (half / runs.SUMMARY).write_text("{")
    assert runs.SUMMARY in refused(tiny, half)
    (half / runs.SUMMARY).write_bytes(summary)
    (half / runs.CONFIG).write_text("epochs = ")
    with pytest.raises(ValueError, match=r"config\.toml") as caught:
        fit_case(tiny, half, "adr", resume=True)
    assert "\n" not in str(caught.value)


def test_resume_needs_a_folder(tiny: Any) -> None:
    """It would start anew in silence."""
    with pytest.raises(ValueError, match="resume needs out"):
        fit(data=tiny, resume=True)


def test_another_device_may_resume(half: Path, tiny: Any, whole: Any) -> None:
    """device is where, not what."""
    fit_case(tiny, half, "adr", resume=True, device="auto")
    if not torch.cuda.is_available():
        assert_same(never_stopped(whole, tiny, "adr"), half)
