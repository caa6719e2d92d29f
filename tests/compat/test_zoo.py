"""Without these, a model of the zoo could come with other weights than its file's, run the code of
a hostile checkpoint, or be taken for one of another data set."""

from __future__ import annotations

import copy
import pickle
import threading
from argparse import Namespace
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustlabels as rl
from robustlabels._compat import robustbench_zoo
from robustlabels._compat.robustbench_zoo import ZooModel
from robustlabels.errors import BadValueError, RunError, UnknownNameError
from robustlabels.evaluation.robustbench import load_model
from robustlabels.training import load_run
from robustlabels.training.teachers import load_teacher

SMALL = "cifar10/L2/Rice2020Overfitting"
NAME = f"robustbench:{SMALL}"
XCIT = "cifar10/Linf/Debenedetti2022Light_XCiT-S12"
Staged = tuple[nn.Module, Path]


@pytest.fixture
def x() -> Tensor:
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    return model.eval()(x)


def load() -> nn.Module:
    return load_model("Rice2020Overfitting", threat_model="L2")


def test_the_weights_are_the_files(staged: Staged, x: Tensor) -> None:
    """The wrappers of authors are taken off; the model is ready to be judged."""
    model, path = staged
    loaded = load()
    assert not loaded.training
    assert torch.equal(logits(loaded, x), logits(model, x))
    assert {p.name for p in path.parent.iterdir()} == {path.name, f"{path.name}.sha256"}


def test_by_name_with_as_many_outputs_as_are_asked_for(staged: Staged, x: Tensor) -> None:
    """Virtual classes come after the zoo's, whose rows stay."""
    model, _ = staged
    made = rl.make_model(NAME, 10, (3, 32, 32))
    assert torch.equal(logits(made, x), logits(model, x))
    wide = logits(rl.make_model(NAME, 25, (3, 32, 32)), x)
    assert wide.shape == (6, 25)
    assert torch.allclose(wide[:, :10], logits(model, x), atol=1e-6)
    assert "robustbench:" in rl.list_models()


def test_an_architecture_without_its_weights(staged: Staged, x: Tensor) -> None:
    """For a run that has weights of its own, nothing must be fetched."""
    model, path = staged
    path.unlink()
    torch.manual_seed(0)
    made = rl.make_model(NAME, 10, (3, 32, 32), pretrained=False)
    assert torch.equal(logits(made, x), logits(model, x))  # the same seed as the fixture's
    assert not list(path.parent.iterdir())
    with pytest.raises(BadValueError, match="only to be had with torchvision's weights"):
        rl.make_model("robustbench:imagenet/Linf/Standard_R50", 1000, (3, 9, 9), pretrained=False)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("cifar10", BadValueError, "is robustbench:DATASET/THREAT/NAME, e.g."),
        ("cifar11/L2/Standard", UnknownNameError, "no data set 'cifar11'; did you mean 'cifar10'"),
        ("cifar100/L2/Standard", UnknownNameError, "threat model of cifar100 'L2'; known: Linf"),
        ("cifar10/Linf/Chen2021LTD", UnknownNameError, "did you mean 'Chen2021LTD_WRN34_20' or"),
    ],
)
def test_names_that_are_none(
    zoo_package: Any, name: str, error: type[Exception], said: str
) -> None:
    """A typo must not cost more than a second look; the zoo has 206 models."""
    with pytest.raises(error) as caught:
        rl.make_model(f"robustbench:{name}", 10, (3, 32, 32))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_refused(staged: Staged) -> None:
    """Fewer outputs than K would cut classes off; one channel would fail deep inside."""
    with pytest.raises(BadValueError, match="has 10 classes; it can't give 9"):
        rl.make_model(NAME, 9, (3, 32, 32))
    with pytest.raises(BadValueError, match="takes images of 3 channels, not 1"):
        rl.make_model(NAME, 10, (1, 28, 28))


