"""ART objects that users made: their estimator's units, their model, and the object left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustlabels as rl
from robustlabels import make_attack
from robustlabels.attacks.foreign import as_attack
from robustlabels.attacks.ready_art import ReadyArtAttack, is_art_attack
from robustlabels.models import real_classes
from robustlabels.randomness import seed_everything

evasion = pytest.importorskip("art.attacks.evasion")

from art.estimators.classification import PyTorchClassifier  # noqa: E402

K = 3


class Net(nn.Module):
    """On (N, 1, 4, 4); no Sequential, which ART takes apart."""

    def __init__(self, classes: int = K, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.norm = nn.BatchNorm2d(1)
        self.fc1 = nn.Linear(16, 8)
        self.fc = nn.Linear(8, classes)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.fc1(self.norm(x).flatten(1)).tanh())


def classifier(model: nn.Module, classes: int = K, **more: Any) -> Any:
    settings: dict[str, Any] = {"clip_values": (0.0, 1.0), "device_type": "cpu", **more}
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 4, 4), classes, **settings)


def pgd(estimator: Any, **more: Any) -> Any:
    settings: dict[str, Any] = {"eps": 0.1, "eps_step": 0.03, "max_iter": 4, **more}
    return evasion.ProjectedGradientDescentPyTorch(estimator, **settings)


def images(model: nn.Module, n: int = 6) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, model(x)[:, :K].argmax(dim=1)


def by_name(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    name = "art:ProjectedGradientDescentPyTorch"
    return make_attack(name, 0.1, eps_step=0.03, max_iter=4)(model, x, y)


def test_it_is_the_attack_by_name() -> None:
    """The same attack on the same model, however it was made; and as_attack knows it."""
    model = Net()
    x, y = images(model)
    attack = as_attack(pgd(classifier(model)))
    assert isinstance(attack, ReadyArtAttack)
    assert attack.name == "art:ProjectedGradientDescentPyTorch"
    assert (attack.eps, attack.norm, attack.takes_soft_labels) == (0.1, "Linf", True)
    assert attack.params["max_iter"] == 4
    found = attack(model, x, y)
    torch.testing.assert_close(found, by_name(model, x, y), atol=1e-6, rtol=0)
    assert not torch.equal(found, x)


def test_inputs_go_to_the_estimators_units_and_back() -> None:
    """eps 25.5 of 0..255 on images in [0, 1] would be a ball that holds every image."""
    model = Net()
    x, y = images(model)
    bytes_ = classifier(model, clip_values=(0.0, 255.0), preprocessing=(0.0, 255.0))
    theirs = pgd(bytes_, eps=25.5, eps_step=7.65)
    attack = ReadyArtAttack(theirs)
    assert attack.eps == pytest.approx(0.1)
    torch.testing.assert_close(attack(model, x, y), by_name(model, x, y), atol=1e-5, rtol=0)
    own = ReadyArtAttack(theirs, scaled=False)
    assert own.eps == 25.5
    torch.testing.assert_close(
        own(model, 255 * x, y) / 255, by_name(model, x, y), atol=1e-5, rtol=0
    )


def test_a_model_that_is_wrapped_is_the_same_model() -> None:
    """The judge cuts virtual classes off, and users put normalisation in front."""
    wide = Net(K + 2)
    x, y = images(wide)
    attack = ReadyArtAttack(pgd(classifier(wide, K + 2)))
    assert (attack(real_classes(wide, K), x, y) - x).abs().max() == pytest.approx(0.1, abs=1e-6)
    cut = real_classes(wide, K)
    torch.testing.assert_close(
        ReadyArtAttack(pgd(classifier(cut)))(wide, x, y), by_name(cut, x, y), atol=1e-6, rtol=0
    )

    class Normalised(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner((x - 0.4) / 0.2)

    inner = Net()
    model = Normalised(inner).eval()
    x, y = images(model)
    attack = ReadyArtAttack(pgd(classifier(inner, preprocessing=(0.4, 0.2))))
    torch.testing.assert_close(attack(model, x, y), by_name(model, x, y), atol=1e-5, rtol=0)


def test_a_surrogate_must_be_asked_for() -> None:
    """An attack on another model is far weaker: its figure would flatter the one judged."""
    model, other = Net(), Net(seed=1)
    x, y = images(model)
    with pytest.raises(ValueError, match=r"another model than the one judged.*transfer=True") as e:
        ReadyArtAttack(pgd(classifier(other)))(model, x, y)
    assert "\n" not in str(e.value)
    transferred = ReadyArtAttack(pgd(classifier(other)), transfer=True)(model, x, y)
    torch.testing.assert_close(transferred, by_name(other, x, y), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "wrong", [{"preprocessing": (0.5, 0.25)}, {"clip_values": (0.0, 255.0)}], ids=str
)
def test_an_estimator_that_answers_otherwise(wrong: dict[str, Any]) -> None:
    """Normalised twice, or scaled by 255 without anybody dividing: not the model that is judged."""
    model = Net()
    x, y = images(model)
    with pytest.raises(ValueError, match=r"answers otherwise.*preprocessing") as caught:
        ReadyArtAttack(pgd(classifier(model, **wrong)))(model, x, y)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_used() -> None:
    """Refused in one line, when it is made."""
    model = Net()
    estimator = classifier(model)
    cases = [
        (make_attack("pgd", 0.1), "must be an evasion attack of ART"),
        (evasion.DeepFool, "must be an evasion attack of ART"),
        (pgd(estimator, targeted=True), "is targeted.*targeted=False"),
        (evasion.BoundaryAttack(estimator), "is targeted"),  # ART's default
        (evasion.TargetedUniversalPerturbation(estimator), "needs target classes"),
        (pgd(classifier(model, clip_values=(np.zeros(16), np.arange(1, 17)))), "clip_values"),
    ]
    for attack, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            ReadyArtAttack(attack)
        assert "\n" not in str(caught.value)
    assert not is_art_attack(make_attack("torchattacks:PGD", 0.1))


def test_soft_labels() -> None:
    """Where the estimator's loss takes them; MultiMarginLoss argmaxes."""
    model = Net()
    x, y = images(model)
    soft = 0.5 * F.one_hot(y, K).float() + 0.5 * F.one_hot((y + 1) % K, K)
    attack = ReadyArtAttack(pgd(classifier(model)))
    assert not torch.allclose(attack(model, x, soft), attack(model, x, y), atol=1e-3)
    margin = PyTorchClassifier(model, nn.MultiMarginLoss(), (1, 4, 4), K, clip_values=(0, 1))
    assert not ReadyArtAttack(pgd(margin)).takes_soft_labels
    deepfool = ReadyArtAttack(evasion.DeepFool(classifier(model)))
    with pytest.raises(ValueError, match="class indices only"):
        deepfool(model, x, soft)


