"""check_attack: what is good passes, and each rule is broken by an attack that breaks only that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlabels.testing import check_attack
from robustlabels.testing.attacks import RULES


class Good:
    """One step along the sign of the gradient, written by hand; mutants change one thing of it."""

    def __init__(self, eps: float, norm: str = "Linf") -> None:
        self.eps = eps

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        modes = {m: m.training for m in model.modules()}
        try:
            model.eval()
            return self.step(model, x.detach().clone().requires_grad_(), y)
        finally:
            for module, training in modes.items():
                module.training = training

    def step(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
        return self.moved(x.detach(), gradient.sign())

    def moved(self, x: Tensor, direction: Tensor) -> Any:
        return (x + self.eps * direction).clamp(0, 1)


MUTANTS: list[tuple[str, str, Any]] = []


def mutant(rule: str, seen: str) -> Callable[[Any], Any]:
    """Register a broken attack: the rule that it breaks, and what the message must say."""

    def keep(factory: Any) -> Any:
        MUTANTS.append((rule, seen, factory))
        return factory

    return keep


@mutant("is an attack", "made {'eps': 0.3, 'norm': 'Linf'}, not an attack")
def no_attack(**given: Any) -> Any:
    return given


@mutant("is an attack", "not an attack")
def a_class(eps: float, norm: str) -> Any:
    return Good


@mutant("is an attack", "it raised TypeError")
def no_norm(eps: float) -> Any:
    return Good(eps)


SHAPE = "returns images like x"


@mutant(SHAPE, "for 12 images it returned (torch.Size([12, 16]), torch.float32)")
class Flattens(Good):
    def moved(self, x: Tensor, direction: Tensor) -> Any:
        return super().moved(x, direction).flatten(1)


@mutant(SHAPE, "for 1 images it returned (torch.Size([1, 4, 4]), torch.float32)")
class DropsTheBatch(Good):
    def moved(self, x: Tensor, direction: Tensor) -> Any:
        moved = super().moved(x, direction)
        return moved[0] if len(x) == 1 else moved


@mutant(SHAPE, "torch.float64")
class Doubles(Good):
    def moved(self, x: Tensor, direction: Tensor) -> Any:
        return super().moved(x, direction).double()


@mutant(SHAPE, "for 12 images it returned (None, <class 'tuple'>)")
class ReturnsAPair(Good):
    def moved(self, x: Tensor, direction: Tensor) -> Any:
        return super().moved(x, direction), True


@mutant("returns no graph", "the result carries a gradient")
class KeepsTheGraph(Good):
    def step(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        return super().step(model, x, y) + 0 * x


@mutant("stays in [0, 1]", "pixels from -0.")
class LeavesTheBox(Good):
    def moved(self, x: Tensor, direction: Tensor) -> Any:
        return x + self.eps * direction


@mutant("stays in the ball", "Linf distance 0.6, with eps 0.3")
class GoesTwiceAsFar(Good):
    def moved(self, x: Tensor, direction: Tensor) -> Any:
        return (x + 2 * self.eps * direction).clamp(0, 1)


@mutant("leaves x and y alone", "it changed x or y in place")
class MovesInPlace(Good):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        return x.copy_(super().__call__(model, x, y)).clone()


@mutant("leaves x and y alone", "x requires a gradient after it")
class MarksX(Good):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        x.requires_grad_()
        return super().__call__(model, x, y)


MODEL = "leaves the model as it was"


@mutant(MODEL, "of a model attacked in train mode, mode of 'the whole' went from True to False")
class LeavesEvalMode(Good):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        model.eval()
        return super().__call__(model, x, y)


@mutant(MODEL, "of a model attacked in train mode, mode of 'frozen_norm' went from False to True")
class WakesAFrozenNorm(Good):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        moved = super().__call__(model, x, y)
        for module in model.modules():
            module.training = model.training
        return moved


@mutant(MODEL, "requires_grad of 'first.bias' went from False to True")
class ThawsTheModel(Good):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        model.requires_grad_(False)
        moved = super().__call__(model, x, y)
        model.requires_grad_(True)
        return moved


@mutant(MODEL, "gradient of 'first.weight' changed")
class AccumulatesGradients(Good):
    def step(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        F.cross_entropy(model(x), y).backward()
        return self.moved(x.detach(), x.grad.sign())


@mutant(MODEL, "weights 'first.weight' changed")
class TouchesTheWeights(Good):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        with torch.no_grad():
            next(model.parameters()).add_(1e-3)
        return super().__call__(model, x, y)


@mutant("leaves the model as it was after an error too", "mode of 'the whole' went from True to")
class ForgetsFinally(Good):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        modes = {m: m.training for m in model.modules()}
        model.eval()
        moved = self.step(model, x.detach().clone().requires_grad_(), y)
        for module, training in modes.items():
            module.training = training
        return moved


@mutant("works on a frozen model", "it raised RuntimeError")
class NeedsWeightGradients(Good):
    def step(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        torch.autograd.grad(F.cross_entropy(model(x), y), next(model.parameters()))
        return super().step(model, x, y)


@mutant("takes soft labels, or says that it does not", "soft labels (N, K) raise RuntimeError")
class HardOnly(Good):
    def step(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        z = model(x)
        (gradient,) = torch.autograd.grad(z.gather(1, y.unsqueeze(1)).sum(), x)
        return self.moved(x.detach(), -gradient.sign())


@mutant("draws from the global generators", "the same seed gave other images")
class HasItsOwnGenerator(Good):
    rng = np.random.default_rng(0)

    def moved(self, x: Tensor, direction: Tensor) -> Any:
        return super().moved(x, direction * float(self.rng.random()))


@mutant("raises the loss", "the cross-entropy went from")
class HelpsTheModel(Good):
    def moved(self, x: Tensor, direction: Tensor) -> Any:
        return super().moved(x, -direction)


@mutant("raises the loss", "the cross-entropy went from")
class DoesNothing(Good):
    def moved(self, x: Tensor, direction: Tensor) -> Any:
        return x


@pytest.mark.parametrize(
    ("rule", "seen", "factory"), MUTANTS, ids=lambda v: getattr(v, "__name__", "")
)
def test_each_mutant_is_caught_by_its_rule(rule: str, seen: str, factory: Any) -> None:
    """A rule that nothing breaks checks nothing; and its message is all that an author gets."""
    (why,) = [r.why for r in RULES.rules if r.name == rule]
    with pytest.raises(AssertionError) as caught:
        check_attack(factory)
    message = str(caught.value)
    assert message.startswith(
        f"{factory.__name__}(eps=0.3, norm='Linf') breaks the rule '{rule}': "
    )
    assert seen in message
    assert message.endswith(f". {why}.")


def test_every_rule_has_a_mutant() -> None:
    """Else the rule may be vacuous."""
    assert {rule for rule, _, _ in MUTANTS} == {r.name for r in RULES.rules}
    assert len({r.name for r in RULES.rules}) == len(RULES.rules)


class HardAndSaysSo(HardOnly):
    takes_soft_labels = False


@pytest.mark.parametrize("factory", [Good, HardAndSaysSo])
def test_good_attacks_pass(factory: Any) -> None:
    """A kit that refuses what the contract allows would be switched off."""
    check_attack(factory)


def test_attacks_that_minimise_the_distance() -> None:
    """DeepFool and its kin go as far as they must."""
    check_attack(GoesTwiceAsFar, bounded=False)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("pgd", {}),
        ("pgd", {"norm": "L2", "eps": 1.0}),
        ("pgd", {"mode": "train"}),
        ("pgd", {"loss": "kl", "start": "gaussian"}),
        ("pgd", {"loss": "margin", "restarts": 2}),
        ("fgsm", {}),
        ("fgsm", {"norm": "L2", "start": "uniform", "eps": 1.0}),
    ],
)
def test_our_own_attacks_pass(name: str, params: dict[str, Any]) -> None:
    """The kit asks of others what we keep ourselves."""
    check_attack(name, **params)


@pytest.mark.parametrize(
    ("name", "params"),
    [("PGD", {}), ("FGSM", {}), ("APGD", {}), ("CW", {"bounded": False})],
)
def test_torchattacks_pass(name: str, params: dict[str, Any]) -> None:
    """Their defects (modes, graphs, gradients) are worked around, and the kit would see them."""
    pytest.importorskip("torchattacks")
    check_attack(f"torchattacks:{name}", **params)
