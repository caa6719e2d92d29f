"""What a run is made of: validated by pydantic, read from and written to TOML.

Tables with a ``name`` (labels, trainer, attack, model) hold the named thing's own parameters
beside it; that thing checks them when it is made.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from robustlabels.errors import BadValueError, nearest
from robustlabels.threat import parse_eps

Count = Annotated[int, Field(ge=1, lt=2**31)]
Fraction01 = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


class Named(BaseModel):
    """A thing by name, with its own parameters beside the name."""

    model_config = ConfigDict(extra="allow")
    name: str = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def params(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class OptimizerConfig(_Section):
    """The optimizer: SGD with Nesterov momentum, or AdamW."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = None

    @property
    def learning_rate(self) -> float:
        """``lr``, or the optimizer's usual one: .1 for SGD, .001 for AdamW."""
        return self.lr if self.lr is not None else {"sgd": 0.1, "adamw": 1e-3}[self.name]


class ScheduleConfig(_Section):
    """The learning rate over training, updated every step."""

    name: Literal["step", "cosine", "cyclic", "constant"] = "step"
    milestones: list[Annotated[float, Field(gt=0)]] = [0.5, 0.75]
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    peak: Annotated[float, Field(gt=0, lt=1)] = 0.4
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0


class AugmentConfig(_Section):
    """Augmentation on the device: a random crop after zero padding, a mirror image, RandAugment.

    ``randaugment`` is (N, M): so many operations for each image, and their strength.
    """

    crop_padding: Annotated[int, Field(ge=0)] = 0
    flip: bool = False
    randaugment: tuple[Count, Annotated[int, Field(ge=0, le=30)]] | None = None


class AwpConfig(_Section):
    """Adversarial weight perturbation; a number alone is gamma."""

    variant: Literal["robustlabels", "wu", "adr"] = "robustlabels"
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.005
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0


class Config(_Section):
    """Everything that determines a training run."""

    dataset: str = "digits"
    data_root: str | None = None
    data: dict[str, Any] = {}
    model: Named = Named(name="small-cnn")
    labels: Named = Named(name="one-hot")
    trainer: Named = Named(name="pgd-at")
    attack: Named | None = None
    eps: float | str = "8/255"
    norm: Literal["Linf", "L2"] = "Linf"
    init: str | None = None
    teacher: str | None = None
    teacher_model: Named | None = None
    teacher_logits: str | None = None
    extra: Named | None = None
    extra_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    extra_labels: Literal["own", "pseudo"] | None = None
    extra_teacher: str | None = None
    epochs: Count = 30
    batch_size: Count = 128
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    augment: AugmentConfig = AugmentConfig()
    awp: AwpConfig | None = None
    normalize: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_averaging: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] | None = None
    accumulate: Count = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool | Literal["auto"] = "auto"
    compile: Literal["off", "on", "auto"] = "off"
    validation: Annotated[int, Field(ge=0, lt=2**31)] | Fraction01 | None = None
    validate_every: Count = 1
    save_every: Count | None = None
    deterministic: bool = False
    device: str = "auto"

    @model_validator(mode="before")
    @classmethod
    def _usual_names(cls, values: Any) -> Any:
        """A table without a name is that of the default thing: ``--set attack.steps=7``."""
        values = dict(values)
        for field, name in _USUAL.items():
            if isinstance(values.get(field), Mapping):
                values[field] = {"name": name, **values[field]}
        return values

    @field_validator("awp", mode="before")
    @classmethod
    def _awp(cls, value: Any) -> Any:
        """``awp = true`` is the default one, ``awp = 0.01`` its gamma, ``awp = false`` none."""
        if isinstance(value, bool):
            return {} if value else None
        return {"gamma": value} if isinstance(value, int | float) else value

    @field_validator("weight_averaging", mode="before")
    @classmethod
    def _weight_averaging(cls, value: Any) -> Any:
        return {True: "auto", False: None}[value] if isinstance(value, bool) else value

    @field_validator("compile", mode="before")
    @classmethod
    def _compile(cls, value: Any) -> Any:
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @property
    def averaging(self) -> float | None:
        """``weight_averaging`` once it is resolved: a decay, or None."""
        return None if self.weight_averaging is None else float(self.weight_averaging)

    @model_validator(mode="after")
    def _not_given_twice(self) -> Config:
        """Refuse parameters that another field, or the data set, determines."""
        for (field, param), where in _DETERMINED.items():
            table = getattr(self, field)
            params = table.params if isinstance(table, Named) else table or {}
            if param in params:
                raise ValueError(f"{field}.{param} can't be set: {where} determines it")
        return self

    @field_validator("eps")
    @classmethod
    def _eps(cls, value: float | str) -> float | str:
        parse_eps(value, "L2")  # the upper bound depends on the norm; checked when it is used
        return value

    @property
    def radius(self) -> float:
        """``eps`` as a float."""
        return parse_eps(self.eps, self.norm)


