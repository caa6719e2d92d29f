"""Without these, what stands in for a missing module could be found by others, who would then
believe that it is installed; or a function of theirs could stay replaced."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from robustlabels._compat import pkg_resources_module
from robustlabels._compat.substitution import stand_ins, substituted


def test_a_stand_in_is_there_within_only() -> None:
    """``import autoattack`` elsewhere must go on to fail: whoever tries it counts on that."""
    made = {n: ModuleType(n) for n in ("nobodys_module", "nobodys_module.part")}
    with pytest.raises(ZeroDivisionError), stand_ins({"nobodys_module": lambda: made}):
        assert importlib.import_module("nobodys_module.part") is made["nobodys_module.part"]
        raise ZeroDivisionError
    assert not {n for n in sys.modules if n.startswith("nobodys")}
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("nobodys_module")


@pytest.mark.parametrize("imported", [False, True])
def test_the_real_module_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imported: bool
) -> None:
    """The leaderboard's figures come from the published autoattack: if it is there, it counts."""
    (tmp_path / "somebodys_module.py").write_text("real = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    if imported:
        importlib.import_module("somebodys_module")

    def make() -> dict[str, ModuleType]:
        raise AssertionError("made although the real one is there")

    with stand_ins({"somebodys_module": make}):
        assert importlib.import_module("somebodys_module").real
    sys.modules.pop("somebodys_module")


def test_values_come_back() -> None:
    """Also where the call between fails, and where only one of the names exists."""
    owner = SimpleNamespace(a=1, b=2)
    with pytest.raises(ZeroDivisionError), substituted(owner, a=3, b=4):
        assert (owner.a, owner.b) == (3, 4)
        raise ZeroDivisionError
    assert vars(owner) == {"a": 1, "b": 2}
    with pytest.raises(AttributeError), substituted(owner, a=3, missing=4):
        pass
    assert vars(owner) == {"a": 1, "b": 2}


def test_resource_filename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RobustBench names a module, not a package: the file lies beside it."""
    package = tmp_path / "some_package"
    (package / "helper_files").mkdir(parents=True)
    for name in ("__init__.py", "loaders.py", "helper_files/ids.txt"):
        (package / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    module = pkg_resources_module.modules()["pkg_resources"]
    for name in ("some_package.loaders", "some_package"):
        found = module.resource_filename(name, "helper_files/ids.txt")
        assert Path(found) == package / "helper_files" / "ids.txt"
    for name in ("some_package.loaders", "some_package"):
        sys.modules.pop(name)


def test_importing_changes_nothing() -> None:
    """Everybody who imports robustlabels would get other people's modules replaced."""
    code = (
        "import sys\n"
        "import robustlabels.evaluation.robustbench, robustlabels.models.zoo\n"
        "assert not {'autoattack', 'pkg_resources', 'robustbench', 'timm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
