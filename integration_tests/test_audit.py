"""The audit on MNIST: nets that mask their gradients as in the literature, and honest ones."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlabels.attacks import PGD
from robustlabels.evaluation import AuditReport, audit
from robustlabels.factories import make_dataset, make_model

DATA = Path(os.environ["ROBUSTLABELS_TEST_DATA"])
EPS, N = 0.2, 100
Images = tuple[Tensor, Tensor]

pytestmark = pytest.mark.skipif(
    not (DATA / "MNIST" / "raw").is_dir(), reason="needs MNIST in shared/data"
)


@pytest.fixture(scope="module")
def data() -> tuple[Images, Images]:
    """Training and test images."""
    mnist = make_dataset("mnist", str(DATA))

    def drawn(split, count: int) -> Images:
        rows = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:count]
        return next(iter(split.batches([rows], torch.device("cpu"))))

    return drawn(mnist.train, 10_000), drawn(mnist.test_split(), N)


def lenet(
    images: Images,
    epochs: int,
    attack: Callable[..., Tensor] | None = None,
    soft: Tensor | None = None,
    temperature: float = 1.0,
) -> nn.Module:
    """A LeNet-5, trained with Adam on hard or soft labels, at a temperature."""
    torch.manual_seed(0)
    (x, y), model = images, make_model("lenet", 10, (1, 28, 28))
    labels = F.one_hot(y, 10).float() if soft is None else soft
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(100):
            x_adv = x[rows] if attack is None else attack(model, x[rows], y[rows])
            optimizer.zero_grad()
            F.cross_entropy(model(x_adv) / temperature, labels[rows]).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def natural(data: tuple[Images, Images]) -> nn.Module:
    return lenet(data[0], 3)


@pytest.fixture(scope="module")
def robust(data: tuple[Images, Images]) -> nn.Module:
    x, y = data[0]
    return lenet((x[:4000], y[:4000]), 5, PGD(EPS, steps=4))


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


def masked(report: AuditReport, *checks: str) -> None:
    line = r"masked: PGD \d+\.\d %, worst \d+\.\d % \(.+\)"
    assert re.fullmatch(line, report.verdict), report.verdict
    assert set(checks) <= {check.name for check in report.failed}


def test_honest_nets_are_consistent(data, natural: nn.Module, robust: nn.Module) -> None:
    """The natural net has nothing to hide: its accuracy falls to nothing, and every attack says
    so. Of the adversarially trained one most is left, by every attack."""
    report = audit(robust, *data[1], eps=EPS)
    assert report.verdict == "consistent", report.failed
    assert report.worst > 0.5
    report = audit(natural, *data[1], eps=0.3)
    assert report.verdict == "consistent", report.failed
    assert report.worst < 0.05


def test_the_scale_of_the_logits(data, robust: nn.Module) -> None:
    """The same predictions, so the same robustness; PGD on cross-entropy sees none of it."""
    report = audit(Wrapped(robust, behind=lambda z: 1e4 * z), *data[1], eps=EPS)
    masked(report, "zero gradients", "rescaled logits", "margin and DLR")


def test_quantised_inputs(data, natural: nn.Module, robust: nn.Module) -> None:
    """Rounding has no gradient: only attacks without one see what is behind it."""
    for net in (natural, robust):
        masked(audit(Wrapped(net, lambda x: (8 * x).round() / 8), *data[1], eps=EPS))


def test_random_noise(data, robust: nn.Module) -> None:
    """A model that throws dice is never consistent."""
    noisy = Wrapped(robust, lambda x: x + 0.1 * torch.randn_like(x))
    masked(audit(noisy, *data[1], eps=EPS), "same answer")


def test_label_smoothing(data) -> None:
    """Natural training on smoothed labels: FGSM shows robustness of which PGD leaves nothing."""
    soft = 0.7 * F.one_hot(data[0][1], 10).float() + 0.03
    report = audit(lenet(data[0], 8, soft=soft), *data[1], eps=EPS)
    masked(report, "one-step figure")
    assert report.attacks["FGSM"] > report.worst + 0.2


def test_defensive_distillation(data) -> None:
    """Teacher and student at T = 100 (Papernot et al. 2016); broken by Carlini & Wagner 2016."""
    x, y = (part[:6000] for part in data[0])
    teacher = lenet((x, y), 6, temperature=100.0)
    with torch.no_grad():
        soft = (teacher(x) / 100).softmax(dim=1)
    report = audit(lenet((x, y), 6, soft=soft, temperature=100.0), *data[1], eps=EPS)
    masked(report, "zero gradients", "rescaled logits")
    assert report.attacks["PGD"] > report.worst + 0.3


def test_the_time(data, robust: nn.Module) -> None:
    """200 images on a small net may take 45 s on two cores; CPU time, on a busy machine too."""
    x, y = data[1]
    before = time.process_time()
    report = audit(robust, torch.cat([x, x]), torch.cat([y, y]), eps=EPS)
    assert report.n == 200
    assert time.process_time() - before < 45