_USUAL = {
    "model": "small-cnn",
    "labels": "one-hot",
    "trainer": "pgd-at",
    "attack": "pgd",
}
_DETERMINED = {
    ("model", "num_classes"): "the data set",
    ("model", "input_shape"): "the data set",
    ("teacher_model", "num_classes"): "the data set",
    ("teacher_model", "input_shape"): "the data set",
    ("labels", "num_classes"): "the data set",
    ("attack", "eps"): "eps",
    ("attack", "norm"): "norm",
    ("data", "root"): "data_root",
    ("data", "name"): "dataset",
}


def make_config(values: Mapping[str, Any]) -> Config:
    """A validated config.

    Raises:
        ValueError: one line that names the field, its value and what is allowed.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise BadValueError(_explain(error)) from None


_UNION = ("float", "int", "str")


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    path = [part for part in first["loc"] if isinstance(part, str)]
    if first["type"] == "extra_forbidden":
        parent: Any = Config.model_fields
        if len(first["loc"]) > 1:
            section = Config.model_fields[str(first["loc"][0])].annotation
            options = get_args(section) or (section,)  # of ``Section | None``
            parent = getattr(options[0], "model_fields", {})
        return f"unknown field {'.'.join(path)!r}; {nearest(str(first['loc'][-1]), parent)}"
    message: str = first["msg"]
    if first["type"] == "value_error":  # our own, complete
        return message.removeprefix("Value error, ")
    # The place in a union ("eps.float") is pydantic's business.
    where = ".".join(part for part in path if part.isidentifier() and part not in _UNION)
    if first["type"] in ("model_type", "dict_type"):
        message = "must be a table"
    given = first["input"]
    shown = "" if isinstance(given, dict) else f", not {given!r}"
    return f"{where} {message.replace('Input should be', 'must be')}{shown}"


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict; a BadValueError in one line if it can't be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadValueError(f"cannot read {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadValueError(f"{path} is not TOML: {' '.join(str(error).split())}") from None


def set_field(values: dict[str, Any], assignment: str) -> None:
    """Apply ``--set a.b=value`` in place; the value is TOML (a bare word is a string).

    Raises:
        ValueError: there is no ``=``, or a part of the path is not a table.
    """
    path, equals, text = assignment.partition("=")
    keys = [k.strip() for k in path.split(".")]
    if not equals or not all(keys):
        raise BadValueError(f"--set takes field=value, e.g. labels.alpha=0.3, not {assignment!r}")
    table = values
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if isinstance(inner, str):  # a name alone, e.g. labels = "als"
            inner = table[key] = {"name": inner}
        if not isinstance(inner, dict):
            raise BadValueError(f"--set {assignment}: {key!r} is not a table")
        table = inner
    table[keys[-1]] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def write_toml(values: Mapping[str, Any]) -> str:
    """TOML text of nested dicts with string keys; None is left out, as TOML has no null."""
    return "\n".join(_table(values, ())).strip() + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"{_key(k)} = {literal(v)}" for k, v in values.items() if _is_plain(v)]
    for key, inner in values.items():
        if isinstance(inner, Mapping):
            here = (*path, key)
            lines += ["", f"[{'.'.join(map(_key, here))}]", *_table(inner, here)]
    return lines


def _is_plain(value: Any) -> bool:
    return value is not None and not isinstance(value, Mapping)


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() and key.isascii() else _text(key)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def literal(value: Any) -> str:
    """A value as TOML has it; a BadValueError where it has none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value) or math.isinf(value):
            return {True: "inf", False: "nan"}[math.isinf(value)] if value != -math.inf else "-inf"
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(literal(v) for v in value)}]"
    raise BadValueError(f"{value!r} ({type(value).__name__}) has no TOML form")
