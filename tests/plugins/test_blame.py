"""Whose code an error came through, told from its traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from robustlabels.plugins import PluginRecord, provenance, shown, suspects


def plugin(distribution: str, module: str, builtin: bool = False) -> PluginRecord:
    return PluginRecord("main", distribution, "1.0", module, builtin)


PLUGINS = [
    plugin("robustlabels", "robustlabels.labels", builtin=True),
    plugin("acme-labels", "acme.labels.plugin"),
    plugin("acme-models", "acme.models"),
    plugin("zeta", "zeta"),
]


def function(module: str, body: str) -> Callable[..., Any]:
    """A function of some module, whose body is on line 2 of ``FILE.py``."""
    names: dict[str, Any] = {"__name__": module}
    file = f"/somewhere/{module.rpartition('.')[2]}.py"
    exec(compile(f"def f(inner=None):\n    {body}\n", file, "exec"), names)
    return names["f"]


def caught(call: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as info:
        call()
    return info.value


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("zeta", "line 2 of zeta.py (zeta 1.0)"),
        ("zeta.deep.inside", "line 2 of inside.py (zeta 1.0)"),
        # one namespace package, two distributions
        ("acme.labels.plugin", "line 2 of plugin.py (acme-labels 1.0)"),
        ("acme.labels.soft", "line 2 of soft.py (acme-labels 1.0)"),
        ("acme.models.nets", "line 2 of nets.py (acme-models 1.0)"),
        ("robustlabels.labels.base", None),
        ("zetastar", None),
    ],
)
def test_the_nearest_distribution_is_named(module: str, expected: str | None) -> None:
    """Its author would look in vain, were it the wrong one."""
    assert provenance(caught(function(module, "1 / 0")), PLUGINS) == expected


def test_the_innermost_plugin_counts() -> None:
    """Zeta's trainer calls the engine, which calls Acme's scheme, which calls torch: not ours."""
    torch = function("torch.nn", "raise IndexError")
    scheme = function("acme.labels.soft", "inner()")
    engine = function("robustlabels.training.step", "inner()")
    trainer = function("zeta", "inner()")
    error = caught(lambda: trainer(lambda: engine(lambda: scheme(torch))))
    assert provenance(error, PLUGINS) == "line 2 of soft.py (acme-labels 1.0)"


def test_what_an_error_was_raised_from_counts() -> None:
    """We turn some errors into lines for users; the plugin is then in the cause."""
    ours = function(
        "robustlabels.training.assembly",
        "try: inner()\n    except Exception as error: raise ValueError('misfit') from error",
    )
    error = caught(lambda: ours(function("zeta", "1 / 0")))
    assert provenance(error, PLUGINS) == "line 2 of zeta.py (zeta 1.0)"


def test_causes_in_a_circle() -> None:
    """Python allows them; the report must end all the same."""
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert provenance(first, PLUGINS) is None


def test_suspects_are_what_was_made() -> None:
    """Installed is not used: only what took part can be at fault."""
    assert suspects(PLUGINS) is None
    plugins = [plugin("robustlabels", "x", builtin=True), plugin("a", "a"), plugin("b", "b")]
    for each in plugins[:2]:
        each.used += ["label scheme 'soft'", "trainer 'slow'"]
    assert suspects(plugins) == "label scheme 'soft' of a 1.0, trainer 'slow' of a 1.0"


def test_errors_are_shown_in_one_line() -> None:
    """torch's go over many, and a plugin's own error class may be broken."""

    class BrokenError(Exception):
        def __str__(self) -> str:
            raise TypeError

    assert shown(RuntimeError("two\n  lines")) == "RuntimeError: two lines"
    assert shown(KeyError()) == "KeyError: no message"
    assert shown(BrokenError()) == "BrokenError: its message cannot be shown"
