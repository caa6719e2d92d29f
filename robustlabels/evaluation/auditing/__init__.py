"""Is the robustness real? Attacks that must agree with each other, and do not where it is not."""

from __future__ import annotations

from robustlabels.evaluation.auditing.of_run import audit_run
from robustlabels.evaluation.auditing.report import AuditReport, Check
from robustlabels.evaluation.auditing.run import Audit, audit

__all__ = ["Audit", "AuditReport", "Check", "audit", "audit_run"]
