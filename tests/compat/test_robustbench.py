"""Without these, ``benchmark`` could judge other images, by another attack or another seed than it
says, or fail after hours of work for want of an argument."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyautoattack
import pytest
import torch
from torch import Tensor, nn
from torchvision.datasets import CIFAR10

import robustlabels as rl
from robustlabels._compat import autoattack_module
from robustlabels._compat.autoattack_state import EvaluationState
from robustlabels.attacks.official_autoattack import AutoAttack
from robustlabels.errors import BadValueError, DataError, RunError
from robustlabels.evaluation.robustbench import benchmark, load_model

EPS, N = 8 / 255, 20


class Tiny(nn.Module):
    """Sixteen mean colours and a linear layer."""

    def __init__(self, outputs: int = 10, side: int = 32) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(side // 4)
        self.head = nn.Linear(48, outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(x).flatten(1) - 0.5)
        return logits


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Tiny().eval()


def images(n: int, side: int = 32) -> np.ndarray[Any, Any]:
    """uint8 (n, side, side, 3), of sixteen coloured tiles, as a net of mean colours sees them."""
    tiles = np.random.RandomState(0).randint(0, 256, (n, 4, 4, 3)) * 0.6 + 50
    return tiles.astype(np.uint8).repeat(side // 4, axis=1).repeat(side // 4, axis=2)


@pytest.fixture
def cifar(
    zoo_package: Any, model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Tensor, Tensor]:
    """Twenty images in CIFAR-10's layout, of which the model has fifteen right; the published MD5
    sums are replaced by these files'. The working folder is empty."""
    pixels = images(N)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    y = model(x).argmax(1)
    y[::4] = (y[::4] + 1) % 10
    folder = tmp_path / "data" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    rows = pixels.transpose(0, 3, 1, 2).reshape(N, -1)
    files = {
        "test_batch": {"data": rows, "labels": y.tolist()},
        "batches.meta": {"label_names": [str(i) for i in range(10)]},
    }
    sums = {}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "data", x, y


def test_the_signatures_are_robustbenchs_own(zoo_package: Any) -> None:
    """Code that is written for the real package must run by changing its import."""

    def shown(function: Any) -> list[tuple[str, Any]]:
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, str(getattr(p.default, "value", p.default))) for p in parameters]

    assert shown(load_model) == shown(zoo_package.load_model)
    assert shown(benchmark) == [*shown(zoo_package.benchmark), ("seed", "0")]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("threat", "eps", "seed"), [("Linf", EPS, 0), ("Linf", "8/255", 3), ("L2", 0.9, 0)]
)
def test_the_figures_are_autoattacks(
    model: nn.Module,
    cifar: tuple[Path, Tensor, Tensor],
    capsys: pytest.CaptureFixture[str],
    threat: str,
    eps: Any,
    seed: int,
) -> None:
    """Our own adapter, on the same images with the same seed and batch size, is the measure."""
    folder, x, y = cifar
    expected = AutoAttack(EPS if threat == "Linf" else eps, threat, seed=seed, batch_size=7).run(
        model, x, y
    )
    state = torch.random.get_rng_state()
    clean, robust = benchmark(
        model, N, "cifar10", threat, data_dir=folder, device="cpu", batch_size=7, eps=eps, seed=seed
    )
    assert clean == expected.clean_accuracy == 0.75
    assert robust == int(expected.robust.sum()) / N
    assert 0 < robust < 0.75
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's
    out = capsys.readouterr().out
    assert "Clean accuracy: 75.00%" in out
    assert f"Adversarial accuracy: {robust:.2%}" in out
    assert not list(Path.cwd().iterdir())  # nothing is written unasked


@pytest.mark.usefixtures("short")
def test_the_first_images_count(model: nn.Module, cifar: tuple[Path, Tensor, Tensor]) -> None:
    """A torch device and RobustBench's enums are taken as they are by RobustBench."""
    folder, _, _ = cifar
    enums = sys.modules["robustbench.model_zoo.enums"]
    clean, _ = benchmark(
        model,
        n_examples=6,
        dataset=enums.BenchmarkDataset.cifar_10,
        threat_model=enums.ThreatModel.Linf,
        data_dir=str(folder),
        device=torch.device("cpu"),
        eps=EPS,
    )
    assert clean == pytest.approx(4 / 6)


