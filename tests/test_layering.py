"""The house as the design has it: who may import whom, and what is slow is not imported early."""

from __future__ import annotations

import ast
import functools
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import robustlabels

ROOT = Path(robustlabels.__file__).parent
BOTTOM = {"errors", "hookspecs", "randomness", "_compat"}
# What each part may import of ours, at the top of a file or inside a function.
ALLOWED = {
    "errors": set(),
    "hookspecs": set(),
    "randomness": set(),
    "processes": {"errors"},
    "display": {"errors", "processes"},
    "devices": {"errors"},
    "_compat": {"errors", "runs"},
    "labels": {"errors", "hookspecs", "randomness"},
    "threat": {"errors"},
    "plugins": {"errors", "hookspecs"},
    "config": {"errors", "threat"},
    "runs": {"errors", "config"},
    "attacks": {*BOTTOM, "threat"},
    "models": {*BOTTOM, "threat"},
    "data": {*BOTTOM, "threat"},
    "factories": {*BOTTOM, "plugins", "labels", "attacks", "models", "data"},
    "loading": {*BOTTOM, "runs", "config", "factories"},
    "report": {*BOTTOM, "runs", "config"},
    "leaderboard": {"_compat", "errors", "threat", "runs"},
    "doctor": {*BOTTOM, "runs", "plugins"},
    "recipes": {"config", "errors"},
}
GROUND = {
    *BOTTOM,
    "devices",
    "display",
    "processes",
    "threat",
    "plugins",
    "config",
    "runs",
    "factories",
    "loading",
}
THINGS = {"labels", "attacks", "models", "data"}
ALLOWED["evaluation"] = GROUND | THINGS
ALLOWED["training"] = GROUND | THINGS | {"__version__"}
ALLOWED["demo"] = GROUND | {"models", "training", "evaluation"}
ALLOWED["integrations"] = GROUND | THINGS | {"training"}
ALLOWED["testing"] = GROUND | THINGS | {"training"}
ALLOWED["tables"] = GROUND | {"leaderboard", "recipes", "training"}
ALLOWED["theory"] = {"errors", "labels", "data"}
ALLOWED["plugin_template"] = {"errors", "runs", "__version__"}
ALLOWED["cli"] = {*ALLOWED, "cli", "evaluation", "training", "demo", "__version__"}
ALLOWED["__main__"] = {"cli"}
ALLOWED["__init__"] = {
    "hookspecs",
    *THINGS,
    "factories",
    "training",
    "evaluation",
}  # lazy (PEP 562)
SLOW = ["torch", "torchvision", "torchattacks", "art", "robustbench", "timm", "matplotlib"]
SLOW += ["torchmetrics", "sklearn", "pyautoattack", "scipy", "numpy"]


@dataclass(frozen=True)
class Import:
    """One import statement: the module that has it, and the module of ours that it loads."""

    source: str
    target: str
    line: int
    early: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


@functools.cache
def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join((ROOT.name, *path.relative_to(ROOT).with_suffix("").parts))
        found[name.removesuffix(".__init__")] = path
    return found


def nodes(tree: ast.AST, early: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Every node; early ones run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        here = early and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            here = False
        yield node, here
        yield from nodes(node, here)


@functools.cache
def imports() -> list[Import]:
    found = []
    for source, path in modules().items():
        for node, early in nodes(ast.parse(path.read_text(encoding="utf-8"))):
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{source}:{node.lineno} is relative: write it in full"
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    name = node.module == ROOT.name and full not in modules()
                    # from robustlabels import __version__: the name, which is not a module
                    targets.append(full if full in modules() or name else str(node.module))
            found += [
                Import(source, target, node.lineno, early)
                for target in dict.fromkeys(targets)
                if target.split(".")[0] == ROOT.name
            ]
    return found


def part(module: str) -> str:
    """The part of the house: the first name below ``robustlabels``."""
    return module.split(".")[1] if "." in module else "__init__"


def test_the_parser_sees_imports() -> None:
    """The other tests here prove nothing where this one finds nothing."""
    seen = {(i.source, i.target, i.early) for i in imports()}
    assert ("robustlabels.runs", "robustlabels.config", True) in seen
    assert ("robustlabels.cli.train", "robustlabels.training", False) in seen
    assert ("robustlabels.cli.train", "robustlabels.cli._show", True) in seen
    assert len(seen) > 100


def test_every_part_has_rules() -> None:
    """A new part without a place in the house could import anything."""
    assert {part(m) for m in modules()} == set(ALLOWED)


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_dependencies_run_downwards(name: str) -> None:
    """Labels that know of training, or anything that knows of the command line, can't be used
    alone any more."""
    wrong = [
        str(i)
        for i in imports()
        if part(i.source) == name and part(i.target) != name and part(i.target) not in ALLOWED[name]
    ]
    assert not wrong


def test_the_rules_have_no_cycle() -> None:
    """Rules that allow a to import b and b to import a would be none."""
    open_ = {name: set(allowed) - {name} for name, allowed in ALLOWED.items()}
    while open_:
        free = [name for name, needs in open_.items() if not needs & set(open_)]
        assert free, f"in a circle: {sorted(open_)}"
        for name in free:
            del open_[name]


def test_no_circular_imports() -> None:
    """Which module of a circle can be imported first depends on who asks."""
    edges: dict[str, set[str]] = {m: set() for m in modules()}
    for i in imports():
        if i.early and i.target in edges:
            edges[i.source].add(i.target)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in sorted(edges[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_no_submodule_bears_the_name_of_a_public_function() -> None:
    """``evaluation/evaluate.py`` would replace ``evaluation.evaluate`` once it is imported."""
    packages = [m for m, path in modules().items() if path.name == "__init__.py"]
    public = {p: set(getattr(importlib.import_module(p), "__all__", ())) for p in packages}
    assert {"evaluate", "fit"} <= public["robustlabels"]
    assert "evaluate" in public["robustlabels.evaluation"]
    below = {
        p: {m.rpartition(".")[2] for m in modules() if m.rpartition(".")[0] == p} for p in public
    }
    assert {p: names & below[p] for p, names in public.items() if names & below[p]} == {}


def test_no_file_is_long() -> None:
    """Four hundred lines are what a reader can hold."""
    lengths = {m: len(p.read_text(encoding="utf-8").splitlines()) for m, p in modules().items()}
    assert {m: n for m, n in lengths.items() if n > 400} == {}


@pytest.mark.parametrize(
    "what",
    [
        "import robustlabels",
        "import robustlabels; dir(robustlabels); robustlabels.__version__; robustlabels.hookimpl",
        "from robustlabels.cli import main; run('--help')",
        "from robustlabels.cli import main; run('--version')",
        "from robustlabels.cli import main; [run(c, '--help') for c in "
        "('demo', 'train', 'evaluate', 'audit', 'leaderboard', 'submit', 'list', 'plugins', "
        "'new-plugin', 'teach', 'temperature', 'doctor', 'reproduce')]",
        "from robustlabels.cli import main; run('list', 'bogus'); run('trian')",
        "from robustlabels.cli import main; run('leaderboard'); run('reproduce')",
    ],
)
def test_what_is_slow_is_not_imported_early(what: str) -> None:
    """torch alone takes seconds, for a --help; and one of the others breaks on import."""
    code = (
        "import contextlib, io, json, sys\n"
        "def run(*a):\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main(list(a))\n"
        f"{what}\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    loaded = set(json.loads(out))
    assert "robustlabels" in loaded
    assert not loaded & set(SLOW)
