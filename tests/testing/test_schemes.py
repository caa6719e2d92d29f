"""check_scheme: what is good passes, and each rule is broken by a scheme that breaks only that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import robustlabels as rl
from robustlabels.testing import check_scheme
from robustlabels.testing.schemes import RULES


class Good:
    """Smoothing towards what the model believes; every mutant changes one thing of it."""

    needs = frozenset({"logits"})

    def __init__(self, num_classes: int) -> None:
        self.num_classes = self.num_outputs = num_classes

    def labels(
        self,
        y: Tensor,
        logits: Tensor | None = None,
        teacher_logits: Tensor | None = None,
        progress: float = 1.0,
    ) -> Tensor:
        if logits is None:
            raise ValueError("Good needs logits=")
        with torch.no_grad():
            dtype = torch.promote_types(logits.dtype, torch.float32)
            hot = F.one_hot(y, self.num_classes).to(logits.device, dtype)
            q = 0.9 * hot + 0.1 * logits.softmax(dim=1, dtype=dtype)
        return self.spoilt(q, logits, progress)

    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        return q


MUTANTS: list[tuple[str, str, Any]] = []


def mutant(rule: str, seen: str) -> Callable[[type], type]:
    """Register a broken scheme: the rule that it breaks, and what the message must say."""

    def keep(cls: type) -> type:
        MUTANTS.append((rule, seen, cls))
        return cls

    return keep


SCHEME = "is a label scheme"


@mutant(SCHEME, "it is not a label scheme: it lacks needs")
class NoNeeds:
    def __init__(self, num_classes: int) -> None:
        self.num_classes = self.num_outputs = num_classes

    def labels(self, y: Tensor) -> Tensor:
        return y


@mutant(SCHEME, "it is circular")
class Circular(Good):
    attack_labels = "soft"


@mutant(SCHEME, "made with num_classes=2, its num_classes is 10")
class AlwaysTen(Good):
    def __init__(self, num_classes: int) -> None:
        super().__init__(10)


@mutant(SCHEME, "it raised TypeError")
class NotByKeyword(Good):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)


PERTURB = "perturb gives images and a mix"


class Moves(Good):
    """A scheme that moves its inputs, as it should."""

    def perturb(self, x: Tensor, y: Tensor, generator: Any = None) -> Any:
        return 0.5 * x + 0.5 * torch.rand(x.shape, generator=generator), None


@mutant(PERTURB, "pixels from")
class LeavesTheBox(Good):
    def perturb(self, x: Tensor, y: Tensor, generator: Any = None) -> Any:
        return x + torch.rand(x.shape, generator=generator), None


@mutant(PERTURB, "became (6, 16)")
class Flattens(Good):
    def perturb(self, x: Tensor, y: Tensor, generator: Any = None) -> Any:
        return x.flatten(1), None


@mutant(PERTURB, "became (6, 1, 4, 4) torch.float64")
class Doubles(Good):
    def perturb(self, x: Tensor, y: Tensor, generator: Any = None) -> Any:
        return x.double(), None


@mutant(PERTURB, "it needs a mix, and its perturb returns None")
class NeverMixes(Good):
    needs = frozenset({"logits", "mix"})


@mutant(PERTURB, "not a robustlabels.Mix of 6")
class HomemadeMix(Good):
    def perturb(self, x: Tensor, y: Tensor, generator: Any = None) -> Any:
        return x, {"lam": 0.5}


@mutant(PERTURB, "not a robustlabels.Mix of 6")
class OneLambdaForAll(Good):
    def perturb(self, x: Tensor, y: Tensor, generator: Any = None) -> Any:
        return x, rl.Mix(torch.ones(1), torch.arange(len(y)))


FUNCTION = "perturb is a function of its arguments"


@mutant(FUNCTION, "the same seed moved the images elsewhere")
class IgnoresTheGenerator(Moves):
    def perturb(self, x: Tensor, y: Tensor, generator: Any = None) -> Any:
        return super().perturb(x, y)


@mutant(FUNCTION, "it changed x or y in place")
class MovesInPlace(Good):
    def perturb(self, x: Tensor, y: Tensor, generator: Any = None) -> Any:
        return x.mul_(0.5), None


DECLARES = "declares what it reads"


@mutant(DECLARES, "given y, progress, it raised ValueError: Good needs logits=")
class DeclaresNothing(Good):
    needs = frozenset()


@mutant(DECLARES, "given y, logits, progress, it raised TypeError")
class AnotherSignature(Good):
    def labels(self, y: Tensor, logits: Any = None, progress: float = 1.0) -> Tensor:
        return super().labels(y, logits, None, progress)


@mutant("asks for what it needs", "without logits it raised AttributeError, not ValueError")
class CrashesWithoutLogits(Good):
    def labels(self, y: Tensor, logits: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        logits.dim()
        return super().labels(y, logits)


@mutant("asks for what it needs", "without logits it raised no ValueError")
class MakesDoWithoutLogits(Good):
    def labels(self, y: Tensor, logits: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        found = torch.zeros(len(y), self.num_outputs) if logits is None else logits
        return super().labels(y, found)


SHAPE = "labels are (N, num_outputs)"


@mutant(SHAPE, "for 6 samples it returned Tensor (6, 1), not (6, 2)")
class LosesAClass(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        return q[:, 1:]


@mutant(SHAPE, "for 1 samples it returned Tensor (2,), not (1, 2)")
class Squeezes(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        return q.squeeze()


@mutant(SHAPE, "it raised IndexError")
class FailsOnNothing(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        return q + 0 * q[0]


@mutant(SHAPE, "for 6 samples it returned list ()")
class ReturnsAList(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        return q.tolist()


@mutant("labels are finite", "with logits up to 40000 and progress 0.0")
class Overflows(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        p = logits.to(q.dtype).exp()
        return 0.9 * q + 0.1 * p / p.sum(dim=1, keepdim=True)


@mutant("labels are finite", "with logits up to 0 and progress 0.0")
class DividesByProgress(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        return q * (torch.tensor(progress) / progress if progress else torch.nan)


@mutant("rows sum to 1", "at progress 0.25 a row sums to 0.9375")
class Shrinks(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        return q * (1 - progress * (1 - progress) / 3)


@mutant("no label is negative", "at progress 0.0 there is a label of -0.2")
class Negative(Good):
    """Negative label smoothing (Wei et al. 2022): more than 1 on y, less than 0 elsewhere."""

    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        return q + 0.5 * (q - 1 / self.num_classes)


@mutant("labels have no gradient", "they carry the gradient of what they came from")
class LetsGradientsThrough(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        return 0.9 * q + 0.1 * logits.softmax(dim=1, dtype=q.dtype)


DTYPE = "labels are float32, or float64 for float64 logits"


@mutant(DTYPE, "for torch.float64 logits they are torch.float32")
class AlwaysSingle(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        return q.float()


@mutant(DTYPE, "for torch.float16 logits they are torch.float16")
class KeepsHalf(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        return q.to(logits.dtype)


@mutant(DTYPE, "for torch.float32 logits under autocast they are torch.bfloat16")
class MultipliesMatrices(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        return q @ torch.eye(self.num_classes, dtype=q.dtype, device=q.device)


@mutant("leaves its arguments alone", "it changed logits")
class SubtractsInPlace(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        with torch.no_grad():
            logits -= 1
        return q


REPEATS = "the same arguments give the same labels"


@mutant(REPEATS, "a second call gave other labels")
class Remembers(Good):
    weight = 0.0

    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        self.weight = 0.5 + self.weight / 2
        return self.weight * q + (1 - self.weight) / self.num_classes


@mutant(REPEATS, "a second call gave other labels")
class DrawsAtRandom(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        weight = torch.rand(()).item()
        return weight * q + (1 - weight) / self.num_classes


@mutant("ignores what it does not declare", "teacher_logits changed the labels")
class PeeksAtTheTeacher(Good):
    def labels(
        self, y: Tensor, logits: Any = None, teacher_logits: Any = None, progress: float = 1.0
    ) -> Tensor:
        return super().labels(y, logits if teacher_logits is None else teacher_logits)


@mutant("ignores what it does not declare", "logits changed the labels")
class PeeksAtTheLogits(MakesDoWithoutLogits):
    needs = frozenset()


@mutant("a sample's label is its own", "three of six samples get labels")
class LooksAround(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        return 0.9 * q + 0.1 * q.mean(dim=0) if len(q) else q


@mutant("works as a loss", "does not require grad")
class SwitchesGradientsOff(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        torch.set_grad_enabled(False)
        return q


@mutant("works inside vs", "it raised RuntimeError: view size is not compatible")
class ViewsTheLogits(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        logits.view(-1)
        return q


@mutant("works inside vs", "the real classes do not get half of each label")
class CountsTheLogits(Good):
    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        return q if logits.is_contiguous() else 2 * q


class Learns(Good):
    """A scheme that learns from batch to batch, and keeps it over a checkpoint."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.mean = torch.full((num_classes,), 1 / num_classes)

    def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
        q = 0.9 * q + 0.1 * self.mean.to(q)
        if len(q):
            self.mean = 0.9 * self.mean + 0.1 * q.mean(dim=0).to(self.mean)
        return q

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean = state["mean"].clone()


