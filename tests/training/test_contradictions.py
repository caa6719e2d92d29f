"""Arguments that contradict each other: refused or warned of, not silently overruled."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustlabels as rl
from robustlabels.errors import BadValueError, RobustLabelsWarning, RunError
from robustlabels.training import Standard

K = 3
MLP = {"name": "mlp", "hidden": [8]}


@pytest.fixture
def tiny() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(24, 1, 4, 4, generator=generator), torch.arange(24) % K


def refused(message: str, **arguments: Any) -> None:
    with pytest.raises(BadValueError, match=message):
        rl.fit(trainer=arguments.pop("trainer", "standard"), epochs=1, **arguments)


@pytest.mark.parametrize(("option", "instead"), [("labels", "scheme"), ("dataset", "data")])
def test_command_line_names(tiny: Any, option: str, instead: str) -> None:
    """fit(labels="als") trained one-hot, because scheme= has a default that came later."""
    refused(f"no {option}=: give it as {instead}=", model=MLP, data=tiny, **{option: "als"})


def test_a_layer_of_a_named_model(tiny: Any) -> None:
    """Named models are made with the outputs that they need."""
    refused("layer is for a model given from Python", model=MLP, data=tiny, layer="1")


@pytest.mark.parametrize("scheme", ["one-hot", "adr"])
def test_a_teacher_that_nobody_asks(tiny: Any, tmp_path: Path, scheme: str) -> None:
    """A misspelt scheme beside --teacher looked like distillation and was none."""
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, K))
    options: dict[str, Any] = {"scheme": scheme, "trainer": "standard", "epochs": 1}
    with pytest.warns(RobustLabelsWarning, match=f"is not used: {scheme} labels"):
        rl.fit(MLP, tiny, teacher=teacher, **options)
    with pytest.raises(RunError, match="no teacher at"):
        rl.fit(MLP, tiny, teacher=tmp_path / "none", **options)


def test_classes_of_a_named_data_set() -> None:
    """num_classes=12 for the digits was ignored."""
    refused("has 10 classes, not num_classes=12", model="linear", data="digits", num_classes=12)


def test_another_radius(tiny: Any) -> None:
    """Training at .3 under a config, and a validation, that say 8/255, must not go unnoticed."""
    attack = rl.make_attack("pgd", eps=0.3)
    with pytest.warns(RobustLabelsWarning, match="eps is 0.3, and the run's 0.0313"):
        rl.fit(MLP, tiny, trainer="pgd-at", attack=attack, epochs=1)


def test_an_attack_that_nobody_makes(tiny: Any, tmp_path: Path) -> None:
    """--trainer standard --attack fgsm looked like adversarial training, in its config.toml too;
    the next --resume, which reads that, would warn of an attack that nobody has named."""
    options: dict[str, Any] = {"trainer": "standard", "epochs": 1, "out": tmp_path / "run"}
    with pytest.warns(RobustLabelsWarning, match="attack 'fgsm' is not used: the trainer standard"):
        rl.fit(MLP, tiny, attack="fgsm", **options)
    assert "attack" not in (tmp_path / "run" / "config.toml").read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rl.fit(MLP, tiny, resume=True, **options)
    with pytest.warns(RobustLabelsWarning) as said:
        rl.fit(MLP, tiny, attack=rl.make_attack("pgd", eps=0.3), trainer="standard", epochs=1)
    assert ["is not used" in str(w.message) for w in said] == [True], "training uses no eps"


@pytest.mark.parametrize("says", [True, False])
def test_a_trainer_says_whether_it_attacks(tiny: Any, says: bool) -> None:
    """Chosen by clean accuracy, or not, a trainer may attack, or not."""

    class Own(Standard):
        adversarial = not says
        uses_attack = says

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RobustLabelsWarning)
        result = rl.fit(MLP, tiny, trainer=Own(), attack="fgsm", epochs=1, validation=8)
    assert ["is not used" in str(w.message) for w in caught] == [True] * (not says)
    assert (result.config.attack is not None) == says
    assert (result.history[0].get("validation_robust_accuracy") is None) == says


def test_frozen_model(tiny: Any) -> None:
    """torch says "optimizer got an empty parameter list", by a traceback."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, K)).requires_grad_(False)
    refused("nothing to train", model=model, data=tiny)


def test_batch_norm_on_single_samples(tiny: Any) -> None:
    """Batch norm's own error came a traceback deep, after the RUN folder was made."""
    refused("fewer than 2 samples", model="small-cnn", data=tiny, batch_size=3, accumulate=2)


