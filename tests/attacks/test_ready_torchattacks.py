"""torchattacks objects that their user made: any model, any mode, and nothing changed after."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustlabels as rl
from robustlabels.attacks.ready_torchattacks import SOFT, ReadyTorchAttack, is_torchattack
from robustlabels.errors import BadValueError
from robustlabels.models.normalize import Normalize

torchattacks = pytest.importorskip("torchattacks")

K, EPS = 4, 0.1
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def net(seed: int = 0, outputs: int = K) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 64, outputs),
    ).eval()


def images(model: nn.Module, n: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, model(x).argmax(dim=1)


def seeded(attack: Any, *args: Any) -> Tensor:
    torch.manual_seed(3)
    adv: Tensor = attack(*args)
    return adv


# Which model is attacked.


@pytest.mark.parametrize("name", ["PGD", "CW", "SparseFool", "AutoAttack"])
def test_the_model_of_the_call_is_attacked(name: str) -> None:
    """Left on the model that it was made for, the figure would be a transfer attack's. SparseFool
    and AutoAttack hold further attacks, which must follow."""
    other, model = net(1), net(2)
    x, y = images(model)
    kind = getattr(torchattacks, name)
    params = {"n_classes": K, "seed": 0, "eps": EPS} if name == "AutoAttack" else {}
    ready = ReadyTorchAttack(kind(other, **params))
    assert torch.equal(seeded(ready, model, x, y), seeded(kind(model, **params), x, y))
    assert not torch.equal(seeded(ready, other, x, y), seeded(ready, model, x, y))


def test_transfer_attacks_the_objects_own_model() -> None:
    """A black-box attack: its images depend on the surrogate alone."""
    surrogate, model = net(1), net(2)
    x, y = images(model)
    attack = torchattacks.PGD(surrogate, eps=EPS)
    ready = ReadyTorchAttack(attack, transfer=True)

    def never(*_: Any) -> None:
        raise AssertionError("the model was asked")

    model.register_forward_hook(never)
    assert torch.equal(seeded(ready, model, x, y), seeded(attack, x, y))


def test_transfer_is_weaker() -> None:
    """The two must not be mixed up: on networks with nothing in common, the surrogate's images
    fool far fewer."""
    surrogate, model = net(1), net(2)
    x, y = images(model, 64)
    attack = torchattacks.PGD(surrogate, eps=0.05)
    accuracy = {
        transfer: rl.evaluate(
            model, (x, y), [ReadyTorchAttack(attack, transfer)], eps=0.05, num_classes=K
        )["robust_accuracy"]
        for transfer in (False, True)
    }
    assert accuracy[True] > accuracy[False] + 0.3


@pytest.mark.parametrize("transfer", [False, True])
@pytest.mark.parametrize("broken", [False, True])
def test_everything_is_as_it_was(transfer: bool, broken: bool) -> None:
    """The object stays its user's: model, normalisation and device come back, after an exception
    too; and so do the modes and parameters of the model that was attacked. torchattacks itself
    leaves a frozen batch norm in train mode, and CW a gradient in every parameter."""
    own, model = net(1), net(2)
    x, y = images(model)
    multi = torchattacks.MultiAttack([torchattacks.CW(own, steps=2), torchattacks.JSMA(own)])
    multi.set_normalization_used(MEAN, STD)
    multi.set_device("meta")
    attacked = own if transfer else model
    attacked.train()
    attacked[1].eval()
    attacked[0].bias.requires_grad_(False)
    if broken:
        attacked[5].register_forward_hook(lambda *_: 1 / 0)
    if transfer:
        multi.set_device("cpu")
    before = [dict(vars(a)) for a in (multi, *multi.attacks)]
    ready = ReadyTorchAttack(multi, transfer)
    if broken:
        with pytest.raises(BadValueError, match=r"MultiAttack failed.*ZeroDivisionError"):
            ready(model, x, y)
    else:
        assert not ready(model, x, y).requires_grad
    assert [dict(vars(a)) for a in (multi, *multi.attacks)] == before
    assert [m.training for m in attacked] == [True, False, True, True, True, True]
    assert [p.requires_grad for p in attacked.parameters()] == [True, False] + [True] * 4
    assert all(p.grad is None for p in attacked.parameters())


def test_members_in_a_tuple_follow() -> None:
    """torchattacks finds the inner attacks of a list only: set_model would leave these behind."""
    other, model = net(1), net(2)
    x, y = images(model)
    members = [
        (torchattacks.PGD(m, eps=0.02), torchattacks.FGSM(m, eps=0.02)) for m in (other, model)
    ]
    ready = ReadyTorchAttack(torchattacks.MultiAttack(members[0]))
    expected = seeded(torchattacks.MultiAttack(members[1]), x, y)
    assert torch.equal(seeded(ready, model, x, y), expected)


def test_the_callers_generator() -> None:
    """APGD seeds the global generator with 0: in training, each step's dropout would be the same.
    PGD draws from it, and must go on."""
    model = net()
    x, y = images(model)
    for kind, advances in ((torchattacks.APGD, False), (torchattacks.PGD, True)):
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        ReadyTorchAttack(kind(model))(model, x, y)
        assert torch.equal(torch.rand(3), expected) != advances


def test_no_graph() -> None:
    """APGD's own outputs carry one: in training, it would hold every step's memory."""
    model = net()
    x, y = images(model)
    assert torchattacks.APGD(model, eps=EPS)(x, y).requires_grad
    assert not ReadyTorchAttack(torchattacks.APGD(model, eps=EPS))(model, x, y).requires_grad


def test_batch_norm_statistics_stay() -> None:
    """set_model_training_mode lets the attack change them: the model would be judged as another."""
    model = net()
    x, y = images(model)
    attack = torchattacks.PGD(model, eps=EPS)
    attack.set_model_training_mode(True, batchnorm_training=True, dropout_training=True)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trained = seeded(ReadyTorchAttack(attack), model, x, y)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    attack.set_model_training_mode(False)
    assert not torch.equal(seeded(ReadyTorchAttack(attack), model, x, y), trained)


# Normalisation.


@pytest.mark.parametrize("name", ["PGD", "CW", "Square", "DeepFool"])
def test_normalization_used_or_inside(name: str) -> None:
    """One classifier, written twice: bare with set_normalization_used, and with the layer inside.
    The same images must come out, or users of the one get other figures than users of the other."""
    bare = net()
    inside = nn.Sequential(Normalize(MEAN, STD), bare).eval()
    x, y = images(inside)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    attack = getattr(torchattacks, name)(
        bare, **({"eps": EPS} if name in ("PGD", "Square") else {})
    )
    attack.set_normalization_used(MEAN, STD)
    theirs = seeded(attack, (x - mean) / std, y) * std + mean
    ready = ReadyTorchAttack(attack)
    ours = seeded(ready, inside, x, y)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert not torch.equal(ours, x)
    assert attack._normalization_applied is True


def test_a_surrogates_normalization_counts() -> None:
    """A surrogate that wants normalised inputs and gets raw ones is another network."""
    bare, model = net(1), net(2)
    inside = nn.Sequential(Normalize(MEAN, STD), bare).eval()
    x, y = images(inside)
    attack = torchattacks.PGD(bare, eps=EPS)
    attack.set_normalization_used(MEAN, STD)
    ours = seeded(ReadyTorchAttack(attack, transfer=True), model, x, y)
    expected = seeded(torchattacks.PGD(inside, eps=EPS), x, y)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    assert (ours - x).abs().max() <= EPS + 1e-6


# MultiAttack.


def test_multi_attack_is_the_union_of_its_members() -> None:
    """An image is robust under it if it is under each member."""
    model = net()
    x, y = images(model, 64)
    weak = 0.01
    members = [
        torchattacks.FGSM(model, eps=weak),
        torchattacks.FGSM(model, eps=2 * weak),
        torchattacks.PIFGSM(model, max_epsilon=weak),
    ]
    verdicts = rl.evaluate(
        model,
        (x, y),
        [*map(ReadyTorchAttack, members), ReadyTorchAttack(torchattacks.MultiAttack(members))],
        eps=2 * weak,
        num_classes=K,
    )["verdicts"]
    multi = torch.tensor(verdicts.pop("torchattacks:multiattack"))
    each = torch.tensor(list(verdicts.values()))
    assert len(each) == 3
    assert torch.equal(multi, each.all(dim=0))
    assert len({tuple(v.tolist()) for v in (*each[:2], torch.ones_like(multi))}) == 3


def test_multi_attacks_threat() -> None:
    """fit warns where an attack's eps is not the run's; a member without one has no ball."""
    model = net()
    linf, l2 = torchattacks.PGD(model, eps=0.1), torchattacks.PGDL2(model, eps=0.5)
    wide, free = torchattacks.PIFGSM(model, max_epsilon=0.2), torchattacks.CW(model)
    for members, eps, norm in (
        ([linf, wide], 0.2, "Linf"),
        ([linf, l2], 0.5, None),
        ([linf, free], None, None),
        ([l2, torchattacks.APGD(model, norm="L2", eps=0.3)], 0.5, "L2"),
    ):
        ready = ReadyTorchAttack(torchattacks.MultiAttack(members))
        assert (ready.eps, ready.norm) == (eps, norm)


# Targeted modes.

TARGETED = {
    "least likely": lambda a: a.set_mode_targeted_least_likely(quiet=True),
    "random": lambda a: a.set_mode_targeted_random(quiet=True),
    "function": lambda a: a.set_mode_targeted_by_function(lambda x, y: (y + 1) % K, quiet=True),
}


@pytest.mark.parametrize("mode", TARGETED)
def test_targets_are_reached_and_never_virtual(mode: str) -> None:
    """The target's logit must rise above the others, and be one of the K real classes: on K + V
    outputs, least-likely and random targets are mostly virtual."""
    model = net(outputs=3 * K)
    deployed = rl.real_classes(model, K)
    x, y = images(deployed, 32)
    attack = torchattacks.PGD(model, eps=0.5, alpha=0.05, steps=30)
    TARGETED[mode](attack)
    aimed: list[Tensor] = []
    choose = attack._target_map_function

    def spy(inputs: Tensor, labels: Tensor) -> Tensor:
        aimed.append(choose(inputs, labels))
        return aimed[-1]

    attack._target_map_function = spy
    ready = ReadyTorchAttack(attack)
    x_adv = seeded(ready, deployed, x, y)
    (target,) = aimed
    assert target.max() < K
    assert (target != y).all()
    with torch.no_grad():
        clean, found = deployed(x), deployed(x_adv)
    if mode == "least likely":
        assert torch.equal(target, clean.argmin(dim=1))
    assert (found.argmax(dim=1) == target).float().mean() > 0.9
    assert not ready.takes_soft_labels
    assert ready.mode.startswith("targeted")


def test_targets_by_label_are_refused() -> None:
    """Its targets are the labels given to the call: the true ones. It would repair the images."""
    attack = torchattacks.PGD(net())
    ready = ReadyTorchAttack(attack)
    attack.set_mode_targeted_by_label(quiet=True)
    x, y = images(net())
    for use in (lambda: ReadyTorchAttack(attack), lambda: ready(net(), x, y)):
        with pytest.raises(BadValueError, match="the true ones here; use set_mode_targeted"):
            use()


@pytest.mark.parametrize("name", ["PIFGSMPP", "SPSA"])
def test_targeted_modes_that_ignore_the_target_are_refused(name: str) -> None:
    """These two then maximise the true label's logit: the figure would be the clean accuracy. If
    torchattacks mends them, the first half fails and they can be let in."""
    model = net()
    x, y = images(model)
    attack = getattr(torchattacks, name)(model)
    seen = []
    for shift in (1, 2):
        attack.set_mode_targeted_by_function(lambda x, y, s=shift: (y + s) % K, quiet=True)
        seen.append(seeded(attack, x, y))
    assert torch.equal(*seen)
    with torch.no_grad():
        assert F.cross_entropy(model(seen[0]), y) < F.cross_entropy(model(x), y)
    for given in (attack, torchattacks.MultiAttack([attack, torchattacks.FGSM(model)])):
        with pytest.raises(BadValueError, match="aims at the true labels"):
            ReadyTorchAttack(given)
    attack.set_mode_default()
    assert ReadyTorchAttack(attack).mode == "default"


@pytest.mark.parametrize("classes", [3, 13])
def test_jsma_knows_the_number_of_classes(classes: int) -> None:
    """It aims at (y + 1) % 10: an IndexError with fewer, and with more never the higher ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    x = torch.rand(2, 1, 4, 4)
    y = torch.tensor([classes - 2, classes - 1])
    attack = torchattacks.JSMA(model, gamma=1.0)
    adv = ReadyTorchAttack(attack)(model, x, y)
    assert attack.get_mode() == "default"
    attack.set_mode_targeted_by_function(lambda x, y: (y + 1) % classes, quiet=True)
    assert torch.equal(adv, attack(x, y))
    assert not torch.equal(adv[1], x[1])
    attack.set_mode_targeted_by_function(lambda x, y: (y + 2) % classes, quiet=True)
    assert not torch.equal(ReadyTorchAttack(attack)(model, x, y), adv)


