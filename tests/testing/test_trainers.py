"""check_trainer: the good pass, and each rule is broken by a trainer that breaks only that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import robustlabels as rl
from robustlabels.plugins import host
from robustlabels.testing import check_trainer
from robustlabels.testing.trainers import RULES
from robustlabels.training import Run, Step


class Good:
    """Cross-entropy on the attacked inputs, without our base class."""

    def setup(self, run: Run) -> None:
        pass

    def inputs(self, step: Step) -> None:
        step.x_adv = step.attack()

    def loss(self, step: Step) -> Any:
        return step.ce(step.model(step.x_adv))


MUTANTS: list[tuple[str, str, Any]] = []


def mutant(rule: str, seen: str) -> Callable[[Any], Any]:
    """Register a broken trainer: the rule that it breaks, and what the message must say."""

    def keep(factory: Any) -> Any:
        MUTANTS.append((rule, seen, factory))
        return factory

    return keep


@mutant("is a trainer", "it is not a trainer: it lacks inputs, loss")
class OnlySetUp:
    def setup(self, run: Run) -> None:
        pass


@mutant("is a trainer", "extra_outputs is -1, not a whole number")
class FewerOutputs(Good):
    extra_outputs = -1


@mutant("is a trainer", "has no parameter 'stepsize'; did you mean 'step_size'")
class MisspeltDefaults(Good):
    def attack_defaults(self, eps: float) -> dict[str, Any]:
        return {"stepsize": eps}


@mutant("runs", "it raised AttributeError: 'Run' object has no attribute 'epochs'")
class AsksForWhatIsNotThere(Good):
    def setup(self, run: Run) -> None:
        self.epochs = run.epochs  # type: ignore[attr-defined]


@mutant("attacks only if it says so", "it called step.attack(), and uses_attack is False")
class AttacksInSilence(Good):
    adversarial = False


@mutant("inputs makes no graph", "step.x_adv carries a gradient")
class KeepsTheGraph(Good):
    def inputs(self, step: Step) -> None:
        super().inputs(step)
        step.x_adv.requires_grad_()


BALL = "adversarial inputs are in [0, 1] and in the ball"


@mutant(BALL, "with eps 0.1, x_adv is 0.2 away from x")
class GoesTwiceAsFar(Good):
    def inputs(self, step: Step) -> None:
        step.x_adv = (step.x + 2 * (step.attack() - step.x)).clamp(0, 1)


@mutant(BALL, "x_adv has pixels from")
class LeavesTheBox(Good):
    def inputs(self, step: Step) -> None:
        step.x_adv = step.x + 0.1 * (step.attack() - step.x).sign()


@mutant(BALL, "x is (16, 1, 4, 4), x_adv (32, 1, 4, 4)")
class DoublesTheBatch(Good):
    def inputs(self, step: Step) -> None:
        step.x_adv = torch.cat([step.x, step.attack()])

    def loss(self, step: Step) -> Any:
        return step.ce(step.model(step.x_adv)[len(step.x) :])


MODEL = "leaves the model as it was"


@mutant(MODEL, "after inputs and loss, mode of 'the whole' went from True to False")
class TrainsInEvalMode(Good):
    def loss(self, step: Step) -> Any:
        step.model.eval()
        return super().loss(step)


@mutant(MODEL, "after inputs and loss, requires_grad of 'first.bias' went from False to True")
class ThawsTheModel(Good):
    def inputs(self, step: Step) -> None:
        super().inputs(step)
        step.model.requires_grad_(True)


@mutant(MODEL, "after inputs and loss, gradient of 'first.weight' changed")
class CallsBackward(Good):
    def loss(self, step: Step) -> Any:
        step.ce(step.model(step.x)).backward()
        return super().loss(step)


@mutant(MODEL, "after inputs and loss, weights 'fc.weight' changed")
class DecaysWeights(Good):
    def inputs(self, step: Step) -> None:
        super().inputs(step)
        with torch.no_grad():
            step.model.fc.weight *= 0.999


FINITE = "the loss is a finite number"


@mutant(FINITE, "the loss is tensor([")
class LossPerSample(Good):
    def loss(self, step: Step) -> Any:
        return F.cross_entropy(step.model(step.x_adv), step.labels(), reduction="none")


@mutant(FINITE, "the loss is tensor(nan")
class NotANumber(Good):
    def loss(self, step: Step) -> Any:
        return super().loss(step) * float("nan")


@mutant(FINITE, "the loss is 1.")
class AFloat(Good):
    def loss(self, step: Step) -> Any:
        return super().loss(step).item()


@mutant("the loss reaches the model", "no parameter has a gradient that is not 0")
class Detached(Good):
    def loss(self, step: Step) -> Any:
        return super().loss(step).detach()


@mutant("the loss reaches the model", "no parameter has a gradient that is not 0")
class AnotherModel(Good):
    def loss(self, step: Step) -> Any:
        mean = step.x.mean().requires_grad_()
        return mean * step.ce(step.model(step.x_adv)).detach()


@mutant("loss may be called again", "called again, it gave")
class Counts(Good):
    calls = 0

    def loss(self, step: Step) -> Any:
        self.calls += 1
        return super().loss(step) * (1 + 0.1 / self.calls)


@mutant("what belongs to a step is kept on the step", "with another step's inputs")
class KeepsItOnItself(Good):
    def inputs(self, step: Step) -> None:
        super().inputs(step)
        self.moved = step.x_adv - step.x

    def loss(self, step: Step) -> Any:
        return step.ce(step.model(step.x + self.moved))


@mutant("soft labels reach the loss", "the loss on smoothed and on one-hot labels is")
class TakesTheArgmax(Good):
    def loss(self, step: Step) -> Any:
        z = step.model(step.x_adv)
        return F.cross_entropy(z, step.labels(z).argmax(dim=1))


@mutant("the attack sees the true classes", "the attack was given torch.float32 (16, 3)")
class AttacksWithSoftLabels(Good):
    def inputs(self, step: Step) -> None:
        step.x_adv = step._attack(step.model, step.x, step.labels())


SCHEMES = "works with other label schemes"


@mutant(SCHEMES, "with vs (more outputs than classes) it raised")
class CutsVirtualClassesOff(Good):
    def loss(self, step: Step) -> Any:
        return step.ce(step.model(step.x_adv)[:, : step.num_classes])


@mutant(SCHEMES, "with als (labels that need the logits")
class AsksForLabelsTooEarly(Good):
    def loss(self, step: Step) -> Any:
        return F.cross_entropy(step.model(step.x_adv), step.labels())


@mutant(SCHEMES, "with adr (soft labels in the attack too) it raised")
class AttacksWithoutTheStep(Good):
    def inputs(self, step: Step) -> None:
        if step.scheme.attack_labels == "soft":
            raise NotImplementedError("only hard labels")
        super().inputs(step)


@mutant("learns", "the cross-entropy of clean images went from")
class ClimbsTheLoss(Good):
    def loss(self, step: Step) -> Any:
        return -super().loss(step)


class Anneals(Good):
    """A weight that falls from step to step, and is kept over a checkpoint."""

    def setup(self, run: Run) -> None:
        self.weight = 1.0

    def inputs(self, step: Step) -> None:
        super().inputs(step)
        self.weight *= 0.9

    def loss(self, step: Step) -> Any:
        return super().loss(step) * (1 + self.weight)

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weight = state["weight"]


@mutant("resumes exactly", "killed after 5 of 6 steps and resumed, ")
class Forgets(Anneals):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class HasItsOwnGenerator(Good):
    def setup(self, run: Run) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def inputs(self, step: Step) -> None:
        noise = torch.rand(step.x.shape, generator=self.generator)
        step.x_adv = (step.attack() * (1 - 0.01 * noise)).clamp(0, 1)
        step.x_adv = step.x + (step.x_adv - step.x).clamp(-0.1, 0.1)


MUTANTS.append(("resumes exactly", "random numbers come from the global", HasItsOwnGenerator))


@pytest.mark.parametrize(
    ("rule", "seen", "factory"), MUTANTS, ids=lambda v: getattr(v, "__name__", "")
)
def test_each_mutant_is_caught_by_its_rule(rule: str, seen: str, factory: Any) -> None:
    """A rule that nothing breaks checks nothing; and its message is all that an author gets."""
    (why,) = [r.why for r in RULES.rules if r.name == rule]
    with pytest.raises(AssertionError) as caught:
        check_trainer(factory)
    message = str(caught.value)
    assert message.startswith(f"{factory.__name__}() breaks the rule '{rule}': ")
    assert seen in message
    assert message.endswith(f". {why}.")


def test_every_rule_has_a_mutant() -> None:
    """Else the rule may be vacuous."""
    assert {rule for rule, _, _ in MUTANTS} == {r.name for r in RULES.rules}
    assert len({r.name for r in RULES.rules}) == len(RULES.rules)


class Distils(Good):
    """Pure distillation: the scheme's labels are not used."""

    def setup(self, run: Run) -> None:
        self.teacher = run.teacher()

    def loss(self, step: Step) -> Any:
        with torch.no_grad():
            told: Tensor = self.teacher(step.x)
        z = step.model(step.x_adv)
        step.labels(z)
        return step.kl(told, z[:, : step.num_classes])


