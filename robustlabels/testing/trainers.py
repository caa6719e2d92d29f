"""The rules of trainers, in real runs of ``robustlabels.fit``."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlabels.attacks import PGD
from robustlabels.errors import UserError
from robustlabels.factories import check_trainer as checked
from robustlabels.factories import make_attack, make_trainer
from robustlabels.randomness import seed_everything
from robustlabels.testing._rules import Broken, Rules, named, require
from robustlabels.testing._tiny import CLASSES, EPS, Snapshot, TinyNet, images, quiet_and_seeded
from robustlabels.training import FitResult, Run, Step, fit
from robustlabels.training.trainer import uses_attack

SCHEMES = {
    "vs": "more outputs than classes",
    "als": "labels that need the logits of the cross-entropy term: step.labels(logits)",
    "adr": "soft labels in the attack too",
    "mixup": "mixed inputs",
}


def check_trainer(
    factory: Callable[..., Any] | str,
    *,
    soft_labels: bool = True,
    hard_attack: bool = True,
    **params: Any,
) -> None:
    """Check that a trainer keeps the rules, in short runs on 48 images of 4x4.

    Args:
        factory: called as ``factory(**params)``; or a registered name.
        soft_labels: False for trainers that do not use the scheme's labels (pure distillation).
        hard_attack: False for trainers whose attack is meant to see other labels than the true
            classes (``step.attack(labels)``).
        **params: the trainer's own.

    Raises:
        AssertionError: a rule is broken: which, what was seen, and why it matters.
    """
    make = functools.partial(make_trainer, factory) if isinstance(factory, str) else factory
    with quiet_and_seeded():
        case = TrainerCase(functools.partial(make, **params), soft_labels, hard_attack)
        RULES.check(named(factory, **params), case)


@dataclass(frozen=True)
class TrainerCase:
    """A trainer, and what is expected of it."""

    make: Callable[[], Any]
    soft_labels: bool
    hard_attack: bool

    def watched(self, scheme: str = "ls") -> list[Seen]:
        """What the trainer did in the three steps of an epoch."""
        watched = Watched(self.make())
        self.run(trainer=watched, attack=watched.attack, scheme=scheme, epochs=1)
        return watched.seen

    @staticmethod
    def run(**options: Any) -> FitResult:
        """A run of three steps an epoch; every trainer is offered a teacher, and extra images if
        it takes them."""
        seed_everything(0)
        model = TinyNet(CLASSES + getattr(options["trainer"], "extra_outputs", 0))
        settings = {"teacher": TinyNet(), "eps": EPS, "batch_size": 16, "validation": 0}
        if getattr(options["trainer"], "takes_extra", False):
            settings |= {"extra": 1 - images()[0], "batch_size": 32}  # half of a batch
        return fit(model, images(), **{**settings, "device": "cpu", **options})


@dataclass
class Seen:
    """One step, as it was seen from outside."""

    step: Step
    targets: list[Tensor] = field(default_factory=list)
    losses: list[Any] = field(default_factory=list)
    disturbed: str | None = None
    graph: bool = False
    gradient: float = 0.0


class Watched:
    """A trainer around a trainer: writes down what it does, and asks for each loss twice."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.seen: list[Seen] = []
        self._attack = PGD(EPS, steps=2)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trainer, name)  # extra_outputs and the other optional attributes

    def attack(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The run's attack."""
        self.seen[-1].targets.append(y.clone())
        return self._attack(model, x, y)

    def setup(self, run: Run) -> None:
        """The trainer's own."""
        self.trainer.setup(run)

    def inputs(self, step: Step) -> None:
        """The trainer's own, watched."""
        seen = Seen(step)
        self.seen.append(seen)
        before = Snapshot(step.model)
        self.trainer.inputs(step)
        seen.disturbed = before.difference(step.model)
        seen.graph = isinstance(step.x_adv, Tensor) and step.x_adv.requires_grad

    def loss(self, step: Step) -> Tensor:
        """The trainer's own, twice from the same random numbers; 0 where it is none."""
        seen = self.seen[-1]
        before = Snapshot(step.model)
        for _ in range(2):
            seed_everything(2)
            seen.losses.append(self.trainer.loss(step))
        seen.disturbed = seen.disturbed or before.difference(step.model)
        live = [p for p in step.model.parameters() if p.requires_grad]
        value = seen.losses[0]
        if not _scalar(value) or not value.requires_grad:
            return torch.stack([p.sum() for p in live]).sum() * 0
        found = torch.autograd.grad(value, live, retain_graph=True, allow_unused=True)
        seen.gradient = max((float(g.abs().max()) for g in found if g is not None), default=0.0)
        number: Tensor = value
        return number


def _scalar(loss: Any) -> bool:
    return isinstance(loss, Tensor) and loss.dim() == 0 and bool(loss.isfinite())


RULES: Rules[TrainerCase] = Rules()


@RULES.add(
    "is a trainer",
    "The engine calls setup, inputs and loss, and reads the optional attributes before training",
)
def _declarations(case: TrainerCase) -> None:
    try:
        trainer = checked(case.make(), "it")
        extra = getattr(trainer, "extra_outputs", 0)
        if hasattr(trainer, "attack_defaults"):
            make_attack("pgd", EPS, **trainer.attack_defaults(EPS))
    except UserError as error:
        raise Broken(str(error)) from error
    require(
        isinstance(extra, int) and extra >= 0, f"extra_outputs is {extra!r}, not a whole number"
    )


@RULES.add("runs", "robustlabels.fit must take it, as a user would")
def _runs(case: TrainerCase) -> None:
    seen = case.watched()
    require(len(seen) == 3, f"three steps were asked for, {len(seen)} came")


@RULES.add(
    "attacks only if it says so",
    "The run's config would not say by which attack: set uses_attack = True",
)
def _attacks(case: TrainerCase) -> None:
    said = uses_attack(case.make())
    attacked = any(seen.targets for seen in case.watched())
    require(said or not attacked, "it called step.attack(), and uses_attack is False")


@RULES.add(
    "inputs makes no graph",
    "Each step would keep the attack's passes in memory, and send a second gradient through them",
)
def _graph(case: TrainerCase) -> None:
    require(not any(s.graph for s in case.watched()), "step.x_adv carries a gradient: detach it")


@RULES.add(
    "adversarial inputs are in [0, 1] and in the ball",
    "The model would be trained for another eps than the run says",
)
def _ball(case: TrainerCase) -> None:
    for seen in case.watched():
        x, x_adv = seen.step.x, seen.step.x_adv
        if x_adv is None:
            continue
        require(
            x_adv.shape == x.shape,
            f"x is {tuple(x.shape)}, x_adv {tuple(x_adv.shape)}",
        )
        away, low, high = float((x_adv - x).abs().max()), float(x_adv.min()), float(x_adv.max())
        require(away <= EPS + 1e-5, f"with eps {EPS}, x_adv is {away:.3g} away from x")
        require(low >= 0 and high <= 1, f"x_adv has pixels from {low:.3g} to {high:.3g}")


@RULES.add(
    "leaves the model as it was",
    "Modes, frozen layers and gradients are the engine's, and so are the weights",
)
def _model(case: TrainerCase) -> None:
    for seen in case.watched():
        require(seen.disturbed is None, f"after inputs and loss, {seen.disturbed}")


@RULES.add("the loss is a finite number", "The engine calls backward() on it")
def _finite(case: TrainerCase) -> None:
    for seen in case.watched():
        loss = seen.losses[0]
        require(_scalar(loss), f"the loss is {loss!r}, not a scalar tensor that is finite")


@RULES.add("the loss reaches the model", "Without a gradient nothing is learnt")
def _gradient(case: TrainerCase) -> None:
    for seen in case.watched():
        require(seen.gradient > 0, "no parameter has a gradient that is not 0")


@RULES.add(
    "loss may be called again",
    "Adversarial weight perturbation calls it a second time for the same step",
)
def _again(case: TrainerCase) -> None:
    for seen in case.watched():
        first, second = (float(loss.detach()) for loss in seen.losses)
        require(
            abs(first - second) <= 1e-6 * max(1.0, abs(first)),
            f"called again, it gave {second:.6g} after {first:.6g}",
        )


@RULES.add(
    "what belongs to a step is kept on the step",
    "With accumulation, weight perturbation asks for a step's second loss after the inputs of "
    "others: put into step.kept what inputs makes for loss",
)
def _kept(case: TrainerCase) -> None:
    trainer = case.make()
    if hasattr(trainer, "state_dict"):
        return  # its loss may change with what it has seen
    watched = Watched(trainer)
    case.run(trainer=watched, attack=watched.attack, scheme="ls", epochs=1)
    step, other = (seen.step for seen in watched.seen[:2])
    found = []
    for made in (step, other):
        trainer.inputs(made)
        seed_everything(2)
        found.append(float(trainer.loss(step).detach()))
    require(
        abs(found[0] - found[1]) <= 1e-6 * max(1.0, abs(found[0])),
        f"a step's loss went from {found[0]:.6g} to {found[1]:.6g} with another step's inputs",
    )


@RULES.add(
    "soft labels reach the loss",
    "Label schemes would have no effect; soft_labels=False says that it is meant",
)
def _soft_labels(case: TrainerCase) -> None:
    if not case.soft_labels:
        return
    soft, hard = (float(case.watched(scheme)[0].losses[0].detach()) for scheme in ("ls", "one-hot"))
    require(abs(soft - hard) > 1e-6, f"the loss on smoothed and on one-hot labels is {hard:.6g}")


@RULES.add(
    "the attack sees the true classes",
    "Against soft labels PGD spares the model, and training looks more robust than it is; "
    "hard_attack=False says that it is meant",
)
def _hard_labels(case: TrainerCase) -> None:
    if not case.hard_attack:
        return
    for seen in case.watched():
        for target in seen.targets:
            same = target.dtype == torch.int64 and torch.equal(target, seen.step.y)
            require(same, f"the attack was given {target.dtype} {tuple(target.shape)}, not step.y")


@RULES.add("works with other label schemes", "Users combine every scheme with every trainer")
def _schemes(case: TrainerCase) -> None:
    for scheme, trait in SCHEMES.items():
        try:
            losses = [seen.losses[0] for seen in case.watched(scheme)]
        except Exception as error:
            seen = f"with {scheme} ({trait}) it raised {type(error).__name__}: {error}"
            raise Broken(seen) from error
        require(all(map(_scalar, losses)), f"with {scheme} ({trait}) the loss is {losses[0]!r}")


@RULES.add("learns", "After ten epochs of easy images the model should know them better")
def _learns(case: TrainerCase) -> None:
    seed_everything(0)
    start = TinyNet()
    result = case.run(trainer=case.make(), epochs=10)
    x, y = images()
    with torch.no_grad():
        before, after = (
            float(F.cross_entropy(m.eval()(x)[:, :CLASSES], y)) for m in (start, result.model)
        )
    require(
        after < before, f"the cross-entropy of clean images went from {before:.3g} to {after:.3g}"
    )


@RULES.add(
    "resumes exactly",
    "A run that was killed must end as one that was not: state belongs into state_dict() and "
    "load_state_dict(), random numbers come from the global generators",
)
def _resumes(case: TrainerCase) -> None:
    def stop(done: int, *_: Any) -> None:
        if done == 5:
            raise _Killed

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"epochs": 2, "save_every": 1}
        whole = case.run(trainer=case.make(), **options)
        options["out"] = Path(folder) / "run"
        with contextlib.suppress(_Killed):
            case.run(trainer=case.make(), progress=stop, **options)
        resumed = case.run(trainer=case.make(), resume=True, **options)
    apart = [n for n, weight in whole.last.items() if not torch.equal(weight, resumed.last[n])]
    require(not apart, f"killed after 5 of 6 steps and resumed, {', '.join(apart)} differ")


class _Killed(BaseException):
    """Like SIGKILL: no ``except Exception`` may tidy up after it."""
