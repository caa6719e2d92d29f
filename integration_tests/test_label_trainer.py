"""LabelTrainer as ART's users meet it: what it takes from the classifier, and what it is given.

What reaches its loss and its attack is tested in ``test_art_labels``.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

art = pytest.importorskip("art")
import torchattacks  # noqa: E402
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent  # noqa: E402
from art.data_generators import NumpyDataGenerator  # noqa: E402
from art.defences.preprocessor import GaussianAugmentation, SpatialSmoothing  # noqa: E402
from art.defences.trainer import Trainer  # noqa: E402
from art.estimators.classification import PyTorchClassifier  # noqa: E402

from robustlabels.integrations.art import LabelTrainer  # noqa: E402


class Net(nn.Module):
    """Keeps what it is given in train mode and in eval mode."""

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.fc = nn.Linear(6 * 36, outputs)
        self.seen: dict[bool, list[Tensor]] = {True: [], False: []}

    def forward(self, x: Tensor) -> Tensor:
        self.seen[self.training].append(x.detach())
        return self.fc(self.conv(x).relu().flatten(1))


def classifier(model: nn.Module | None = None, lr: float = 0.1, **options: Any) -> Any:
    model = Net() if model is None else model
    defaults: dict[str, Any] = {
        "loss": nn.CrossEntropyLoss(),
        "input_shape": (1, 8, 8),
        "nb_classes": 10,
        "optimizer": torch.optim.SGD(model.parameters(), lr=lr),
        "clip_values": (0.0, 1.0),
        "device_type": "cpu",
    }
    return PyTorchClassifier(model, **{**defaults, **options})


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("art").setLevel(logging.ERROR)
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)[:200], y[:200]


def weights(c: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in c.model.parameters()])


def test_it_is_a_trainer_of_arts(digits: Any) -> None:
    """ART's own tools take any ``Trainer``."""
    x, y = digits
    c = classifier()
    trainer = LabelTrainer(c, "vs", eps=0.1)
    assert isinstance(trainer, Trainer)
    trainer.fit(x, y, nb_epochs=10, batch_size=32)
    assert trainer.get_classifier() is c
    assert trainer.predict(x).shape == c.predict(x).shape == (200, 10)
    assert (c.predict(x).argmax(1) == y).mean() > 0.8
    assert len(trainer.history) == 10
    assert not c.model.training


def test_ranges_change_the_numbers_not_the_training(digits: Any) -> None:
    """Pixels in [0, 255] or [-1, 1], with the preprocessing that brings them back, must give the
    weights of [0, 1], or eps and clip values have been taken in other units than the user's."""
    x, y = digits
    found = []
    for low, high in ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)):
        torch.manual_seed(0)
        c = classifier(clip_values=(low, high), preprocessing=(low, high - low))
        trainer = LabelTrainer(c, "als", eps=0.1 * (high - low), seed=3)
        trainer.fit(low + (high - low) * x, y, nb_epochs=1)
        found.append(weights(c))
        reached = torch.cat(c.model.seen[True])
        assert 0 <= reached.min() < 0.1
        assert 0.9 < reached.max() <= 1 + 1e-6
    torch.testing.assert_close(found[1], found[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(found[2], found[0], atol=1e-3, rtol=0)


def test_uint8_images_are_taken_as_they_are(digits: Any) -> None:
    """They stay bytes until they are used, a quarter of the memory."""
    x, y = digits
    x = (x * 255).astype(np.uint8)
    found = []
    for dtype in (np.uint8, np.float32):
        torch.manual_seed(0)
        c = classifier(clip_values=(0, 255), preprocessing=(0.0, 255.0))
        held = (x[:40].astype(np.float32), y[:40])
        LabelTrainer(c, seed=3).fit(x.astype(dtype), y, held, nb_epochs=1)
        found.append(weights(c))
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=0)


def test_without_clip_values_nothing_is_clipped(digits: Any) -> None:
    """ART's attacks leave [0, 1] then, and so must ours."""
    x, y = digits
    c = classifier(clip_values=None)
    LabelTrainer(c, eps=0.1, seed=3).fit(x, y, nb_epochs=1)
    reached = torch.cat(c.model.seen[True])
    assert float(reached.min()) == pytest.approx(-0.1, abs=0.02)
    assert float(reached.max()) == pytest.approx(1.1, abs=0.02)
    with pytest.raises(ValueError, match="clip_values"):
        LabelTrainer(c).fit_generator(NumpyDataGenerator(x, y, batch_size=50))


def test_the_loss_reduction_is_the_classifiers() -> None:
    """A sum at lr / N takes the steps of a mean at lr."""
    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)[:128], y[:128]
    found = []
    for reduction, lr in (("mean", 0.1), ("sum", 0.1 / 64)):
        torch.manual_seed(0)
        c = classifier(lr=lr, loss=nn.CrossEntropyLoss(reduction=reduction))
        trainer = LabelTrainer(c, "vs", eps=0.05, seed=3)
        trainer.fit(x, y, nb_epochs=2, batch_size=64)
        found.append((weights(c), trainer.history[-1]["train_loss"]))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=0)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-3)


