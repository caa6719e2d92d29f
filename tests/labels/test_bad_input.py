"""Bad parameters and arguments: a ValueError that names the argument, the value and the range."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from robustlabels.factories import make_scheme
from robustlabels.labels import (
    AdversarialLabelling,
    AdversarialLabelSmoothing,
    AnnealingRectification,
    BoltzmannLabelSmoothing,
    LabelSmoothing,
    LowTemperatureDistillation,
    Mix,
    MixUp,
    OneHot,
    SecondBestLabelSmoothing,
    StandardLabelSmoothing,
    VirtualSmoothing,
)

ALL = [
    OneHot,
    LabelSmoothing,
    StandardLabelSmoothing,
    AdversarialLabelSmoothing,
    BoltzmannLabelSmoothing,
    SecondBestLabelSmoothing,
    VirtualSmoothing,
    LowTemperatureDistillation,
    AnnealingRectification,
    AdversarialLabelling,
    MixUp,
]
WITH_ALPHA = ALL[1:7]
every_scheme = pytest.mark.parametrize("scheme", ALL, ids=lambda s: s.__name__)


def assert_names(error: BaseException, *parts: object) -> None:
    message = str(error)
    for part in parts:
        assert str(part) in message, message
    assert "\n" not in message


# Parameters.


@every_scheme
@pytest.mark.parametrize("bad", [1, 0, -3, 2.0, "10", True, None, math.nan])
def test_num_classes(scheme: Any, bad: object) -> None:
    """One class has no other to smooth to: a division by zero in sls."""
    with pytest.raises(ValueError, match="num_classes") as caught:
        scheme(bad)
    assert_names(caught.value, "integer of at least 2", repr(bad))


@pytest.mark.parametrize("bad", [-0.1, 1.5, math.nan, math.inf, "0.1", None, True])
@pytest.mark.parametrize("scheme", WITH_ALPHA, ids=lambda s: s.__name__)
def test_alpha(scheme: Any, bad: object) -> None:
    """alpha outside [0, 1] makes negative labels, which train as if nothing were wrong."""
    with pytest.raises(ValueError, match="alpha") as caught:
        scheme(10, alpha=bad)
    assert_names(caught.value, "[0, 1]", repr(bad))


BAD_PARAMETERS = [
    (AdversarialLabelling, "epsilon", 2.0, "[0, 1]"),
    (AdversarialLabelling, "epsilon", -0.1, "[0, 1]"),
    (AdversarialLabelling, "beta_a", 0.0, "above 0"),
    (AdversarialLabelling, "beta_b", -1, "above 0"),
    (AdversarialLabelling, "beta_a", math.inf, "above 0"),
    (AdversarialLabelling, "beta_b", "2", "above 0"),
    (MixUp, "alpha", 0.0, "above 0"),
    (MixUp, "alpha", math.nan, "above 0"),
    (MixUp, "alpha", math.inf, "above 0"),
    (BoltzmannLabelSmoothing, "temperature", 0.0, "above 0 (inf is allowed)"),
    (BoltzmannLabelSmoothing, "temperature", -1.0, "above 0"),
    (BoltzmannLabelSmoothing, "temperature", math.nan, "above 0"),
    (BoltzmannLabelSmoothing, "temperature", (1, 2), "above 0"),
    (BoltzmannLabelSmoothing, "on", "probs", "logits, probabilities"),
    (BoltzmannLabelSmoothing, "on", None, "logits, probabilities"),
    (LowTemperatureDistillation, "temperature", 0, "above 0"),
    (LowTemperatureDistillation, "temperature", math.inf, "above 0"),
    (LowTemperatureDistillation, "temperature", False, "above 0"),
    (AnnealingRectification, "temperature", 0.0, "above 0"),
    (AnnealingRectification, "temperature", "2", "a pair (start, end)"),
    (AnnealingRectification, "temperature", (2.0, 1.5, 1.0), "a pair (start, end)"),
    (AnnealingRectification, "temperature", (2.0, math.nan), "a pair (start, end)"),
    (AnnealingRectification, "temperature", None, "a pair (start, end)"),
    (AnnealingRectification, "interpolation", 1.5, "[0, 1]"),
    (AnnealingRectification, "interpolation", "ab", "a pair (start, end)"),
    (AnnealingRectification, "ema_decay", 1.0, "below 1"),
    (AnnealingRectification, "ema_decay", -0.1, "[0, 1]"),
    (VirtualSmoothing, "virtual_classes", 0, "integer of at least 1"),
    (VirtualSmoothing, "virtual_classes", 2.5, "integer of at least 1"),
    (VirtualSmoothing, "virtual_mass", "gaussian", "uniform, random"),
    (VirtualSmoothing, "warmup_epochs", -1, "integer of at least 0"),
    (VirtualSmoothing, "warmup_epochs", 1.5, "integer of at least 0"),
]


@pytest.mark.parametrize(("scheme", "name", "value", "allowed"), BAD_PARAMETERS)
def test_parameters(scheme: Any, name: str, value: object, allowed: str) -> None:
    """Every other parameter of every scheme."""
    with pytest.raises(ValueError, match=name) as caught:
        scheme(10, **{name: value})
    assert_names(caught.value, allowed)
    if allowed != "below 1":
        assert_names(caught.value, repr(value))


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize(
    ("name", "pair"), [("temperature", [2.0, -1.0]), ("interpolation", [0.7, 1.1])]
)
def test_both_ends_of_a_schedule_are_checked(name: str, pair: list[float], end: int) -> None:
    """A bad end would only show after hours of training."""
    ordered = pair if end else pair[::-1]
    with pytest.raises(ValueError, match=f"{name}.*{re.escape(repr(pair[1]))}"):
        AnnealingRectification(10, **{name: ordered})


def test_numpys_numbers_are_numbers() -> None:
    """len(np.unique(y)) is an int, y.max() + 1 an np.int64: refusing it as "not an integer: 10"
    would puzzle anybody."""
    scheme = LabelSmoothing(np.int64(3), alpha=np.float32(0.5))
    assert scheme.num_classes == 3
    assert type(scheme.num_classes) is int
    assert scheme.alpha == 0.5
    assert scheme.labels(torch.tensor([0])).shape == (1, 3)
    pair = np.array([2.5, 2.0], dtype=np.float32)
    adr = AnnealingRectification(3, temperature=tuple(pair), interpolation=np.float32(0.5))
    assert (adr.temperature, adr.interpolation) == ((2.5, 2.0), (0.5, 0.5))
    vs = make_scheme("vs", np.int64(3), virtual_classes=np.int32(2), inner="ls")
    assert type(vs.num_outputs) is int
    assert type(VirtualSmoothing(np.uint8(200)).num_outputs) is int
    assert VirtualSmoothing(np.uint8(200)).num_outputs == 400  # as uint8 it overflows to 144


# Arguments of labels().

K = 4


def make(scheme: Any) -> Any:
    made = scheme(K)
    return made


def given(made: Any, n: int = 3, **changed: Any) -> dict[str, Any]:
    """Good arguments, but for ``changed``."""
    arguments: dict[str, Any] = {"y": torch.arange(n) % K}
    if "logits" in made.needs:
        arguments["logits"] = torch.zeros(n, made.num_outputs)
    if "teacher" in made.needs:
        arguments["teacher_logits"] = torch.zeros(n, K)
    if "mix" in made.needs:
        arguments["mix"] = Mix(torch.full((n,), 0.5), torch.arange(n), torch.arange(n) % K)
    return arguments | changed


@every_scheme
def test_good_arguments_pass(scheme: Any) -> None:
    """Otherwise the tests below would pass for the wrong reason."""
    made = make(scheme)
    assert made.labels(**given(made)).shape == (3, made.num_outputs)


BAD_Y = {
    "int32": (torch.tensor([0, 1, 2], dtype=torch.int32), ["torch.int64", "torch.int32"]),
    "float": (torch.tensor([0.0, 1.0, 2.0]), ["torch.int64", "torch.float32"]),
    "2-D": (torch.zeros(3, 1, dtype=torch.int64), ["(N,)", "(3, 1)"]),
    "one-hot": (torch.eye(4, dtype=torch.int64)[:3], ["(N,)", "(3, 4)"]),
    "scalar": (torch.tensor(1), ["(N,)", "()"]),
    "a list": ([0, 1, 2], ["torch.Tensor", "list"]),
    "an array": (np.array([0, 1, 2]), ["torch.Tensor", "ndarray"]),
}


@pytest.mark.parametrize("bad", BAD_Y)
@pytest.mark.parametrize("checks", [True, False])
@every_scheme
def test_y_of_the_wrong_kind(scheme: Any, bad: str, checks: bool) -> None:
    """Kinds and shapes are checked always, check_values or not: they cost nothing."""
    y, parts = BAD_Y[bad]
    made = make(scheme)
    made.check_values = checks
    with pytest.raises(ValueError, match=r"^y must") as caught:
        made.labels(**given(made, y=y))
    assert_names(caught.value, *parts)


@pytest.mark.parametrize(("bad", "value"), [([0, K, 1], K), ([0, -1, 2], -1)])
@every_scheme
def test_y_out_of_range(scheme: Any, bad: list[int], value: int) -> None:
    """A label of 4 with 4 classes is the usual off-by-one; -1 would index the last class."""
    made = make(scheme)
    with pytest.raises(ValueError, match=r"y must be in \[0, 3\] for 4 classes") as caught:
        made.labels(**given(made, y=torch.tensor(bad)))
    assert_names(caught.value, value)


def test_y_among_the_virtual_classes_is_out_of_range() -> None:
    """vs has K + V outputs, but a class of the data is below K."""
    made = VirtualSmoothing(4, virtual_classes=4)
    with pytest.raises(ValueError, match=r"y must be in \[0, 3\]"):
        made.labels(torch.tensor([5]))


def wide(n: int, width: int) -> torch.Tensor:
    return torch.zeros(n, width)


BAD_LOGITS = {
    "too narrow": (wide(3, K - 1), ["(3, 3)"]),
    "too wide": (wide(3, 3 * K), ["(3, 12)"]),
    "another batch": (wide(2, K), ["(2, 4)"]),
    "1-D": (torch.zeros(3), ["(3,)"]),
    "3-D": (torch.zeros(3, K, 1), ["(3, 4, 1)"]),
    "integers": (torch.zeros(3, K, dtype=torch.int64), ["floating point", "torch.int64"]),
    "an array": (np.zeros((3, K)), ["torch.Tensor", "ndarray"]),
}


@pytest.mark.parametrize("bad", BAD_LOGITS)
@pytest.mark.parametrize("checks", [True, False])
@pytest.mark.parametrize("name", ["logits", "teacher_logits"])
@every_scheme
def test_logits_of_the_wrong_kind(scheme: Any, name: str, checks: bool, bad: str) -> None:
    """Also where the scheme doesn't need them: a wrong model is found on the first step."""
    logits, parts = BAD_LOGITS[bad]
    made = make(scheme)
    made.check_values = checks
    with pytest.raises(ValueError, match=f"^{name} must") as caught:
        made.labels(**given(made, **{name: logits}))
    assert_names(caught.value, *parts)


