"""``with_labels`` off the beaten track: odd schemes, models, classifiers, calls and faults."""

from __future__ import annotations

import copy
import logging
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

art = pytest.importorskip("art")
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent  # noqa: E402
from art.defences import trainer as arts  # noqa: E402
from art.estimators.certification.interval import PyTorchIBPClassifier  # noqa: E402
from art.estimators.certification.randomized_smoothing import (  # noqa: E402
    PyTorchRandomizedSmoothing,
)
from art.estimators.classification import PyTorchClassifier  # noqa: E402

import robustlabels as rl  # noqa: E402
from robustlabels.errors import RobustLabelsWarning  # noqa: E402
from robustlabels.integrations.art import LabelTrainer, with_labels  # noqa: E402
from robustlabels.labels import Mix  # noqa: E402

X, Y = load_digits(return_X_y=True)
X, Y = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)[:130], Y[:130]
HOT = np.eye(10, dtype=np.float32)[Y]


class Net(nn.Module):
    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.fc = nn.Linear(216, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).relu().flatten(1))


class HeadFirst(nn.Module):
    """Its last linear layer is not the one that gives the logits, but as wide."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(10, 10), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.flatten(1)).relu())


def classifier(model: nn.Module | None = None, cls: Any = PyTorchClassifier, **options: Any) -> Any:
    model = Net() if model is None else model
    defaults = {
        "loss": nn.CrossEntropyLoss(),
        "input_shape": (1, 8, 8),
        "nb_classes": 10,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "clip_values": (0.0, 1.0),
        "device_type": "cpu",
    }
    return cls(model=model, **{**defaults, **options})


def pgd(c: Any, **options: Any) -> Any:
    return ProjectedGradientDescent(
        c, **{"eps": 0.1, "eps_step": 0.05, "max_iter": 2, "verbose": False, **options}
    )


def awp(c: Any, proxy: Any = None, attack: Any = None) -> Any:
    proxy = classifier(copy.deepcopy(c.model)) if proxy is None else proxy
    attack = pgd(c) if attack is None else attack
    return arts.AdversarialTrainerAWPPyTorch(c, proxy, attack, "PGD", 0.01, 1.0, 0)


MAKERS: dict[str, Callable[[Any], Any]] = {
    "adversarial": lambda c: arts.AdversarialTrainer(c, pgd(c), ratio=1.0),
    "half": lambda c: arts.AdversarialTrainer(
        c, [pgd(c), FastGradientMethod(c, eps=0.1)], ratio=0.5
    ),
    "madry": lambda c: arts.AdversarialTrainerMadryPGD(c, eps=0.1, eps_step=0.05, max_iter=2),
    "trades": lambda c: arts.AdversarialTrainerTRADESPyTorch(c, pgd(c), 1.0),
    "awp": awp,
    "fbf": lambda c: arts.AdversarialTrainerFBFPyTorch(c, eps=0.1),
}


def labelled(trainer: Any, scheme: Any, teacher: Any = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return with_labels(trainer, scheme, teacher)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("art").setLevel(logging.ERROR)
    torch.manual_seed(0)
    np.random.seed(0)


# --- the training is ART's own ------------------------------------------------------------------


@pytest.mark.parametrize("kind", [k for k in MAKERS if k != "fbf"])  # FBF's mode is mended
def test_one_hot_labels_train_as_plain_art_does(kind: str) -> None:
    """Weights, BN statistics and random numbers: the wrapper adds nothing but labels."""
    found = []
    for scheme in (None, "one-hot"):
        torch.manual_seed(0)
        np.random.seed(0)
        c = classifier()
        trainer = MAKERS[kind](c)
        if kind == "madry":
            trainer.attack.set_params(batch_size=65)
        if scheme is not None:
            labelled(trainer, scheme)
        trainer.fit(X, HOT, nb_epochs=2, batch_size=65)
        found.append(c.model.state_dict())
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("adversarial", (32, 3)),  # batch_size, nb_epochs
        ("madry", (None, 32, 3)),  # validation_data, batch_size, nb_epochs
        ("trades", (None, 32, 3)),
        ("awp", (None, 32, 3)),
        ("fbf", (None, 32, 3)),
    ],
)
def test_positional_arguments_are_arts(kind: str, arguments: tuple[Any, ...]) -> None:
    """Each of ART's trainers has its own order; progress is counted by it."""
    trainer = labelled(MAKERS[kind](classifier()), "ls")
    seen = []
    own = trainer.labelling.scheme.labels

    def labels(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(kwargs["progress"])
        return own(*args, **kwargs)

    trainer.labelling.scheme.labels = labels
    trainer.fit(X, Y, *arguments)
    assert seen == pytest.approx([i / 15 for i in range(15)])  # 3 epochs of 5 batches


# --- schemes ------------------------------------------------------------------------------------


class Plain:
    """Without a base class."""

    num_classes, num_outputs = 10, 10
    needs: frozenset[str] = frozenset()

    def labels(self, y: Tensor, **_: Any) -> Tensor:
        return F.one_hot(y, 10).float()


class ByPartner:
    """It finds the partners' classes by their places in the batch."""

    num_classes, num_outputs, needs = 10, 10, frozenset({"mix"})

    def perturb(self, x: Tensor, y: Tensor, generator: Any = None) -> tuple[Tensor, Mix]:
        partner = torch.randperm(len(x))
        lam = torch.full((len(x),), 0.7)
        return 0.7 * x + 0.3 * x[partner], Mix(lam, partner, y[partner])

    def labels(self, y: Tensor, *, mix: Mix, **_: Any) -> Tensor:
        assert torch.equal(y[mix.partner], mix.labels)
        return 0.7 * F.one_hot(y, 10) + 0.3 * F.one_hot(y[mix.partner], 10)


@pytest.mark.parametrize("kind", MAKERS)
def test_partners_are_found_in_the_order_that_art_shuffled(kind: str) -> None:
    """``Mix.partner`` is a place in the batch, and the classifier's ``fit`` shuffles that."""
    labelled(MAKERS[kind](classifier()), ByPartner()).fit(X, Y, nb_epochs=2, batch_size=32)


def test_a_scheme_may_move_inputs_of_one_shape_and_only_at_times() -> None:
    """Whether it moves them can't be told by trying it once, on an image of our own."""

    class Seldom(Plain):
        moved = 0

        def perturb(self, x: Tensor, y: Tensor, generator: Any = None) -> tuple[Tensor, None]:
            assert x.shape[1:] == (1, 8, 8)
            if torch.rand(()) < 0.7:
                return x, None
            self.moved += 1
            return x / 2, None

    for seed in range(4):
        torch.manual_seed(seed)
        scheme = Seldom()
        labelled(MAKERS["trades"](classifier()), scheme).fit(X, Y, nb_epochs=6, batch_size=32)
        assert 1 <= scheme.moved < 20
        virtual = rl.make_scheme("vs", 10, inner=Seldom())
        assert labelled(MAKERS["trades"](classifier()), virtual).labelling.moves
    assert not labelled(MAKERS["trades"](classifier()), "vs").labelling.moves


def test_adrs_attack_sees_soft_labels_in_subclasses_too() -> None:
    """The objective was told by the class's name."""

    class Mine(arts.AdversarialTrainer):
        pass

    class Also(arts.AdversarialTrainerTRADESPyTorch):
        pass

    c = classifier()
    assert labelled(Mine(c, pgd(c)), "adr").labelling.soft_attack
    c = classifier()
    assert not labelled(Also(c, pgd(c), 1.0), "adr").labelling.soft_attack


@pytest.mark.parametrize("inner", ["adr", "ltd", "als", "alps", "mixup"])
@pytest.mark.parametrize("kind", MAKERS)
def test_virtual_classes_around_other_schemes(kind: str, inner: str) -> None:
    """Teachers have K outputs, the model K + V, and mixed attack targets K + V too."""
    c = classifier()
    scheme = rl.make_scheme("vs", 10, inner=inner, virtual_classes=3, warmup_epochs=1)
    trainer = labelled(MAKERS[kind](c), scheme, Net() if inner == "ltd" else None)
    trainer.fit(X, Y, nb_epochs=2, batch_size=65)
    assert c.predict(X).shape == (130, 10)


@pytest.mark.parametrize("kind", MAKERS)
def test_two_classes_as_bools(kind: str) -> None:
    """ART reads (N, 2) and (N, 1) in ways of its own where there are two."""
    c = classifier(Net(2), nb_classes=2)
    proxy = classifier(Net(2), nb_classes=2)
    trainer = awp(c, proxy) if kind == "awp" else MAKERS[kind](c)
    labelled(trainer, "vs").fit(X, Y % 2 == 1, nb_epochs=6, batch_size=32)
    assert (c.predict(X).argmax(1) == Y % 2).mean() > 0.7


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
def test_a_fit_after_one_that_failed(kind: str) -> None:
    """Nothing of the broken step may be left, or the loss is soft outside training."""
    c = classifier()
    trainer = labelled(MAKERS[kind](c), "vs")
    calls = []

    def fails(module: nn.Module, inputs: Any) -> None:
        calls.append(1)
        if len(calls) == 7:
            raise RuntimeError("the cable")

    handle = c.model.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="the cable"):
        trainer.fit(X, Y, nb_epochs=3, batch_size=32)
    handle.remove()
    labelling = trainer.labelling
    assert not (labelling.active or labelling.attacking or labelling.batch or labelling.attacked)
    assert labelling.scheme.check_values
    trainer.fit(X, Y, nb_epochs=1, batch_size=32)
    trainer.labelling.scheme.begin_training = lambda epochs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.fit(X, Y, nb_epochs=1)
    assert not labelling.active


