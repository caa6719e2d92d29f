"""``pkg_resources``, gone with setuptools 81, as far as robustbench 1.1.1 needs it.

Symptom: ``import robustbench`` raises ``ModuleNotFoundError: No module named 'pkg_resources'``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType


def resource_filename(package_or_requirement: str, resource_name: str) -> str:
    """The path of a file that lies beside a module, or in a package.

    Args:
        package_or_requirement: full name of the module or package.
        resource_name: path from its folder, with forward slashes.
    """
    origin = importlib.import_module(package_or_requirement).__file__
    if origin is None:
        raise NotImplementedError(f"{package_or_requirement} is a namespace, not a folder")
    return str(Path(origin).parent / resource_name)


def modules() -> dict[str, ModuleType]:
    """The stand-in, by its name."""
    module = ModuleType("pkg_resources", __doc__)
    vars(module)["resource_filename"] = resource_filename
    return {module.__name__: module}
