"""VS's equation 5: logits as distances to the classes' templates, and what labels make of them.

Zhou et al. 2025, section 3.2, after Müller et al. 2019. p is the activation of the last layer but
one, w_k the last layer's row for class k, its template; the logit of class k is p.w_k.
"""

from __future__ import annotations

from torch import Tensor


def squared_distances(activations: Tensor, templates: Tensor) -> Tensor:
    """|p - w_k|^2, (N, k), for activations (N, d) and templates (k, d)."""
    return ((activations.unsqueeze(1) - templates) ** 2).sum(dim=2)


def distance_softmax(activations: Tensor, templates: Tensor, corrected: bool = True) -> Tensor:
    """Equation 5, (N, k): the softmax of -|p - w_k|^2 / 2, plus |w_k|^2 / 2 if ``corrected``.

    Since |p - w|^2 = |p|^2 - 2 p.w + |w|^2, the corrected one is softmax(p.w_k) for all templates,
    and the plain one for templates of equal length. The paper has exp(-|p - w_k|^2), without the
    half: that is the softmax of the doubled logits.
    """
    exponent = -squared_distances(activations, templates) / 2
    if corrected:
        exponent = exponent + (templates**2).sum(dim=1) / 2
    return exponent.softmax(dim=1)


def distance_loss(activations: Tensor, templates: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (N,) by distances, for templates of equal length; labels (N, k).

    It is sum q_k |p - w_k|^2 / 2 + log sum exp(-|p - w_k|^2 / 2). The paper keeps the first sum
    only, which draws p to the templates with mass; the second pushes it from all, those of the
    incorrect classes too.
    """
    half = squared_distances(activations, templates) / 2
    return (labels * half).sum(dim=1) + (-half).logsumexp(dim=1)


def optimal_gaps(label: Tensor) -> Tensor:
    """|p - w_k|^2 - |p - w_y|^2 where the loss is least, (k,), for one label (k,).

    There the softmax is the label, so the gap is 2 log(q_y / q_k): infinite where the label has
    no mass, as VS's incorrect classes, whose distances it thereby leaves free to differ.
    """
    return 2 * (label.max().log() - label.log())
