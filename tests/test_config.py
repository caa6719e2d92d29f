"""Configs: what is written is what is read, and what is impossible is refused in one line."""

from __future__ import annotations

import math
import re
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlabels.config import Config, make_config, read_toml, set_field, write_toml
from robustlabels.errors import BadValueError

DOCS = Path(__file__).parents[1] / "docs"

# Everything that TOML can hold; surrogates have no UTF-8 form.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    TEXT,
)
LISTS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
TABLES = st.recursive(
    st.dictionaries(TEXT, LISTS, max_size=4),
    lambda inner: st.dictionaries(TEXT, LISTS | inner, max_size=4),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Equality that tells 1 from 1.0 and True, and -0.0 from 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    return bool(a == b)


@given(TABLES)
@settings(max_examples=300, deadline=None)
def test_toml_round_trip(values: dict[str, Any]) -> None:
    """Our own writer: a string, key or float that it spoils would make a run irreproducible."""
    text = write_toml(values)
    assert same(tomllib.loads(text), values), text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "v = 0.1"),
        (1e22, "v = 1e+22"),
        (5e-324, "v = 5e-324"),
        (float("inf"), "v = inf"),
        (float("-inf"), "v = -inf"),
        (True, "v = true"),
        ((1, 2.5), "v = [1, 2.5]"),
        ('a"b\\\n\x7f', r'v = "a\"b\\\n\u007f"'),
    ],
)
def test_toml_spelling(value: Any, text: str) -> None:
    """The values by hand: a writer and a round trip may share a misunderstanding."""
    assert write_toml({"v": value}) == text + "\n"


def test_toml_not_a_number() -> None:
    """nan is not equal to itself, so the round trip above leaves it out."""
    assert math.isnan(tomllib.loads(write_toml({"v": float("nan")}))["v"])


def test_toml_leaves_out_none_and_refuses_objects() -> None:
    """TOML has no null; and an object's repr in a config would not run again."""
    assert tomllib.loads(write_toml({"a": None, "b": {"c": None}})) == {"b": {}}
    with pytest.raises(BadValueError, match=r"object.*has no TOML form"):
        write_toml({"a": [object()]})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "labels": {"name": "vs", "alpha": 0.3, "inner": {"name": "adr", "temperature": [2, 1]}},
            "attack": {"name": "pgd", "steps": 7},
            "optimizer": {"lr": 0.01, "clip_grad_norm": 1.0},
            "schedule": {"milestones": [0.3, 100, 150]},
            "validation": 0.25,
            "weight_averaging": 0.999,
            "data_root": 'C:\\data\\"mine" é',
            "data": {"size": 64},
        },
        {"eps": 0.1, "norm": "L2", "validation": 1},
    ],
)
def test_a_config_comes_back_whole(values: dict[str, Any]) -> None:
    """config.toml of a run must give the very same config: 1 sample is not a share of 1.0."""
    config = make_config(values)
    again = make_config(tomllib.loads(write_toml(config.model_dump())))
    assert same(again.model_dump(), config.model_dump())


def test_the_documented_defaults_are_the_defaults() -> None:
    """docs/cli.md says what unset fields have; readers plan experiments by it."""
    block = re.search(r"## Config.*?```toml\n(.*?)```", (DOCS / "cli.md").read_text(), re.DOTALL)
    assert block is not None
    documented = tomllib.loads(block[1])
    real = Config().model_dump(exclude_none=True)
    assert real.pop("data") == {}
    assert documented == real
    # What is off by default stands there as a comment.
    sections = {
        "": Config,
        "optimizer": type(Config().optimizer),
        "schedule": type(Config().schedule),
        "augment": type(Config().augment),
    }
    for name, section in sections.items():
        for field in section.model_fields:
            assert re.search(rf"\b{field}\b", block[1]), f"docs/cli.md lacks {name}.{field}"


def test_the_documented_learning_rates() -> None:
    """The comment beside lr promises them, and no field shows them."""
    assert make_config({}).optimizer.learning_rate == 0.1
    assert make_config({"optimizer": {"name": "adamw"}}).optimizer.learning_rate == 0.001
    assert make_config({"optimizer": {"lr": 0.5}}).optimizer.learning_rate == 0.5