# Labels.


@pytest.mark.parametrize("name", ["PGD", "MIFGSM"])
def test_soft_labels_reach_the_loss(name: str) -> None:
    """An argmax on the way would make ADR's training attack another one."""
    model = net()
    x, y = images(model)
    ready = ReadyTorchAttack(getattr(torchattacks, name)(model, eps=EPS))
    assert ready.takes_soft_labels
    hard = F.one_hot(y, K).float()
    soft = 0.55 * hard + 0.45 * hard.roll(1, dims=1)
    assert torch.allclose(seeded(ready, model, x, hard), seeded(ready, model, x, y), atol=1e-6)
    assert not torch.allclose(seeded(ready, model, x, soft), seeded(ready, model, x, y), atol=1e-3)


def test_who_takes_soft_labels() -> None:
    """Only what was tried: a subclass may do anything with them."""

    class Mine(torchattacks.PGD):  # type: ignore[misc]
        pass

    model = net()
    x, y = images(model)
    assert set(SOFT) <= set(torchattacks.__all__)
    margin = torchattacks.UPGD(model, loss="margin")
    pair = torchattacks.MultiAttack([torchattacks.PGD(model), torchattacks.FGSM(model)])
    for attack in (Mine(model), margin, pair, torchattacks.CW(model), torchattacks.APGD(model)):
        ready = ReadyTorchAttack(attack)
        with pytest.raises(BadValueError, match="takes class indices only"):
            ready(model, x, F.one_hot(y, K).float())
        assert not ready.takes_soft_labels


