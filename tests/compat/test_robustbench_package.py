"""Without these, torchattacks' old copy of RobustBench could be taken for the real one: fewer
models, other functions, and nobody told. What is installed here is made by hand, as pip records it.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import sys
from pathlib import Path

import pytest

from robustlabels._compat import robustbench_package
from robustlabels._compat.robustbench_package import fault, robustbench
from robustlabels.errors import MissingExtraError

REAL = {
    "robustbench/__init__.py": "",
    "robustbench/eval.py": "",
    "robustbench/utils.py": "new = 1\n",
}
COPY = {
    "robustbench/__init__.py": "",
    "robustbench/eval.py": "",
    "robustbench/utils.py": "old = 1\n",
}


def install(site: Path, name: str, version: str, files: dict[str, str]) -> None:
    """As pip does: the files, and a RECORD of their hashes."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    record = ""
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
        digest = hashlib.sha256(text.encode()).digest()
        shown = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        record += f"{path},sha256={shown},{len(text)}\n"
    (info / "RECORD").write_text(record)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site folder that comes before the real ones; what was imported of RobustBench is aside."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "robustbench"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    robustbench_package.robustbench.cache_clear()
    return tmp_path


@pytest.fixture(autouse=True)
def forget() -> object:
    yield
    robustbench_package.robustbench.cache_clear()


@pytest.mark.parametrize(
    ("order", "overwritten"),
    [(["torchattacks", "robustbench"], False), (["robustbench", "torchattacks"], True)],
)
def test_the_last_one_wins(site: Path, order: list[str], overwritten: bool) -> None:
    """pip writes the one over the other and says nothing; RECORD tells whose file lies there."""
    for name in order:
        files = REAL if name == "robustbench" else COPY
        install(site, name, "1.1.1" if name == "robustbench" else "3.5.1", files)
    found = fault()
    if not overwritten:
        assert found is None
        return
    assert str(found) == (
        "RobustBench 1.1.1 is overwritten by the old package robustbench that torchattacks, "
        "installed after it, brings: run  "
        "pip install --force-reinstall --no-deps robustbench==1.1.1"
    )
    with pytest.raises(MissingExtraError, match="is overwritten"):
        robustbench()
    assert "robustbench" not in sys.modules


def test_a_change_of_the_users_own_is_theirs(site: Path) -> None:
    """Who adds a model to the installed zoo must not be told to install it again."""
    install(site, "torchattacks", "3.5.1", COPY)
    install(site, "robustbench", "1.1.1", REAL)
    (site / "robustbench/utils.py").write_text("new = 1\nmine = 2\n")
    assert fault() is None


def test_uninstalling_torchattacks_takes_files_along(site: Path) -> None:
    """pip removes what RECORD lists, whoever else owns it."""
    install(site, "robustbench", "1.1.1", REAL)
    (site / "robustbench/__init__.py").unlink()
    found = fault()
    assert found is not None
    assert "has lost files" in found.state
    assert "--force-reinstall" in found.command


def test_another_one_comes_first(
    site: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that sees another environment's packages, or a file of that name beside the script."""
    install(site, "robustbench", "1.1.1", REAL)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "robustbench.py").touch()
    monkeypatch.syspath_prepend(elsewhere)
    found = fault()
    assert found is not None
    assert f"finds another robustbench first, at {elsewhere / 'robustbench.py'}" in found.state


def test_what_it_lacks_is_named(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an import would leave modules behind, and the next attempt would fail otherwise."""
    files = {**REAL, "robustbench/eval.py": "import robustbench.utils, a_module_that_nobody_has\n"}
    install(site, "robustbench", "1.1.1", files)
    for _ in range(2):
        with pytest.raises(MissingExtraError) as caught:
            robustbench()
        assert str(caught.value) == (
            "robustbench 1.1.1 does not import (No module named 'a_module_that_nobody_has'): run  "
            "pip install 'robustlabels[robustbench]'"
        )
        assert not [n for n in sys.modules if n.partition(".")[0] == "robustbench"]
        importlib.invalidate_caches()


def test_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchattacks' copy can be imported, and would be used; pip knows of no RobustBench."""
    monkeypatch.setattr(robustbench_package, "_files", lambda _: None)
    assert fault() is None
    with pytest.raises(MissingExtraError, match=r"pip install 'robustlabels\[robustbench\]'"):
        robustbench()