@pytest.mark.parametrize(
    ("before", "assignment", "after"),
    [
        ({}, "epochs=3", {"epochs": 3}),
        ({}, " epochs = 3 ", {"epochs": 3}),
        ({}, "labels.alpha=0.3", {"labels": {"alpha": 0.3}}),
        ({"labels": "als"}, "labels.alpha=0.3", {"labels": {"name": "als", "alpha": 0.3}}),
        (
            {"labels": {"name": "vs", "inner": "adr"}},
            "labels.inner.ema_decay=.5",  # not TOML: text
            {"labels": {"name": "vs", "inner": {"name": "adr", "ema_decay": ".5"}}},
        ),
        ({}, "a.b.c=[1, 2.0]", {"a": {"b": {"c": [1, 2.0]}}}),
        ({}, "eps=8/255", {"eps": "8/255"}),
        ({}, 'eps="8/255"', {"eps": "8/255"}),
        ({}, "augment.flip=true", {"augment": {"flip": True}}),
        ({}, "dataset=npz:a=b.npz", {"dataset": "npz:a=b.npz"}),
        ({}, "dataset=", {"dataset": ""}),
        ({"epochs": 3}, "epochs=4", {"epochs": 4}),
        ({}, 'labels={name="vs", alpha=0.2}', {"labels": {"name": "vs", "alpha": 0.2}}),
    ],
)
def test_set_field(before: dict[str, Any], assignment: str, after: dict[str, Any]) -> None:
    """--set must reach any field, nested ones under a bare name too, and keep types."""
    set_field(before, assignment)
    assert same(before, after)


@pytest.mark.parametrize("assignment", ["foo", "=1", ".=1", "a..b=1", "a.=1", " =1"])
def test_set_field_without_a_field(assignment: str) -> None:
    """A typing error must not become a field of its own, or a crash."""
    with pytest.raises(BadValueError, match="--set takes field=value"):
        set_field({}, assignment)


def test_set_field_below_a_plain_value() -> None:
    """``epochs.x=1`` must not replace epochs by a table."""
    values = {"epochs": 3}
    with pytest.raises(BadValueError, match="'epochs' is not a table"):
        set_field(values, "epochs.x=1")
    assert values == {"epochs": 3}


@pytest.mark.parametrize(
    ("field", "name"),
    [("model", "small-cnn"), ("labels", "one-hot"), ("trainer", "pgd-at"), ("attack", "pgd")],
)
def test_a_parameter_alone_is_the_usual_things(field: str, name: str) -> None:
    """docs/training.md: ``--set attack.steps=7``, with no attack named."""
    config = make_config({field: {"steps": 7}})
    assert getattr(config, field).name == name
    assert getattr(config, field).params == {"steps": 7}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizr": {}}, r"unknown field 'optimizr'; did you mean 'optimizer'\?"),
        ({"epoch": 3}, r"unknown field 'epoch'; did you mean 'epochs'"),
        ({"a-b": 3}, r"unknown field 'a-b'; known: accumulate, "),
        ({"optimizer": {"lrr": 1}}, r"unknown field 'optimizer.lrr'; did you mean 'lr'\?"),
        ({"schedule": {"float": 1}}, r"unknown field 'schedule.float'; known: gamma, "),
        ({"augment": {"fliip": 1}}, r"unknown field 'augment.fliip'; did you mean 'flip'\?"),
    ],
)
def test_unknown_fields(values: dict[str, Any], message: str) -> None:
    """A misspelt field that is silently left out trains something else than was asked for."""
    with pytest.raises(BadValueError, match=message):
        make_config(values)


