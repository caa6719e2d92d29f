"""What docs/art.md says that ART gets wrong, on plain ART: each test fails where ART mends it.

More of that table is in ``test_art_labels`` (soft labels) and ``test_art_trainers`` (FBF, Madry's
batch, AutoPGD), beside what is mended.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

art = pytest.importorskip("art")
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent  # noqa: E402
from art.data_generators import NumpyDataGenerator  # noqa: E402
from art.defences import trainer as arts  # noqa: E402
from art.estimators.certification.deep_z import PytorchDeepZ  # noqa: E402
from art.estimators.classification import PyTorchClassifier  # noqa: E402

from robustlabels.errors import BadValueError  # noqa: E402
from robustlabels.integrations.art import with_labels  # noqa: E402

X, Y = load_digits(return_X_y=True)
X, Y = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)[:130], Y[:130]
HOT = np.eye(10, dtype=np.float32)[Y]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(144, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.conv(x)).reshape(-1, 144))


def classifier(model: nn.Module | None = None, cls: Any = PyTorchClassifier) -> Any:
    model = Net() if model is None else model
    return cls(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(1, 8, 8),
        nb_classes=10,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def pgd(c: Any) -> Any:
    return ProjectedGradientDescent(c, eps=0.1, eps_step=0.05, max_iter=2, verbose=False)


def trades(c: Any) -> Any:
    return arts.AdversarialTrainerTRADESPyTorch(c, pgd(c), 1.0)


def awp(c: Any) -> Any:
    return arts.AdversarialTrainerAWPPyTorch(c, classifier(), pgd(c), "PGD", 0.01, 1.0, 0)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("art").setLevel(logging.ERROR)
    torch.manual_seed(0)
    np.random.seed(0)


def test_oaat_averages_nothing_and_its_step_schedule_fails(tmp_path: Path) -> None:
    """Else ``with_labels`` averages twice."""
    params = {
        "models_path": str(tmp_path),
        "lr_schedule": "cosine",
        "awp_warmup": 100,
        "awp_gamma": 0.005,
        "mixup_alpha": 1.0,
        "mixup_epsilon": 0.1,
        "beta": 2.0,
        "beta_final": 3.0,
        "lpips_weight": 0.1,
        "i_lpips_weight": 0.1,
        "alpha": 1.0,
        "i_epsilon": 0.05,
        "epsilon": 0.1,
        "alternate_iter_eps": 1.0,
        "max_iter": 2,
        "norm": np.inf,
        "load_swa_model_tau": 0.75,
        "swa_save_epoch": 0,
        "list_swa_epoch": [0],
        "list_swa_tau": [0.75],
        "oaat_warmup": 0,
        "layer_names_activation": ["conv"],
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.0,
    }
    c, average = classifier(), classifier()
    before = copy.deepcopy(average.model.state_dict())
    trainer = arts.AdversarialTrainerOAATPyTorch(
        c, classifier(), classifier(), [average], pgd(c), params
    )
    trainer.fit(X, Y, nb_epochs=2)
    after = average.model.state_dict()
    assert all(torch.equal(v, before[k]) for k, v in after.items())
    params["lr_schedule"] = "step"
    with pytest.raises(UnboundLocalError):
        trainer.fit(X, Y, nb_epochs=2)


@pytest.mark.parametrize("make", [trades, awp])
def test_schedulers_are_refused(make: Any) -> None:
    """``with_labels`` changes the scheduler's class for that alone."""
    c = classifier()
    with pytest.raises(ValueError, match="Invalid Pytorch scheduler"):
        make(c).fit(X, Y, nb_epochs=1, scheduler=torch.optim.lr_scheduler.StepLR(c.optimizer, 1))


@pytest.mark.parametrize("kind", ["trades", "fbf"])
def test_a_sequential_models_accuracy_is_counted_on_its_first_layer(kind: str) -> None:
    """Images of a convolution are compared with classes; a flat first layer gives nonsense."""

    def fitted(*layers: nn.Module) -> None:
        c = classifier(nn.Sequential(*layers))
        trainer = trades(c) if kind == "trades" else arts.AdversarialTrainerFBFPyTorch(c, 0.1)
        trainer.fit(X, HOT, nb_epochs=1)

    fitted(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(RuntimeError, match="size of tensor"):
        fitted(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))


def test_a_column_of_classes_is_read_as_class_0() -> None:
    """``loss_gradient`` takes the argmax of one column."""
    c = classifier()
    zeros = np.eye(10, dtype=np.float32)[np.zeros(5, dtype=int)]
    np.testing.assert_array_equal(
        c.loss_gradient(X[:5], Y[:5, None]), c.loss_gradient(X[:5], zeros)
    )


class ClassWritten(FastGradientMethod):
    """Its inputs say which class they were attacked as."""

    def generate(self, x: Any, y: Any = None, **kwargs: Any) -> Any:
        return np.zeros_like(x) + np.argmax(y, 1).reshape(-1, 1, 1, 1) / 10


def test_attacks_on_another_model_get_wrong_labels_from_a_generator() -> None:
    """ART shuffles the inputs that it attacked before training, but not the labels of the batch
    that it puts them into; ``with_labels`` refuses to train so."""
    wrong: list[float] = []

    class Reading(PyTorchClassifier):
        def fit(self, x: Any, y: Any, *args: Any, **kwargs: Any) -> None:
            wrong.append(float((np.rint(x[:, 0, 0, 0] * 10) != np.argmax(y, 1)).mean()))

    c = classifier(cls=Reading)
    trainer = arts.AdversarialTrainer(c, ClassWritten(classifier(), eps=0.1), ratio=1.0)
    trainer.fit(X, HOT, nb_epochs=1)
    assert set(wrong) == {0.0}
    wrong.clear()
    batches = NumpyDataGenerator(X, HOT, batch_size=65)
    trainer.fit_generator(batches, nb_epochs=1)
    assert min(wrong) > 0.5
    c = classifier()
    trainer = arts.AdversarialTrainer(c, [pgd(c), pgd(classifier())], ratio=1.0)
    with_labels(trainer, "ls")
    with pytest.raises(BadValueError, match="mixes up"):
        trainer.fit_generator(batches, nb_epochs=1)


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="it fails on numpy 2")
def test_deepz_fails_on_numpy_2() -> None:
    """Its zonotopes are ragged arrays; the refusal in ``with_labels`` names numpy."""
    pgd_params = {
        "eps": 0.1, "eps_step": 0.1, "max_iter": 1, "batch_size": 8, "num_random_init": 1
    }  # fmt: skip
    trainer = arts.AdversarialTrainerCertifiedPytorch(
        classifier(cls=PytorchDeepZ), pgd_params=pgd_params, bound=0.01, nb_epochs=1, batch_size=4
    )
    with pytest.raises(ValueError, match="setting an array element with a sequence"):
        trainer.fit(X[:8], Y[:8])
    with pytest.raises(BadValueError, match="DeepZ"):
        with_labels(trainer, "ls")
