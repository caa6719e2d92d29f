"""The RUN folder: files are whole or not there, and what is not a run is refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustlabels import runs
from robustlabels.config import Config, make_config
from robustlabels.errors import RunError
from robustlabels.runs import RunFolder, load_into, load_weights, save_weights


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def one_line(error: pytest.ExceptionInfo[RunError]) -> str:
    message = str(error.value)
    assert len(message.splitlines()) == 1, message
    return message


def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    """A crash while writing must not cost the checkpoint that was there."""
    path = tmp_path / "file"
    runs.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), runs.atomic_file(path) as file:
        file.write(b"half of the n")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]
    with pytest.raises(ZeroDivisionError), runs.atomic_file(tmp_path / "new") as file:
        raise ZeroDivisionError
    assert names(tmp_path) == ["file"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """Writing in place would show a half-written file to whoever looks during training."""
    path = tmp_path / "file"
    runs.write_text(path, "old")
    with runs.atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644  # mkstemp's 0600 would lock colleagues out


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    """No exception handler runs on SIGKILL."""
    path = tmp_path / "file"
    runs.write_text(path, "old")
    code = (
        "import os, signal, sys; from pathlib import Path; from robustlabels import runs\n"
        "with runs.atomic_file(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"


@pytest.mark.parametrize("parent", ["nowhere", "file"])
def test_where_nothing_can_be_written(tmp_path: Path, parent: str) -> None:
    """A missing folder, or a path through a file, is the user's to mend: no traceback."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"cannot write .*out.json: ") as info:
        runs.write_json(tmp_path / parent / "out.json", {})
    one_line(info)


def test_what_cannot_be_replaced(tmp_path: Path) -> None:
    """The last act of writing can fail too; its OSError was a traceback, as is a full disk's."""
    (tmp_path / "out" / "inside").mkdir(parents=True)
    with pytest.raises(RunError, match=r"cannot write .*out: Is a directory"):
        runs.write_json(tmp_path / "out", {})
    assert names(tmp_path) == ["out"]


def test_json(tmp_path: Path) -> None:
    """Round trip; NaN, which is no JSON, is refused before anything is written."""
    path = tmp_path / "file.json"
    value = {"a": [1, 2.5, None, "é"]}
    runs.write_json(path, value)
    assert runs.read_json(path) == json.loads(path.read_text(encoding="utf-8")) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        runs.write_json(path, {"a": float("nan")})
    assert runs.read_json(path) == value
    for content in (b"", b"{", b"\xff\xff"):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"file.json is not JSON") as info:
            runs.read_json(path)
        one_line(info)
    with pytest.raises(RunError, match=r"cannot read .*: No such file"):
        runs.read_json(tmp_path / "nope.json")


def test_a_new_folder(tmp_path: Path) -> None:
    """New, nested and empty ones are taken; and nothing is left behind by the trial write."""
    for path in (tmp_path / "a" / "b", tmp_path / "a" / "b"):
        assert runs.new_folder(path) == path
        assert list(path.iterdir()) == []