@pytest.mark.parametrize(
    ("values", "field", "shown"),
    [
        ({"epochs": 0}, "epochs", "0"),
        ({"epochs": 2.5}, "epochs", "2.5"),
        ({"epochs": float("inf")}, "epochs", "inf"),
        ({"batch_size": 0}, "batch_size", "0"),
        ({"batch_size": 10**30}, "batch_size", str(10**30)),
        ({"seed": -1}, "seed", "-1"),
        ({"seed": 2**63}, "seed", str(2**63)),
        ({"accumulate": 0}, "accumulate", "0"),
        ({"precision": "fp16"}, "precision", "'fp16'"),
        ({"norm": "l2"}, "norm", "'l2'"),
        ({"eps": "x"}, "eps", "'x'"),
        ({"eps": 0}, "eps", "0"),
        ({"eps": "-1/255"}, "eps", "'-1/255'"),
        ({"eps": "1/0"}, "eps", "'1/0'"),
        ({"eps": "1e400"}, "eps", "'1e400'"),
        ({"eps": float("nan")}, "eps", "nan"),
        ({"eps": [1]}, "eps", "[1]"),
        ({"validation": -1}, "validation", "-1"),
        ({"validation": 1.5}, "validation", "1.5"),
        ({"validate_every": 0}, "validate_every", "0"),
        ({"save_every": 0}, "save_every", "0"),
        ({"weight_averaging": 1.0}, "weight_averaging", "1.0"),
        ({"optimizer": {"lr": 0}}, "optimizer.lr", "0"),
        ({"optimizer": {"lr": float("inf")}}, "optimizer.lr", "inf"),
        ({"optimizer": {"momentum": 1}}, "optimizer.momentum", "1"),
        ({"optimizer": {"name": "lbfgs"}}, "optimizer.name", "'lbfgs'"),
        ({"optimizer": {"clip_grad_norm": 0}}, "optimizer.clip_grad_norm", "0"),
        ({"optimizer": 1}, "optimizer", "1"),
        ({"schedule": {"milestones": [0.5, 0]}}, "schedule.milestones", "0"),
        ({"schedule": {"peak": 1}}, "schedule.peak", "1"),
        ({"augment": {"crop_padding": -1}}, "augment.crop_padding", "-1"),
        ({"augment": {"flip": "perhaps"}}, "augment.flip", "'perhaps'"),
        ({"model": 1}, "model", "1"),
        ({"model": {"name": ""}}, "model.name", "''"),
        ({"labels": {"name": 3}}, "labels.name", "3"),
        ({"data": 3}, "data", "3"),
        ({"dataset": None}, "dataset", "None"),
    ],
)
def test_impossible_values(values: dict[str, Any], field: str, shown: str) -> None:
    """One line that names the field and the value; pydantic's own report has four a fault."""
    with pytest.raises(BadValueError) as info:
        make_config(values)
    message = str(info.value)
    assert len(message.splitlines()) == 1
    assert message.split(maxsplit=1)[0] == field
    assert message.count(f"not {shown}") == 1
    assert "pydantic" not in message
    assert "Config" not in message


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"model": {"name": "linear", "num_classes": 3}}, "model.num_classes"),
        ({"model": {"name": "linear", "input_shape": [1, 2, 3]}}, "model.input_shape"),
        ({"labels": {"name": "ls", "num_classes": 3}}, "labels.num_classes"),
        ({"attack": {"name": "pgd", "eps": 1}}, "attack.eps"),
        ({"attack": {"norm": "L2"}}, "attack.norm"),
        ({"data": {"root": "x"}}, "data.root"),
        ({"data": {"name": "x"}}, "data.name"),
    ],
)
def test_parameters_that_another_field_determines(values: dict[str, Any], field: str) -> None:
    """They would reach a factory twice: a TypeError and a traceback."""
    with pytest.raises(BadValueError, match=rf"^{field} can't be set: .* determines it$"):
        make_config(values)


@pytest.mark.parametrize("eps", ["8/255", " 8/255 ", "16/510", "0.1", ".5", "1e-3", 0.25, 1])
def test_eps_is_exact(eps: str | float) -> None:
    """8/255 must be the float nearest to the ratio, as Fraction gives it, in the config too."""
    exact = Fraction(eps.strip()) if isinstance(eps, str) else Fraction(eps)
    config = make_config({"eps": eps})
    assert config.radius == float(exact)
    assert make_config(tomllib.loads(write_toml(config.model_dump()))).radius == float(exact)


def test_the_bound_on_eps_depends_on_the_norm() -> None:
    """eps = 8 is a mistake for Linf and an ordinary radius for L2."""
    assert make_config({"eps": 8, "norm": "L2"}).radius == 8.0
    with pytest.raises(BadValueError, match=r"at most 1 for Linf.*8/255"):
        _ = make_config({"eps": 8}).radius


def test_read_toml(tmp_path: Path) -> None:
    """Missing, broken and binary files: each one line with the path."""
    good = tmp_path / "good.toml"
    good.write_text("[labels]\nname = 'é'\n", encoding="utf-8")
    assert read_toml(good) == {"labels": {"name": "é"}}
    with pytest.raises(BadValueError, match=r"cannot read .*nope.toml: No such file"):
        read_toml(tmp_path / "nope.toml")
    with pytest.raises(BadValueError, match=r"cannot read .*: Is a directory"):
        read_toml(tmp_path)
    for content in (b"a = \n\n[", b"\xff\xfe", b"a = 1\na = 2\n"):
        good.write_bytes(content)
        with pytest.raises(BadValueError, match=r"good.toml is not TOML: ") as info:
            read_toml(good)
        assert len(str(info.value).splitlines()) == 1