# As our attack.


@pytest.mark.parametrize("name", ["EADEN", "EADL1"])
def test_images_are_in_the_unit_range(name: str) -> None:
    """EAD's first step changes, in place, the images that the rest is measured from: with a large
    constant they leave [0, 1], and with them what the attack returns."""
    model = net()
    x, y = images(model)
    attack = getattr(torchattacks, name)(
        model, initial_const=100, lr=0.1, max_iterations=10, binary_search_steps=1
    )
    raw = attack(x, y)
    assert raw.max() > 1.01 or raw.min() < -0.01
    assert torch.equal(ReadyTorchAttack(attack)(model, x, y), raw.clamp(0, 1))


def test_integer_images_come_back_as_floats() -> None:
    """to_type(..., "int") makes them uint8 in [0, 255]: judged as they are, all would be white."""

    class Quantised(torchattacks.PGD):  # type: ignore[misc]
        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            adv: Tensor = self.to_type(super().forward(images, labels), "int")
            return adv

    model = net()
    x, y = images(model)
    adv = ReadyTorchAttack(Quantised(model, eps=EPS))(model, x, y)
    assert adv.dtype == x.dtype
    assert torch.equal((adv * 255).round() / 255, adv)
    assert (adv - x).abs().max() <= EPS + 1 / 255


