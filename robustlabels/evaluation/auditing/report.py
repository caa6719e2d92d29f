"""What an audit found: one record for each check, and the line above them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from robustlabels.display import html_table, text_table

CLAIM = 0.05
"""A model of which PGD leaves no more than this claims nothing that could be masked."""


@dataclass(frozen=True)
class Check:
    """One question that was put to the model.

    Attributes:
        name: what was looked at, e.g. "restarts".
        measured: names and numbers (shares in [0, 1], unless the name says otherwise), texts, or
            None for what could not be measured.
        threshold: what passes, in words.
        passed: whether it did.
        why: why it matters.
        source: where the check comes from.
    """

    name: str
    measured: Mapping[str, Any]
    threshold: str
    passed: bool
    why: str
    source: str


@dataclass(frozen=True)
class AuditReport:
    """Whether the robustness that PGD shows is real.

    Attributes:
        checks: every check that was made; the audit is passed if all are.
        attacks: robust accuracy under each attack at eps, alone and on all images, "PGD" and
            "FGSM" among them.
        worst_attack: the attack that leaves least, of those on all images.
        robust_accuracy: share of the images that no attack at eps broke: at most ``worst``.
        clean_accuracy: before any attack.
        n: images.
        eps: radius.
        norm: "Linf" or "L2".
        seed: of every random number.
        num_classes: K; the judge looks at the first K logits.
        virtual_classes: outputs beyond K.
        resolution: the smallest lead (a share) of one attack over another that ``n`` images can
            show to be no accident.
        seconds: wall-clock time.
    """

    checks: tuple[Check, ...]
    attacks: Mapping[str, float]
    worst_attack: str
    robust_accuracy: float
    clean_accuracy: float
    n: int
    eps: float
    norm: str
    seed: int
    num_classes: int
    virtual_classes: int
    resolution: float
    seconds: float

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def consistent(self) -> bool:
        """Whether every check passed: nothing suggests that the robustness is not real."""
        return not self.failed

    @property
    def worst(self) -> float:
        """Robust accuracy under the strongest single attack."""
        return self.attacks[self.worst_attack]

    @property
    def verdict(self) -> str:
        """One line: ``consistent``, or ``masked: PGD 62.0 %, worst 41.0 % (Square)``."""
        if self.consistent:
            return "consistent"
        claimed, worst = 100 * self.attacks["PGD"], 100 * self.worst
        return f"masked: PGD {claimed:.1f} %, worst {worst:.1f} % ({self.worst_attack})"

    def __repr__(self) -> str:
        """Return the verdict, the accuracies and the names of the checks on a few lines."""
        return text_table(f"AuditReport: {self.verdict}", self._rows())

    def _repr_html_(self) -> str:
        """Return the same as a table, for notebooks."""
        return html_table(f"AuditReport: {self.verdict}", self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        attacks = sorted(self.attacks.items(), key=lambda item: item[1])
        failed = ", ".join(check.name for check in self.failed) or "none"
        return [
            ("images", f"{self.n}, within {self.norm} {self.eps:.4g}"),
            ("clean accuracy", f"{self.clean_accuracy:.1%}"),
            ("robust accuracy", f"{self.robust_accuracy:.1%}"),
            ("attacks", ", ".join(f"{name} {left:.1%}" for name, left in attacks[:6])),
            ("failed checks", f"{failed} (of {len(self.checks)})"),
            ("resolution", f"{self.resolution:.1%}"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold: the fields and properties; of the checks that failed the names."""
        return {
            "verdict": self.verdict,
            "consistent": self.consistent,
            "worst": self.worst,
            "failed": [check.name for check in self.failed],
            **asdict(self),
            "checks": [asdict(check) for check in self.checks],
        }
