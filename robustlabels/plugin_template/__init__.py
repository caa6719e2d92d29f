"""A plugin to start from: a distribution with one label scheme, one trainer and their tests."""

from __future__ import annotations

import contextlib
import importlib.util
import keyword
import re
import sys
from importlib.resources import files
from pathlib import Path
from string import Template

from robustlabels import __version__
from robustlabels.errors import BadValueError
from robustlabels.runs import new_folder, write_text

# Stored under names that no tool takes for a project of ours: {file in the plugin: file here}.
_FILES = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    "{module}.py": "module.py.txt",
    "tests/test_{module}.py": "test_module.py.txt",
}
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def write_plugin(name: str, out: Path | None = None) -> dict[str, str]:
    """Write a plugin: all of its files, or none.

    Args:
        name: of the distribution, as in PEP 508; the module and what is registered are named
            after it.
        out: the folder, new or empty; ``name`` in the present one by default.

    Returns:
        "folder", and the names of the "module", "scheme" and "trainer".

    Raises:
        ValueError: the name is no distribution's, or its module is taken.
        RunError: the folder holds something, or can't be written to.
    """
    named = {"name": name, "module": module_name(name), "version": __version__}
    named |= {"scheme": f"{name.lower()}-bootstrap", "trainer": f"{name.lower()}-mixed"}
    folder = Path(name) if out is None else out
    texts = {
        folder / target.format(**named): Template(_read(source)).substitute(named)
        for target, source in _FILES.items()
    }
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    written: list[Path] = []
    new_folder(folder, "plugin")
    try:
        for path, text in texts.items():
            if not path.parent.exists():
                path.parent.mkdir()
                written.append(path.parent)
            write_text(path, text)
            written.append(path)
    except BaseException:
        for path in (*reversed(written), *missing):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        raise
    return {**named, "folder": str(folder)}


def module_name(name: str) -> str:
    """The module of a distribution, e.g. ``my_labels`` for "my-labels".

    Raises:
        ValueError: ``name`` is no distribution's, or the module would hide another.
    """
    if not _NAME.fullmatch(name):
        raise BadValueError(
            f"a plugin's name must be letters, digits, '.', '_' and '-', and begin and end with a "
            f"letter or digit, not {name!r}"
        )
    module = re.sub(r"[-_.]+", "_", name).lower()
    if not module.isidentifier() or keyword.iskeyword(module):
        raise BadValueError(
            f"a plugin named {name!r} would need a module named {module!r}, which Python does not "
            "allow: begin with a letter, or add a word"
        )
    if module in sys.stdlib_module_names or _is_installed(module):
        raise BadValueError(
            f"a plugin named {name!r} would hide the module {module!r}, which is installed: "
            "choose another name"
        )
    return module


def _is_installed(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None  # a mere folder here has no origin


def _read(source: str) -> str:
    return (files(__name__) / source).read_text(encoding="utf-8")