def test_what_evaluation_json_says() -> None:
    """A figure without the attack's parameters can't be repeated."""
    model = net()
    x, y = images(model)
    attack = torchattacks.PGD(model, eps=1 / 255)
    ready = ReadyTorchAttack(attack)
    attack.eps, attack.steps = EPS, 3
    found = rl.evaluate(model, (x, y), [ready, ready], eps=EPS, num_classes=K)["attacks"]
    assert list(found) == ["torchattacks:pgd", "torchattacks:pgd-2"]
    params = found["torchattacks:pgd"]["params"]
    assert json.loads(json.dumps(params)) == {
        "name": "torchattacks:PGD",
        "mode": "default",
        "eps": EPS,
        "norm": "Linf",
        "transfer": False,
        "takes_soft_labels": True,
        "params": {"eps": EPS, "alpha": 2 / 255, "steps": 3, "random_start": True},
    }
    pair = torchattacks.MultiAttack([attack, torchattacks.CW(model, c=2)])
    inner = ReadyTorchAttack(pair).params["attacks"]
    assert [a["name"] for a in inner] == ["PGD", "CW"]
    assert inner[1]["c"] == 2


def test_repr() -> None:
    """It is what errors show."""
    attack = torchattacks.FGSM(net(), eps=0.25)
    assert repr(ReadyTorchAttack(attack)) == "ReadyTorchAttack(FGSM(eps=0.25))"
    attack.set_mode_targeted_random(quiet=True)
    assert repr(ReadyTorchAttack(attack, transfer=True)) == (
        "ReadyTorchAttack(FGSM(eps=0.25), mode='targeted(random)', transfer=True)"
    )


