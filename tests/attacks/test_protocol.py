"""Every attack leaves the model as it was, also after an exception, and gives detached images."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustlabels import list_attacks, make_attack
from robustlabels.attacks import PGD, held_still

pytest.importorskip("torchattacks")

K = 3
ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "pgd": ("pgd", {"steps": 2}),
    "pgd l2": ("pgd", {"steps": 2, "norm": "L2"}),
    "pgd train": ("pgd", {"steps": 2, "mode": "train"}),
    "pgd train-but-norm": ("pgd", {"steps": 2, "mode": "train-but-norm"}),
    "pgd kl restarts": ("pgd", {"steps": 2, "loss": "kl", "restarts": 2}),
    "fgsm": ("fgsm", {}),
    "APGD": ("torchattacks:APGD", {"steps": 3}),
    "AutoAttack": ("torchattacks:AutoAttack", {}),
    "PGD": ("torchattacks:PGD", {"steps": 2}),
    "CW": ("torchattacks:CW", {"steps": 2}),
    "DeepFool": ("torchattacks:DeepFool", {"steps": 2}),
    "FAB": ("torchattacks:FAB", {"steps": 2}),
    "Square": ("torchattacks:Square", {"n_queries": 4}),
}


class Net(nn.Module):
    """In train mode, with one batch norm frozen in eval mode and one frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.frozen_bn = nn.BatchNorm2d(4)
        self.bn = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(4 * 64, K)
        self.train()
        self.frozen_bn.eval()
        self.conv.bias.requires_grad_(False)
        self.fail_at = -1
        self.calls = 0
        self.modes: list[tuple[bool, bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fail_at:
            raise OSError("mine")
        live = any(p.requires_grad for p in self.parameters())
        self.modes.append((self.training, self.bn.training, live))
        z = self.bn(self.frozen_bn(self.conv(x))).tanh()
        return self.fc(self.dropout(z.flatten(1)))


def snapshot(net: nn.Module) -> Any:
    return (
        [m.training for m in net.modules()],
        [p.requires_grad for p in net.parameters()],
        [p.grad is None for p in net.parameters()],
        {k: v.clone() for k, v in net.state_dict().items()},
    )


def assert_unchanged(net: nn.Module, before: Any, statistics: bool = True) -> None:
    after = snapshot(net)
    assert after[:3] == before[:3]
    for name, value in after[3].items():
        if statistics or not name.startswith("bn."):
            assert torch.equal(value, before[3][name]), name


def images(n: int = 3) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(n) % K


@pytest.mark.parametrize("which", ATTACKS)
def test_the_model_comes_back_as_it_was(which: str) -> None:
    """torchattacks puts a frozen batch norm into train mode; an attack that leaves eval mode, or
    frozen parameters, ends training silently."""
    name, params = ATTACKS[which]
    net = Net()
    x, y = images()
    before = snapshot(net)
    make_attack(name, 0.1, **params)(net, x, y)
    assert_unchanged(net, before, statistics="train" not in which or "norm" in which)


@pytest.mark.parametrize("which", ATTACKS)
@pytest.mark.parametrize("at", [1, 2])
def test_also_after_an_exception(which: str, at: int) -> None:
    """Out of memory, Ctrl-C: a notebook goes on with the same model."""
    name, params = ATTACKS[which]
    net = Net()
    net.fail_at = at
    x, y = images()
    before = snapshot(net)
    if (which, at) == ("fgsm", 2):
        make_attack(name, 0.1, **params)(net, x, y)  # one forward is all it does
    else:
        with pytest.raises(OSError, match="mine"):
            make_attack(name, 0.1, **params)(net, x, y)
    assert_unchanged(net, before, statistics=at == 1 or which != "pgd train")


@pytest.mark.parametrize("which", ATTACKS)
def test_the_result_is_detached_and_in_the_box(which: str) -> None:
    """APGD and AutoAttack of torchattacks return tensors with a graph: memory that grows with
    every batch, and a second backward through the attack."""
    name, params = ATTACKS[which]
    x, y = images()
    before = x.clone()
    adv = make_attack(name, 0.1, **params)(Net().eval(), x, y)
    assert not adv.requires_grad
    assert adv.grad_fn is None
    assert adv.shape == x.shape
    assert adv.dtype == x.dtype
    assert adv.min() >= 0
    assert adv.max() <= 1
    assert torch.equal(x, before)


@pytest.mark.parametrize("which", ATTACKS)
def test_the_mode_during_the_attack(which: str) -> None:
    """Batch norm in eval mode unless the recipe says otherwise, parameters frozen always."""
    name, params = ATTACKS[which]
    net = Net()
    x, y = images()
    make_attack(name, 0.1, **params)(net, x, y)
    expected = {
        "pgd train": (True, True, False),
        "pgd train-but-norm": (True, False, False),
    }.get(which, (False, False, False))
    assert set(net.modes) == {expected}


def test_train_mode_moves_statistics_and_eval_mode_does_not() -> None:
    """ADR's code attacks in train mode: an option that did nothing would not reproduce it."""
    x, y = images()
    net = Net()
    PGD(0.1, steps=3, mode="train")(net, x, y)
    assert net.bn.num_batches_tracked == 3
    net = Net()
    PGD(0.1, steps=3, mode="train-but-norm")(net, x, y)
    assert net.bn.num_batches_tracked == 0


def test_train_mode_leaves_a_frozen_batch_norm_frozen() -> None:
    """Its statistics are somebody's pretrained ones; and a model in eval mode does go to train
    mode."""
    x, y = images()
    net = Net()
    PGD(0.1, steps=3, mode="train")(net, x, y)
    assert net.frozen_bn.num_batches_tracked == 0
    net = Net().eval()
    PGD(0.1, steps=3, mode="train")(net, x, y)
    assert net.bn.num_batches_tracked == 3


def test_held_still_restores_in_any_mode() -> None:
    """Per module, not by .train(), which would recurse; nested too, and shared modules once."""
    net = Net()
    shared = nn.Sequential(net, net.bn)
    before = snapshot(shared)
    with held_still(shared), held_still(net, "train"):
        assert net.training
        assert net.frozen_bn.training
    assert_unchanged(shared, before)
    with pytest.raises(KeyError), held_still(shared, "train-but-norm"):
        assert net.training
        assert not net.bn.training
        assert not net.dropout.training
        assert not any(p.requires_grad for p in shared.parameters())
        raise KeyError
    assert_unchanged(shared, before)


def test_a_frozen_module_with_two_parents() -> None:
    """Restored by .train(), a parent that comes later would wake it up again."""
    net = Net()
    shared = nn.Sequential(net, nn.Sequential(net.frozen_bn)).train()
    net.frozen_bn.eval()
    before = snapshot(shared)
    with held_still(shared):
        pass
    assert_unchanged(shared, before)
    assert not net.frozen_bn.training


def test_a_copy_of_the_model_is_attackable_in_eval_mode() -> None:
    """The attack's own switch must not touch what it was not given."""
    net = Net()
    other = copy.deepcopy(net)
    PGD(0.1, steps=1)(other, *images())
    assert snapshot(other)[:3] == snapshot(net)[:3]


def test_every_built_in_attack_is_known() -> None:
    """A name that the list lacks can't be found by --help."""
    assert {"pgd", "fgsm", "autoattack"} <= set(list_attacks())
    assert any(n.startswith("torchattacks:") for n in list_attacks())
