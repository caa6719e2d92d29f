"""AutoAttack's four attacks (Croce & Hein 2020), written to be fast and to know virtual classes.

The arithmetic, and the order in which random numbers are drawn, are those of the official code, so
that with the same seed and batches a sample meets the same verdict. What differs saves time:
samples that have fallen are left out of the rest of an attack; FAB takes one forward pass a step
where the official takes two; parameters are frozen, so no gradient of theirs is computed. And every
test of success looks at the first K logits, which may be fewer than the model's.
"""

from __future__ import annotations

from robustlabels.attacks.auto.apgd import APGD
from robustlabels.attacks.auto.fab import FAB
from robustlabels.attacks.auto.judged import Judged
from robustlabels.attacks.auto.square import Square

__all__ = ["APGD", "FAB", "Judged", "Square"]