def test_it_trains() -> None:
    """``fit(attack=...)``: the engine's model is attacked, not the one that the object was made
    for; an eps of its own is warned of."""
    x = torch.rand(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(48) % K
    ready = ReadyTorchAttack(torchattacks.FGSM(net(5), eps=EPS))
    history = rl.fit(net(6), (x, y), attack=ready, eps=EPS, epochs=2, validation=8).history
    by_name = rl.fit(
        net(6), (x, y), attack="torchattacks:FGSM", eps=EPS, epochs=2, validation=8
    ).history
    assert [h["train_loss"] for h in history] == [h["train_loss"] for h in by_name]
    with pytest.warns(UserWarning, match="the attack's eps is"):
        rl.fit(net(6), (x, y), attack=ready, eps=EPS / 2, epochs=1, validation=8)


@pytest.mark.parametrize("wrong", ["PGD", torch.nn.ReLU(), None])
def test_what_is_no_attack(wrong: Any) -> None:
    """Else it fails in the middle of an evaluation."""
    with pytest.raises(BadValueError, match="must be a torchattacks object") as caught:
        ReadyTorchAttack(wrong)
    assert "\n" not in str(caught.value)


def test_is_torchattack() -> None:
    """It tells objects apart without an import: by their class's, or its parents', own name."""

    class Mine(torchattacks.PGD):  # type: ignore[misc]
        pass

    class Attack:
        pass

    model = net()
    pair = torchattacks.MultiAttack([torchattacks.PGD(model), torchattacks.FGSM(model)])
    assert all(map(is_torchattack, (torchattacks.PGD(model), Mine(model), pair)))
    assert not any(map(is_torchattack, (torchattacks.PGD, Attack(), model, "PGD", None)))


def test_lgv_is_a_transfer_attack() -> None:
    """Its models are copies that it trains: pointed at ours, it would attack none of them."""
    surrogate, model = net(1), net(2)
    x, y = images(surrogate, 32)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    lgv = torchattacks.LGV(
        surrogate, loader, lr=0.01, epochs=1, nb_models_epoch=2, verbose=False, eps=EPS, steps=3
    )
    for transfer in (False, True):
        with pytest.raises(BadValueError, match=r"collect_models\(\)"):
            ReadyTorchAttack(lgv, transfer)
    lgv.collect_models()
    ready = ReadyTorchAttack(lgv, transfer=True)
    x_adv = ready(model, x, y)
    again = ready(model, x, y)
    assert torch.equal(x_adv, again) or (x_adv - again).abs().max() <= 2 * EPS
    with torch.no_grad():
        assert F.cross_entropy(surrogate(x_adv), y) > F.cross_entropy(surrogate(x), y)