@pytest.mark.parametrize("content", ["notes.txt", ".hidden", "config.toml"])
def test_a_folder_that_holds_something(tmp_path: Path, content: str) -> None:
    """Results must never be written over; and who meant to resume is told how."""
    (tmp_path / content).write_text("precious")
    with pytest.raises(RunError, match="already holds files; name another") as info:
        runs.new_folder(tmp_path)
    assert ("--resume" in one_line(info)) == (content == "config.toml")
    assert (tmp_path / content).read_text() == "precious"


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    """A file, a path through a file and a name too long: each in one line."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"folder .*file is a file; name another"):
        runs.new_folder(tmp_path / "file")
    for bad in (tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(RunError, match="cannot write to output folder") as info:
            runs.new_folder(bad)
        one_line(info)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_round_trip(tmp_path: Path, suffix: str) -> None:
    """Every tensor comes back with its bits and its dtype, integer buffers included."""
    state = model().state_dict()
    state["half"] = torch.tensor([1.5, -0.0, float("inf")], dtype=torch.bfloat16)
    state["0.weight"] = state["0.weight"].T.contiguous().T  # not contiguous
    state["tied"] = state["2.weight"]  # safetensors refuses shared memory
    path = tmp_path / f"w.{suffix}"
    if suffix == "pt":
        torch.save(state, path)
    else:
        save_weights(path, state, {"note": "é"})
    back = load_weights(path)
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor), name
    assert names(tmp_path) == [path.name]


WRAPPERS = ["state_dict", "model_state_dict", "model", "net", "ema", "module", "state_dict_ema"]


@pytest.mark.parametrize("wrapper", [*WRAPPERS, None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_checkpoints_of_training_loops_load(
    tmp_path: Path, wrapper: str | None, prefix: str
) -> None:
    """Loops wrap the state dict in a table; DDP and torch.compile prefix its names."""
    state = {k: v + 1 for k, v in model().state_dict().items()}
    saved: Any = {prefix + k: v for k, v in state.items()}
    torch.save({wrapper: saved, "epoch": 3} if wrapper else saved, tmp_path / "w.pt")
    mine = model()
    load_into(mine, load_weights(tmp_path / "w.pt"), tmp_path / "w.pt")
    assert all(torch.equal(v, state[k]) for k, v in mine.state_dict().items())


def test_averaged_compiled_and_nested_models_load(tmp_path: Path) -> None:
    """The real wrappers of torch, on either side, and a state dict two tables deep."""
    source = model()
    wanted = {k: v.clone() for k, v in source.state_dict().items()}
    averaged = torch.optim.swa_utils.AveragedModel(source).state_dict()
    torch.save({"model": {"state_dict": averaged}}, tmp_path / "w.pt")
    mine = model()
    load_into(mine, load_weights(tmp_path / "w.pt"), tmp_path / "w.pt")
    assert all(torch.equal(v, wanted[k]) for k, v in mine.state_dict().items())

    part = model()
    part[0] = torch.compile(part[0])  # names such as 0._orig_mod.weight
    compiled = torch.compile(model())
    load_into(compiled, part.state_dict(), "w.pt")
    load_into(part, wanted, "w.pt")
    for target, same in ((compiled, model()), (part, source)):
        values = runs.matched(target.state_dict(), same.state_dict())
        assert len(values) == len(wanted)
    assert torch.equal(part[0].weight, source[0].weight)


def test_a_models_own_module_keeps_its_name(tmp_path: Path) -> None:
    """``module`` is also an attribute's name: its weights must not be taken for a wrapper's."""
    own = nn.Sequential()
    own.add_module("module", nn.Linear(2, 2))
    own.add_module("head", nn.Linear(2, 2))
    torch.save(own.state_dict(), tmp_path / "w.pt")
    load_into(own, load_weights(tmp_path / "w.pt"), tmp_path / "w.pt")
    wrapped = {f"module.{k}": v + 1 for k, v in own.state_dict().items()}
    before = own.module.weight.clone()
    load_into(own, wrapped, "w.pt")
    assert torch.equal(own.module.weight, before + 1)


def test_checkpoints_without_num_batches_tracked_load() -> None:
    """Checkpoints from before torch 0.4.1, and those of some other frameworks, lack it."""
    mine = model()
    mine[1].num_batches_tracked.fill_(7)
    state = {k: v + 1 for k, v in mine.state_dict().items() if "num_batches" not in k}
    load_into(mine, state, "w.pt")
    assert int(mine[1].num_batches_tracked) == 7
    assert torch.equal(mine[0].weight, state["0.weight"])


@pytest.mark.parametrize(
    ("prefixed", "message"),
    [
        (True, "its names begin with 'backbone.', the model's do not: remove it from the names"),
        (False, "the model's names begin with 'backbone.', its do not: put it before the names"),
    ],
)
def test_another_prefix_is_named_first(prefixed: bool, message: str) -> None:
    """Every name differs then; one missing name says nothing about why."""
    longer = nn.Sequential()
    longer.add_module("backbone", model())
    mine, other = (model(), longer) if prefixed else (longer, model())
    with pytest.raises(RunError) as info:
        load_into(mine, other.state_dict(), "w.pt")
    assert message in one_line(info)


def spoilt(path: Path) -> list[tuple[str, bytes]]:
    save_weights(path, model().state_dict(), {})
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    return [
        ("empty", b""),
        ("cut in the header", whole[: 8 + header // 2]),
        ("cut in the data", whole[:-3]),
        ("longer", whole + b"xx"),
        ("absurd header length", (2**60).to_bytes(8, "little") + whole[8:]),
        ("no JSON", whole[:8] + b"\xff" * header + whole[8 + header :]),
        ("text", b"not a checkpoint\n" * 9),
    ]


@pytest.mark.parametrize("case", range(7))
def test_corrupt_safetensors(tmp_path: Path, case: int) -> None:
    """A download that broke off must be one line, and never half a model."""
    path = tmp_path / "w.safetensors"
    name, content = spoilt(path)[case]
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"w.safetensors is not a readable checkpoint: ") as info:
        load_weights(path)
    one_line(info), name


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"PK\x03\x04" + b"x" * 50])
def test_corrupt_torch_files(tmp_path: Path, content: bytes) -> None:
    """torch's own report has a dozen lines and advises to load the file unsafely."""
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"w.pt is not a readable checkpoint: ") as info:
        load_weights(path)
    assert "weights_only" not in one_line(info)


