"""What ``with_labels`` mends in ART's trainers, what it leaves alone, and what it refuses."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

art = pytest.importorskip("art")
from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescent  # noqa: E402
from art.defences import trainer as arts  # noqa: E402
from art.defences.preprocessor import GaussianAugmentation, LabelSmoothing  # noqa: E402
from art.estimators.classification import PyTorchClassifier  # noqa: E402

import robustlabels as rl  # noqa: E402
from robustlabels.errors import RobustLabelsWarning  # noqa: E402
from robustlabels.integrations.art import with_labels  # noqa: E402


class Net(nn.Module):
    """With batch norm, which must learn in training and rest in attacks."""

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 36, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).relu().flatten(1))


def classifier(model: nn.Module | None = None, loss: Any = None, **options: Any) -> Any:
    model = Net() if model is None else model
    return PyTorchClassifier(
        model,
        nn.CrossEntropyLoss() if loss is None else loss,
        (1, 8, 8),
        10,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        clip_values=(0.0, 1.0),
        device_type="cpu",
        **options,
    )


def pgd(c: Any, **options: Any) -> Any:
    return ProjectedGradientDescent(
        c, **{"eps": 0.1, "eps_step": 0.05, "max_iter": 2, "verbose": False, **options}
    )


def quietly(trainer: Any, scheme: Any, teacher: Any = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return with_labels(trainer, scheme, teacher)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("art").setLevel(logging.ERROR)
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)[:256], y[:256]


def statistics(c: Any) -> Tensor:
    return c.model.norm.running_mean.clone()


def test_fbf_trains_in_train_mode_and_takes_class_indices(digits: Any) -> None:
    """In ART its batch norm never learns, and class indices are an IndexError."""
    x, y = digits
    plain = arts.AdversarialTrainerFBFPyTorch(classifier(), eps=0.1)
    before = statistics(plain.get_classifier())
    plain.fit(x, np.eye(10)[y], nb_epochs=1)
    assert torch.equal(statistics(plain.get_classifier()), before), "ART has mended it: tell so"
    with pytest.raises(IndexError):
        plain.fit(x, y, nb_epochs=1)
    ours = quietly(arts.AdversarialTrainerFBFPyTorch(classifier(), eps=0.1), "ls")
    before = statistics(ours.get_classifier())
    ours.fit(x, y, nb_epochs=1)
    assert not torch.equal(statistics(ours.get_classifier()), before)
    assert not ours.get_classifier().model.training


def test_madry_attacks_the_whole_batch(digits: Any) -> None:
    """ART's attack works on 32 at a time, whatever the trainer's batch size."""
    x, y = digits
    trainer = arts.AdversarialTrainerMadryPGD(
        classifier(), nb_epochs=1, batch_size=128, eps=0.1, eps_step=0.1, max_iter=1
    )
    assert trainer.attack.batch_size == 32, "ART has mended it: tell so"
    sizes = []
    quietly(trainer, "one-hot")
    own = trainer.get_classifier().model.forward
    trainer.get_classifier().model.forward = lambda v: sizes.append(len(v)) or own(v)
    trainer.fit(x, y)
    assert set(sizes) == {128}


def test_oaat_averages_its_weights(digits: Any, tmp_path: Path) -> None:
    """In ART the average models keep the weights that they were made with."""
    x, y = digits
    params = {
        "models_path": str(tmp_path),
        "lr_schedule": "step",  # which fails in ART before the first epoch
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
        "alternate_iter_eps": 0.07,  # LPIPS attacks from the last epoch on
        "max_iter": 2,
        "norm": np.inf,
        "load_swa_model_tau": 0.75,
        "swa_save_epoch": 0,
        "list_swa_epoch": [0],
        "list_swa_tau": [0.75],
        "oaat_warmup": 0,
        "layer_names_activation": ["conv"],
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 0.0,
    }
    c, average = classifier(), classifier()
    trainer = arts.AdversarialTrainerOAATPyTorch(
        c, classifier(), classifier(), [average], pgd(c), params
    )
    quietly(trainer, "vs")
    want: dict[str, Tensor] = {}
    own = trainer._batch_process
    attacked = []

    def following(epoch: int, *rest: Any) -> Any:
        done = own(epoch, *rest)
        now = {k: v.double() for k, v in c.model.state_dict().items() if v.is_floating_point()}
        for k, v in now.items():
            want[k] = v if epoch == 0 else 0.25 * v + 0.75 * want[k]
        attacked.append(trainer._apply_lpips_pert)
        return done

    trainer._batch_process = following
    trainer.fit(x, y, batch_size=64, nb_epochs=4)
    assert True in attacked
    for k, v in want.items():
        torch.testing.assert_close(average.model.state_dict()[k].double(), v, atol=1e-5, rtol=1e-4)
    assert average.predict(x).shape == (len(x), 10)


def test_a_sequential_model_gives_its_last_output(digits: Any) -> None:
    """ART's TRADES takes the first layer's output for the logits, and fails or counts nonsense."""
    x, y = digits

    def model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))

    plain = classifier(model())
    with pytest.raises(RuntimeError):
        arts.AdversarialTrainerTRADESPyTorch(plain, pgd(plain), 1.0).fit(x, y, nb_epochs=1)
    c = classifier(model())
    trainer = arts.AdversarialTrainerTRADESPyTorch(c, pgd(c), 1.0)
    with pytest.warns(RobustLabelsWarning, match="Sequential"):
        with_labels(trainer, "vs")
    trainer.fit(x, y, nb_epochs=4, batch_size=32)
    assert isinstance(c.model, nn.Sequential)
    assert (c.predict(x).argmax(1) == y).mean() > 0.8


def test_virtual_classes_widen_every_copy_and_predict_keeps_k_columns(digits: Any) -> None:
    """AWP's proxy loads the classifier's weights; a proxy of another width can't."""
    x, y = digits
    c, proxy = classifier(), classifier()
    rows = c.model.fc.weight.detach().clone()
    trainer = arts.AdversarialTrainerAWPPyTorch(c, proxy, pgd(c), "PGD", 0.005, 6.0, 0)
    quietly(trainer, rl.make_scheme("vs", 10, virtual_classes=3))
    assert torch.equal(c.model.fc.weight[:10], rows)
    assert c.model.fc.weight.shape[0] == proxy.model.fc.weight.shape[0] == 13
    held = [p for group in c.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in c.model.parameters()}
    trainer.fit(x, y, nb_epochs=2, batch_size=64)
    assert c.predict(x).shape == (len(x), 10)
    assert not torch.equal(c.model.fc.weight[:10], rows)