def test_widths_of_vs_are_all_named() -> None:
    """Its student is K + V wide, its teacher may be K wide too: a student that was not widened is
    the likeliest mistake of all."""
    made = VirtualSmoothing(4, virtual_classes=2, inner=LowTemperatureDistillation(4))
    y = torch.tensor([0])
    with pytest.raises(ValueError, match=r"^logits must have shape \(1, 6\), not \(1, 4\)"):
        made.labels(y, logits=wide(1, 4), teacher_logits=wide(1, 4))
    with pytest.raises(
        ValueError, match=r"^teacher_logits must have shape \(1, 4\) or \(1, 6\), not \(1, 5\)"
    ):
        made.labels(y, teacher_logits=wide(1, 5))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@every_scheme
def test_logits_with_nan(scheme: Any, value: float) -> None:
    """A diverged model: NaN labels would come a step after NaN logits, and hide the cause."""
    made = make(scheme)
    for name, width in (("logits", made.num_outputs), ("teacher_logits", K)):
        logits = wide(3, width)
        logits[1, 2] = value
        if name == "logits" and value == -math.inf and name not in made.needs:
            assert made.labels(**given(made, logits=logits)).isfinite().all()  # a class ruled out
            continue
        # Read or not: the loss would be NaN a line later, and name nothing.
        with pytest.raises(ValueError, match=f"^{name} must be finite, but has NaN or infin"):
            made.labels(**given(made, **{name: logits}))