@pytest.mark.parametrize("variant", ["robustlabels", "wu", "adr"])
def test_weight_perturbation_and_extra_data(digits: Any, variant: str) -> None:
    """Options of our engine reach ART's users too; the classifier is left with restored weights."""
    x, y = digits
    found = {}
    for awp, lr in ((None, 0.1), ({"variant": variant, "gamma": 0.1}, 0.1), (0.5, 1e-6)):
        torch.manual_seed(0)
        c = classifier(lr=lr)
        start = weights(c)
        trainer = LabelTrainer(c, "ls", eps=0.05, seed=3, awp=awp, extra=(x[:50], y[:50]))
        trainer.fit(x, y, nb_epochs=3, batch_size=64)
        found[lr, awp is None] = weights(c)
        assert trainer.result.config.extra_fraction == 0.5
        assert [r["step"] for r in trainer.history] == [7, 14, 21]  # 200 by 32
    assert not torch.equal(found[0.1, True], found[0.1, False])
    torch.testing.assert_close(found[1e-6, False], start, atol=1e-4, rtol=0)


def test_the_optimizer_and_the_scheduler_are_the_users(digits: Any) -> None:
    """Parameter groups, momentum and learning rates are theirs; a frozen layer stays frozen."""
    x, y = digits
    model = Net()
    before = model.conv.weight.detach().clone()
    optimizer = torch.optim.Adam([{"params": model.fc.parameters(), "lr": 0.01}])
    c = classifier(model, optimizer=optimizer)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)
    trainer = LabelTrainer(c, eps=0.05)
    trainer.fit(x, y, nb_epochs=3, scheduler=schedule)
    assert [r["lr"] for r in trainer.history] == pytest.approx([0.01, 0.01, 0.001])
    assert torch.equal(model.conv.weight, before)
    assert optimizer.state[model.fc.weight]["step"] == 6  # 3 epochs of 2 batches
    with pytest.raises(ValueError, match="LRScheduler"):
        trainer.fit(x, y, nb_epochs=1, scheduler="cosine")


def test_defences_come_before_the_model_as_art_has_them(digits: Any) -> None:
    """``apply_fit`` ones in training, ``apply_predict`` ones for attacks; numpy ones with the
    gradient that ART estimates for them."""
    x, y = digits
    noise = GaussianAugmentation(sigma=0.5, augmentation=False, apply_fit=True, apply_predict=False)
    c = classifier(preprocessing_defences=noise)
    LabelTrainer(c, objective="standard").fit(x, y, nb_epochs=1)
    assert torch.cat(c.model.seen[True]).min() < -0.3
    smooth = SpatialSmoothing(window_size=3, apply_fit=True, apply_predict=True)
    c = classifier(preprocessing_defences=smooth)
    trainer = LabelTrainer(c, "vs", eps=0.1, attack={"name": "pgd", "steps": 2, "start": "none"})
    trainer.fit(x[:50], y[:50], nb_epochs=1, batch_size=50)
    first = next(seen for seen in c.model.seen[False] if len(seen) == 50)
    attacked = c.model.seen[True][0]
    got = np.sort(first.numpy().reshape(50, -1), axis=0)
    want = np.sort(smooth(x[:50])[0].reshape(50, -1), axis=0)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert not torch.equal(attacked, first)


@pytest.mark.parametrize("kind", ["index", "column", "one-hot"])
def test_labels_in_all_of_arts_formats(digits: Any, kind: str) -> None:
    """They are the same labels."""
    x, y = digits
    forms = {"index": y, "column": y[:, None], "one-hot": np.eye(10)[y]}
    found = []
    for labels in (y, forms[kind]):
        torch.manual_seed(0)
        c = classifier()
        LabelTrainer(c, "ls", eps=0.1, seed=1).fit(x, labels, nb_epochs=1)
        found.append(weights(c))
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("generated", [False, True])
def test_soft_labels_reach_the_loss(digits: Any, generated: bool) -> None:
    """ART's trainers argmax them. For ``ls`` the mixture of labels has a closed form."""
    x, _ = digits
    soft = np.random.RandomState(0).dirichlet(np.ones(10) / 4, len(x)).astype(np.float32)
    model = Net()
    logits: list[Tensor] = []
    c = classifier(model, lr=0.0)
    trainer = LabelTrainer(c, "ls", "standard", seed=1)
    handle = model.register_forward_hook(lambda m, i, o: logits.append(o.detach()))
    if generated:
        trainer.fit_generator(NumpyDataGenerator(x, soft, batch_size=len(x)), nb_epochs=1)
    else:
        trainer.fit(x, soft, nb_epochs=1, batch_size=len(x))
    handle.remove()
    with torch.no_grad():
        log_p = model(torch.from_numpy(x)).double().log_softmax(1).numpy()
    want = -((0.9 * soft + 0.01) * log_p).sum(1).mean()
    assert trainer.history[0]["train_loss"] == pytest.approx(want, rel=1e-5)


