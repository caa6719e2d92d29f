"""A frozen teacher's logits from a file: the same bits as on the fly, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustlabels.errors import BadValueError, RunError
from robustlabels.training import FitResult, fit

OPTIONS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 16,
    "validation": 5,
    "device": "cpu",
    "eps": 0.1,
    "attack": {"name": "pgd", "steps": 1},
    "augment": {"crop_padding": 1, "flip": True},
}


class Asked(nn.Module):
    """A teacher with batch norm; copies share the count of what it was asked."""

    def __init__(self, asked: list[int]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 3)
        self.layers[2].running_mean = torch.randn(8)
        self.asked = asked

    def __deepcopy__(self, memo: Any) -> Asked:
        copy = Asked(self.asked)
        copy.load_state_dict(self.state_dict())
        return copy

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        return self.head(self.layers(x))


@pytest.fixture
def asked() -> list[int]:
    return []


@pytest.fixture
def train(tiny: tuple[Tensor, Tensor], asked: list[int], counted: Any) -> Any:
    def run(temperature: float = 3.0, **changed: Any) -> FitResult:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
        options = {"teacher": Asked(asked), "data": tiny, **OPTIONS, **changed}
        scheme = {"name": "ltd", "temperature": temperature}
        asked.clear()
        result = fit(model, scheme=scheme, trainer=options.pop("trainer", "trades"), **options)
        asked[:] = asked[1:]  # the check of its outputs
        return result

    return run


def same(one: FitResult, other: FitResult) -> bool:
    a, b = one.last, other.last
    return all(torch.equal(a[k], b[k]) for k in a) and [r["train_loss"] for r in one.history] == [
        r["train_loss"] for r in other.history
    ]


@pytest.mark.parametrize("changed", [{}, {"accumulate": 3}, {"awp": 0.01}, {"precision": "bf16"}])
def test_the_same_bits(
    train: Any, asked: list[int], tmp_path: Path, changed: dict[str, Any]
) -> None:
    """Written, read or made on the fly: with augmentation, parts of batches and a second pass,
    each step's labels must be those of its own images."""
    if changed.get("precision") == "bf16":
        changed = {**changed, "trainer": "standard"}
    on_the_fly = train(**changed)
    passes = list(asked)
    assert sum(passes) == 2 * 43
    folder = tmp_path / "logits"
    written = train(teacher_logits=str(folder), **changed)
    assert asked == passes
    read = train(teacher_logits=str(folder), **changed)
    assert asked == []
    assert same(on_the_fly, written)
    assert same(on_the_fly, read)


def test_they_serve_another_temperature_objective_and_length(
    train: Any, asked: list[int], tmp_path: Path
) -> None:
    """That is what they are kept for: logits, not labels, and a function of the images alone."""
    train(teacher_logits=str(tmp_path / "logits"))
    for changed in ({"temperature": 9.0}, {"trainer": "pgd-at"}, {"epochs": 1}):
        cached = train(teacher_logits=str(tmp_path / "logits"), **changed)
        assert asked == []
        assert same(cached, train(**changed))
        assert asked


def test_a_killed_run_leaves_what_it_has_written(
    train: Any, asked: list[int], tmp_path: Path
) -> None:
    """Resumed, it goes on there; the steps that were done are not asked for again."""
    folder, out = tmp_path / "logits", tmp_path / "run"
    whole = train()

    def stop(done: int, total: int, _: Any) -> None:
        if done == 4:
            raise KeyboardInterrupt

    settings = {"teacher_logits": str(folder), "save_every": 1, "out": out}
    with pytest.raises(KeyboardInterrupt):
        train(progress=stop, **settings)
    assert same(train(resume=True, **settings), whole)
    train(teacher_logits=str(folder))
    assert asked == []


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"augment": {"crop_padding": 0, "flip": True}},
        {"augment": {"crop_padding": 1, "flip": False}},
        {"validation": 6},
    ],
)
def test_other_images_are_refused(train: Any, tmp_path: Path, changed: dict[str, Any]) -> None:
    """Labels of other images are noise that no figure would show."""
    train(teacher_logits=str(tmp_path / "logits"))
    with pytest.raises(RunError, match="logits of other images"):
        train(teacher_logits=str(tmp_path / "logits"), **changed)


def test_other_data_are_refused(train: Any, tiny: Any, tmp_path: Path) -> None:
    """A single pixel is enough to tell."""
    train(teacher_logits=str(tmp_path / "logits"))
    x, y = tiny[0].clone(), tiny[1]
    x[:, 0, 1, 1] += 1 / 255
    with pytest.raises(RunError, match="logits of other images"):
        train(teacher_logits=str(tmp_path / "logits"), data=(x, y))


def test_other_teachers_and_shapes_are_refused(train: Any, tmp_path: Path) -> None:
    """Each has its own message, before anything is trained."""
    folder = tmp_path / "logits"
    train(teacher_logits=str(folder))
    other = Asked([])
    with torch.no_grad():
        other.head.bias += 1e-3
    with pytest.raises(RunError, match="teacher_sha256 differs; name another folder"):
        train(teacher_logits=str(folder), teacher=other)
    with pytest.raises(RunError, match="computed differs"):
        train(teacher_logits=str(folder), precision="bf16", trainer="standard")
    with pytest.raises(RunError, match="for 6 steps of 16 images, and the run has 9 of 16"):
        train(teacher_logits=str(folder), epochs=3)
    with pytest.raises(RunError, match="and the run has 12 of 8"):
        train(teacher_logits=str(folder), batch_size=8)
    (folder / "logits.npy").write_bytes(b"no array")
    with pytest.raises(RunError, match=r"logits.npy can't be read"):
        train(teacher_logits=str(folder))


def test_without_a_frozen_teacher(tiny: Any, tmp_path: Path) -> None:
    """An option that does nothing is a user's mistake."""
    with pytest.raises(BadValueError, match="one-hot labels have no frozen teacher"):
        fit("linear", tiny, teacher_logits=str(tmp_path / "logits"), **OPTIONS)
    assert not (tmp_path / "logits").exists()


def test_the_file(train: Any, tmp_path: Path) -> None:
    """It is a plain array that numpy opens, with as many rows as images were fed."""
    train(teacher_logits=str(tmp_path / "logits"))
    table = np.load(tmp_path / "logits" / "logits.npy", mmap_mode="r")
    assert table.shape == (6, 16, 4)
    assert (table[..., -1] != 0).sum() == 2 * 43
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logits"]