class LaterWeight(Good):
    """Its loss rises while the model learns, because its weight does."""

    def loss(self, step: Step) -> Any:
        return super().loss(step) * (1 + 5 * step.progress)


@pytest.mark.parametrize("factory", [Good, Anneals, LaterWeight])
def test_good_trainers_pass(factory: Any) -> None:
    """A kit that refuses what the contract allows would be switched off."""
    check_trainer(factory)


def test_trainers_without_soft_labels() -> None:
    """Pure distillation is a trainer too, once its author says so."""
    with pytest.raises(AssertionError, match="soft labels reach the loss"):
        check_trainer(Distils)
    check_trainer(Distils, soft_labels=False)


class AttacksItsOwnLabels(Good):
    """Its attack goes away from the model's own answer."""

    def inputs(self, step: Step) -> None:
        with torch.no_grad():
            step.x_adv = step.attack(step.model(step.x).softmax(dim=1))


def test_trainers_whose_attack_sees_other_labels() -> None:
    """An attack on soft labels that nobody meant spares the model; RSLAD means it."""
    with pytest.raises(AssertionError, match="the attack sees the true classes"):
        check_trainer(AttacksItsOwnLabels)
    check_trainer(AttacksItsOwnLabels, hard_attack=False)


SPECIAL: dict[str, list[dict[str, Any]]] = {
    "trades": [{}, {"concatenated": True}, {"inner": "ce"}],
    "pgd-at": [{}, {"clean_weight": 0.5}],
}
OURS = [n for n in rl.list_trainers() if host()["trainers"].owner(n).builtin]


@pytest.mark.parametrize(
    ("name", "params"), [(n, params) for n in OURS for params in SPECIAL.get(n, [{}])]
)
def test_our_own_trainers_pass(name: str, params: dict[str, Any]) -> None:
    """The kit asks of others what we keep ourselves."""
    check_trainer(name, **params)


def test_parameters_reach_the_trainer() -> None:
    """check_trainer(MyTrainer, beta=2) must not check MyTrainer()."""
    made: list[float] = []

    class Weighted(Good):
        def __init__(self, beta: float) -> None:
            made.append(beta)

    check_trainer(Weighted, beta=2.0)
    assert set(made) == {2.0}
    with pytest.raises(
        AssertionError, match=r"^Weighted\(alpha=1\) breaks the rule 'is a trainer'"
    ):
        check_trainer(Weighted, alpha=1)


class Rejecting(Good):
    """Two classes beside the data set's, which no sample has."""

    extra_outputs = 2


def test_extra_outputs_get_their_outputs() -> None:
    """The tiny model had as many outputs as there are classes, so that no trainer with reject
    classes could be checked."""
    check_trainer(Rejecting)