def test_every_kind_of_attack(digits: Any) -> None:
    """ART's, torchattacks', ours, by name or as objects: the training inputs are where the attack
    brings them, eps away."""
    x, y = digits
    attacks: dict[str, Any] = {
        "art object": lambda c: FastGradientMethod(c, eps=0.2),
        "art name": "art:FastGradientMethod",
        "torchattacks object": lambda c: torchattacks.FGSM(c.model, eps=0.1),
        "torchattacks name": "torchattacks:FGSM",
        "name": "fgsm",
        "table": {"name": "pgd", "steps": 1, "step_size": 0.1, "start": "none"},
        "function": lambda model, x, y: (x + 0.1).clamp(0, 1),
    }
    for kind, attack in attacks.items():
        c = classifier(clip_values=(0, 2))
        made = kind.endswith("object")
        trainer = LabelTrainer(
            c, "vs", attack=attack(c) if made else attack, eps=None if made else 0.2, seed=1
        )
        trainer.fit(2 * x, y, nb_epochs=1, batch_size=len(x))
        (reached,) = c.model.seen[True]
        # The batch is shuffled: each row's nearest clean image is at the radius.
        clean = 2 * torch.from_numpy(x)
        apart = torch.cdist(reached.flatten(1), clean.flatten(1), p=float("inf")).min(dim=1).values
        torch.testing.assert_close(apart, torch.full_like(apart, 0.2), atol=1e-5, rtol=0, msg=kind)


def test_an_art_attack_trains_as_ours_does(digits: Any) -> None:
    """The same PGD from ART and from us, without random starts, gives the same weights."""
    x, y = digits
    found = []
    for ours in (True, False):
        torch.manual_seed(0)
        c = classifier()
        attack: Any = {"name": "pgd", "steps": 3, "step_size": 0.04, "start": "none"}
        if not ours:
            attack = ProjectedGradientDescent(
                c, eps=0.1, eps_step=0.04, max_iter=3, num_random_init=0, verbose=False
            )
        LabelTrainer(c, "vs", attack=attack, eps=0.1, seed=1).fit(x, y, nb_epochs=1)
        found.append(weights(c))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=0)


def test_numpys_seed_is_the_runs(digits: Any) -> None:
    """ART's users call ``np.random.seed``; a seed of their own must not be needed."""
    x, y = digits
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        np.random.seed(seed)
        c = classifier()
        LabelTrainer(c, eps=0.1).fit(x, y, nb_epochs=1, batch_size=64)
        found.append(weights(c))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_validation_chooses_only_where_it_is_asked_to(digits: Any) -> None:
    """ART's trainers end with the last weights; ``keep`` says otherwise."""
    x, y = digits
    held = (x[150:], y[150:])
    found = {}
    for keep in ("last", "best", "average"):
        torch.manual_seed(0)
        c = classifier(lr=0.5)
        options = {"weight_averaging": 0.9} if keep == "average" else {}
        trainer = LabelTrainer(c, eps=0.2, seed=1, keep=keep, **options)
        trainer.fit(x[:150], y[:150], held, nb_epochs=4, batch_size=32)
        found[keep] = weights(c)
        record = trainer.history[-1]
        assert {"validation_accuracy", "validation_robust_accuracy"} <= set(record)
        if keep == "last":
            own = (c.predict(held[0]).argmax(1) == held[1]).mean()
            assert own == pytest.approx(record["validation_accuracy"])
            last = {f"model.{k}": v for k, v in c.model.state_dict().items()}
            assert trainer.result is not None
            assert all(torch.equal(v, last[k]) for k, v in trainer.result.last.items())
    assert not torch.equal(found["last"], found["average"])


def test_inputs_that_are_no_images(digits: Any) -> None:
    """ART is used on tables too."""
    x, y = digits
    flat = x.reshape(len(x), 64)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    c = classifier(model, input_shape=(64,), lr=0.2)
    trainer = LabelTrainer(c, "vs", "trades", eps=0.05, norm="L2")
    trainer.fit(flat, y, nb_epochs=15, batch_size=32)
    assert c.predict(flat).shape == (200, 10)
    assert (c.predict(flat).argmax(1) == y).mean() > 0.8
    with pytest.raises(ValueError, match="augment needs images"):
        LabelTrainer(c, augment={"flip": True})


