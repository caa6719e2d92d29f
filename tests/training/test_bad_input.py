"""A user's mistake: one line that says what to do, and nothing half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustlabels import runs
from robustlabels.errors import UserError
from robustlabels.training import Standard, fit

K = 3
MLP = {"name": "mlp", "hidden": [8]}


def net(outputs: int = K, inputs: int = 16) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))


class Pair(nn.Module):
    """A model that returns its features too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, K)

    def forward(self, x: Tensor) -> Any:
        return self.fc(x.flatten(1)), x


class NoMethods:
    pass


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown model": ({"model": "mpl"}, "mlp"),
    "unknown scheme": ({"scheme": "onehot"}, "one-hot"),
    "unknown trainer": ({"trainer": "pgd"}, "pgd-at"),
    "unknown attack": ({"attack": "pdg"}, "pgd"),
    "unknown data": ({"data": "digit"}, "digits"),
    "unknown option": ({"batchsize": 3}, "batch_size"),
    "unknown optimizer option": ({"optimizer": {"learning": 1}}, "optimizer"),
    "bad scheme parameter": ({"scheme": {"name": "ls", "alpha": 2}}, "alpha"),
    "unknown scheme parameter": ({"scheme": {"name": "ls", "alhpa": 0.2}}, "alhpa"),
    "bad trainer parameter": ({"trainer": {"name": "trades", "beta": -1}}, "beta"),
    "bad attack parameter": ({"attack": {"name": "pgd", "steps": 0}}, "steps"),
    "model of another type": ({"model": 3}, "model"),
    "trainer of another type": ({"trainer": NoMethods()}, "setup, inputs, loss"),
    "trainer class": ({"trainer": 3}, "setup, inputs, loss"),
    "attack of another type": ({"attack": 3}, "attack"),
    "eps above 1": ({"eps": 8}, "8/255"),
    "eps 8/0": ({"eps": "8/0"}, "eps"),
    "eps 0": ({"eps": 0}, "eps"),
    "eps text": ({"eps": "big"}, "eps"),
    "norm": ({"norm": "L7"}, "norm"),
    "no epochs": ({"epochs": 0}, "epochs"),
    "half an epoch": ({"epochs": 1.5}, "epochs"),
    "negative seed": ({"seed": -1}, "seed"),
    "learning rate": ({"optimizer": {"lr": -1}}, "lr"),
    "nan": ({"optimizer": {"lr": float("nan")}}, "lr"),
    "momentum": ({"optimizer": {"momentum": 1.0}}, "momentum"),
    "averaging": ({"weight_averaging": 1.0}, "weight_averaging"),
    "validation": ({"validation": 1.5}, "validation"),
    "everything held out": ({"validation": 48}, "validation"),
    "precision": ({"precision": "fp16"}, "precision"),
    "device": ({"device": "gpu"}, "device"),
    "no teacher": ({"scheme": "ltd"}, "needs a teacher"),
    "no teacher inside vs": ({"scheme": {"name": "vs", "inner": "ltd"}}, "needs a teacher"),
    "teacher of too few classes": ({"scheme": "ltd", "teacher": net(K - 1)}, "teacher"),
    "teacher of other images": ({"scheme": "ltd", "teacher": net(K, 9)}, "teacher"),
    "teacher of pairs": ({"scheme": "ltd", "teacher": Pair()}, "teacher"),
    "teacher that isn't there": ({"scheme": "ltd", "teacher": "/no/where"}, "/no/where"),
    "model of other classes": ({"model": net(K + 1)}, "outputs"),
    "model of other images": ({"model": net(K, 9)}, "inputs of shape"),
    "model of pairs": ({"model": Pair()}, "tensor"),
    "scheme of other classes": ({"scheme": {"name": "ls", "num_classes": 4}}, "num_classes"),
    "vs in vs": ({"scheme": {"name": "vs", "inner": "vs"}}, "inner"),
    "hard attack, adr": ({"scheme": "adr", "attack": {"name": "pgd", "loss": "margin"}}, "pgd"),
    "hard attack, mixup": ({"scheme": "mixup", "attack": "torchattacks:APGD"}, "soft labels"),
    "hard attack, vs with mixup": (
        {"scheme": {"name": "vs", "inner": "mixup"}, "attack": "torchattacks:CW"},
        "soft labels",
    ),
    "norm of the attack": ({"norm": "L2", "eps": 0.5, "attack": "torchattacks:PGD"}, "Linf"),
    "normalize": ({"normalize": True, "model": {"name": "mlp", "mean": 3}}, "mean"),
    "an object in a table": ({"scheme": {"name": "vs", "inner": object()}}, "inner|object"),
}