def test_uneven_parts_train(tiny: Any) -> None:
    """13 samples in 4 parts were 4, 4, 4 and 1, on which batch norm cannot train."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Linear(4, K))
    x, y = tiny
    result = rl.fit(
        model, (x[:13], y[:13]), trainer="standard", epochs=1, validation=0, accumulate=4
    )
    assert result.history[0]["train_loss"] > 0


def test_classes_instead_of_objects(tiny: Any) -> None:
    """fit(trainer=Standard) is an easy slip; the error was about a missing argument self."""
    refused("is a class, not a trainer", model=MLP, data=tiny, trainer=Standard)


def test_accuracy_of_trainers_without_ce(tiny: Any) -> None:
    """A trainer with a loss of its own had a training accuracy of 0 in its metrics."""

    class Own(Standard):
        def loss(self, step: Any) -> Tensor:
            return nn.functional.cross_entropy(step.model(step.x), step.y)

    result = rl.fit(MLP, tiny, trainer=Own(), epochs=1)
    assert result.history[0]["train_accuracy"] is None
    assert rl.fit(MLP, tiny, trainer="standard", epochs=1).history[0]["train_accuracy"] >= 0


def test_data_as_a_table(tmp_path: Path) -> None:
    """A data set's own parameters could not be given in Python."""
    import numpy as np

    x = np.random.default_rng(0).random((20, 1, 4, 4), dtype=np.float32)
    y = np.arange(20) % K
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    table = {"name": f"npz:{tmp_path / 'd.npz'}", "num_classes": 5, "layout": "NCHW"}
    result = rl.fit(MLP, table, trainer="standard", epochs=1)
    assert result.num_classes == 5
    assert result.config.data == {"num_classes": 5, "layout": "NCHW"}


def test_warm_up_keeps_mixed_labels() -> None:
    """vs around mixup: before warmup_epochs, inputs were mixed and labels were not."""
    scheme = rl.make_scheme("vs", num_classes=K, inner="mixup", warmup_epochs=2)
    scheme.begin_training(10)
    y = torch.tensor([0, 1])
    mix = rl.Mix(torch.tensor([0.25, 0.25]), torch.tensor([1, 0]), torch.tensor([1, 0]))
    q = scheme.labels(y, progress=0.0, mix=mix)
    expected = [[0.25, 0.75, 0, 0, 0, 0], [0.75, 0.25, 0, 0, 0, 0]]
    assert torch.allclose(q, torch.tensor(expected))


def test_a_loader_that_picks_samples(tiny: Any) -> None:
    """A SubsetRandomSampler was ignored: the samples that it held out were trained on."""
    sampler = torch.utils.data.SubsetRandomSampler(range(8))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*tiny), sampler=sampler, batch_size=4
    )
    with pytest.raises(ValueError, match="SubsetRandomSampler would be ignored"):
        rl.fit(MLP, loader, trainer="standard", epochs=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"awp": {"warmup_epochs": 2}}, "awp never begins: its warmup_epochs are 2"),
        ({"scheme": {"name": "vs", "warmup_epochs": 2}}, "the virtual classes get no mass"),
    ],
)
def test_a_warm_up_that_is_all_of_training(tiny: Any, given: Any, message: str) -> None:
    """A recipe of 200 epochs, cut to a few for a look, is another method without a word."""
    with pytest.warns(RobustLabelsWarning, match=message):
        rl.fit(MLP, tiny, trainer="standard", epochs=2, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rl.fit(MLP, tiny, trainer="standard", epochs=3, **given)


def test_the_architecture_of_a_checkpoint(tiny: Any, tmp_path: Path) -> None:
    """A small student of a published, larger teacher's weights could only be trained in Python."""
    torch.manual_seed(0)
    larger = {"name": "mlp", "hidden": [32, 16]}
    teacher = rl.make_model(larger["name"], K, (1, 4, 4), hidden=larger["hidden"])
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    options: dict[str, Any] = {"scheme": "ltd", "trainer": "standard", "epochs": 2}
    named = rl.fit(MLP, tiny, teacher=tmp_path / "teacher.pt", teacher_model=larger, **options)
    module = rl.fit(MLP, tiny, teacher=teacher, **options)
    assert all(torch.equal(named.last[k], module.last[k]) for k in module.last)
    assert named.config.teacher_model is not None
    assert named.config.teacher_model.params["hidden"] == [32, 16]

    with pytest.raises(RunError, match=r"not a checkpoint of this .* teacher_model names"):
        rl.fit(MLP, tiny, teacher=tmp_path / "teacher.pt", **options)
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, K))
    refused("needs its architecture's name", model=student, data=tiny, scheme="ltd",
            teacher=tmp_path / "teacher.pt")  # fmt: skip
    rl.fit(student, tiny, teacher=tmp_path / "teacher.pt", teacher_model=larger, **options)


def test_an_architecture_without_a_checkpoint(tiny: Any) -> None:
    """A run and a module have their own: what is named would not be what teaches."""
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, K))
    refused("no teacher is such a file", model=MLP, data=tiny, scheme="ltd", teacher=teacher,
            teacher_model="linear")  # fmt: skip
    refused("no teacher is such a file", model=MLP, data=tiny, teacher_model="linear")
