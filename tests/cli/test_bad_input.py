"""Users' mistakes: exit code 2, one line, no traceback, and the disk as it was."""

from __future__ import annotations

import os
import pickle
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

TRAIN = "train --model linear --trainer standard --epochs 1 --out new "
VS = TRAIN + "--labels vs "
EVALUATE = "evaluate run --n 4 --attacks pgd "

# The command, and what its one line must say.
CASES = {
    # names
    "train --model linea --out new": "unknown model 'linea'; did you mean 'linear'",
    "train --labels vss --out new": "unknown label scheme 'vss'; did you mean 'vs'",
    "train --trainer trads --out new": "unknown trainer 'trads'; did you mean 'trades'",
    "train --attack pdg --out new": "unknown attack 'pdg'; did you mean 'pgd'",
    "train --dataset digit --out new": "unknown data set 'digit'; did you mean 'digits'",
    "train --attack torchattacks:PDG --out new": "'torchattacks:PDG'; did you mean",
    VS + "--set labels.inner=onehot": "unknown label scheme 'onehot'; did you mean 'one-hot'",
    "train --dataset npz: --out new": "data set 'npz:' lacks what comes after the colon",
    EVALUATE + "--attacks pgd,pdg": "unknown attack 'pdg'; did you mean 'pgd'",
    EVALUATE + "--weights bets": "weights must be one of best, last, average, not 'bets'",
    "list scheme": "cannot list 'scheme'; did you mean 'schemes'",
    "trian": "No such command 'trian'",
    "train --modle x": "--modle",
    "plugins --jsn": "--jsn",
    "reproduce adr-table": "unknown table 'adr-table'; did you mean 'adr-table-1'",
    "reproduce vs-table-6 --rows at,trads": "vs-table-6 has no row 'trads'; did you mean 'trades'",
    "reproduce vs-table-6 --rows ,": "rows must name at least one of at, at-vs, trades",
    "reproduce --measure": "which table? robustlabels reproduce alone lists them",
    "reproduce vs-table-6 --set epochs": "--set takes field=value",
    "reproduce vs-table-6 --set epochs=0": "epochs must be greater than or equal to 1, not 0",
    "reproduce vs-table-6 --n 0": "--n",
    # values
    TRAIN + "--epochs 0": "epochs must be greater than or equal to 1, not 0",
    TRAIN + "--epochs three": "--epochs",
    TRAIN + "--eps 8": "eps must be at most 1 for Linf (inputs are in [0, 1]), not '8'; in 8-bit",
    TRAIN + "--eps 8/0": "eps must be a number or a ratio like 8/255, not '8/0'",
    TRAIN + "--eps 1e400": "eps must be a number or a ratio like 8/255, not '1e400'",
    TRAIN + "--eps -1": "eps must be above 0, not '-1'",
    TRAIN + "--norm l2": "norm must be 'Linf' or 'L2', not 'l2'",
    TRAIN + "--seed -1": "seed must be",
    TRAIN + "--batch-size 1000000000000000000000": "batch_size must be less than",
    TRAIN + "--device cuda:99": "device 'cuda:99' is not available",
    TRAIN + "--device gpu": "device 'gpu' is not available",
    TRAIN + "--labels ls --set labels.alpha=1.5": "alpha must be a number in [0, 1], not 1.5",
    TRAIN + "--labels ls --set labels.alpha=high": "alpha must be a number in [0, 1], not 'high'",
    TRAIN + "--labels ls --set labels.alpah=1": "no parameter 'alpah'; did you mean 'alpha'",
    VS + "--set labels.virtual_classes=0": "virtual_classes must be an integer of at least 1",
    VS + "--set labels.inner=vs": "inner must have 10 classes",
    TRAIN + "--labels adr --set labels.temperature=[1,2,3]": "temperature must be",
    TRAIN + "--labels ltd": "needs a teacher",
    TRAIN + "--labels ltd --teacher nowhere": "no checkpoint at nowhere",
    TRAIN + "--labels ltd --teacher .": ". is not a run",
    TRAIN + "--trainer trades --set trainer.beta=-1": "beta must be a number of at least 0, not -1",
    TRAIN + "--set attack.steps=0": "steps must be an integer of at least 1, not 0",
    TRAIN + "--set attack.eps=1": "attack.eps can't be set",
    TRAIN + "--set model.num_classes=3": "model.num_classes can't be set",
    TRAIN + "--set data.root=x": "data.root can't be set",
    TRAIN + "--set validation=2000": "leaves 0 of 1437 samples to train on",
    TRAIN + "--set optimizer.lr=0": "optimizer.lr must be greater than 0, not 0",
    TRAIN + "--set optimizr.lr=1": "unknown field 'optimizr'; did you mean 'optimizer'",
    TRAIN + "--set nonsense": "--set takes field=value, e.g. labels.alpha=0.3, not 'nonsense'",
    TRAIN + "--set normalize=yess": "normalize must be a valid boolean",
    "train --attack torchattacks:DeepFool --labels adr --model linear --out new": "use pgd",
    "train --model vgg16 --out new": "at least 32x32 pixels, not 8x8",
    "train --model linear --attack torchattacks:PGD --set attack.steps=many --out new": "steps",
    EVALUATE + "--attacks torchattacks:TIFGSM": "torchattacks:TIFGSM",  # fails on one channel
    EVALUATE + "--n 0": "n must be at least 1, not 0",
    EVALUATE + "--n 361": "n must be an integer from 1 to 360",
    EVALUATE + "--n few": "--n",
    EVALUATE + "--eps 8": "eps must be at most 1 for Linf",
    EVALUATE + "--eps nan": "eps must be a number",
    EVALUATE + "--norm l2": "norm must be one of Linf, L2, L1, not 'l2'",
    EVALUATE + "--batch-size 0": "batch_size must be an integer of at least 1, not 0",
    EVALUATE + "--seed -1": "--seed",
    EVALUATE + "--seed 99999999999999999999": "--seed",
    EVALUATE + "--device gpu": "device 'gpu' is not available",
    EVALUATE + "--weights average": "run has no average weights",
    "demo --seed -1": "--seed",
    # files
    TRAIN + "--config nope.toml": "cannot read nope.toml: No such file",
    TRAIN + "--config run": "cannot read run: Is a directory",
    TRAIN + "--config run/weights.safetensors": "run/weights.safetensors is not TOML",
    TRAIN + "--dataset mnist": "--data-root",
    TRAIN + "--dataset mnist --data-root nowhere": "nowhere lacks MNIST/raw",
    TRAIN + "--dataset npz:nope.npz": "there is no file nope.npz",
    TRAIN + "--dataset npz:run/run.json": "run/run.json can't be read as .npz",
    TRAIN + "--dataset folder:run": "must hold train/CLASS",
    "train --resume": "--resume needs --out",
    "train --resume --out nope": "nope is not a run: it has no config.toml",
    "train --resume --out run --epochs 2": "was started with epochs = 1, not 2",
    "train --resume --out run --labels ls": "was started with labels =",
    "evaluate nope": "nope is not a run: it has no config.toml",
    "evaluate run/weights.safetensors": "is not a run",
    # output
    TRAIN + "--out run": "run already holds files; name another, or go on with this run by train",
    TRAIN + "--out other": "other already holds files; name another",
    TRAIN + "--out file": "file is a file; name another",
    TRAIN + "--out file/new": "cannot write to output folder file/new",
    "demo --out other": "other already holds files; name another",
    "demo --out file/new": "cannot write to output folder file/new",
    EVALUATE + "--out file": "file is there already; --out FILE writes another",
    EVALUATE + "--out other": "other is there already",
    EVALUATE + "--out nope/x.json": "there is no folder nope",
    EVALUATE + "--out file/x.json": "there is no folder file",
    EVALUATE + "--out " + "x" * 300: "File name too long",
}