def test_refusals_change_nothing() -> None:
    """A trainer that was refused half-way would train on K + V outputs without labels."""
    torch.manual_seed(1)
    for make, words in (
        (lambda c: awp(c, classifier(loss=nn.NLLLoss())), "plain nn.CrossEntropyLoss"),
        (lambda c: awp(c, classifier(HeadFirst())), "adapt_model"),
        (lambda c: awp(c, attack=pgd(c, targeted=True)), "targeted"),
    ):
        c = classifier()
        trainer = make(c)
        with pytest.raises(ValueError, match=words) as caught:
            labelled(trainer, "vs")
        assert "\n" not in str(caught.value)
        assert type(c) is PyTorchClassifier
        assert type(c.loss) is nn.CrossEntropyLoss
        assert c.model.fc.out_features == 10
    c = classifier()
    labelled(MAKERS["trades"](c), "ls")
    with pytest.raises(ValueError, match="has labels already"):
        labelled(MAKERS["fbf"](c), "ls")


def test_a_head_that_is_not_the_last_layer_is_widened_by_the_user() -> None:
    """The message says how, and the widened model is taken as it is."""
    scheme = rl.make_scheme("vs", 10)
    with pytest.raises(ValueError, match=r"adapt_model\(model, scheme, layer=") as caught:
        labelled(MAKERS["trades"](classifier(HeadFirst())), scheme)
    assert "\n" not in str(caught.value)
    c = classifier(rl.adapt_model(HeadFirst(), scheme, layer="head"))
    labelled(MAKERS["trades"](c), scheme).fit(X, Y, nb_epochs=1)
    assert c.model.head.out_features == 20
    assert c.predict(X).shape == (130, 10)


