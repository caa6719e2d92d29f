"""The real RobustBench, imported although it does not import as installed.

robustbench 1.1.1 needs ``pkg_resources`` and ``autoattack``: see the modules of those names here.
And torchattacks 3.5.1's wheel brings an old copy of the top-level package ``robustbench``; of the
two, the one that was installed last wins. Symptom: ``load_model`` lacks parameters, and models.
"""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from robustlabels._compat.substitution import stand_ins
from robustlabels.errors import MissingExtraError, missing_extra

_BRINGS_A_COPY = "torchattacks"


@dataclass(frozen=True)
class Recorded:
    """A file of a distribution, and its SHA-256 in base64 as RECORD has it, or None."""

    path: Path
    sha256: str | None


Files = dict[str, Recorded]


@dataclass(frozen=True)
class Fault:
    """What is wrong with an installed RobustBench, and the command that mends it, if one does."""

    state: str
    command: str = ""

    def __str__(self) -> str:
        return f"{self.state}: run  {self.command}" if self.command else self.state


@functools.cache
def robustbench() -> ModuleType:
    """The package, with its module ``eval``.

    Raises:
        ImportError: it is not installed, is overwritten, or lacks something; one line says what
            to do.
    """
    if _files("robustbench") is None:
        raise missing_extra("RobustBench", "robustbench")
    wrong = fault()
    if wrong is not None:
        raise MissingExtraError(str(wrong))
    before = set(sys.modules)
    # timm tells that the old names which robustbench imports are deprecated.
    with stand_ins({"autoattack": _autoattack, "pkg_resources": _pkg_resources}):
        try:
            with warnings.catch_warnings(action="ignore"):
                importlib.import_module("robustbench.eval")
        except ImportError as error:
            for name in set(sys.modules) - before:
                if name.partition(".")[0] == "robustbench":
                    del sys.modules[name]
            version = importlib.metadata.version("robustbench")
            raise MissingExtraError(
                f"robustbench {version} does not import ({error}): run  "
                "pip install 'robustlabels[robustbench]'"
            ) from error
    return sys.modules["robustbench"]


def fault() -> Fault | None:
    """What is wrong with an installed RobustBench; None if nothing. It is not imported."""
    files = _files("robustbench")
    start = (files or {}).get("robustbench/__init__.py")
    if files is None or start is None:  # not installed, or in a way that tells no files (editable)
        return None
    version = importlib.metadata.version("robustbench")
    again = f"pip install --force-reinstall --no-deps robustbench=={version}"
    real = start.path
    if not real.is_file():
        return Fault(
            f"RobustBench {version} has lost files, as when {_BRINGS_A_COPY}, which owned them "
            "too, is uninstalled",
            again,
        )
    spec = importlib.util.find_spec("robustbench")
    found = None if spec is None or spec.origin is None else Path(spec.origin)
    if found is None or found.resolve() != real.resolve():
        return Fault(
            f"RobustBench {version} is at {real.parent}, but Python finds another robustbench "
            f"first, at {found}: remove that one, or run Python elsewhere"
        )
    theirs = _files(_BRINGS_A_COPY) or {}
    for path in files.keys() & theirs.keys():
        there = _hash(files[path].path)
        if there != files[path].sha256 and there == theirs[path].sha256:
            return Fault(
                f"RobustBench {version} is overwritten by the old package robustbench that "
                f"{_BRINGS_A_COPY}, installed after it, brings",
                again,
            )
    return None


def _autoattack() -> dict[str, ModuleType]:
    from robustlabels._compat import autoattack_module

    return autoattack_module.modules()


def _pkg_resources() -> dict[str, ModuleType]:
    from robustlabels._compat import pkg_resources_module

    return pkg_resources_module.modules()


def _files(distribution: str) -> Files | None:
    """Return a distribution's modules in the package robustbench, by path; None if not installed.

    RECORD is read here, because ``importlib.metadata.files`` leaves out lost files since Python
    3.12.
    """
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None

    files = {}
    for path, digest, *_ in csv.reader((found.read_text("RECORD") or "").splitlines()):
        if path.startswith("robustbench/") and path.endswith(".py"):
            located = Path(str(found.locate_file(path)))
            files[path] = Recorded(located, digest.partition("=")[2] or None)
    return files


def _hash(path: Path) -> str | None:
    """As RECORD has it."""
    if not path.is_file():
        return None
    digest = hashlib.sha256(path.read_bytes()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