def test_another_models_checkpoint_is_refused(staged: Staged) -> None:
    """torch's own message has hundreds of lines."""
    _, path = staged
    torch.save({"linear.weight": torch.zeros(10, 7)}, path)
    with pytest.raises(RunError, match="Rice2020Overfitting can't be loaded from") as caught:
        load()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_exchanged_checkpoint_is_noticed(staged: Staged) -> None:
    """A figure of today must be of the model of yesterday."""
    model, path = staged
    load()
    state = {k: v * 1.0001 for k, v in model.state_dict().items() if k not in ("mu", "sigma")}
    torch.save(state, path)
    with pytest.raises(RunError, match=r"is not the file that Rice2020Overfitting\.pt\.sha256"):
        load()


class Evil:
    """What a pickle can do: it makes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("forced", [False, True])
def test_a_checkpoint_that_would_run_code_is_refused(
    staged: Staged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool, forced: bool
) -> None:
    """Before torch 2.6, and with torch's variable after it, RobustBench would run it."""
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    model, path = staged
    mark = tmp_path / "mark"
    torch.save(
        {"state_dict": model.state_dict(), "hook": Evil(mark)},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    for _ in range(2):  # no record makes it good the second time
        with pytest.raises(RunError, match=r"Rice2020Overfitting\.pt holds [\w.]+, so reading"):
            load()
    monkeypatch.setattr(robustbench_zoo, "check_readable", lambda _: None)  # were it to slip by
    with pytest.raises(pickle.UnpicklingError):
        load()
    assert not mark.exists()
    if forced:  # the user's setting is as it was
        torch.load(path, weights_only=None)
        assert mark.exists()


def test_harmless_objects_are_refused_with_the_way_out(staged: Staged) -> None:
    """Authors save their command line's arguments with the weights."""
    model, path = staged
    torch.save({"state_dict": model.state_dict(), "args": Namespace(lr=0.1)}, path)
    with pytest.raises(RunError) as caught:
        load()
    message = str(caught.value)
    assert "holds argparse.Namespace, so reading it could run code" in message
    assert "save its state_dict alone in its place" in message
    assert "\n" not in message
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # so that it can be done


@pytest.mark.parametrize("content", [b"<html>", b"PK\x03\x04abc", b"\x80\x02}q\x00."])
def test_a_corrupt_file_is_refused(staged: Staged, content: bytes) -> None:
    """Such files lie where RobustBench itself has downloaded."""
    _, path = staged
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"is not a readable checkpoint|can't be loaded from"):
        load()