STATE = "its state survives a checkpoint"


@mutant(STATE, "after load_state_dict(state_dict()) the labels differ")
class Forgets(Learns):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@mutant(STATE, "it raised UnpicklingError")
class SavesAnObject(Learns):
    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "me": self}


@mutant(STATE, "no attribute 'load_state_dict'")
class SavesButDoesNotLoad(Good):
    def state_dict(self) -> dict[str, Any]:
        return {}


@mutant("trains", "it raised ValueError: could not convert string to float")
class BadDecay(Good):
    needs = frozenset({"teacher"})
    teacher = "ema"
    ema_decay = "slow"

    def labels(self, y: Tensor, logits: Any = None, teacher_logits: Any = None, *_: Any, **__: Any):
        return super().labels(y, teacher_logits)


def check(factory: Any, **params: Any) -> None:
    check_scheme(factory, deterministic=not issubclass(factory, Learns), **params)


@pytest.mark.parametrize(
    ("rule", "seen", "factory"), MUTANTS, ids=lambda v: getattr(v, "__name__", "")
)
def test_each_mutant_is_caught_by_its_rule(rule: str, seen: str, factory: Any) -> None:
    """A rule that nothing breaks checks nothing; and its message is all that an author gets: the
    scheme, the rule, what was seen, why it matters."""
    (why,) = [r.why for r in RULES.rules if r.name == rule]
    with pytest.raises(AssertionError) as caught:
        check(factory)
    message = str(caught.value)
    assert message.startswith(f"{factory.__name__}(num_classes=")
    assert f"breaks the rule '{rule}': " in message
    assert seen in message
    assert message.endswith(f". {why}.")


