"""Whether a plugin was made for this robustlabels. pip checks it too, but can be overruled."""

from __future__ import annotations

import importlib.metadata
import re

from robustlabels.hookspecs import PROJECT
from robustlabels.plugins.registry import normalised


def unmet(distribution: importlib.metadata.Distribution) -> str | None:
    """What a distribution needs of robustlabels and does not get, in a sentence, or None.

    Requirements whose marker (an extra, a Python version) does not hold here don't count.

    Raises:
        InvalidRequirement (a ValueError): the requirement can't be read.
    """
    ours = [r for r in distribution.requires or () if normalised(_name(r)) == PROJECT]
    if not ours:
        return None
    from packaging.requirements import Requirement  # 50 ms, only where there are plugins

    here = importlib.metadata.version(PROJECT)
    for requirement in map(Requirement, ours):
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": ""}):
            continue
        if not requirement.specifier.contains(here, prereleases=True):
            return f"needs {PROJECT}{requirement.specifier}, and this is {PROJECT} {here}"
    return None


def _name(requirement: str) -> str:
    found = re.match(r"\s*([A-Za-z0-9._-]+)", requirement)
    return found[1] if found else ""
