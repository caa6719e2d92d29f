"""Models that mask, and honest ones, for benchmarks/audit_confusion.py.

All are LeNets on MNIST, trained in a minute or two on 12,000 images and kept below a folder, so
that a second call trains nothing. What masks is put in front of, inside or behind a net, or is the
way in which it was trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustlabels as rl
from robustlabels import runs
from robustlabels.factories import make_dataset, make_model
from robustlabels.loading import load_run

DATA = Path(__file__).parents[2] / "shared" / "data"
EPS, K, IMAGES = 0.2, 10, 12_000
TEMPERATURE = 100.0
AT = {"name": "pgd", "steps": 7}

TRAINED: dict[str, dict[str, Any]] = {
    "natural": {"trainer": "standard", "epochs": 8},
    "ls": {"trainer": "standard", "epochs": 8, "scheme": {"name": "ls", "alpha": 0.1}},
    "als": {"trainer": "standard", "epochs": 8, "scheme": {"name": "als", "alpha": 0.3}},
    "pgd": {"trainer": "pgd-at", "epochs": 10, "attack": AT},
    "trades": {"trainer": "trades", "epochs": 8, "attack": {**AT, "loss": "kl"}},
    "vs": {"trainer": "pgd-at", "epochs": 10, "attack": AT, "scheme": {"name": "vs", "alpha": 0.6}},
    "ls-pgd": {"trainer": "pgd-at", "epochs": 10, "attack": AT, "scheme": {"name": "ls"}},
    "als-pgd": {"trainer": "pgd-at", "epochs": 10, "attack": AT, "scheme": {"name": "als"}},
    "adr-pgd": {"trainer": "pgd-at", "epochs": 10, "attack": AT, "scheme": {"name": "adr"}},
    "fast": {"trainer": "fast-at", "epochs": 10},
}


class Wrapped(nn.Module):
    """A net with something before and behind it."""

    def __init__(
        self,
        net: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        behind: Callable[[Tensor], Tensor] = lambda z: z,
    ) -> None:
        super().__init__()
        self.net, self.before, self.behind = net, before, behind

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.net(self.before(x)))


def rounded(levels: int) -> Callable[[Tensor], Tensor]:
    """Inputs in so many steps: the gradient of rounding is zero."""
    return lambda x: (x * levels).round() / levels


def straight_through(levels: int) -> Callable[[Tensor], Tensor]:
    """The same, with a gradient: rounding counts as the identity."""
    return lambda x: x + ((x * levels).round() / levels - x).detach()


def jpeg(x: Tensor) -> Tensor:
    """Blocks of 4x4, their cosine transform rounded to steps of .4."""
    n, c, h, w = x.shape
    i = torch.arange(4, dtype=x.dtype)
    basis = torch.cos(math.pi * (i + 0.5).unsqueeze(0) * i.unsqueeze(1) / 4) / math.sqrt(2)
    basis[0] /= math.sqrt(2)
    blocks = x.view(n, c, h // 4, 4, w // 4, 4).transpose(3, 4)
    coefficients = basis @ blocks @ basis.T
    coefficients = (coefficients / 0.4).round() * 0.4
    return (basis.T @ coefficients @ basis).transpose(3, 4).reshape(x.shape)


@dataclass(frozen=True)
class Member:
    """A model, and what the audit should say of it.

    Attributes:
        what: in words.
        masks: whether its gradients are masked.
        net: the trained net inside.
        before: of its inputs.
        behind: of its logits.
    """

    what: str
    masks: bool
    net: str
    before: Callable[[Tensor], Tensor] = lambda x: x
    behind: Callable[[Tensor], Tensor] = lambda z: z

    def build(self, folder: Path) -> nn.Module:
        net = distilled(folder) if self.net == "distilled" else trained(self.net, folder)
        return Wrapped(net, self.before, self.behind)


MEMBERS = (
    Member("natural", False, "natural"),
    Member("PGD-AT", False, "pgd"),
    Member("TRADES", False, "trades"),
    Member("PGD-AT, virtual classes", False, "vs"),
    Member("PGD-AT, label smoothing", False, "ls-pgd"),
    Member("PGD-AT, adversarial label smoothing", False, "als-pgd"),
    Member("PGD-AT, ADR", False, "adr-pgd"),
    Member("Fast-AT", False, "fast"),
    Member("PGD-AT, logits x 0.01", False, "pgd", behind=lambda z: 0.01 * z),
    Member("PGD-AT, logits x 3", False, "pgd", behind=lambda z: 3 * z),
    Member("PGD-AT, inputs quantised, straight through", False, "pgd", straight_through(64)),
    Member("label smoothing, natural", True, "ls"),
    Member("adversarial label smoothing, natural", True, "als"),
    Member("defensive distillation, T = 100", True, "distilled"),
    Member("PGD-AT, logits x 1e4", True, "pgd", behind=lambda z: 1e4 * z),
    Member("natural, logits x 1e4", True, "natural", behind=lambda z: 1e4 * z),
    Member("PGD-AT, inputs quantised", True, "pgd", rounded(8)),
    Member("natural, inputs quantised", True, "natural", rounded(8)),
    Member("natural, inputs black or white", True, "natural", lambda x: (x > 0.5).to(x.dtype)),
    Member("natural, inputs as JPEG", True, "natural", jpeg),
    Member("PGD-AT, noise", True, "pgd", lambda x: x + 0.1 * torch.randn_like(x)),
    Member("natural, noise", True, "natural", lambda x: x + 0.3 * torch.randn_like(x)),
    Member("natural, logits saturate", True, "natural", behind=lambda z: torch.tanh(4 * z)),
    Member("natural, no gradient", True, "natural", behind=lambda z: z.detach()),
)


def data(n: int = 200) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test images, (N, 1, 28, 28) in [0, 1], drawn by seed 0."""
    mnist = make_dataset("mnist", str(DATA))

    def drawn(split: Any, count: int) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:count]
        return next(iter(split.batches([order], torch.device("cpu"))))

    return drawn(mnist.train, IMAGES), drawn(mnist.test_split(), n)


def trained(name: str, folder: Path) -> nn.Module:
    """A net of TRAINED, with all its outputs; trained where ``folder`` does not have it yet."""
    out = folder / name
    options = dict(TRAINED[name])
    if not (out / runs.BEST).exists() or runs.RunFolder.open(out).summary["status"] != "finished":
        train, _ = data()
        rl.fit(
            "lenet",
            train,
            eps=EPS,
            out=out,
            resume=(out / runs.CONFIG).exists(),
            batch_size=100,
            optimizer={"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4},
            schedule={"name": "cosine"},
            **options,
        )
    return load_run(out).model


def distilled(folder: Path) -> nn.Module:
    """Papernot et al. 2016: teacher and student trained at T = 100, the student deployed at 1."""
    path = folder / "distilled.pt"
    student = make_model("lenet", K, (1, 28, 28))
    if not path.exists():
        (x, y), _ = data()
        teacher = _at_temperature(x, F.one_hot(y, K).float())
        with torch.no_grad():
            soft = (teacher(x) / TEMPERATURE).softmax(dim=1)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(_at_temperature(x, soft).state_dict(), path)
    student.load_state_dict(torch.load(path, weights_only=True))
    return student.eval()


def _at_temperature(x: Tensor, labels: Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = make_model("lenet", K, (1, 28, 28))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(15):
        for rows in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]) / TEMPERATURE, labels[rows]).backward()
            optimizer.step()
    return net.eval()