def refused(out: Path, **given: Any) -> str:
    with pytest.raises(UserError) as caught:
        fit(out=out, **given)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert isinstance(caught.value, ValueError | KeyError | RuntimeError)
    return message


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_no_folder(tiny: Any, tmp_path: Path, case: str) -> None:
    """A traceback, or an error after an hour of training; and an output folder that the corrected
    command then refuses because it already holds files."""
    given, expected = CASES[case]
    out = tmp_path / "run"
    options = {"model": MLP, "data": tiny, "epochs": 1, "batch_size": 16, **given}
    message = refused(out, **options)
    assert any(part in message for part in expected.split("|")), message
    assert not out.exists()


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 5])),
        (torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, -1])),
        (torch.rand(6, 1, 4, 4), torch.tensor([0.0, 1, 2, 0, 1, 1.5])),
        (torch.rand(6, 1, 4, 4) * 255, torch.tensor([0, 1, 2, 0, 1, 2])),
        (torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])),
        (torch.rand(6, 1, 4, 4) * float("nan"), torch.tensor([0, 1, 2, 0, 1, 2])),
        (torch.rand(1, 1, 4, 4), torch.tensor([0])),
        (np.zeros((0, 1, 4, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)),
    ],
)
def test_bad_data(tmp_path: Path, x: Any, y: Any) -> None:
    """Labels out of range crash a GPU with an assertion that names nothing."""
    refused(tmp_path / "run", model=MLP, data=(x, y), num_classes=K, epochs=1)
    assert not (tmp_path / "run").exists()


def test_labels_that_stream_in_are_checked_as_they_come(tmp_path: Path) -> None:
    """A data set that doesn't list its labels can't be checked at once; a wrong one must still be
    one line, and leave no folder in the way of the corrected command."""

    class Items(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 12

        def __getitem__(self, i: int) -> Any:
            return torch.rand(1, 4, 4), 7 if i == 5 else i % K

    out = tmp_path / "run"
    message = refused(out, model=MLP, data=Items(), num_classes=K, epochs=1, validation=0)
    assert "7" in message
    assert not out.exists()  # nothing was learnt, and the corrected command needs the place


@pytest.mark.parametrize("how", ["garbage", "foreign", "list", "folder", "other classes"])
def test_bad_teacher_files(tiny: Any, tmp_path: Path, how: str) -> None:
    """A checkpoint of another model loaded as far as it fits teaches noise."""
    path = tmp_path / "teacher.pt"
    if how == "garbage":
        path.write_bytes(b"garbage" * 99)
    elif how == "foreign":
        torch.save(net(7).state_dict(), path)
    elif how == "list":
        torch.save([1, 2], path)
    elif how == "folder":
        path.mkdir()
    else:
        x, y = tiny
        fit(MLP, (x, y % 2), "ls", "standard", epochs=1, batch_size=16, out=path)
    out = tmp_path / "run"
    message = refused(out, model=MLP, data=tiny, scheme="ltd", teacher=path, epochs=1)
    assert str(path) in message
    assert not out.exists()


def test_a_checkpoint_needs_a_named_student(tiny: Any, tmp_path: Path) -> None:
    """Nothing says what architecture the file is of."""
    torch.save(net().state_dict(), tmp_path / "t.pt")
    out = tmp_path / "run"
    message = refused(out, model=net(), data=tiny, scheme="ltd", teacher=tmp_path / "t.pt")
    assert "module" in message


# The output folder.


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_out_holds_files(tiny: Any, tmp_path: Path) -> None:
    """Somebody's work would be overwritten or mixed up with ours."""
    (tmp_path / "thesis.txt").write_text("years of work")
    message = refused(tmp_path, model=MLP, data=tiny, epochs=1)
    assert "already holds files" in message
    assert contents(tmp_path) == {str(tmp_path / "thesis.txt"): b"years of work"}


def test_out_holds_another_run(tiny: Any, tmp_path: Path) -> None:
    """A published run must not be lost to a repeated command; the message names the way on."""
    fit(MLP, tiny, epochs=1, out=tmp_path / "run")
    before = contents(tmp_path)
    message = refused(tmp_path / "run", model=MLP, data=tiny, epochs=1)
    assert "resume" in message
    assert contents(tmp_path) == before


def test_out_can_not_be_made(tiny: Any, tmp_path: Path) -> None:
    """A path below a file, and a file itself."""
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "run", tmp_path / "file"):
        assert "file" in refused(out, model=MLP, data=tiny, epochs=1)
    assert (tmp_path / "file").read_text() == "x"


def test_an_empty_folder_will_do(tiny: Any, tmp_path: Path) -> None:
    """mkdir first is everybody's habit."""
    assert fit(MLP, tiny, epochs=1, out=tmp_path).out == tmp_path


def test_a_scheme_object_inside_a_table_trains_without_a_folder(tiny: Any) -> None:
    """TOML can't hold it, but nothing is to be written."""
    from robustlabels.labels import LabelSmoothing

    scheme = {"name": "vs", "inner": LabelSmoothing(K)}
    assert fit(MLP, tiny, scheme, epochs=1).model is not None


def test_a_failing_trainer_marks_the_run(tiny: Any, tmp_path: Path) -> None:
    """Its own exception comes through, and run.json doesn't say "running" for ever: failed once
    there is something to keep, and no folder at all before."""

    class Fails(Standard):
        def __init__(self, at: float) -> None:
            self.at = at

        def loss(self, step: Any) -> Tensor:
            if step.progress >= self.at:
                raise OSError("mine")
            return super().loss(step)

    with pytest.raises(OSError, match="mine"):
        fit(MLP, tiny, "ls", Fails(0.0), epochs=2, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(OSError, match="mine"):
        fit(MLP, tiny, "ls", Fails(0.5), epochs=2, out=tmp_path / "run")
    summary = runs.RunFolder.open(tmp_path / "run").summary
    assert (summary["status"], summary["stopped"]) == ("failed", "mine")
