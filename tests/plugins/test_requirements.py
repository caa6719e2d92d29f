"""What a plugin needs of robustlabels is compared with what is there; pip can be overruled."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any

import pytest

from robustlabels.plugins import PluginRecord

SOURCE = """
@hookimpl
def register_schemes(register):
    register("mine", dict)
"""
HERE = importlib.metadata.version("robustlabels")


def record(stage: Any, requires: str) -> PluginRecord:
    stage.add("acme", SOURCE, requires=requires)
    (found,) = stage.host().records
    return found


@pytest.mark.parametrize(
    ("requires", "needs"),
    [
        ("robustlabels>=999", ">=999"),
        ("RobustLabels >= 999.1", ">=999.1"),
        ("robustlabels (>=999)", ">=999"),
        ("robustlabels[vision]>=999", ">=999"),
        ("robustlabels<0.0.1", "<0.0.1"),
        ("robustlabels>=999; python_version >= '3'", ">=999"),
    ],
)
def test_what_is_not_met_is_skipped(stage: Any, requires: str, needs: str) -> None:
    """Its code would fail somewhere inside, and look like a fault of ours: one line says what it
    needs and what is there."""
    found = record(stage, requires)
    assert found.skipped
    assert found.errors == [f"skipped: needs robustlabels{needs}, and this is robustlabels {HERE}"]


@pytest.mark.parametrize(
    "requires",
    [
        "robustlabels",
        f"robustlabels>={HERE}",
        "robustlabels~=0.0",
        "robustlabels @ file:///somewhere",
        "robustlabels>=999; python_version < '3'",
        "robustlabels>=999; extra == 'later'",
        "robustlabels-extras>=999",
        "torch>=999",
    ],
)
def test_what_is_met_or_does_not_apply_loads(stage: Any, requires: str) -> None:
    """An extra that nobody asked for, another Python, another distribution: no reason to skip."""
    found = record(stage, requires)
    assert (found.errors, found.names) == ([], {"schemes": ["mine"]})


@pytest.mark.parametrize("requires", ["robustlabels >>> 3", "robustlabels; no_such_marker > '3'"])
def test_what_cannot_be_read_does_not_end_the_host(stage: Any, requires: str) -> None:
    """Metadata written by hand, or by a tool older than PEP 508: told, and the plugin loads."""
    found = record(stage, requires)
    assert not found.skipped
    assert found.names == {"schemes": ["mine"]}
    (error,) = found.errors
    assert error.startswith("its requirements can't be read, so not checked: InvalidRequirement: ")


def test_a_skipped_plugin_is_not_imported(stage: Any) -> None:
    """It may import what this version lacks, and do half of its work before it fails."""
    module = stage.add("acme", "raise SystemExit('imported')\n", requires="robustlabels>=999")
    stage.add("zeta", SOURCE)
    host = stage.host(built_ins=True)
    assert module not in sys.modules
    assert "mine" in host["schemes"].names()


def test_a_development_version_counts(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs 2.0.dev1 has what 1.5 had, though packaging leaves pre-releases out by default."""
    genuine = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda n: "2.0.dev1" if n == "robustlabels" else genuine(n)
    )
    assert record(stage, "robustlabels>=1.5").errors == []