def smoothed() -> Any:
    return classifier(cls=PyTorchRandomizedSmoothing, sample_size=10, scale=0.1, alpha=0.05)


def test_smoothed_classifiers_have_no_virtual_classes() -> None:
    """They count votes over all outputs, and certify a virtual class as gladly as another."""
    with pytest.raises(ValueError, match="counts votes"):
        labelled(MAKERS["trades"](smoothed()), "vs")
    c = smoothed()
    labelled(MAKERS["adversarial"](c), "als").fit(X, Y, nb_epochs=1)
    assert c.predict(X[:5]).shape == (5, 10)
    with pytest.raises(ValueError, match="training of its own"):
        LabelTrainer(smoothed(), "ls")


def test_the_certified_trainers_other_losses_are_refused() -> None:
    """They would be handed numbered labels."""

    class Reshaping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.fc = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(144, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.relu(self.conv(x)).reshape(-1, 144))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        c = classifier(Reshaping(), PyTorchIBPClassifier)
    trainer = labelled(arts.AdversarialTrainerCertifiedIBPPyTorch(c, bound=0.01), "ls")
    with pytest.raises(ValueError, match="certification_loss"):
        trainer.fit(X, Y, [0.0, 1.0], lambda preds, y: preds.sum(), nb_epochs=1)


def test_warnings_point_at_the_users_line() -> None:
    """Python shows each line's warning once; one of ours would be shown once for all trainers."""
    for kind, count in (("madry", 2), ("trades", 2), ("fbf", 2)):
        c = classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
        with pytest.warns(RobustLabelsWarning) as caught:
            with_labels(MAKERS[kind](c), "ls")
        assert [w.filename for w in caught] == [__file__] * count


def test_a_generator_of_tensors() -> None:
    """ART's loops call ``x.copy()``, which tensors lack."""

    class Batches:
        size, batch_size = 130, 65

        def get_batch(self) -> tuple[Tensor, Tensor]:
            return torch.from_numpy(X[:65]), torch.from_numpy(Y[:65])

    for kind in set(MAKERS) - {"madry"}:
        c = classifier()
        labelled(MAKERS[kind](c), "vs").fit_generator(Batches(), nb_epochs=1)
        assert c.model.norm.num_batches_tracked >= 2


# --- copies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["ls", "vs", "adr"])
@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda c: pickle.loads(pickle.dumps(c)),
        lambda c: c.clone_for_refitting(),
    ],
    ids=["deepcopy", "pickle", "clone"],
)
def test_copies_of_a_labelled_classifier(
    scheme: str, copied: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    """Its class has no name to be found by; a clone is made by ART, without our attributes."""
    monkeypatch.setattr("art.config.ART_DATA_PATH", str(tmp_path))
    c = classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)))
    labelled(MAKERS["trades"](c), scheme).fit(X, Y, nb_epochs=1)
    twin = copied(c)
    assert isinstance(twin, PyTorchClassifier)
    assert len(twin._model(torch.from_numpy(X[:2]))) == 1
    z = torch.from_numpy(twin.predict(X)).double()
    assert z.shape == (130, 10)
    if scheme != "vs":
        want = F.cross_entropy(z, torch.from_numpy(Y), reduction="none")
        np.testing.assert_allclose(twin.compute_loss(X, HOT), want, rtol=1e-4, atol=1e-5)
    own = c.predict(X)
    twin.fit(X, HOT, nb_epochs=1)
    np.testing.assert_array_equal(c.predict(X), own)
    assert not np.array_equal(twin.predict(X), own)