def test_nothing_is_augmented_unless_asked(digits: Any) -> None:
    """ART's users bring their own augmentation."""
    x, y = digits
    rows = {r.tobytes() for r in x}
    for augment, same in (({}, True), ({"crop_padding": 1}, False)):
        c = classifier()
        LabelTrainer(c, objective="standard", augment=augment).fit(x, y, nb_epochs=1)
        reached = {r.numpy().tobytes() for b in c.model.seen[True] for r in b}
        assert (reached <= rows) is same


def test_what_is_refused(digits: Any) -> None:
    """One line each."""
    x, y = digits
    c = classifier()
    for make, words in (
        (lambda: LabelTrainer(Net()), "PyTorchClassifier"),
        (lambda: LabelTrainer(classifier(optimizer=None)), "needs an optimizer"),
        (lambda: LabelTrainer(classifier(loss=nn.NLLLoss())), "CrossEntropyLoss"),
        (lambda: LabelTrainer(c, keep="first"), "keep must be"),
        (lambda: LabelTrainer(c, keep="average"), "weight_averaging"),
        (lambda: LabelTrainer(c, epochs=3), "epochs is no option"),
        (lambda: LabelTrainer(c, eps=-1).fit(x, y), "eps must be above 0"),
        (lambda: LabelTrainer(c, eps=2).fit(x, y), "at most 1"),
        (lambda: LabelTrainer(c).fit(2 * x, y), "clip_values"),
        (lambda: LabelTrainer(c).fit(x[:, 0], y), "must have inputs"),
        (lambda: LabelTrainer(c).fit(x, y[:5]), "samples"),
        (lambda: LabelTrainer(c, "ltd").fit(x, y), "needs a teacher"),
        (lambda: LabelTrainer(c, "mixup").fit(x, np.full((200, 10), 0.1)), "mixes labels"),
        (lambda: LabelTrainer(c, extra=x).fit(x, y), "extra_labels='pseudo'"),
        (lambda: LabelTrainer(c, extra=(x, y)).fit(x, np.full((200, 10), 0.1)), "one-hot"),
        (lambda: LabelTrainer(c, awp=0).fit(x, y), "awp.gamma must be greater"),
        (lambda: LabelTrainer(c, colour=3).fit(x, y), "unknown field"),
        (lambda: LabelTrainer(classifier(clip_values=(np.zeros(64), np.arange(1, 65)))).fit(x, y),
         "one .low, high. for all"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words) as caught:
            make()
        assert "\n" not in str(caught.value)
    with pytest.raises(KeyError, match="did you mean"):
        LabelTrainer(c, "lss")
    with pytest.raises(KeyError, match="did you mean"):
        LabelTrainer(c, objective="trade").fit(x, y)


def test_a_teacher_sees_the_users_units(digits: Any) -> None:
    """A module is given what the classifier is given, a PyTorchClassifier its own preprocessing."""
    x, y = digits
    for wrapped in (False, True):
        teacher = Net()
        c = classifier(clip_values=(0, 255), preprocessing=(0.0, 255.0))
        seen: list[Tensor] = []
        given: Any = teacher
        if wrapped:
            given = classifier(teacher, clip_values=(0, 255), preprocessing=(0.0, 51.0))
        trainer = LabelTrainer(c, "ltd", teacher=given, objective="standard")
        own = Net.forward

        def watching(self: Net, v: Tensor, seen: Any = seen, own: Any = own, c: Any = c) -> Tensor:
            if self is not c.model:
                seen.append(v)
            return own(self, v)

        Net.forward = watching  # type: ignore[method-assign]
        try:
            trainer.fit(255 * x, y, nb_epochs=1, batch_size=len(x))
        finally:
            Net.forward = own  # type: ignore[method-assign]
        assert float(seen[-1].max()) == pytest.approx(5.0 if wrapped else 255.0, rel=1e-4)


def test_training_is_adversarial(digits: Any) -> None:
    """A trainer that forgot its attack would pass most tests here."""
    x, y = digits
    robust = {}
    for objective in ("pgd-at", "standard"):
        torch.manual_seed(0)
        c = classifier(lr=0.1)
        LabelTrainer(c, objective=objective, eps=0.15).fit(x, y, nb_epochs=30, batch_size=32)
        attack = ProjectedGradientDescent(c, eps=0.15, eps_step=0.03, max_iter=10, verbose=False)
        x_adv = attack.generate(x, y=np.eye(10)[y])
        robust[objective] = (c.predict(x_adv).argmax(1) == y).mean()
    assert robust["pgd-at"] > robust["standard"] + 0.2
