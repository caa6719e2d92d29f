"""Plugins: what is installed, who brought which name, and whose fault an error is."""

from __future__ import annotations

from robustlabels.plugins.blame import PluginError, provenance, shown, suspects
from robustlabels.plugins.building import build, check_params, default_params
from robustlabels.plugins.discovery import PluginHost, host, loaded
from robustlabels.plugins.registry import Claim, PluginRecord, Registry

__all__ = [
    "Claim",
    "PluginError",
    "PluginHost",
    "PluginRecord",
    "Registry",
    "build",
    "check_params",
    "default_params",
    "host",
    "loaded",
    "provenance",
    "shown",
    "suspects",
]