@pytest.mark.usefixtures("short")
def test_a_benchmark_that_was_stopped_goes_on(
    model: nn.Module, cifar: tuple[Path, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In RobustBench itself it raises, after all attacks; the state of another model is refused."""
    folder, x, y = cifar
    given: dict[str, Any] = {"data_dir": folder, "eps": 0.9, "batch_size": 7, "seed": 3}
    given["threat_model"] = "L2"
    whole = benchmark(model, N, **given)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(pyautoattack.autoattack.SquareAttack, "perturb", lambda *_: 1 / 0)
        benchmark(model, N, **given, aa_state_path="state")
    assert benchmark(model, N, **given, aa_state_path=Path("state")) == whole
    expected = AutoAttack(0.9, "L2", seed=3, batch_size=7).run(model, x, y)
    assert torch.equal(EvaluationState.from_disk("state").x_adv, expected.x_adv)  # the seed's
    torch.manual_seed(1)
    with pytest.raises(RunError, match="state is the state of another run"):
        benchmark(Tiny().eval(), N, **given, aa_state_path="state")


@pytest.mark.usefixtures("short")
def test_what_it_writes(model: nn.Module, cifar: tuple[Path, Tensor, Tensor]) -> None:
    """The submission's facts are RobustBench's own file, and AutoAttack's log."""
    folder, _, _ = cifar
    given: dict[str, Any] = {"data_dir": folder, "eps": EPS, "log_path": "log.txt"}
    _, robust = benchmark(model, N, to_disk=True, model_name="Ours2026Tiny", **given)
    info = Path("model_info/cifar10/Linf/Ours2026Tiny.json").read_text()
    assert '"clean_acc": "75.0"' in info
    assert f'"autoattack_acc": "{round(robust * 100, 2)}"' in info
    assert "robust accuracy after APGD-CE" in Path("log.txt").read_text()


def test_nothing_stays_mended(
    zoo_package: Any, model: nn.Module, cifar: tuple[Path, Tensor, Tensor]
) -> None:
    """Whoever imports robustbench besides gets the real one, and no module that isn't installed."""
    before = dict(vars(zoo_package.eval))
    with pytest.raises(BadValueError):
        benchmark(Tiny(11).eval(), N, data_dir=cifar[0], eps=EPS)
    assert dict(vars(zoo_package.eval)) == before
    assert not model._forward_hooks
    for name in ("autoattack", "autoattack.state", "pkg_resources"):
        assert name not in sys.modules or sys.modules[name].__spec__ is not None


def test_the_published_autoattack_is_preferred(zoo_package: Any) -> None:
    """It is what the leaderboard's figures come from; it must not be replaced by our stand-in."""
    if importlib.util.find_spec("autoattack") is None:
        assert zoo_package.eval.AutoAttack is autoattack_module.AutoAttack
    else:
        assert zoo_package.eval.AutoAttack.__module__ == "autoattack.autoattack"


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_common_corruptions(
    zoo_package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    """RobustBench's own call raises a TypeError for CIFAR, and past it a KeyError."""
    classes = int(dataset.removeprefix("cifar"))
    torch.manual_seed(0)
    model = Tiny(classes).eval()
    names = zoo_package.data.CORRUPTIONS[:2]
    of = zoo_package.eval.BenchmarkDataset(dataset), zoo_package.eval.ThreatModel.corruptions
    monkeypatch.setitem(zoo_package.data.CORRUPTIONS_DICT[of[0]], of[1], names)
    folder = tmp_path / f"CIFAR-{classes}-C"
    folder.mkdir()
    pixels = images(40)
    right = []
    y = model(torch.from_numpy(pixels[:4]).permute(0, 3, 1, 2).float() / 255).argmax(1)
    np.save(folder / "labels.npy", np.concatenate([y.numpy(), np.zeros(9996, int)]))
    for c, name in enumerate(names):  # sparse files: severities lie 10,000 images apart
        stored = np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=(50000, 32, 32, 3)
        )
        for severity in range(5):
            part = pixels[4 * ((c + severity) % 10) :][:4]
            stored[10000 * severity :][:4] = part
            x = torch.from_numpy(part).permute(0, 3, 1, 2).float() / 255
            right.append((model(x).argmax(1) == y).float().mean().item())
    clean = torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.long)
    monkeypatch.setitem(zoo_package.data._clean_dataset_loaders, of[0], lambda *_: clean)
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"n_examples": 4, "dataset": dataset, "threat_model": "corruptions"}
    _, robust = benchmark(model, **given, data_dir="none", corruptions_data_dir=tmp_path)
    assert robust == pytest.approx(np.mean(right))
    assert 0 < robust < 1
    assert not (tmp_path / "model_info").exists()
    with pytest.raises(BadValueError, match="relative to AlexNet's"):
        benchmark(model, **given, to_disk=True, model_name="X", data_dir=tmp_path)
    (folder / f"{names[1]}.npy").unlink()
    with pytest.raises(DataError, match=f"{names[1]} file is missing"):
        benchmark(model, **given, data_dir=tmp_path)


