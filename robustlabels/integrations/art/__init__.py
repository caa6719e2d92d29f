"""ART (adversarial-robustness-toolbox 1.20), in both directions.

:func:`with_labels` gives one of ART's own trainers a label scheme; :class:`LabelTrainer` is an ART
trainer that runs on our engine.
"""

from __future__ import annotations

from robustlabels.integrations.art.label_trainer import LabelTrainer
from robustlabels.integrations.art.wrapping import with_labels

__all__ = ["LabelTrainer", "with_labels"]