def test_nothing_is_left_behind(capfd: Any) -> None:
    """The user's object, model, gradients and terminal are theirs."""
    model = Net()
    x, y = images(model)
    model.train()
    model.norm.eval()
    F.cross_entropy(model(x), y).backward()
    grads = [p.grad for p in model.parameters()]
    copies = [g.clone() for g in grads if g is not None]
    theirs = evasion.SpatialTransformation(
        classifier(model), max_rotation=30.0, num_rotations=3, verbose=True
    )
    model.train()  # ART's classifier has not changed it, but be sure
    model.norm.eval()
    capfd.readouterr()
    attack = ReadyArtAttack(theirs)
    first = attack(model, x, y)
    assert capfd.readouterr() == ("", "")
    assert theirs.verbose
    assert theirs.attack_rot is None  # else the next batch gets this one's rotation
    assert torch.equal(attack(model, x, y), first)
    pgd_ = ReadyArtAttack(pgd(classifier(model)))
    model.train()
    model.norm.eval()
    pgd_(model, x, y)
    assert model.training
    assert not model.norm.training
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
    for grad, copy in zip(grads, copies, strict=True):
        assert grad is not None
        assert torch.equal(grad, copy)


def test_the_attacks_inside_are_quiet_too(capfd: Any) -> None:
    """AutoAttack's and PGD's have bars of their own."""
    model = Net()
    x, y = images(model)
    estimator = classifier(model)
    inside = evasion.AutoAttack(estimator, eps=0.5, attacks=[pgd(estimator), pgd(estimator)])
    capfd.readouterr()
    ReadyArtAttack(inside)(model, x, y)
    ReadyArtAttack(evasion.ProjectedGradientDescent(estimator, max_iter=2))(model, x, y)
    assert capfd.readouterr() == ("", "")
    assert inside.attacks[0].verbose