@pytest.mark.parametrize("command", CASES)
def test_one_line(
    command: str, cli: Any, run: Path, disk: Callable[[], Any], tmp_path: Path
) -> None:
    """A mistake that shows a traceback, ends with 0 or 1, or leaves a half-made RUN folder."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("precious")
    before = disk()
    ran = cli(*shlex.split(command))
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert ran.err.startswith("robustlabels: ")
    assert CASES[command] in ran.err
    assert ran.out == ""
    assert disk() == before


def refused(cli: Any, disk: Callable[[], Any], command: str) -> str:
    before = disk()
    ran = cli(*shlex.split(command))
    assert ran.code == 2, ran
    assert len(ran.err.splitlines()) == 1, ran.err
    assert disk() == before
    return str(ran.err)


def test_evaluation_json_is_there(cli: Any, disk: Callable[[], Any], run: Path) -> None:
    """A second evaluation must not write over the first one's hours."""
    (run / "evaluation.json").write_text("{}")
    assert "--out FILE writes another" in refused(cli, disk, "evaluate run --n 4 --attacks pgd")


def test_a_misspelt_attack_is_refused_first(cli: Any, disk: Callable[[], Any], run: Path) -> None:
    """Loading a big model and its data only to find a typing error costs minutes: here they are
    broken, and the name is what is reported."""
    (run / "weights.safetensors").write_bytes(b"")
    (run / "run.json").write_text("")
    assert "unknown attack 'pdg'" in refused(cli, disk, "evaluate run --attacks pgd,pdg")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("weights.safetensors", b"", "weights.safetensors is not a readable checkpoint"),
        ("weights.safetensors", b"\x10" + b"\0" * 40, "is not a readable checkpoint"),
        ("config.toml", b"epochs = \n", "config.toml is not TOML"),
        ("config.toml", b"\xff\xfe", "config.toml is not TOML"),
        ("config.toml", b"epochs = 0\n", "epochs must be"),
        ("config.toml", b'epoks = 3\nmodel = "linear"\n', "unknown field 'epoks'"),
        ("config.toml", b'model = "linea"\n', "unknown model 'linea'"),
        ("run.json", b"", "run.json is not JSON"),
        ("run.json", b"[]", "run.json is not a run summary"),
        ("run.json", b'{"status": "running"}', "run.json lacks or spoils the field"),
        ("run.json", b'{"num_classes": "ten"}', "run.json lacks or spoils the field"),
        ("weights.safetensors", None, "run has no best weights; is its training finished?"),
        ("run.json", None, "cannot read run/run.json"),
        ("config.toml", None, "run is not a run: it has no config.toml"),
    ],
)
def test_a_broken_run(
    cli: Any, disk: Callable[[], Any], run: Path, file: str, content: bytes | None, message: str
) -> None:
    """A copy that broke off, or an edit by hand: the file at fault is named."""
    (run / file).unlink()
    if content is not None:
        (run / file).write_bytes(content)
    assert message in refused(cli, disk, "evaluate run --n 4 --attacks pgd --out new.json")


