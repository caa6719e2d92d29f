"""The rules of label schemes."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from robustlabels.errors import UserError
from robustlabels.factories import make_scheme
from robustlabels.labels import LabelLoss, Mix, VirtualSmoothing
from robustlabels.randomness import seed_everything
from robustlabels.testing._batches import KEYWORDS, Batch, SchemeCase, ask
from robustlabels.testing._rules import Broken, Rules, named, require
from robustlabels.testing._tiny import CLASSES, EPS, TinyNet, images, quiet_and_seeded
from robustlabels.training import fit

PROGRESS = (0.0, 0.25, 1.0)


def check_scheme(
    factory: Callable[..., Any] | str,
    *,
    deterministic: bool = True,
    independent: bool = True,
    non_negative: bool = True,
    **params: Any,
) -> None:
    """Check that a label scheme keeps the rules, with 2, 3 and 10 classes.

    Args:
        factory: called as ``factory(num_classes=K, **params)``; or a registered name.
        deterministic: False for labels that are drawn at random, or that learn from batch to
            batch: two calls are not compared then.
        independent: False for labels that depend on the whole batch, not on their sample alone.
        non_negative: False for labels that may be negative; rows sum to 1 all the same.
        **params: the scheme's own.

    Raises:
        AssertionError: a rule is broken: which, what was seen, and why it matters.
    """
    make = functools.partial(make_scheme, factory) if isinstance(factory, str) else factory
    for classes in (2, 3, 10):
        case = SchemeCase(
            functools.partial(make, num_classes=classes, **params),
            classes,
            deterministic,
            independent and deterministic,
            non_negative,
        )
        with quiet_and_seeded():
            RULES.check(named(factory, num_classes=classes, **params), case)


RULES: Rules[SchemeCase] = Rules()


@RULES.add(
    "is a label scheme",
    "The engine plans a training step from num_classes, num_outputs, needs, teacher and "
    "attack_labels",
)
def _declarations(case: SchemeCase) -> None:
    try:
        scheme = case.make()
    except UserError as error:
        raise Broken(str(error)) from error
    classes = scheme.num_classes
    require(
        classes == case.num_classes,
        f"made with num_classes={case.num_classes}, its num_classes is {classes}",
    )


@RULES.add(
    "perturb gives images and a mix",
    "The attack, the teacher and the model take what perturb returns for images in [0, 1]",
)
def _perturbed(case: SchemeCase) -> None:
    scheme = case.make()
    x, y = torch.rand(6, 1, 4, 4), torch.arange(6) % case.num_classes
    moved, mix = scheme.perturb(x, y, torch.Generator().manual_seed(1))
    require(
        moved.shape == x.shape and moved.dtype == x.dtype,
        f"{tuple(x.shape)} {x.dtype} became {tuple(moved.shape)} {moved.dtype}",
    )
    low, high = float(moved.min()), float(moved.max())
    require(low >= 0 and high <= 1, f"pixels from {low:.3g} to {high:.3g}")
    if mix is None:
        require("mix" not in scheme.needs, "it needs a mix, and its perturb returns None")
    else:
        fits = isinstance(mix, Mix) and mix.lam.shape == y.shape == mix.partner.shape
        require(fits, f"for 6 samples the mix is {mix!r}, not a robustlabels.Mix of 6")


@RULES.add(
    "perturb is a function of its arguments",
    "A resumed run draws the same generator again, and must see the same images",
)
def _reproducible(case: SchemeCase) -> None:
    scheme = case.make()
    x, y = torch.rand(6, 1, 4, 4), torch.arange(6) % case.num_classes
    before = x.clone(), y.clone()
    first = scheme.perturb(x, y, torch.Generator().manual_seed(1))[0]
    second = scheme.perturb(x, y, torch.Generator().manual_seed(1))[0]
    require(torch.equal(x, before[0]) and torch.equal(y, before[1]), "it changed x or y in place")
    require(torch.equal(first, second), "the same seed moved the images elsewhere")


@RULES.add(
    "declares what it reads",
    'The engine gives labels() what needs has, and runs a teacher only where it has "teacher"',
)
def _enough(case: SchemeCase) -> None:
    scheme = case.make()
    batch = Batch.draw(scheme)
    try:
        ask(scheme, batch)
    except Exception as error:
        given = ", ".join(["y", *(KEYWORDS[n] for n in sorted(scheme.needs)), "progress"])
        raise Broken(f"given {given}, it raised {type(error).__name__}: {error}") from error


@RULES.add(
    "asks for what it needs",
    "Users who forget it must read which argument is missing, not an error about NoneType",
)
def _missing(case: SchemeCase) -> None:
    scheme = case.make()
    batch = Batch.draw(scheme)
    for need in sorted(scheme.needs):
        try:
            ask(scheme, batch, changed={KEYWORDS[need]: None})
        except ValueError:
            continue
        except Exception as error:
            seen = f"it raised {type(error).__name__}, not ValueError"
            raise Broken(f"without {KEYWORDS[need]} {seen}: {error}") from error
        raise Broken(f"without {KEYWORDS[need]} it raised no ValueError")


@RULES.add(
    "labels are (N, num_outputs)",
    "A wrong shape may broadcast in a loss, and train on something else",
)
def _shape(case: SchemeCase) -> None:
    scheme = case.make()
    for n in (6, 1, 0):
        labels = ask(scheme, Batch.draw(scheme, n))
        shape = tuple(getattr(labels, "shape", ()))
        expected = (n, scheme.num_outputs)
        require(
            isinstance(labels, Tensor) and shape == expected,
            f"for {n} samples it returned {type(labels).__name__} {shape}, not {expected}",
        )


@RULES.add(
    "labels are finite",
    "One NaN in a label ends training",
)
def _finite(case: SchemeCase) -> None:
    scheme = case.make()
    for scale in (0.0, 3.0, 1e4):
        for progress in PROGRESS:
            labels = ask(scheme, Batch.draw(scheme, scale=scale), progress)
            seen = f"with logits up to {4 * scale:g} and progress {progress} there are NaN or inf"
            require(bool(labels.isfinite().all()), seen)


@RULES.add(
    "rows sum to 1",
    "A label off the simplex changes the learning rate of its sample",
)
def _sums(case: SchemeCase) -> None:
    scheme = case.make()
    for progress in PROGRESS:
        sums = ask(scheme, Batch.draw(scheme), progress).double().sum(dim=1)
        worst = float(sums[(sums - 1).abs().argmax()])
        require(abs(worst - 1) <= 1e-5, f"at progress {progress} a row sums to {worst:.6g}")


@RULES.add(
    "no label is negative",
    "Cross-entropy then has no lower bound; non_negative=False says that it is meant",
)
def _sign(case: SchemeCase) -> None:
    scheme = case.make()
    for progress in PROGRESS if case.non_negative else ():
        low = float(ask(scheme, Batch.draw(scheme), progress).min())
        require(low >= 0, f"at progress {progress} there is a label of {low:.3g}")


@RULES.add(
    "labels have no gradient",
    "The model could lower its loss by moving the target",
)
def _gradient(case: SchemeCase) -> None:
    scheme = case.make()
    batch = Batch.draw(scheme)
    live = replace(
        batch, logits=batch.logits.requires_grad_(), teacher=batch.teacher.requires_grad_()
    )
    require(not ask(scheme, live).requires_grad, "they carry the gradient of what they came from")


@RULES.add(
    "labels are float32, or float64 for float64 logits",
    "In half precision a tenth of a label is off by a percent, and rows no longer sum to 1",
)
def _dtype(case: SchemeCase) -> None:
    scheme = case.make()
    # Who does not need the logits may also ignore their dtype.
    reads = bool({"logits", "teacher"} & set(scheme.needs))
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        expected = torch.float64 if dtype == torch.float64 else torch.float32
        allowed = {expected} if reads else {torch.float32, torch.float64}
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                found = ask(scheme, Batch.draw(scheme).cast(dtype)).dtype
            under = " under autocast" if autocast else ""
            require(found in allowed, f"for {dtype} logits{under} they are {found}")


@RULES.add(
    "labels are on the logits' device",
    "A loss of tensors on two devices raises",
)
def _device(case: SchemeCase) -> None:
    if not torch.cuda.is_available():
        return
    scheme = case.make()
    batch = Batch.draw(scheme)
    mix = batch.mix
    if mix is not None:
        labels = None if mix.labels is None else mix.labels.cuda()
        mix = Mix(mix.lam.cuda(), mix.partner.cuda(), labels)
    there = Batch(
        batch.y.cuda(), batch.logits.cuda(), batch.teacher.cuda(), mix, batch.index.cuda()
    )
    found = ask(scheme, there).device
    require(found == there.y.device, f"everything is on {there.y.device}, the labels on {found}")


@RULES.add(
    "leaves its arguments alone",
    "The same logits go into the loss after it",
)
def _untouched(case: SchemeCase) -> None:
    scheme = case.make()
    batch = Batch.draw(scheme)
    before = Batch.draw(scheme)
    ask(scheme, batch)
    for name in ("y", "logits", "teacher", "index"):
        require(torch.equal(getattr(batch, name), getattr(before, name)), f"it changed {name}")


@RULES.add(
    "the same arguments give the same labels",
    "Labels that depend on what came before can't be repeated; deterministic=False says that "
    "they are random, or that they learn",
)
def _repeatable(case: SchemeCase) -> None:
    if not case.deterministic:
        return
    scheme = case.make()
    batch = Batch.draw(scheme)
    first = ask(scheme, batch).clone()
    ask(scheme, Batch.draw(scheme, 3, seed=1))
    require(torch.equal(ask(scheme, batch), first), "a second call gave other labels")


@RULES.add(
    "ignores what it does not declare",
    "The same scheme would give one label in robustlabels.fit and another in LabelLoss",
)
def _undeclared(case: SchemeCase) -> None:
    if not case.deterministic:
        return
    scheme = case.make()
    batch = Batch.draw(scheme)
    labels = ask(scheme, batch)
    for need, noise in (
        ("logits", torch.randn_like(batch.logits)),
        ("teacher", torch.randn_like(batch.teacher)),
    ):
        if need not in scheme.needs:
            other = ask(scheme, batch, changed={KEYWORDS[need]: noise})
            require(torch.equal(other, labels), f"{KEYWORDS[need]} changed the labels")


@RULES.add(
    "a sample's label is its own",
    "Gradient accumulation and several GPUs, which split a batch, would train another model; "
    "independent=False says that it is meant",
)
def _separate(case: SchemeCase) -> None:
    scheme = case.make()
    if not case.independent or "mix" in scheme.needs:
        return
    batch = Batch.draw(scheme)
    labels = ask(scheme, batch)
    order = torch.tensor([3, 0, 5])
    off = (ask(scheme, batch.rows(order)) - labels[order]).abs().max()
    require(bool(off <= 1e-5), f"alone, three of six samples get labels that differ by {off:.3g}")


@RULES.add(
    "works as a loss",
    "The gradient of the cross-entropy is softmax(logits) - label, for each sample",
)
def _loss(case: SchemeCase) -> None:
    scheme = case.make()
    batch = Batch.draw(scheme)
    logits = batch.logits.clone().requires_grad_()
    loss = LabelLoss(scheme)(
        logits, batch.y, teacher_logits=batch.teacher, mix=batch.mix, index=batch.index
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    if case.deterministic:
        label = ask(scheme, batch, 1.0)
        off = (gradient * len(label) - (logits.softmax(dim=1) - label)).abs().max()
        require(bool(off <= 1e-4), f"the gradient is off by {off:.3g}")


@RULES.add(
    "works inside vs",
    "Users combine every scheme with virtual classes",
)
def _inside(case: SchemeCase) -> None:
    inner = case.make()
    if inner.num_outputs != case.num_classes:
        return
    scheme = VirtualSmoothing(case.num_classes, virtual_classes=2, inner=inner)
    labels = ask(scheme, Batch.draw(scheme))
    sums = labels[:, : case.num_classes].sum(dim=1)
    require(
        bool((sums - 0.5).abs().le(1e-5).all()),
        "with alpha 0.5 the real classes do not get half of each label",
    )


@RULES.add(
    "its state survives a checkpoint",
    "A resumed run must go on as the one that was never stopped",
)
def _state(case: SchemeCase) -> None:
    scheme = case.make()
    if not hasattr(scheme, "state_dict"):
        return
    for seed in range(3):
        ask(scheme, Batch.draw(scheme, seed=seed))
    file = io.BytesIO()
    torch.save(scheme.state_dict(), file)
    file.seek(0)
    resumed = case.make()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    answers = []
    for each in (scheme, resumed):
        seed_everything(1)
        answers.append(ask(each, Batch.draw(scheme, seed=4)))
    require(torch.equal(*answers), "after load_state_dict(state_dict()) the labels differ")


@RULES.add(
    "trains",
    "robustlabels.fit must take it, as a user would",
)
def _trains(case: SchemeCase) -> None:
    if case.num_classes != CLASSES:
        return
    fit(
        TinyNet(),
        images(),
        scheme=case.make(),
        eps=EPS,
        epochs=1,
        batch_size=16,
        validation=0,
        attack={"name": "pgd", "steps": 2},
        teacher=TinyNet() if case.make().teacher == "frozen" else None,
        device="cpu",
    )
