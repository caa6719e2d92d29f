"""``doctor``: what it says must be so."""

from __future__ import annotations

import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import pytest
import torch

from robustlabels import doctor
from robustlabels.doctor import DEFECTS, EXTRAS, TESTED, examine

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
PIP_KNOWS = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}


def test_the_extras_are_those_of_the_distribution() -> None:
    """An extra that pip does not know would be advised in vain."""
    declared = set(PYPROJECT["optional-dependencies"]) - {"all", "test"}
    assert set(EXTRAS) == declared


def test_it_is_json_and_true() -> None:
    """Versions and extras by pip's own record: torchattacks' wheel brings a module robustbench that
    is not RobustBench, so what can be imported proves nothing."""
    found = json.loads(json.dumps(examine(), allow_nan=False))
    for name, version in found["versions"].items():
        if name != "python":
            assert importlib.metadata.version(name) == version
    for extra in found["extras"]:
        there = PIP_KNOWS.issuperset(EXTRAS[extra["extra"]])
        assert (extra["state"] == "installed") == there
        command = f"pip install 'robustlabels[{extra['extra']}]'"
        assert extra["command"] == ("" if there else command)
    assert found["devices"][0]["device"] == "cpu"
    assert f"{torch.get_num_threads()} threads" in found["devices"][0]["detail"]
    assert len(found["devices"]) == 1 + torch.cuda.device_count()


def test_only_defects_of_what_is_installed_are_shown() -> None:
    """A list of other people's defects that don't concern the reader is noise."""
    shown = {d["package"] for d in examine()["defects"]}
    for package in {d.package for d in DEFECTS}:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            assert package not in shown
        else:
            assert package in shown


def test_a_missing_extra_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case that doctor is for; this environment may have all of them."""
    monkeypatch.setitem(EXTRAS, "vision", ("torchvision", "a-package-that-nobody-has"))
    (extra,) = (e for e in examine()["extras"] if e["extra"] == "vision")
    assert extra["state"] == "missing: " + ", ".join(
        d for d in EXTRAS["vision"] if d not in PIP_KNOWS
    )
    assert "a-package-that-nobody-has" in extra["state"]
    assert extra["command"] == "pip install 'robustlabels[vision]'"


def _pins(lines: list[str]) -> dict[str, str]:
    """The versions of ``name==version`` or ``name>=version`` lines."""
    pairs = (re.fullmatch(r"([\w-]+)[=>]=([\d.]+)", line) for line in lines)
    return {pair[1]: pair[2] for pair in pairs if pair is not None}


def _padded(version: str) -> tuple[int, ...]:
    numbers = [int(number) for number in version.split(".")]
    return tuple(numbers + [0] * (3 - len(numbers)))


def test_lower_bounds_are_the_versions_that_ci_tests() -> None:
    """A bound in pyproject.toml that no test has ever installed does not work for long."""
    root = Path(__file__).parents[1]
    pinned = _pins((root / ".ci/lowest.txt").read_text().splitlines())
    extras = PYPROJECT["optional-dependencies"]
    declared = [*PYPROJECT["dependencies"], *(line for name in extras for line in extras[name])]
    bounds = _pins([line.split(" ")[0] for line in declared if not line.startswith("robustlabels")])
    for tool in ("mypy", "ruff"):  # these check the code, and are not run by the unit tests
        bounds.pop(tool)

    assert {k: _padded(v) for k, v in pinned.items()} == {k: _padded(v) for k, v in bounds.items()}
    tests_need = set(_pins(extras["test"]))
    assert {k: v for k, v in pinned.items() if k not in tests_need} == TESTED[0].versions


@pytest.mark.parametrize(
    ("version", "untested"), [("2.14.9+cu130", []), ("2.13.0", ["torch 2.13.0 (tested: 2.14.1)"])]
)
def test_tested_versions(
    monkeypatch: pytest.MonkeyPatch, version: str, untested: list[str]
) -> None:
    """A patch release counts as tested, an untested minor release is named."""
    installed = {**TESTED[1].versions, "torch": version}
    monkeypatch.setattr(doctor, "_version", installed.get)
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.11.7")

    report = doctor.tested_versions()
    assert report["untested"] == untested
    assert report["combination"] == (None if untested else TESTED[1].name)