@pytest.mark.usefixtures("short")
def test_imagenets_own_subset(
    zoo_package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of its 5,000 images is found by pkg_resources, which setuptools no longer has."""
    from PIL import Image

    helper = Path(zoo_package.__file__).parent / "helper_files" / "imagenet_test_image_ids.txt"
    paths = helper.read_text().splitlines()
    folders = sorted({p.split("/")[0] for p in paths})
    assert (len(paths), len(folders)) == (5000, 997)
    val = tmp_path / "val"
    for folder in folders:
        (val / folder).mkdir(parents=True)
    pixels = images(3, 224)
    for path, image in zip(paths, pixels, strict=False):
        Image.fromarray(image).save(val / path, format="png")
    torch.manual_seed(0)
    model = Tiny(1000, 224).eval()
    labels = [folders.index(p.split("/")[0]) for p in paths[:3]]
    with torch.no_grad():  # one of three is right, whatever it looks like
        model.head.bias[labels[1]] += 100
    assert len(set(labels)) == 3
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"n_examples": 3, "dataset": "imagenet", "data_dir": tmp_path}
    clean, _ = benchmark(model, **given, eps="4/255", preprocessing="Res224")
    assert clean == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"dataset": "cifar11"}, "no data set 'cifar11'; did you mean 'cifar10'"),
        ({"threat_model": "L1"}, "no threat model 'L1' for cifar10"),
        ({"threat_model": "corruptions_3d", "eps": None}, "did you mean 'corruptions'"),
        ({"eps": None}, "eps is None: Linf and L2 need it"),
        ({"threat_model": "corruptions"}, "corruptions have none"),
        ({"eps": 8}, "eps"),
        ({"n_examples": 0}, "n_examples must be from 1 to 10000 for cifar10, not 0"),
        ({"n_examples": 10001}, "n_examples must be from 1 to 10000"),
        ({"n_examples": 1e3}, "n_examples must be an integer, not 1000.0"),
        ({"to_disk": True}, "to_disk needs a model_name"),
        ({"device": "tpu"}, "device 'tpu' is not available"),
        ({"preprocessing": "Res225"}, "did you mean 'Res224'"),
        ({"dataset": "imagenet", "n_examples": 5001}, "from 1 to 5000 for imagenet"),
        ({"dataset": "imagenet"}, "imagenet needs the preprocessing, or the model_name"),
    ],
)
def test_bad_arguments_are_refused_at_once(
    model: nn.Module, cifar: tuple[Path, Tensor, Tensor], wrong: dict[str, Any], said: str
) -> None:
    """RobustBench finds some of them out after the attacks; and takes a file named -1."""
    given = {"n_examples": N, "data_dir": cifar[0], "eps": EPS, **wrong}
    with pytest.raises(BadValueError) as caught:
        benchmark(model, **given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_virtual_classes_are_refused(cifar: tuple[Path, Tensor, Tensor]) -> None:
    """AutoAttack would be content with a virtual class, and the figure too good."""
    wide = Tiny(20).eval()
    with pytest.raises(BadValueError, match=r"judges 10 logits, not outputs \(20, 20\): cut"):
        benchmark(wide, N, data_dir=cifar[0], eps=EPS)
    scheme = rl.make_scheme("vs", 10)
    with pytest.raises(BadValueError, match="eps"):  # the next thing that is wrong
        benchmark(rl.real_classes(wide, scheme), N, data_dir=cifar[0])


def test_missing_data_are_one_line(
    model: nn.Module, cifar: tuple[Path, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without internet, torchvision's own download ends in a page of traceback."""
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    with pytest.raises(DataError, match="RobustBench's data are not in elsewhere") as caught:
        benchmark(model, N, data_dir="elsewhere", eps=EPS)
    assert "\n" not in str(caught.value)