@every_scheme
def test_check_values_off_skips_the_values(scheme: Any) -> None:
    """The engine switches the per-step check off, because it makes a GPU wait: what is out of
    range then must not raise *our* error (torch's own may come)."""
    made = make(scheme)
    made.check_values = False
    bad = {}
    if "logits" in made.needs:
        bad["logits"] = torch.full((3, made.num_outputs), math.nan)
    if "teacher" in made.needs:
        bad["teacher_logits"] = torch.full((3, K), math.nan)
    if "mix" in made.needs:
        lam = torch.tensor([math.nan, 2.0, -1.0])
        bad["mix"] = Mix(lam, torch.arange(3), torch.arange(3))
    made.labels(**given(made, **bad))
    try:
        made.labels(**given(made, y=torch.tensor([0, -1, K])))
    except ValueError as error:
        raise AssertionError("a value was checked") from error
    except RuntimeError:
        pass


def test_check_values_of_vs_reaches_its_inner_scheme() -> None:
    """One switch must do, else the inner scheme keeps making the GPU wait."""
    made = VirtualSmoothing(K, inner=AdversarialLabelSmoothing(K))
    nan = torch.full((3, made.num_outputs), math.nan)
    made.check_values = False
    made.labels(torch.tensor([0, 1, 2]), nan)
    made.check_values = True
    assert made.inner.check_values is True
    with pytest.raises(ValueError, match="logits must be finite"):
        made.labels(torch.tensor([0, 1, 2]), nan)


