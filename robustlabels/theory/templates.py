"""VS's figure 2 on the digits: what labels make of a trained network's last layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels.data import Split, TensorSplit
from robustlabels.data.embedded import digits
from robustlabels.labels import LabelLoss, LabelScheme, LabelSmoothing, OneHot, VirtualSmoothing

K = 10
SHOWN = (3, 9, 4)
"""The two most similar digits, by the distance of their mean images, and one unlike both."""


@dataclass(frozen=True)
class LastLayer:
    """A trained network's activations and templates, by equation 5.

    The gap of class k is |p - w_k|^2 - |p - w_y|^2 corrected for the templates' lengths, which is
    2 (z_y - z_k).

    Attributes:
        labels: what it was trained on.
        accuracy: on the test images.
        gap: mean over samples and incorrect classes.
        spread: standard deviation of a sample's K - 1 gaps over ``gap``, averaged: 0 where the
            activation is equally far from all incorrect templates.
        virtual_spread: the same of the virtual templates' gaps, over their mean; None without.
        similarity: correlation over the 90 ordered pairs of classes of the mean gap with the
            distance between the classes' mean images.
        lengths: standard deviation of |w_k| over its mean: 0 in the paper's equation.
        points: (N, 2), test activations of the ``SHOWN`` classes, on the plane of their templates.
        classes: (N,), 0, 1 or 2: which of ``SHOWN``.
        corners: (3, 2), the templates.
    """

    labels: str
    accuracy: float
    gap: float
    spread: float
    virtual_spread: float | None
    similarity: float
    lengths: float
    points: Tensor
    classes: Tensor
    corners: Tensor

    def figures(self) -> dict[str, Any]:
        """All but the tensors."""
        return {k: v for k, v in asdict(self).items() if not isinstance(v, Tensor)}


def last_layers(alpha: float = 0.5, epochs: int = 60, seed: int = 0) -> list[LastLayer]:
    """A perceptron on the digits, trained with one-hot, LS and VS labels: some seconds each.

    Args:
        alpha: of LS and VS; VS's figure 2 has .5.
        epochs: of SGD.
        seed: of weights and batches; the caller's generator is left alone.
    """
    schemes = {
        "one-hot": OneHot(K),
        "ls": LabelSmoothing(K, alpha=alpha),
        "vs": VirtualSmoothing(K, alpha=alpha),
    }
    with torch.random.fork_rng(devices=[]):
        return [_look(name, *_trained(scheme, epochs, seed)) for name, scheme in schemes.items()]


def _trained(scheme: LabelScheme, epochs: int, seed: int) -> tuple[nn.Sequential, Tensor]:
    """The network up to its activations, and its templates (outputs, d)."""
    torch.manual_seed(seed)
    x, y = _images(digits().train_split())
    body = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU())
    head = nn.Linear(32, scheme.num_outputs, bias=False)
    model, criterion = nn.Sequential(body, head), LabelLoss(scheme)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(128):
            sgd.zero_grad()
            criterion(model(x[batch]), y[batch]).backward()
            sgd.step()
    return body, head.weight.detach()


@torch.no_grad()
def _look(labels: str, body: nn.Sequential, templates: Tensor) -> LastLayer:
    data = digits()
    (seen, seen_y), (x, y) = _images(data.train_split()), _images(data.test_split())
    p = body(x)
    logits = p @ templates.T
    gaps = 2 * (logits.gather(1, y.unsqueeze(1)) - logits)
    incorrect = torch.ones(len(y), K, dtype=torch.bool).scatter(1, y.unsqueeze(1), False)
    wrong, virtual = gaps[:, :K][incorrect].view(-1, K - 1), gaps[:, K:]
    looks = torch.stack([seen[seen_y == k].mean(0) for k in range(K)])
    between = torch.stack([gaps[y == k, :K].mean(0) for k in range(K)])
    pairs = ~torch.eye(K, dtype=torch.bool)
    both = torch.stack([between[pairs], torch.cdist(looks, looks)[pairs]])
    lengths = templates[:K].norm(dim=1)
    shown = [y == k for k in SHOWN]
    basis, origin = _plane(templates[list(SHOWN)])
    return LastLayer(
        labels=labels,
        accuracy=float((logits[:, :K].argmax(1) == y).float().mean()),
        gap=float(wrong.mean()),
        spread=float(wrong.std(dim=1).mean() / wrong.mean()),
        virtual_spread=(
            float(virtual.std(dim=1).mean() / virtual.mean()) if virtual.shape[1] else None
        ),
        similarity=float(torch.corrcoef(both)[0, 1]),
        lengths=float(lengths.std() / lengths.mean()),
        points=torch.cat([p[rows] - origin for rows in shown]) @ basis,
        classes=torch.cat([torch.full((int(r.sum()),), i) for i, r in enumerate(shown)]),
        corners=(templates[list(SHOWN)] - origin) @ basis,
    )


def _images(split: Split) -> tuple[Tensor, Tensor]:
    """Pixels (N, 64) and classes."""
    assert isinstance(split, TensorSplit)  # the digits are in memory
    return split.x.flatten(1), split.y


def _plane(corners: Tensor) -> tuple[Tensor, Tensor]:
    """An orthonormal basis (d, 2) of the plane through three points (3, d), and its origin."""
    origin = corners[0]
    basis, _ = torch.linalg.qr((corners[1:] - origin).T)
    return basis, origin