def test_a_custom_checkpoint(
    zoo_package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, x: Tensor
) -> None:
    """RobustBench ignores it for most models, and has timm read it without weights_only. timm's own
    files lie in torch's cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    entry = ZooModel.by_name(XCIT)
    model = entry.architecture()
    (file,) = entry.files(tmp_path)
    assert file.path.parent == tmp_path / "hub" / "checkpoints"
    file.path.parent.mkdir(parents=True)
    torch.save(model.model.state_dict(), file.path)  # type: ignore[union-attr]
    assert torch.equal(logits(load_model(entry.name, tmp_path), x), logits(model, x))
    mark, custom = tmp_path / "mark", tmp_path / "custom.pt"
    custom.write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(RunError, match=r"custom\.pt"):
        load_model(entry.name, tmp_path, custom_checkpoint=custom)
    monkeypatch.setattr(robustbench_zoo, "check_readable", lambda _: None)  # were it to slip by
    with pytest.raises((RunError, pickle.UnpicklingError)):
        load_model(entry.name, tmp_path, custom_checkpoint=custom)
    assert not mark.exists()
    with pytest.raises(
        BadValueError, match=r"would ignore it for Standard; put it at .*Standard\.pt"
    ):
        load_model("Standard", tmp_path, custom_checkpoint=custom)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA there is nothing to mend")
def test_a_part_that_calls_cuda_is_built_on_the_cpu(zoo_package: Any, x: Tensor) -> None:
    """The net that the Bai2023 models mix; outside, ``.cuda()`` must go on to fail."""
    from robustbench.model_zoo.architectures.bit_rn import KNOWN_MODELS

    with robustbench_zoo._building():
        net = KNOWN_MODELS["BiT-M-R50x1"](head_size=10, zero_head=False)
    assert logits(net, x[:1])[0].shape[0] == 1
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(1).cuda()


class Drive(BaseHTTPRequestHandler):
    """Google Drive, as the zoo meets it."""

    content = b""

    def do_GET(self) -> None:
        page = self.content.startswith(b"<")
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if page else "application/octet-stream")
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Drive]]:
    handler = type("Handler", (Drive,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{{}}"
        monkeypatch.setattr(robustbench_zoo, "DRIVE", url)
        yield handler
        server.shutdown()


def test_a_missing_checkpoint_is_fetched(staged: Staged, drive: type[Drive], x: Tensor) -> None:
    """A page in its place leaves nothing; the file itself is there for the next time."""
    model, path = staged
    whole = path.read_bytes()
    path.unlink()
    drive.content = b"<html><title>Google Drive - Virus scan warning</title></html>"
    with pytest.raises(RunError, match=r"a web page \(Google Drive - Virus scan warning\)"):
        load()
    assert not list(path.parent.iterdir())
    drive.content = whole
    assert torch.equal(logits(load(), x), logits(model, x))
    assert path.read_bytes() == whole
    drive.content = b""
    assert torch.equal(logits(load(), x), logits(model, x))


def test_an_ensemble_has_a_file_for_each_member(zoo_package: Any, tmp_path: Path) -> None:
    """One that is looked for under another name would be fetched each time anew."""
    entry = ZooModel.by_name("cifar10/Linf/Chen2020Adversarial")
    files = entry.files(tmp_path)
    folder = tmp_path / "cifar10" / "Linf"
    assert [f.path for f in files] == [folder / f"Chen2020Adversarial.pt_m{i}.pt" for i in range(3)]
    assert len({f.url for f in files}) == 3


def test_as_the_model_of_an_evaluation(staged: Staged, x: Tensor) -> None:
    """By name, with the zoo's K: a pair of tensors knows no more than its greatest label."""
    model, _ = staged
    y = logits(model, x).argmax(1)
    y[0] = (y[0] + 1) % 10
    found = rl.evaluate(NAME, (x, y), attacks=["fgsm"], eps="8/255")
    assert found["clean"]["top1"] == 5 / 6
    assert (found["num_classes"], found["virtual_classes"]) == (10, 0)


def test_as_a_teacher(staged: Staged, x: Tensor) -> None:
    """LTD's labels are the zoo model's; one of another data set would give the labels of others."""
    model, _ = staged
    teacher = load_teacher(NAME, 10, lambda _: nn.Identity())
    assert torch.equal(teacher(x), logits(model, x))
    assert not any(p.requires_grad for p in teacher.parameters())
    y = torch.arange(6) % 10
    small = {"name": "mlp", "hidden": [4]}
    options: dict[str, Any] = {"trainer": "standard", "epochs": 1, "eps": 0.1, "num_classes": 10}
    by_name = rl.fit(small, (x, y), scheme="ltd", teacher=NAME, **options)
    by_module = rl.fit(small, (x, y), scheme="ltd", teacher=copy.deepcopy(model), **options)
    assert by_name.history[0]["train_loss"] == by_module.history[0]["train_loss"]
    assert by_name.config.teacher == NAME
    with pytest.raises(BadValueError, match=f"teacher {NAME} has 10 classes; the data has 12"):
        load_teacher(NAME, 12, lambda _: nn.Identity())


def test_as_the_start_of_training(staged: Staged, x: Tensor, tmp_path: Path) -> None:
    """The run has its own weights: it must be readable where the zoo's file is not."""
    model, path = staged
    y = torch.arange(6) % 10
    out = tmp_path / "run"
    result = rl.fit(
        NAME, (x, y), scheme="vs", trainer="standard", epochs=1, eps=0.1, out=out, num_classes=10,
        batch_size=2, optimizer={"lr": 1e-9, "weight_decay": 0.0},
    )  # fmt: skip
    started = dict(result.model.named_parameters())
    assert torch.allclose(started["conv1.weight"], model.get_parameter("conv1.weight"))
    assert started["linear.weight"].shape == (20, 512)
    path.unlink()
    again = load_run(out)
    assert torch.equal(logits(again.model, x), logits(result.model, x))