def test_weights_of_another_model(cli: Any, disk: Callable[[], Any], run: Path, train: Any) -> None:
    """Weights copied from another run: torch's report lists every key of both."""
    other = train("other", "--labels", "vs")
    (other / "weights.safetensors").replace(run / "weights.safetensors")
    message = refused(cli, disk, "evaluate run --n 4 --attacks pgd")
    assert "is not a checkpoint of this" in message
    assert "fc.weight is (20, 64), not (10, 64)" in message


@pytest.mark.parametrize("broken", [b"", b"PK\x03\x04junk", None])
def test_resuming_from_a_broken_state(
    cli: Any, disk: Callable[[], Any], run: Path, broken: bytes | None
) -> None:
    """It must neither crash nor silently train from the beginning."""
    state = run / "state" / "state.pt"
    if broken is None:
        torch.save({"version": 1}, state)
    else:
        state.write_bytes(broken)
    message = refused(cli, disk, "train --resume --out run")
    assert "state.pt is" in message
    assert "train afresh" in message


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_teacher_with_code_in_it(
    cli: Any, disk: Callable[[], Any], tmp_path: Path, suffix: str
) -> None:
    """A downloaded teacher that is a pickle must not run, and no advice to let it may be shown."""

    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "pwned"),)

    (tmp_path / f"t.{suffix}").write_bytes(pickle.dumps({"state_dict": Bomb()}))
    message = refused(cli, disk, TRAIN + f"--labels ltd --teacher t.{suffix}")
    assert "is not a readable checkpoint" in message
    assert "weights_only" not in message


def npz(path: Path, classes: int = 3, size: int = 8, **arrays: Any) -> None:
    rng = np.random.RandomState(0)
    whole = {
        "x_train": rng.randint(0, 256, (40, size, size), dtype=np.uint8),
        "y_train": np.arange(40) % classes,
        "x_test": rng.randint(0, 256, (12, size, size), dtype=np.uint8),
        "y_test": np.arange(12) % classes,
    }
    np.savez(path, **(whole | arrays))


