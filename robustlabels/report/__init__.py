"""Reports: plots and an HTML page from a results file."""

from __future__ import annotations

from robustlabels.report.page import write_report

__all__ = ["write_report"]
