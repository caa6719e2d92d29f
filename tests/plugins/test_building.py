"""From names to things: a third party's factory that fails is named, and is no fault of ours."""

from __future__ import annotations

from typing import Any

import pytest

import robustlabels as rl
from robustlabels.errors import BadValueError, MissingExtraError, UserError
from robustlabels.plugins import PluginError, build

KINDS = {
    "schemes": lambda: rl.make_scheme("mine", 3),
    "trainers": lambda: rl.make_trainer("mine"),
    "attacks": lambda: rl.make_attack("mine", eps=0.1),
    "models": lambda: rl.make_model("mine", 10, (1, 8, 8)),
    "datasets": lambda: rl.make_dataset("mine"),
    "evaluations": lambda: build("evaluations", "mine", {}),
}
NOUNS = {"schemes": "label scheme", "datasets": "data set"}


def source(kind: str, body: str) -> str:
    return f"""
def factory(**given):
{body}
@hookimpl
def register_{kind}(register):
    register("mine", factory)
"""


def test_build_turns_a_plugins_value_error_into_ours() -> None:
    """The command line prints UserErrors as one line and anything else as a traceback."""
    with pytest.raises(BadValueError, match=r"alpha must be a number in \[0, 1\], not 7"):
        build("schemes", "ls", {"alpha": 7}, num_classes=3)
    with pytest.raises(BadValueError, match=r"has no parameter 'alfa'; did you mean 'alpha'"):
        build("schemes", "ls", {"alfa": 0.1}, num_classes=3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("body", "cause", "seen"),
    [
        ("    return {}['x']", KeyError, "KeyError: 'x'"),
        ("    raise SystemExit(3)", SystemExit, "SystemExit: 3"),
        ("    import no_such_module", ModuleNotFoundError, "No module named 'no_such_module'"),
        ("    raise RuntimeError('two\\nlines')", RuntimeError, "RuntimeError: two lines"),
    ],
)
def test_a_factory_that_raises(
    installed: Any, kind: str, body: str, cause: type[BaseException], seen: str
) -> None:
    """A KeyError from make_scheme means an unknown name, and an ImportError a missing extra: the
    factory's own must not pass for these. It stays reachable as the cause."""
    installed.add("acme-things", source(kind, body), version="3.4")
    noun = NOUNS.get(kind, kind[:-1])
    with pytest.raises(PluginError) as caught:
        KINDS[kind]()
    message = str(caught.value)
    assert message.startswith(f"{noun} 'mine' of acme-things 3.4 cannot be made: ")
    assert seen in message
    assert isinstance(caught.value, UserError)
    assert not isinstance(caught.value, KeyError | ImportError | ValueError)
    assert type(caught.value.__cause__) is cause


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "evaluations"])
def test_a_factory_that_makes_something_else(installed: Any, kind: str) -> None:
    """Registered by a slip, found when it is used: whose it is must be said then."""
    installed.add("acme-things", source(kind, "    return 7"), version="3.4")
    noun = {"schemes": "a label scheme", "datasets": "a data set", "attacks": "an attack"}
    with pytest.raises(BadValueError) as caught:
        KINDS[kind]()
    message = str(caught.value)
    assert message.startswith(f"mine is not {noun.get(kind, f'a {kind[:-1]}')}: ")
    assert message.endswith(" (registered by acme-things 3.4)")


def test_the_refusal_of_a_built_in_names_no_plugin() -> None:
    """Its message is for the user, who chose the parameters."""
    with pytest.raises(BadValueError) as caught:
        rl.make_scheme("vs", 4, inner="vs")
    assert "registered by" not in str(caught.value)


def test_a_factory_without_num_classes(installed: Any) -> None:
    """A TypeError about an unexpected keyword would look like our call was wrong."""
    installed.add(
        "acme",
        """
class Ten:
    def __init__(self):
        self.num_classes = self.num_outputs = 10
@hookimpl
def register_schemes(register):
    register("ten", Ten)
""",
    )
    with pytest.raises(
        PluginError, match=r"label scheme 'ten' of acme 1.2 cannot be made: .*num_c"
    ):
        rl.make_scheme("ten", 10)


def test_a_plugins_user_errors_pass(installed: Any) -> None:
    """It may raise ours: the message is already one for users."""
    body = "    from robustlabels.errors import missing_extra\n    raise missing_extra('x', 'art')"
    installed.add("acme", source("schemes", body))
    with pytest.raises(MissingExtraError):
        rl.make_scheme("mine", 3)


def test_the_other_plugins_work(installed: Any) -> None:
    """After and beside all of it."""
    installed.add("acme", source("schemes", "    raise RuntimeError"))
    installed.add(
        "zeta",
        """
from robustlabels.labels import OneHot
@hookimpl
def register_schemes(register):
    register("other", OneHot)
""",
    )
    with pytest.raises(PluginError):
        rl.make_scheme("mine", 3)
    assert rl.make_scheme("other", 3).num_classes == 3
    assert {"mine", "other", "vs"} <= set(rl.list_schemes())
