"""Schemes by name, and what importing robustlabels must not load."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import robustlabels as rl
from robustlabels.errors import UserError
from robustlabels.labels import AnnealingRectification, LabelSmoothing, OneHot

BUILT_IN = {
    "one-hot": "OneHot",
    "ls": "LabelSmoothing",
    "sls": "StandardLabelSmoothing",
    "als": "AdversarialLabelSmoothing",
    "bls": "BoltzmannLabelSmoothing",
    "sbls": "SecondBestLabelSmoothing",
    "vs": "VirtualSmoothing",
    "ltd": "LowTemperatureDistillation",
    "adr": "AnnealingRectification",
    "alps": "AdversarialLabelling",
    "mixup": "MixUp",
}


def test_the_designs_example() -> None:
    """Section 3 of the contract, as users copy it."""
    scheme = rl.make_scheme("vs", num_classes=10, alpha=0.6, virtual_classes=10)
    assert (scheme.num_classes, scheme.num_outputs) == (10, 20)
    assert scheme.needs == frozenset()
    assert scheme.teacher is None
    assert scheme.attack_labels == "hard"
    q = scheme.labels(torch.tensor([3]))
    expected = torch.zeros(1, 20)
    expected[0, 3], expected[0, 10:] = 0.4, 0.06
    torch.testing.assert_close(q, expected)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_name_makes_its_scheme(name: str) -> None:
    """Two names exchanged in the table would train the wrong paper."""
    assert name in rl.list_schemes()
    scheme = rl.make_scheme(name, 5)
    assert type(scheme).__name__ == BUILT_IN[name]
    assert scheme.num_classes == 5
    x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    assert len(scheme.perturb(x, y)) == 2
    assert scheme.ema_decay == 0.995
    assert scheme.check_values is True


def test_names_are_sorted() -> None:
    """The contract: sorted names."""
    assert rl.list_schemes() == sorted(rl.list_schemes())


@pytest.mark.parametrize(
    ("name", "near"),
    [("v", "known"), ("onehot", "'one-hot'"), ("mix-up", "'mixup'"), ("sblss", "'sbls'")],
)
def test_an_unknown_name_is_a_key_error_with_the_nearest(name: str, near: str) -> None:
    """KeyError by contract, but its message must not be wrapped in quotes as KeyError's own is."""
    with pytest.raises(KeyError) as caught:
        rl.make_scheme(name, 10)
    message = str(caught.value)
    assert message.startswith(f"unknown label scheme {name!r}; ")
    assert near in message
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize("kind", ["trainer", "attack", "model", "dataset"])
def test_the_other_factories_refuse_unknown_names_too(kind: str) -> None:
    """One door for every kind of thing."""
    make = {
        "trainer": lambda: rl.make_trainer("nope-nope"),
        "attack": lambda: rl.make_attack("nope-nope", eps=0.1),
        "model": lambda: rl.make_model("nope-nope", 10, (1, 8, 8)),
        "dataset": lambda: rl.make_dataset("nope-nope"),
    }[kind]
    noun = {"dataset": "data set"}.get(kind, kind)
    with pytest.raises(KeyError, match=f"unknown {noun} 'nope-nope'"):
        make()


def test_unknown_parameters_are_named_with_the_nearest() -> None:
    """`--set labels.alhpa=.3` must not be a TypeError about __init__."""
    with pytest.raises(ValueError, match=r"label scheme 'ls' has no parameter 'alhpa'.*'alpha'"):
        rl.make_scheme("ls", 10, alhpa=0.3)
    with pytest.raises(ValueError, match=r"'one-hot' has no parameter 'alpha'; known: none"):
        rl.make_scheme("one-hot", 10, alpha=0.3)
    with pytest.raises(ValueError, match=r"'adr' has no parameter 'self'"):
        rl.make_scheme("adr", 10, **{"self": 1})


def test_bad_values_come_through() -> None:
    """The schemes' own messages reach the user."""
    with pytest.raises(ValueError, match=r"alpha must be a number in \[0, 1\], not 2"):
        rl.make_scheme("vs", 10, alpha=2)
    with pytest.raises(ValueError, match=r"num_classes must be an integer of at least 2, not 1"):
        rl.make_scheme("ls", 1)


