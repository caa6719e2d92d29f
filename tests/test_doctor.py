"""``doctor``: what it says must be so."""

from __future__ import annotations

import importlib.metadata
import json
import tomllib
from pathlib import Path

import pytest
import torch

from robustlabels.doctor import DEFECTS, EXTRAS, examine

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