def test_every_rule_has_a_mutant() -> None:
    """Else the rule may be vacuous."""
    device = {"labels are on the logits' device"}  # needs a GPU: the test below
    assert {rule for rule, _, _ in MUTANTS} | device == {r.name for r in RULES.rules}
    assert len({r.name for r in RULES.rules}) == len(RULES.rules)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_rule() -> None:
    """A scheme that builds its labels on the CPU works everywhere but where it matters."""

    class StaysOnTheCPU(Good):
        def spoilt(self, q: Tensor, logits: Tensor, progress: float) -> Any:
            return q.cpu()

    with pytest.raises(AssertionError, match="the labels on cpu"):
        check_scheme(StaysOnTheCPU)


@pytest.mark.parametrize("factory", [Good, Moves, Learns])
def test_good_schemes_pass(factory: Any) -> None:
    """A kit that refuses what the contract allows would be switched off."""
    check(factory)


@pytest.mark.parametrize(
    ("factory", "switch"),
    [
        (Remembers, "deterministic"),
        (DrawsAtRandom, "deterministic"),
        (LooksAround, "independent"),
        (Negative, "non_negative"),
    ],
)
def test_a_switch_allows_what_is_meant(factory: Any, switch: str) -> None:
    """Labels may be random, learn, look at the batch or be negative: the contract has no word
    against it."""
    check_scheme(factory, **{switch: False})


BUILT_IN: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in sorted(rl.list_schemes())),
    ("bls", {"on": "probabilities", "temperature": 2.0}),
    ("adr", {"interpolation": 0.0}),
    ("vs", {"warmup_epochs": 2}),
    ("vs", {"inner": "adr"}),
    ("vs", {"inner": "ltd"}),
    ("vs", {"inner": "mixup", "virtual_classes": 1}),
    ("vs", {"inner": {"name": "als", "alpha": 0.3}}),
]


@pytest.mark.parametrize(("name", "params"), BUILT_IN)
def test_our_own_schemes_pass(name: str, params: dict[str, Any]) -> None:
    """The kit asks of others what we keep ourselves."""
    check_scheme(name, **params)


def test_vs_with_random_mass() -> None:
    """The one built-in that is random, on purpose."""
    check_scheme("vs", virtual_mass="random", deterministic=False)
    with pytest.raises(AssertionError, match="the same arguments give the same labels"):
        check_scheme("vs", virtual_mass="random")


def test_the_caller_is_left_alone() -> None:
    """A check amid other tests must not change their random numbers, nor switch gradients off."""
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_scheme(Good)
    with pytest.raises(AssertionError):
        check_scheme(SwitchesGradientsOff)
    assert torch.is_grad_enabled()
    assert torch.equal(torch.rand(2), expected)


def test_the_cause_stays_reachable() -> None:
    """The scheme's own traceback is what its author needs."""
    with pytest.raises(AssertionError) as caught:
        check_scheme(FailsOnNothing)
    assert isinstance(caught.value.__cause__, IndexError)
    with pytest.raises(AssertionError) as caught:
        check_scheme(DeclaresNothing)
    assert isinstance(caught.value.__cause__, ValueError)


def test_without_pytest() -> None:
    """Authors may use another runner; and `pip install robustlabels` brings no pytest."""
    import subprocess
    import sys

    code = "import robustlabels.testing, sys; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