def test_outside_training_the_loss_is_hard(digits: Any) -> None:
    """Else an attack after training would attack soft labels, and look weak."""
    x, y = digits
    c = classifier()
    trainer = quietly(arts.AdversarialTrainerTRADESPyTorch(c, pgd(c), 1.0), "ls")
    trainer.fit(x, y, nb_epochs=1)
    z = torch.from_numpy(c.predict(x)).double()
    want = nn.functional.cross_entropy(z, torch.from_numpy(y), reduction="none")
    np.testing.assert_allclose(c.compute_loss(x, np.eye(10)[y]), want, rtol=1e-4, atol=1e-5)
    leaf = torch.from_numpy(x).requires_grad_()
    c.model.eval()
    nn.functional.cross_entropy(c.model(leaf), torch.from_numpy(y)).backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(c.loss_gradient(x, np.eye(10)[y]), leaf.grad, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kind", ["trades", "adversarial"])
def test_soft_labels_of_the_users_own(digits: Any, kind: str) -> None:
    """``one-hot`` keeps them as they are: a soft y is what ART's own users bring."""
    x, y = digits
    soft = (0.7 * np.eye(10)[y] + 0.03).astype(np.float32)
    c = classifier()
    trainer: Any = arts.AdversarialTrainer(c, pgd(c), ratio=1.0)
    if kind == "trades":
        trainer = arts.AdversarialTrainerTRADESPyTorch(c, pgd(c), 1.0)
    quietly(trainer, "ls")
    seen: list[Tensor] = []
    own = trainer.labelling.labels
    trainer.labelling.labels = lambda logits: seen.append(own(logits)) or seen[-1]
    trainer.fit(x, soft, nb_epochs=1, batch_size=len(x))
    (labels,) = seen
    want = 0.9 * soft + 0.01
    order = np.argsort(labels.numpy().argmax(1), kind="stable")
    np.testing.assert_allclose(labels.numpy()[order], want[np.argsort(y, kind="stable")], atol=1e-6)


def test_attacks_from_another_model_are_run_once_and_labelled(digits: Any) -> None:
    """``AdversarialTrainer`` precomputes transferred attacks before the first step."""
    x, y = digits
    c, other = classifier(), classifier()
    teacher = Net()
    trainer = arts.AdversarialTrainer(c, [pgd(other), pgd(c)], ratio=0.5)
    quietly(trainer, "ltd", teacher)
    trainer.fit(x, y, nb_epochs=2, batch_size=64)
    with pytest.raises(ValueError, match="moves the inputs"):
        quietly(arts.AdversarialTrainer(c2 := classifier(), [pgd(other), pgd(c2)]), "mixup")


def test_an_attack_with_a_loss_of_its_own_gets_plain_labels(digits: Any) -> None:
    """AutoPGD makes its own estimator, which would read numbered labels as probabilities; ART's
    trainer takes it for another model's, and attacks once, before training."""
    x, y = digits
    c = classifier()
    seen: list[np.ndarray] = []

    class Watching(AutoProjectedGradientDescent):
        def generate(self, x: Any, y: Any = None, **kwargs: Any) -> Any:
            seen.append(np.asarray(y))
            return super().generate(x, y, **kwargs)

    attack = Watching(
        c, eps=0.1, eps_step=0.05, max_iter=2, nb_random_init=1, loss_type="cross_entropy",
        verbose=False, batch_size=64,
    )  # fmt: skip
    trainer = quietly(arts.AdversarialTrainer(c, attack, ratio=1.0), "vs")
    trainer.fit(x, y, nb_epochs=1, batch_size=64)
    assert len(seen) == 1, "ART attacks afresh at each step now: tell so"
    for labels in seen:
        assert ((labels == 0) | (labels == 1)).all()
        assert (labels.sum(1) == 1).all()


def test_validation_saving_and_copying_stay_arts_own(digits: Any, tmp_path: Path) -> None:
    """A wrapped trainer is passed around like any other."""
    x, y = digits
    c = classifier()
    trainer = quietly(arts.AdversarialTrainerTRADESPyTorch(c, pgd(c), 1.0), "vs")
    assert isinstance(trainer, arts.AdversarialTrainerTRADESPyTorch)
    assert isinstance(c, PyTorchClassifier)
    schedule = torch.optim.lr_scheduler.StepLR(c.optimizer, 1, gamma=0.1)
    trainer.fit(x, y, validation_data=(x[:20], y[:20]), nb_epochs=2, scheduler=schedule)
    assert c.optimizer.param_groups[0]["lr"] == pytest.approx(0.001)
    c.save("trained", path=str(tmp_path))
    assert torch.load(tmp_path / "trained.model")["fc.weight"].shape[0] == 20
    twin = copy.deepcopy(c)
    with torch.no_grad():
        c.model.fc.weight.zero_()
    assert not np.array_equal(twin.predict(x), c.predict(x))


def test_the_ema_teacher_goes_on_and_the_schedule_begins_anew(digits: Any) -> None:
    """Users call fit several times; progress is of each call. Weights that are loaded before the
    first must be the teacher's, or its labels are those of a random model."""
    x, y = digits
    c = classifier()
    trainer = quietly(arts.AdversarialTrainerTRADESPyTorch(c, pgd(c), 1.0), "adr")
    progress: list[float] = []
    own = trainer.labelling.scheme.labels

    def labels(*args: Any, **kwargs: Any) -> Tensor:
        progress.append(kwargs["progress"])
        return own(*args, **kwargs)

    trainer.labelling.scheme.labels = labels
    c.model.load_state_dict(Net().state_dict())
    start = copy.deepcopy(c.model.state_dict())
    trainer.fit(x, y, nb_epochs=2, batch_size=64)
    teacher = trainer.labelling.teacher.average.model
    between = copy.deepcopy(teacher.state_dict())
    moved = (between["fc.weight"] - start["fc.weight"]).norm()
    assert moved < 0.1 * (c.model.fc.weight - start["fc.weight"]).norm()
    trainer.fit(x, y, nb_epochs=1, batch_size=128)
    assert progress == [*(i / 8 for i in range(8)), 0.0, 0.5]
    assert not torch.equal(between["fc.weight"], start["fc.weight"])
    assert not torch.equal(teacher.state_dict()["fc.weight"], between["fc.weight"])


def test_what_is_refused(digits: Any) -> None:
    """One line each; nothing is changed before."""
    x, y = digits

    def trainer(c: Any = None) -> Any:
        c = classifier() if c is None else c
        return arts.AdversarialTrainerTRADESPyTorch(c, pgd(c), 1.0)

    for wrong, scheme, teacher, words in (
        (object(), "ls", None, "must be one of AdversarialTrainer"),
        (trainer(classifier(loss=nn.NLLLoss())), "ls", None, "plain nn.CrossEntropyLoss"),
        (
            trainer(classifier(loss=nn.CrossEntropyLoss(label_smoothing=0.1))),
            "ls",
            None,
            "plain nn.CrossEntropyLoss",
        ),
        (
            trainer(classifier(preprocessing_defences=LabelSmoothing())),
            "ls",
            None,
            "makes labels",
        ),
        (
            trainer(classifier(preprocessing_defences=GaussianAugmentation(augmentation=True))),
            "ls",
            None,
            "adds samples",
        ),
        (trainer(), rl.make_scheme("ls", 7), None, "7 classes"),
        (trainer(), "ltd", None, "needs a teacher"),
        (trainer(), "ls", Net(), "no frozen teacher"),
        (trainer(), "ltd", "nowhere", "no run at nowhere"),
    ):
        before = type(wrong)
        with pytest.raises(ValueError, match=words) as caught:
            quietly(wrong, scheme, teacher)
        assert "\n" not in str(caught.value)
        assert type(wrong) is before
        if hasattr(wrong, "get_classifier"):
            assert type(wrong.get_classifier()) is PyTorchClassifier
    with pytest.raises(KeyError, match="did you mean"):
        quietly(trainer(), "lss")
    twice = quietly(trainer(), "ls")
    with pytest.raises(ValueError, match="already"):
        quietly(twice, "ls")
    for labels, words in (
        (y + 1, "must be in"),
        (y[:5], "samples"),
        (np.eye(9)[y % 9], "must have shape"),
        (np.eye(10)[y] * 2, "sum to 1"),
    ):
        with pytest.raises(ValueError, match=words):
            twice.fit(x, labels, nb_epochs=1)


def test_teachers_come_as_classifiers_runs_and_modules(digits: Any, tmp_path: Path) -> None:
    """A PyTorchClassifier brings its own preprocessing."""
    x, y = digits
    net = Net()
    shifted = PyTorchClassifier(
        net, nn.CrossEntropyLoss(), (1, 8, 8), 10, preprocessing=(0.5, 0.25), device_type="cpu"
    )
    rl.fit("small-cnn", "digits", trainer="standard", epochs=1, out=tmp_path / "run")
    z = {}
    for name, teacher in (("art", shifted), ("module", net), ("run", tmp_path / "run")):
        c = classifier()
        trainer = quietly(arts.AdversarialTrainerTRADESPyTorch(c, pgd(c), 1.0), "ltd", teacher)
        z[name] = trainer.labelling.teacher.logits(x[:4])
        assert z[name].shape == (4, 10)
        trainer.fit(x, y, nb_epochs=1)
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(z["module"], net(torch.from_numpy(x[:4])))
        torch.testing.assert_close(z["art"], net((torch.from_numpy(x[:4]) - 0.5) / 0.25))