class Bomb:
    """Pickled, it runs code when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("how", ["torch", "pickle", "named safetensors"])
def test_a_pickle_with_code(tmp_path: Path, how: str) -> None:
    """A checkpoint from the net must not run code on the user's machine."""
    target, path = tmp_path / "pwned", tmp_path / "w.pt"
    bomb = {"0.weight": torch.zeros(1), "x": Bomb(target)}
    if how == "torch":
        torch.save(bomb, path)
    else:
        path = tmp_path / "w.safetensors" if how == "named safetensors" else path
        path.write_bytes(pickle.dumps(bomb))
    with pytest.raises(RunError, match="is not a readable checkpoint: ") as info:
        load_weights(path)
    assert "weights_only" not in one_line(info)  # nor a hint how to run it all the same
    assert not target.exists()
    # The bomb is live: the test would see code run.
    if how == "torch":
        torch.load(path, weights_only=False)
        assert target.exists()


@pytest.mark.parametrize(
    "content",
    [{"epoch": 3}, [torch.zeros(1)], torch.zeros(2), {"state_dict": {"a": 1}}, {0: torch.zeros(1)}],
)
def test_torch_files_without_a_state_dict(tmp_path: Path, content: Any) -> None:
    """A list, a lone tensor or an optimizer's state is no model."""
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(RunError, match=r"w.pt holds no state dict of tensors"):
        load_weights(tmp_path / "w.pt")


def test_no_checkpoint(tmp_path: Path) -> None:
    """Nothing there, or a folder."""
    for path in (tmp_path / "nope.pt", tmp_path):
        with pytest.raises(RunError, match=f"no checkpoint at {re.escape(str(path))}"):
            load_weights(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"2.weight": torch.zeros(7, 3)}, r"2.weight is \(7, 3\), not \(2, 3\)"),
        (
            {"1.weight": torch.zeros(5), "0.weight": torch.zeros(5, 4)},
            r"0.weight is \(5, 4\), not \(3, 4\)",
        ),
        ({"2.bias": None}, r"it lacks 2.bias$"),
        ({"2.bias": None, "0.bias": None, "1.bias": None}, r"it lacks 0.bias and 2 more$"),
        ({"9.bias": torch.zeros(1)}, r"it has 9.bias, which the model has not$"),
    ],
)
def test_a_foreign_state_dict(change: dict[str, Any], message: str) -> None:
    """torch lists every key; the first misfit says whose it is. The model stays as it was."""
    mine = model()
    before = {k: v.clone() for k, v in mine.state_dict().items()}
    state = {k: v + 1 for k, v in before.items()} | change
    state = {k: v for k, v in state.items() if v is not None}
    with pytest.raises(RunError, match=r"w.pt is not a checkpoint of this Sequential: ") as info:
        load_into(mine, state, Path("w.pt"))
    assert re.search(message, one_line(info))
    assert all(torch.equal(v, before[k]) for k, v in mine.state_dict().items())


