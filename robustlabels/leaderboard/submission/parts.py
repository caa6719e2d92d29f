"""What a submission is made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from robustlabels.leaderboard.evaluated import Judged, read_judged
from robustlabels.runs import read_json

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]
Progress = Callable[[float, str], None]
NONE = "none"
"""How "no synthetic data" is declared."""
_ID = re.compile(r"[A-Z][A-Za-z]*\d{4}[A-Z][A-Za-z0-9]*([_-][\w.+-]+)?")


@dataclass(frozen=True)
class Finding:
    """What a lint found.

    Attributes:
        rule: which lint.
        value: what was found.
        remedy: the way out.
        fails: whether it keeps the submission back; else it is a warning, for a judgement is
            needed.
    """

    rule: str
    value: str
    remedy: str
    fails: bool = True

    def __str__(self) -> str:
        return f"{self.rule}: {self.value}; {self.remedy}"


@dataclass(frozen=True)
class Paper:
    """Where the model is from.

    Attributes:
        id: RobustBench's name for the model: author, year, first word of the title, and what
            tells it from other models of the paper ("Doe2026Labels_WRN-28-10").
        title: of the paper.
        authors: with commas.
        link: to the paper.
        venue: "ICML 2026", "arXiv, May 2026", or "".
    """

    id: str = ""
    title: str = ""
    authors: str = ""
    link: str = ""
    venue: str = ""

    @property
    def well_named(self) -> bool:
        """Whether the id is in RobustBench's form; it is a file's name too."""
        return _ID.fullmatch(self.id) is not None


@dataclass(frozen=True)
class Declaration:
    """What only the authors know; None where it is not declared.

    Attributes:
        extra_data: whether images from elsewhere were used, labelled or not, by the model, its
            starting point or its teacher.
        synthetic: how many generated images, "1M", "~500K", or "none".
        licence: "MIT", or the URL of another one.
        architecture: as it shall be published; the export's by default.
        footnote: what else a reader of the leaderboard should know.
        audit_note: why it is submitted although the audit is missing or not passed.
        checkpoint_url: where the checkpoint and the code can be had.
    """

    extra_data: bool | None = None
    synthetic: str | None = None
    licence: str | None = None
    architecture: str = ""
    footnote: str = ""
    audit_note: str = ""
    checkpoint_url: str = ""


class Exported(Protocol):
    """A classifier in RobustBench's terms: :class:`robustlabels.models.exporting.Export`."""

    @property
    def architecture(self) -> str:
        """As published."""

    @property
    def entry(self) -> str:
        """The model-zoo entry's text."""

    @property
    def checkpoint(self) -> Mapping[str, Tensor]:
        """What the ``.pt`` file holds."""

    @property
    def model(self) -> nn.Module:
        """What RobustBench's ``load_model`` made of them."""

    @property
    def code(self) -> str:
        """The attached file's text, or ""."""

    @property
    def code_file(self) -> str:
        """Its name, or ""."""


@dataclass(frozen=True)
class Figures:
    """What AutoAttack's standard version found on the deployed classifier. Shares in [0, 1].

    Attributes:
        name: of the attack in the evaluation.
        clean: accuracy on the images themselves.
        after: robust accuracy after each attack, in their order.
        autoattack: after all of them.
        best_known: what every attack of the evaluation left together: at most ``autoattack``.
        flags: AutoAttack's own.
        seconds: that it took; None if unknown.
    """

    name: str
    clean: float
    after: Mapping[str, float]
    autoattack: float
    best_known: float
    flags: tuple[str, ...]
    seconds: float | None


@dataclass(frozen=True)
class Submission:
    """A model, its evaluation, and what is declared about it.

    Attributes:
        evaluation: path of an ``evaluation.json``, best in its RUN folder, or what
            :func:`robustlabels.evaluate` returned.
        paper: where it is from.
        declared: what only the authors know.
        model: the deployed classifier that was evaluated: images (N, C, H, W) in [0, 1] to
            exactly K logits.
        exported: the same as RobustBench builds and loads it.
        images: called without arguments, it gives the evaluated test images in their order, in
            batches (x, y), on the CPU: floating (n, C, H, W) in [0, 1] and int64 (n,).
        adversarial: (N, C, H, W): AutoAttack's inputs, in the same order.
        weights: the file that was evaluated.
        files: for ImageNet: "SYNSET/NAME.JPEG" of each test image.
        verified: whether the data set's files were checked to be the published ones.
        missing: why one of these isn't there, by its name: each is a failure.
    """

    evaluation: Mapping[str, Any] | str | Path
    paper: Paper
    declared: Declaration
    model: nn.Module | None = None
    exported: Exported | None = None
    images: Batches | None = None
    adversarial: Tensor | None = None
    weights: Path | None = None
    files: Sequence[str] | None = None
    verified: bool = True
    missing: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def judged(self) -> Judged:
        """The evaluation's fields that count, and its run."""
        return read_judged(self.evaluation)

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """The whole evaluation, without tensors."""
        if isinstance(self.evaluation, str | Path):
            found: Mapping[str, Any] = read_json(Path(self.evaluation))
            return found
        return {k: v for k, v in self.evaluation.items() if k != "adversarial"}

    @cached_property
    def figures(self) -> Figures | None:
        """What is claimed; None where AutoAttack was not run as the leaderboard asks."""
        evaluation = self.judged.evaluation
        official, worst = evaluation.official, evaluation.robust_accuracy
        for name, attack in evaluation.attacks.items():
            if attack is official:
                seconds = self.facts["attacks"][name].get("seconds")
                if evaluation.virtual_classes:  # AA-9's and AA+'s too
                    seconds = None
                after = attack.per_attack or {}
                figure = attack.robust_accuracy
                return Figures(
                    name=name,
                    clean=evaluation.clean.top1,
                    after=after,
                    # Of a model with virtual classes its own figure is what AA+ leaves too.
                    autoattack=list(after.values())[-1],
                    best_known=figure if worst is None else min(worst, figure),
                    flags=tuple(attack.flags),
                    seconds=seconds if isinstance(seconds, int | float) else None,
                )
        return None

    @property
    def architecture(self) -> str:
        """As it is published."""
        return self.declared.architecture or (self.exported.architecture if self.exported else "")