@pytest.mark.parametrize(
    ("scheme", "parts"),
    [
        (AdversarialLabelSmoothing(K), ["AdversarialLabelSmoothing", "logits="]),
        (BoltzmannLabelSmoothing(K), ["BoltzmannLabelSmoothing", "logits="]),
        (SecondBestLabelSmoothing(K), ["SecondBestLabelSmoothing", "logits="]),
        (AdversarialLabelling(K), ["AdversarialLabelling", "logits="]),
        (LowTemperatureDistillation(K), ["LowTemperatureDistillation", "teacher_logits="]),
        (AnnealingRectification(K), ["AnnealingRectification", "teacher_logits="]),
        (MixUp(K), ["MixUp", "mix=", "perturb()"]),
        (VirtualSmoothing(K, inner=MixUp(K)), ["VirtualSmoothing", "mix="]),
        (VirtualSmoothing(K, inner=AdversarialLabelSmoothing(K)), ["VirtualSmoothing", "logits="]),
        (VirtualSmoothing(K, inner=AnnealingRectification(K)), ["teacher_logits="]),
    ],
    ids=str,
)
def test_what_is_needed_and_missing(scheme: Any, parts: list[str]) -> None:
    """The user must learn what to pass, and that perturb() makes the mix."""
    with pytest.raises(ValueError, match="needs") as caught:
        scheme.labels(torch.tensor([0, 1]))
    assert_names(caught.value, *parts)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, "0.5", None])
@every_scheme
def test_progress(scheme: Any, bad: object) -> None:
    """Epochs instead of a share would run adr's cosine back and forth."""
    made = make(scheme)
    with pytest.raises(ValueError, match="progress") as caught:
        made.labels(**given(made, progress=bad))
    assert_names(caught.value, "[0, 1]", repr(bad))


HALF, IDS = torch.full((3,), 0.5), torch.arange(3)
BAD_MIXES = {
    "not a Mix": (HALF, False),
    "a lookalike": (SimpleNamespace(lam=HALF, partner=IDS, labels=IDS), False),
    "lam of another batch": (Mix(HALF[:2], IDS, IDS), False),
    "lam is a number": (Mix(0.5, IDS, IDS), False),  # type: ignore[arg-type]
    "labels of another batch": (Mix(HALF, IDS, IDS[:1]), False),
    "labels as floats": (Mix(HALF, IDS, HALF), False),
    "labels out of range": (Mix(HALF, IDS, IDS + K), True),
    "no labels": (Mix(HALF, IDS), False),
    "lam above 1": (Mix(HALF + 1, IDS, IDS), True),
    "lam is NaN": (Mix(HALF * math.nan, IDS, IDS), True),
}


@pytest.mark.parametrize("bad", BAD_MIXES)
@pytest.mark.parametrize(
    "scheme", [MixUp(K), VirtualSmoothing(K, inner=MixUp(K))], ids=lambda s: type(s).__name__
)
def test_mix(scheme: Any, bad: str) -> None:
    """labels of one sample would broadcast over the batch; lam = 1.5 makes negative labels."""
    mix, is_value = BAD_MIXES[bad]
    y = torch.tensor([0, 1, 2])
    scheme.check_values = True
    with pytest.raises(ValueError, match=r"^mix"):
        scheme.labels(y, mix=mix)
    if not is_value:
        scheme.check_values = False
        with pytest.raises(ValueError, match=r"^mix"):
            scheme.labels(y, mix=mix)


@pytest.mark.parametrize(
    "bad",
    [torch.tensor([0, 1]), torch.tensor([0.0, 1.0, 2.0]), torch.zeros(3, 1).long(), [0, 1, 2]],
)
def test_index(bad: object) -> None:
    """A scheme that looks up its samples by index would take another one's."""
    with pytest.raises(ValueError, match=r"^index must"):
        OneHot(K).labels(torch.tensor([0, 1, 2]), index=bad)
    OneHot(K).labels(torch.tensor([0, 1, 2]), index=torch.tensor([7, 8, 9]))