@pytest.mark.parametrize(
    "inner",
    [
        "adr",
        {"name": "adr"},
        {"name": "adr", "temperature": [2.5, 2.0], "interpolation": [0.7, 0.95]},
        AnnealingRectification(4),
    ],
)
def test_inner_by_name_by_table_and_as_an_object(inner: object) -> None:
    """`[labels.inner] name = "adr"` in a config, and objects from Python."""
    scheme = rl.make_scheme("vs", 4, alpha=0.5, virtual_classes=2, inner=inner)
    assert isinstance(scheme.inner, AnnealingRectification)
    assert scheme.inner.temperature == (2.5, 2.0)
    assert scheme.inner.interpolation == (0.7, 0.95)
    assert (scheme.needs, scheme.teacher) == ({"teacher"}, "ema")
    assert scheme.num_outputs == 6


def test_inners_parameters_reach_it() -> None:
    """alpha of the inner scheme and alpha of vs are two different numbers."""
    scheme = rl.make_scheme("vs", 4, alpha=0.5, inner={"name": "ls", "alpha": 0.2})
    assert isinstance(scheme.inner, LabelSmoothing)
    assert (scheme.alpha, scheme.inner.alpha) == (0.5, 0.2)


def test_the_callers_table_is_left_alone() -> None:
    """A config that loses its inner name on first use can't be written to config.toml."""
    table = {"name": "ls", "alpha": 0.2}
    rl.make_scheme("vs", 4, inner=table)
    assert table == {"name": "ls", "alpha": 0.2}


@pytest.mark.parametrize(
    ("inner", "error", "message"),
    [
        ("adrr", KeyError, r"unknown label scheme 'adrr'; did you mean 'adr'"),
        ({"alpha": 0.2}, ValueError, r"inner needs a name"),
        ({"name": 3}, ValueError, r"inner needs a name"),
        ({"name": "ls", "alhpa": 1}, ValueError, r"'ls' has no parameter 'alhpa'"),
        ({"name": "ls", "alpha": 2}, ValueError, r"alpha must be a number in \[0, 1\], not 2"),
        ({"name": "ls", "num_classes": 4}, ValueError, r"inner.*num_classes"),
        ("vs", ValueError, r"inner must have 4 classes and as many outputs, not 4 and 8"),
        (OneHot(5), ValueError, r"inner must have 4 classes and as many outputs, not 5 and 5"),
        (7, ValueError, r"inner is not a label scheme"),
    ],
)
def test_bad_inner(inner: object, error: type[Exception], message: str) -> None:
    """Each is one line that says what to do."""
    with pytest.raises(error, match=message):
        rl.make_scheme("vs", 4, inner=inner)


def test_importing_robustlabels_loads_nothing_slow() -> None:
    """`robustlabels --help` must be instant; torch alone takes seconds, and one of these libraries
    breaks on import."""
    slow = [
        "torch",
        "numpy",
        "scipy",
        "sklearn",
        "torchvision",
        "timm",
        "torchattacks",
        "torchmetrics",
        "matplotlib",
        "pandas",
        "art",
        "robustbench",
        "autoattack",
        "pyautoattack",
        "pydantic",
        "rich",
    ]
    code = (
        "import sys, robustlabels\n"
        "from robustlabels import hookimpl, errors, hookspecs, plugins, factories\n"
        "dir(robustlabels)\n"
        f"print(*[m for m in {slow} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": ""},
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == []


def test_every_public_name_is_lazy_and_listed() -> None:
    """dir() and __all__ are what editors complete."""
    assert set(rl.__all__) <= set(dir(rl))
    for name in ("make_scheme", "list_schemes", "LabelLoss", "Scheme", "Mix", "hookimpl"):
        assert name in rl.__all__
        assert getattr(rl, name) is not None
    with pytest.raises(AttributeError, match="'robustlabels' has no attribute 'make_schem'"):
        _ = rl.make_schem
