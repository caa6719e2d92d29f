"""What ``robustlabels new-plugin`` writes, and what it refuses to."""

from __future__ import annotations

import ast
import errno
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from robustlabels import plugin_template
from robustlabels.errors import RunError
from robustlabels.plugin_template import module_name, write_plugin

ROOT = Path(__file__).parents[1]


def disk(folder: Path) -> dict[str, bytes | None]:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
        if not {"__pycache__", ".pytest_cache"} & set(p.parts) and ".egg-info" not in str(p)
    }


def test_the_one_in_the_repository_is_what_is_written(tmp_path: Path) -> None:
    """The distribution that is linted, tested and read is the one that users get. After a change
    of the template: ``rm -r plugins/robustlabels-template`` and ``robustlabels new-plugin
    robustlabels-template --out plugins/robustlabels-template``."""
    write_plugin("robustlabels-template", tmp_path / "new")
    assert disk(tmp_path / "new") == disk(ROOT / "plugins" / "robustlabels-template")


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("my-labels", "my_labels"),
        ("My.Labels__2", "my_labels_2"),
        ("x", "x"),
        ("robustlabels-shy", "robustlabels_shy"),
    ],
)
def test_everything_is_named_after_it(tmp_path: Path, name: str, module: str) -> None:
    """Two plugins from one template must not claim each other's names, or a built-in's."""
    made = write_plugin(name, tmp_path / "new")
    lower = name.lower()
    assert made["scheme"] == f"{lower}-bootstrap"
    assert made["trainer"] == f"{lower}-mixed"
    files = {p for p, content in disk(tmp_path / "new").items() if content is not None}
    assert files == {"pyproject.toml", "README.md", f"{module}.py", f"tests/test_{module}.py"}
    project = tomllib.loads((tmp_path / "new" / "pyproject.toml").read_text())
    assert project["project"]["name"] == name
    assert project["project"]["entry-points"] == {"robustlabels": {module: module}}
    assert project["tool"]["setuptools"]["py-modules"] == [module]
    version = importlib.metadata.version("robustlabels")
    assert f"robustlabels>={version}" in project["project"]["dependencies"]
    for path in files:
        text = (tmp_path / "new" / path).read_text()
        assert "$" not in text
        if path.endswith(".py"):
            ast.parse(text)
    registered = re.findall(r'register\("([^"]+)"', (tmp_path / "new" / f"{module}.py").read_text())
    assert registered == [made["scheme"], made["trainer"]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "must be letters, digits"),
        ("-x", "must be letters, digits"),
        ("x-", "must be letters, digits"),
        ("a b", "must be letters, digits"),
        ("a/b", "must be letters, digits"),
        ("../up", "must be letters, digits"),
        ("naïve", "must be letters, digits"),
        ("x\n", "must be letters, digits"),
        ("3d", "would need a module named '3d', which Python does not allow"),
        ("class", "would need a module named 'class', which Python does not allow"),
        ("json", "would hide the module 'json'"),
        ("sys", "would hide the module 'sys'"),
        ("Torch", "would hide the module 'torch'"),
        ("robustlabels", "would hide the module 'robustlabels'"),
    ],
)
def test_names_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    """pip refuses the first ones only when the plugin is done; a module named torch would be what
    everybody imports."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        write_plugin(name)
    assert disk(tmp_path) == {}


def test_a_folder_of_that_name_is_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``python -m robustlabels`` has the present folder on its path: what lies there by chance is
    not installed."""
    (tmp_path / "my_labels").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert module_name("my-labels") == "my_labels"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A folder with something in it is somebody's work."""
    (tmp_path / "notes.txt").write_text("precious")
    before = disk(tmp_path)
    with pytest.raises(RunError, match="already holds files"):
        write_plugin("my-labels", tmp_path)
    with pytest.raises(RunError, match="is a file"):
        write_plugin("my-labels", tmp_path / "notes.txt")
    assert disk(tmp_path) == before


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("fails_at", [1, 2, 4])
def test_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, fails_at: int
) -> None:
    """A full disk: half a plugin would be in the way of the next try. Folders that were made for
    it go too; one that was there stays."""
    out = tmp_path / "a" / "b" / "new"
    if there:
        out.mkdir(parents=True)
    before, calls, genuine = disk(tmp_path), 0, os.fsync

    def full(handle: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        genuine(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        write_plugin("my-labels", out)
    assert disk(tmp_path) == before
    write_plugin("my-labels", out)
    assert (out / "tests" / "test_my_labels.py").exists()


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    """``mkdir`` first is what many do."""
    write_plugin("my-labels", tmp_path)
    assert (tmp_path / "pyproject.toml").exists()


def test_the_templates_are_package_data() -> None:
    """In a wheel there is nothing but what pyproject.toml names; the install tests build one."""
    package = Path(plugin_template.__file__).parent
    kept = [p.name for p in package.iterdir() if p.suffix not in (".py", "") and p.is_file()]
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = declared["tool"]["setuptools"]["package-data"]["robustlabels"]
    assert sorted(kept) == sorted(plugin_template._FILES.values())
    assert all(
        any(Path("plugin_template", name).match(pattern) for pattern in patterns) for name in kept
    )


def test_its_tests_pass_at_once(tmp_path: Path) -> None:
    """With the entry point that pip would write beside it; the install tests have pip do it."""
    out = tmp_path / "my-labels"
    made = write_plugin("my-labels", out)
    info = tmp_path / "site" / "my_labels-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-labels\nVersion: 0.1.0\n")
    entry = f"[robustlabels]\n{made['module']} = {made['module']}\n"
    (info / "entry_points.txt").write_text(entry)
    env = {k: v for k, v in os.environ.items() if k not in ("ROBUSTLABELS_PLUGINS", "PYTHONPATH")}
    env["PYTHONPATH"] = f"{tmp_path / 'site'}{os.pathsep}{out}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(out)],
        cwd=out,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\b12 passed", done.stdout)