def test_weights_fit(tmp_path: Path) -> None:
    """The good case of the above: every value arrives."""
    mine = model()
    state = {k: v + 1 for k, v in mine.state_dict().items()}
    load_into(mine, state, Path("w.pt"))
    assert all(torch.equal(v, state[k]) for k, v in mine.state_dict().items())


def make_run(path: Path) -> RunFolder:
    config = make_config({"labels": {"name": "vs", "alpha": 0.3}, "eps": "4/255"})
    return RunFolder.create(path, config, {"status": "running"})


def test_a_run_comes_back(tmp_path: Path) -> None:
    """What is created can be opened, and is complete: another machine has other defaults."""
    run = make_run(tmp_path / "run")
    again = RunFolder.open(tmp_path / "run")
    assert again.config == run.config
    assert again.summary == {"status": "running"}
    again.update_summary(status="finished", more=[1])
    assert again.summary == {"status": "finished", "more": [1]}
    assert names(run.path) == ["config.toml", "run.json", "state"]
    unset = {k for k, v in Config().model_dump().items() if v is None}
    text = (run.path / "config.toml").read_text()
    for field in set(Config.model_fields) - unset:
        assert re.search(rf"^(\[?{field}\b)", text, re.MULTILINE), field


def test_create_refuses_a_run(tmp_path: Path) -> None:
    """Two runs in one folder would mix their files."""
    make_run(tmp_path)
    before = (tmp_path / "run.json").stat().st_mtime_ns
    with pytest.raises(RunError, match="--resume"):
        make_run(tmp_path)
    assert (tmp_path / "run.json").stat().st_mtime_ns == before


def test_what_is_no_run(tmp_path: Path) -> None:
    """Missing, empty, and a file: what was looked for is named."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "nope", tmp_path / "file"):
        with pytest.raises(RunError, match=r"is not a run: it has no config.toml"):
            RunFolder.open(path)


def test_broken_parts_of_a_run(tmp_path: Path) -> None:
    """Each broken file is named; none is a traceback."""
    run = make_run(tmp_path / "run")
    for content in ("", "[]", "3", '{"status": '):
        (run.path / "run.json").write_text(content)
        with pytest.raises(RunError, match=r"run.json is not ") as info:
            _ = run.summary
        one_line(info)
    (run.path / "run.json").unlink()
    with pytest.raises(RunError, match=r"cannot read .*run.json"):
        _ = run.summary
    for content in ("epochs = ", "epochs = 0", "epoks = 3"):
        (run.path / "config.toml").write_text(content)
        with pytest.raises(ValueError, match=r"not TOML|epochs must be|unknown field 'epoks'"):
            _ = run.config


def test_metrics(tmp_path: Path) -> None:
    """Written whole; and where a crash cut a line short, the epochs before it still count."""
    run = make_run(tmp_path / "run")
    assert run.metrics() == []
    lines: list[dict[str, Any]] = [{"epoch": 1, "train_loss": 2.5}, {"epoch": 2, "train_loss": 0.5}]
    run.write_metrics(lines)
    assert run.metrics() == lines
    path = run.path / "metrics.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert run.metrics() == lines[:1]
    path.write_bytes(whole + b'{"epoch": "\xff')
    assert run.metrics() == lines


def test_weights_of_a_run(tmp_path: Path) -> None:
    """A run that was stopped has none yet; a misspelt kind must not fall back to another."""
    run = make_run(tmp_path / "run")
    with pytest.raises(RunError, match="has no best weights; is its training finished"):
        run.weights()
    with pytest.raises(RunError, match="weights must be one of best, last, average, not 'bets'"):
        run.weights("bets")
    save_weights(run.path / "last.safetensors", model().state_dict(), {})
    assert run.weights("last") == run.path / "last.safetensors"


def test_sha256(tmp_path: Path) -> None:
    """The hash that a user can check with sha256sum."""
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 10**5)
    assert runs.sha256(path) == hashlib.sha256(b"abc" * 10**5).hexdigest()


def test_git_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provenance of the working folder: none outside a repository, marked where it is dirty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert runs.git_commit() is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert runs.git_commit() == head
    (tmp_path / "new").write_text("x")
    assert runs.git_commit() == f"{head}+changes"


def test_versions() -> None:
    """A figure without the versions behind it can't be checked."""
    found = runs.versions()
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "robustlabels" in found
