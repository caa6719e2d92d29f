"""Distributions as pip leaves them: staged in a folder, found by their real metadata.

Fixtures give classes, because test files can't import each other (``--import-mode=importlib``).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustlabels.plugins import PluginHost, host
from robustlabels.plugins.discovery import _selected

HEADER = "import robustlabels\nhookimpl = robustlabels.hookimpl\n"


class Stage:
    """A folder of installed distributions, as pip would leave them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: list[str] = []

    def add(
        self,
        distribution: str,
        source: str,
        *,
        entry_points: str | None = None,
        version: str = "1.2",
        metadata: bool = True,
        module: str | None = None,
        requires: str | None = None,
    ) -> str:
        """Stage a distribution with one module; ``{m}`` in ``entry_points`` is its name."""
        module = module or f"staged_{distribution.replace('-', '_').lower()}_{len(self.modules)}"
        self.modules.append(module)
        (self.folder / f"{module}.py").write_text(HEADER + source)
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        if metadata:
            head = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
            if requires is not None:
                head += f"Requires-Dist: {requires}\n"
            (info / "METADATA").write_text(head)
        lines = (entry_points or "main = {m}").format(m=module)
        (info / "entry_points.txt").write_text(f"[robustlabels]\n{lines}\n")
        return module

    def entry_points(self) -> list[importlib.metadata.EntryPoint]:
        found = importlib.metadata.distributions(path=[str(self.folder)])
        return [e for d in found for e in d.entry_points if e.group == "robustlabels"]

    def host(self, *, built_ins: bool = False, selected: str | None = None) -> PluginHost:
        """A host of the staged plugins; the built-in label schemes among them or not."""
        importlib.invalidate_caches()
        entry_points = self.entry_points()
        if built_ins:
            ours = importlib.metadata.entry_points(group="robustlabels", name="labels")
            entry_points += [
                e for e in ours if e.dist is not None and e.dist.name == "robustlabels"
            ]
        environ = {} if selected is None else {"ROBUSTLABELS_PLUGINS": selected}
        return PluginHost(entry_points, _selected(environ))

    def run(self, code: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run Python with the staged folder on its path."""
        env = {k: v for k, v in os.environ.items() if k != "ROBUSTLABELS_PLUGINS"}
        path = os.pathsep.join(filter(None, (str(self.folder), env.get("PYTHONPATH"))))
        env |= {"PYTHONPATH": path} | environ
        return subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=env,
            cwd=self.folder,
            timeout=120,
            check=False,
        )


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    staged = Stage(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield staged
    for module in staged.modules:
        sys.modules.pop(module, None)


@pytest.fixture
def installed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A stage that this process takes for its own site-packages."""
    monkeypatch.delenv("ROBUSTLABELS_PLUGINS", raising=False)
    host.cache_clear()
    yield stage
    host.cache_clear()