@pytest.mark.parametrize(
    ("classes", "size", "message"),
    [
        (3, 8, "teacher run has 10 classes; the data has 3"),
        (10, 5, "the teacher does not take inputs of shape (1, 5, 5)"),
    ],
)
def test_a_teacher_that_does_not_fit(
    cli: Any,
    disk: Callable[[], Any],
    run: Path,
    tmp_path: Path,
    classes: int,
    size: int,
    message: str,
) -> None:
    """A teacher of other data: its outputs or its inputs don't fit, and both are said."""
    npz(tmp_path / "data.npz", classes, size)
    command = TRAIN + "--labels ltd --teacher run --dataset npz:data.npz"
    assert message in refused(cli, disk, command)


def test_a_checkpoint_of_another_architecture_as_teacher(
    cli: Any, disk: Callable[[], Any], run: Path
) -> None:
    """A file has the student's architecture; the first misfit is named."""
    command = "train --model mlp --labels ltd --teacher run/weights.safetensors --out new"
    assert "is not a checkpoint of this" in refused(cli, disk, command)


@pytest.mark.parametrize(
    ("arrays", "setting", "message"),
    [
        ({"y_train": np.arange(40) % 3 - 1}, "", "y_train"),
        ({"y_test": np.arange(12)}, "--set data.num_classes=3", "y_test"),
        ({"y_train": np.arange(40) * 0.5}, "", "y_train"),
        ({"y_train": np.arange(39) % 3}, "", "40 images"),
        ({"x_train": np.full((40, 8, 8), 7.0, dtype=np.float32)}, "", "x_train"),
        ({"x_train": np.full((40, 8, 8), np.nan, dtype=np.float32)}, "", "x_train"),
        ({"x_train": np.array([None] * 40, dtype=object)}, "", "data.npz"),
        ({"x_test": np.zeros((12, 7, 7), dtype=np.uint8)}, "", "different shapes"),
        ({"y_train": np.zeros(40, dtype=np.int64), "y_test": np.zeros(12, dtype=np.int64)}, "", ""),
    ],
)
def test_impossible_arrays(
    cli: Any,
    disk: Callable[[], Any],
    tmp_path: Path,
    arrays: dict[str, Any],
    setting: str,
    message: str,
) -> None:
    """Labels out of range index beyond the logits: on a GPU, that kills the process."""
    npz(tmp_path / "data.npz", **arrays)
    assert message in refused(cli, disk, TRAIN + f"--dataset npz:data.npz {setting}")


def test_other_data_under_the_same_name(
    cli: Any, disk: Callable[[], Any], tmp_path: Path, train: Any
) -> None:
    """A run that goes on with other data than it began with belongs to neither."""
    npz(tmp_path / "data.npz")
    train("run", "--dataset", "npz:data.npz", "--set", "validation=0")
    npz(tmp_path / "data.npz", y_train=(np.arange(40) + 1) % 3)
    assert "was trained on other data" in refused(cli, disk, "train --resume --out run")


def test_diverged_training(cli: Any, disk: Callable[[], Any]) -> None:
    """NaN is the settings' fault: one line with the remedy, and the folder's name is free again
    where nothing was good yet."""
    message = refused(cli, disk, TRAIN + "--set optimizer.lr=1e30")
    assert "became NaN or infinite" in message
    assert "lower optimizer.lr" in message


@pytest.mark.parametrize("place", ["first", "last"])
def test_debug_shows_the_traceback(cli: Any, tmp_path: Path, place: str) -> None:
    """Who reports a bug needs it; wherever --debug stands."""
    from robustlabels.cli import main
    from robustlabels.errors import BadValueError

    command = shlex.split(TRAIN + "--eps 8")
    command = ["--debug", *command] if place == "first" else [*command, "--debug"]
    with pytest.raises(BadValueError, match="at most 1 for Linf"):
        main(command)


@pytest.mark.parametrize(
    "command",
    [
        EVALUATE + "--device cuda:99",
    ],
)
def test_third_parties_tracebacks(
    cli: Any, disk: Callable[[], Any], run: Path, command: str
) -> None:
    """What torch or torchattacks says by a traceback from deep inside, we say in one line."""
    refused(cli, disk, command)
