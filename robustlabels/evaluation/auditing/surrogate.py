"""A surrogate for transfer attacks: a small net that learns from the model's answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlabels.attacks.pgd import PGD
from robustlabels.evaluation.auditing.trial import STEP, Trial

ROUNDS, STEPS, BATCH, LR = 4, 40, 128, 3e-3
WIDTH, GRID = 8, 8
AT_MOST = 500
"""So many images are asked about; the surrogate is for these and their like."""


class Taught:
    """A substitute in the sense of Papernot et al. (2017): taught by queries alone.

    It learns the model's decisions on the images. Then, round by round, it attacks its own images
    for a few steps, asks the model about what came of it, and learns that too: so it knows the
    model's boundary where attacks go. Neither the model's gradients nor the scale of its logits
    enter.

    Attributes:
        model: the surrogate, K logits, in eval mode, on the trial's device.
        left: bool (N,): the images that none of its queries broke.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self.left = trial.clean.clone()
        self.model = _net(trial.x.shape[1], trial.num_classes).to(trial.device)
        optimizer = torch.optim.Adam(self.model.parameters(), LR)
        part = trial.some(AT_MOST)
        probe = PGD(trial.eps, trial.norm, steps=4, step_size=2 * STEP * trial.eps)
        images, labels = trial.x[part], trial.y[part]
        for _ in range(ROUNDS):
            self._learn(optimizer, images, labels)
            for rows, x, y in trial.batches(part):
                found = probe(self.model, x, y).cpu()
                answers = trial.logits(found).argmax(dim=1)
                self.left[rows] &= answers == trial.y[rows]
                images, labels = torch.cat([images, found]), torch.cat([labels, answers])
        self._learn(optimizer, images, labels)
        self.model.eval()

    def _learn(self, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
        device = self._trial.device
        with torch.enable_grad():
            for _ in range(STEPS):
                rows = torch.randint(len(x), (BATCH,))
                optimizer.zero_grad()
                F.cross_entropy(self.model(x[rows].to(device)), y[rows].to(device)).backward()
                optimizer.step()


def _net(channels: int, num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(WIDTH, 2 * WIDTH, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(GRID),
        nn.Flatten(),
        nn.Linear(2 * WIDTH * GRID**2, num_classes),
    )