def test_a_copy_works_on_itself() -> None:
    """CompositeAdversarialAttack keeps its methods in a tuple: a plain copy would run those of the
    original, and leave a batch's state there."""
    pytest.importorskip("kornia")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, K)).eval()
    x = torch.rand(4, 3, 4, 4)
    y = model(x).argmax(dim=1)
    estimator = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (3, 4, 4), K, clip_values=(0.0, 1.0), device_type="cpu"
    )
    attack = evasion.CompositeAdversarialAttackPyTorch(estimator, max_iter=2, max_inner_iter=2)
    found = []
    for _ in range(2):
        seed_everything(0)
        # scaled: the comparison of answers would draw a number first
        found.append(ReadyArtAttack(attack, scaled=False)(model, x, y))
        assert attack.batch_size == 1  # as it was made
    assert len(attack.is_attacked) == 1
    assert torch.equal(*found)
    attack.verbose = False
    seed_everything(0)
    plain = torch.from_numpy(attack.generate(x.numpy(), F.one_hot(y, K).float().numpy()))
    assert torch.equal(found[0], plain)


def test_evaluation_and_training() -> None:
    """Both take it as they take one by name; the numbers are the same."""
    x, y = images(Net(), 48)
    model = Net()
    found = rl.evaluate(
        model, (x, y), [ReadyArtAttack(pgd(classifier(model))), {
            "name": "art:ProjectedGradientDescentPyTorch", "eps_step": 0.03, "max_iter": 4}],
        eps=0.1, num_classes=K, evaluations=["accuracy"],
    )  # fmt: skip
    ready, named = found["attacks"].values()
    assert ready["robust_accuracy"] == named["robust_accuracy"] < 1
    assert ready["eps_bounded"]
    assert ready["params"]["params"]["max_iter"] == 4
    weights = []
    for name in (False, True):
        model = Net()
        attack: Any = ReadyArtAttack(pgd(classifier(model)))
        if name:
            attack = {
                "name": "art:ProjectedGradientDescentPyTorch", "eps_step": 0.03, "max_iter": 4
            }  # fmt: skip
        rl.fit(
            model, (x, y), scheme="ls", attack=attack, eps=0.1, epochs=1, seed=0, batch_size=16,
            validation=0, num_classes=K,
        )  # fmt: skip
        weights.append(model.fc.weight.detach().clone())
    torch.testing.assert_close(*weights, atol=1e-6, rtol=0)


def test_repeatable_where_arts_own_generator_is_not() -> None:
    """HopSkipJump draws its start from a generator that nobody can seed."""
    model = Net()
    x, y = images(model, 3)
    attack = ReadyArtAttack(
        evasion.HopSkipJump(classifier(model), max_iter=1, max_eval=50, init_eval=10)
    )
    assert attack.eps is None
    assert attack.norm == "L2"
    assert attack.at_a_time == 1
    found = []
    for _ in range(2):
        seed_everything(0)
        found.append(attack(model, x, y))
    assert torch.equal(*found)
