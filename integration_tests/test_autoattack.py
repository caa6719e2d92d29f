"""``autoattack``: verdicts kept on disk, virtual classes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustlabels.evaluation import auto_stages, autoattack

K, EPS = 5, 0.12


@pytest.fixture(autouse=True)
def _few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_stages, "QUERIES", 60)


def trained(outputs: int = K) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    y = torch.arange(20) % K
    patterns = torch.rand(K, 1, 10, 10)
    x = (0.6 * patterns[y] + 0.4 * torch.rand(20, 1, 10, 10)).clamp(0, 1)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, outputs))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    soft = torch.zeros(20, outputs)
    soft[:, K:] = 0.3 / max(outputs - K, 1)
    soft[torch.arange(20), y] = 1.0 - 0.3 * (outputs > K)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x + 0.1 * torch.randn_like(x)), soft).backward()
        optimizer.step()
    return net.eval(), x, y


def run(subject: Any, **options: Any) -> Any:
    net, x, y = subject
    return autoattack(net, x, y, **{"eps": EPS, "batch_size": 8, **options})


class KilledError(Exception):
    """Stands for a process that ends between two batches."""


@pytest.mark.parametrize("after", [1, 4, 9])
def test_it_goes_on_where_it_was(tmp_path: Path, after: int) -> None:
    """Hours of AutoAttack must not be lost, and what was found stays found."""
    subject = trained()
    whole = run(subject)
    assert 0 < whole.accuracy < whole.clean_accuracy

    def kill(share: float, text: str) -> None:
        if len(list((tmp_path / "s").glob("*.pt"))) == after:
            raise KilledError

    with pytest.raises(KilledError):
        run(subject, state=tmp_path / "s", progress=kill)
    done = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("*.pt")}
    assert len(done) == after
    resumed = run(subject, state=tmp_path / "s")
    assert torch.equal(resumed.robust, whole.robust)
    assert torch.equal(resumed.x_adv, whole.x_adv)
    assert resumed.per_attack == whole.per_attack
    for name, when in done.items():
        assert (tmp_path / "s" / name).stat().st_mtime_ns == when


def test_a_state_of_something_else_is_refused(tmp_path: Path) -> None:
    """Another model's verdicts under this one's name would be a wrong figure."""
    net, x, y = subject = trained()
    run(subject, state=tmp_path / "s")
    for options, field in (
        ({"eps": 0.1}, "eps"),
        ({"seed": 1}, "seed"),
        ({"batch_size": 9}, "batch_size"),
        ({"norm": "L2"}, "norm"),
    ):
        with pytest.raises(RuntimeError, match=f"another evaluation: {field} is"):
            run(subject, state=tmp_path / "s", **options)
    with pytest.raises(RuntimeError, match="data_sha256"):
        run((net, x, (y + 1) % K), state=tmp_path / "s")
    with torch.no_grad():
        net[3].bias[0] += 1e-6
    with pytest.raises(RuntimeError, match="weights_sha256"):
        run(subject, state=tmp_path / "s")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "note").write_text("mine")
    with pytest.raises(RuntimeError, match="already holds files"):
        run(subject, state=tmp_path / "other")
    assert (tmp_path / "other" / "note").read_text() == "mine"


def test_a_broken_state_file_is_named(tmp_path: Path) -> None:
    """One batch can be run again; all of them need not."""
    subject = trained()
    run(subject, state=tmp_path / "s")
    broken = next((tmp_path / "s").glob("apgd-ce-*.pt"))
    broken.write_bytes(b"half")
    with pytest.raises(RuntimeError, match=f"{broken.name} is corrupt.*remove it"):
        run(subject, state=tmp_path / "s")
    header = json.loads((tmp_path / "s" / "header.json").read_text())
    assert header["eps"] == EPS


def test_verdicts_are_what_the_inputs_say() -> None:
    """Each broken sample comes with its proof, inside the ball."""
    net, x, y = subject = trained()
    found = run(subject)
    with torch.no_grad():
        right = net(found.x_adv).argmax(1) == y
    assert torch.equal(right, found.robust)
    assert float((found.x_adv - x).abs().max()) <= EPS + 1e-6
    after = list(found.per_attack.values())
    assert after == sorted(after, reverse=True)
    assert list(found.per_attack) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert found.accuracy == after[-1] == found.figures["AutoAttack"]


def test_virtual_classes_give_four_figures() -> None:
    """AutoAttack on K + V logits as it is stops at virtual classes and overestimates."""
    net, x, y = subject = trained(outputs=9)
    found = run(subject, num_classes=K)
    aa9, plus, cut, least = found.figures.values()
    assert list(found.figures) == ["AA-9", "AA+", "slice", "minimum"]
    assert plus <= aa9
    assert least <= min(plus, cut)
    assert found.accuracy == least
    with torch.no_grad():
        right = net(found.x_adv)[:, :K].argmax(1) == y
    assert torch.equal(right, found.robust)
    narrow = nn.Sequential(*net[:3], nn.Linear(256, K))
    with torch.no_grad():
        narrow[3].weight.copy_(net[3].weight[:K])
        narrow[3].bias.copy_(net[3].bias[:K])
    alone = run((narrow.eval(), x, y))
    assert alone.accuracy == cut


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_are_judged_and_flagged(classes: int) -> None:
    """The DLR loss needs a third and a fourth logit; the margin does not."""
    net, x, y = trained()
    with torch.no_grad():
        head = nn.Linear(256, classes)
        head.weight.copy_(net[3].weight[:classes])
        head.bias.copy_(net[3].bias[:classes])
    few = nn.Sequential(*net[:3], head).eval()
    some = y < classes
    found = run((few, x[some], y[some]))
    assert found.accuracy < found.clean_accuracy
    assert "margin" in found.flags[0]


def test_what_is_refused() -> None:
    """One line, before anything is run."""
    net, x, y = subject = trained()
    for bad, options, words in (
        ((net, x, y), {"eps": 3}, "at most 1"),
        ((net, x, y), {"norm": "L0"}, "norm must be"),
        ((net, x, y), {"batch_size": 0}, "batch_size must be"),
        ((net, x, y), {"num_classes": 9}, "at least 9 logits"),
        ((net, x, y + K), {}, "y must be"),
        ((net, x[:5], y), {}, "y must be"),
        ((net, x * 2, y), {}, r"in \[0, 1\]"),
        ((nn.Sequential(net, nn.Softmax(1)), x, y), {}, "probabilities"),
        ((nn.Sequential(net, nn.Dropout()).train(), x, y), {"version": "faster"}, "version must"),
        ((net, x, y), {"version": "rand", "state": "s"}, "keeps no state"),
    ):
        with pytest.raises(ValueError, match=words):
            run(bad, **options)
    before = net.training, [p.requires_grad for p in net.parameters()]
    run(subject)
    assert (net.training, [p.requires_grad for p in net.parameters()]) == before
