"""Without these, a submission would come back from RobustBench, or a good one would not be written.

The model is linear and the images are 4x4, so that all 10,000 are really judged."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustlabels.errors import RunError
from robustlabels.leaderboard import submission as submission_package
from robustlabels.leaderboard.submission import (
    Declaration,
    Finding,
    Paper,
    Submission,
    lint,
    lints,
    write,
)
from robustlabels.leaderboard.submission.lints import imagenet_list
from robustlabels.models.exporting import Export

N, EPS = 10_000, 8 / 255
PAPER = Paper("Doe2026Labels", "Labels", "J. Doe, R. Roe", "https://arxiv.org/abs/1", "ICML 2026")
DECLARED = Declaration(extra_data=False, synthetic="none", licence="MIT")
Make = Callable[..., Submission]


@dataclasses.dataclass
class Judged:
    """A model, the images, and what was found."""

    model: nn.Module
    x: Tensor
    y: Tensor
    x_adv: Tensor
    clean: Tensor
    robust: Tensor

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.x.split(3000), self.y.split(3000), strict=True)


@pytest.fixture(scope="module")
def judged() -> Judged:
    """An attack on a linear net, in closed form; the net is wrong on every sixth image."""
    torch.manual_seed(0)
    x = torch.rand(N, 3, 4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10)).eval()
    weight = model[1].weight.detach()
    with torch.no_grad():
        first, second = model(x).topk(2, dim=1).indices.T
        towards = (weight[second] - weight[first]).sign().view_as(x)
        x_adv = (x + EPS * towards).clamp(0, 1)
        y = torch.where(torch.arange(N) % 6 == 0, second, first)
        clean = first == y
        robust = clean & (model(x_adv).argmax(1) == y)
    x_adv[~clean] = x[~clean]
    assert 0.2 < robust.float().mean() < clean.float().mean() < 0.9
    return Judged(model, x, y, x_adv, clean, robust)


@pytest.fixture
def make(tmp_path: Path, evaluation: Callable[..., dict[str, Any]], judged: Judged) -> Make:
    """A submission beyond reproach, changed as asked: ``facts`` of the evaluation, ``attack`` of
    AutoAttack's part, ``run`` of run.json, the model's name in ``start``, and fields of the
    submission."""

    def build(
        facts: dict[str, Any] | None = None,
        attack: dict[str, Any] | None = None,
        run: dict[str, Any] | None = None,
        start: str = "resnet18",
        **fields: Any,
    ) -> Submission:
        weights = tmp_path / "weights.safetensors"
        weights.write_bytes(b"weights")
        sha = hashlib.sha256(b"weights").hexdigest()
        (tmp_path / "config.toml").write_text(f'dataset = "cifar10"\n[model]\nname = "{start}"\n')
        told = {"status": "finished", "validation_samples": 1000, "weights_sha256": sha}
        (tmp_path / "run.json").write_text(json.dumps({**told, **(run or {})}))
        robust = int(judged.robust.sum()) / N
        after = {"apgd-ce": robust + 0.02, "apgd-t": robust, "fab-t": robust, "square": robust}
        found = evaluation(robust, clean={"top1": int(judged.clean.sum()) / N, "top5": 1.0})
        found["attacks"]["autoattack"] |= {"per_attack": after, **(attack or {})}
        found |= {
            "verdicts": {"autoattack": judged.robust.tolist()},
            "weights": "best",
            "weights_sha256": sha,
            "run": str(tmp_path),
            "seed": 0,
            "batch_size": 250,
            **(facts or {}),
        }
        path = tmp_path / "evaluation.json"
        path.write_text(json.dumps(found))
        state = judged.model.state_dict()
        given = {
            "paper": PAPER,
            "declared": DECLARED,
            "model": judged.model,
            "exported": Export("Linear", "# entry", state, judged.model, "", "", 0.0),
            "images": judged.batches,
            "adversarial": judged.x_adv,
            "weights": weights,
            **fields,
        }
        return Submission(path, **given)

    return build


def rules(findings: list[Finding], fails: bool = True) -> list[str]:
    return [f.rule for f in findings if f.fails == fails]


def declared(**changes: Any) -> dict[str, Any]:
    return {"declared": dataclasses.replace(DECLARED, **changes)}


def paper(**changes: Any) -> dict[str, Any]:
    return {"paper": dataclasses.replace(PAPER, **changes)}


def test_nothing_to_find(make: Make) -> None:
    """All lints can be passed at once, by a model that deserves it."""
    shares: list[float] = []
    assert lint(make(), lambda share, _: shares.append(share)) == []
    assert shares == [0.3, 0.6, 0.9, 1.0]


OTHER = {"eps": 0.031, "norm": "Linf", "version": "standard"}
PGD = {"robust_accuracy": 0.1, "params": {"eps": EPS, "norm": "Linf"}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"facts": {"dataset": "cifar10-jpeg75"}}, ["data"]),
        ({"facts": {"dataset": "mnist"}}, ["data"]),
        ({"facts": {"indices": list(range(1, N + 1))}}, ["images"]),
        ({"facts": {"eps": 0.031}, "attack": {"params": OTHER}}, ["eps", "adversarial"]),
        ({"facts": {"norm": "L2"}}, ["eps", "attack"]),
        ({"attack": {"params": {"eps": EPS, "norm": "Linf", "version": "plus"}}}, ["attack"]),
        ({"attack": {"per_attack": {"apgd-ce": 0.5, "apgd-t": 0.4}}}, ["attack"]),
        ({"facts": {"audit": None}}, ["audit"]),
        ({"facts": {"audit": {"consistent": False, "verdict": "masked: x"}}}, ["audit"]),
        ({"facts": {"weights_sha256": "abc"}}, ["checkpoint", "weights"]),
        ({"run": {"weights_sha256": "abc"}}, ["checkpoint"]),
        ({"attack": {"eps_bounded": False}}, ["figure"]),
        ({"facts": {"verdicts": {}}}, ["figure"]),
        ({"facts": {"verdicts": {"autoattack": [True] * N}}}, ["figure", "adversarial"]),
        ({"facts": {"clean": {"top1": 0.9, "top5": 1.0}}}, ["clean accuracy"]),
        ({"verified": False}, ["data"]),
        (paper(id=""), ["id"]),
        (paper(id="doe2026labels"), ["id"]),
        (paper(id="Doe2026"), ["id"]),
        (paper(id="Doe2026Labels_../x"), ["id"]),
        ({"run": {"extra": {"name": "npz:more"}}}, ["extra data"]),
        (paper(id="Rice2020Overfitting"), ["id"]),
        (paper(title=" ", authors=""), ["title", "authors"]),
        (paper(link="arxiv.org/abs/1"), ["link"]),
        (declared(extra_data=None), ["extra data"]),
        (declared(synthetic=None), ["synthetic data"]),
        (declared(synthetic="many"), ["synthetic data"]),
        (declared(licence=None), ["licence"]),
        (declared(licence="BSD"), ["licence"]),
    ],
)  # fmt: skip
def test_what_keeps_a_submission_back(
    make: Make, change: dict[str, Any], expected: list[str]
) -> None:
    """Each under its rule, and nothing else with it; every one says what to do."""
    found = lint(make(**change))
    assert rules(found) == expected
    assert all(f.value and f.remedy and "\n" not in str(f) for f in found)


@pytest.mark.parametrize(
    "change",
    [
        declared(synthetic="50M"),
        {"run": {"extra": {"name": "npz:more"}}, **declared(synthetic="50M")},
        {"run": {"extra": {"name": "npz:more"}}, **declared(extra_data=True)},
        declared(synthetic="~500K", extra_data=True),
        declared(synthetic="1.5M", licence="https://example.org/licence"),
        paper(id="Doe2026Labels_WRN-28-10"),
        paper(id="MacDoe2026ALSs_extra"),
    ],
)
def test_what_may_be_declared(make: Make, change: dict[str, Any]) -> None:
    """The forms that published entries have."""
    assert lint(make(**change)) == []


@pytest.mark.parametrize(
    ("change", "rule", "said"),
    [
        (paper(venue=""), "venue", "not given"),
        ({"attack": {"flags": ["zero gradients"]}}, "figure", "zero gradients"),
        ({"facts": {"training": "stopped"}}, "weights", "not finished"),
        ({"facts": {"virtual_classes": 10}}, "figure", "10 virtual classes"),
        ({"start": "robustbench:cifar10/Linf/Carmon2019Unlabeled"}, "extra data", "extra data"),
        (
            {"start": "robustbench:cifar10/Linf/Wang2023Better_WRN-28-10"},
            "extra data",
            "20M synthetic",
        ),
    ],
)
def test_what_is_to_be_looked_at(make: Make, change: dict[str, Any], rule: str, said: str) -> None:
    """Where a judgement is needed, a lint must not make it."""
    (found,) = lint(make(**change))
    assert (found.rule, found.fails) == (rule, False)
    assert said in found.value


def test_other_attacks_do_not_change_the_figure(make: Make, judged: Judged) -> None:
    """RobustBench's figure is AutoAttack's own; what others leave less is external."""
    submission = make(facts={"robust_accuracy": 0.1})
    attacks = {**submission.facts["attacks"], "pgd": PGD}
    submission = make(facts={"robust_accuracy": 0.1, "attacks": attacks})
    (found,) = lint(submission)
    assert (found.rule, found.fails) == ("figure", False)
    assert submission.figures is not None
    assert submission.figures.autoattack == int(judged.robust.sum()) / N
    assert submission.figures.best_known == 0.1


def test_a_figure_that_is_not_autoattacks(make: Make) -> None:
    """A robust accuracy that its own last attack does not give was made up, or mixed up."""
    after = {"apgd-ce": 0.9, "apgd-t": 0.95, "fab-t": 0.5, "square": 0.5}
    found = lint(make(attack={"per_attack": after}))
    assert rules(found) == ["figure", "figure"]
    assert "it rises on the way" in found[0].value
    assert "50.00% after its four attacks" in found[1].value


def test_virtual_classes(make: Make, judged: Judged) -> None:
    """The first K logits' own figure is entered, and what AA+ leaves too is the best known."""
    robust = int(judged.robust.sum()) / N
    after = {"apgd-ce": 0.8, "apgd-t": 0.7, "fab-t": 0.7, "square": robust + 0.01}
    attack = {"per_attack": after, "figures": {"AA+": 0.6, "slice": 0.7, "minimum": robust}}
    submission = make(facts={"virtual_classes": 10}, attack=attack)
    (found,) = lint(submission)
    assert (found.rule, found.fails) == ("figure", False)
    assert found.value == f"{robust:.2%} is what all attacks together leave"
    assert submission.figures is not None
    assert submission.figures.autoattack == robust + 0.01


def test_an_explicit_note_about_the_audit(make: Make) -> None:
    """The audit can be wrong; then its author says why, and the reader sees it."""
    change = declared(audit_note="its surrogate is a copy of the model")
    (found,) = lint(make(facts={"audit": None}, **change))
    assert (found.rule, found.fails) == ("audit", False)
    assert "its surrogate is a copy" in found.remedy


def moved(judged: Judged, row: int, by: float) -> Tensor:
    x_adv = judged.x_adv.clone()
    x_adv[row] = x_adv[row] + by
    return x_adv


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda j: j.x_adv[:-1], "float32 (9999, 3, 4, 4)"),
        (lambda j: j.x_adv[:, :, :3], "images (3000, 3, 3, 4), the test set's are (3000, 3, 4, 4)"),
        (lambda j: (255 * j.x_adv).byte(), "uint8"),
        (lambda j: j.x, "verdicts are not the evaluation's"),
        (lambda j: moved(j, 5, float("nan")), "inf from the test images in Linf, not 8/255"),
        (lambda j: moved(j, 5, 0.5), "from the test images in Linf, not 8/255"),
        (lambda j: j.x_adv.roll(1, 0), "verdicts are not the evaluation's"),
    ],
)
def test_images_that_prove_something_else(
    make: Make, judged: Judged, change: Callable[[Judged], Tensor], said: str
) -> None:
    """They are what a maintainer checks the figure with."""
    found = lint(make(adversarial=change(judged)))
    assert set(rules(found)) == {"adversarial"}
    assert any(said in f.value for f in found)


def test_images_outside_the_unit_cube(make: Make, judged: Judged) -> None:
    """Within eps all the same, where the test image is nearly black."""
    x = judged.x.clone()
    x[:] = 0.001
    submission = make(
        images=lambda: iter([(x, judged.y)]), adversarial=(x - 0.02), facts={"verdicts": {}}
    )
    found = lint(submission)
    assert "in [-0.019, -0.019], not in [0, 1]" in [f.value for f in found]


def test_a_tie_is_a_warning(make: Make, judged: Judged) -> None:
    """Another device's rounding may turn it: nobody's fault, and 0.01 % of a figure."""
    row = int((judged.clean & ~judged.robust).nonzero()[0])
    weight, bias = judged.model[1].weight.detach(), judged.model[1].bias.detach()
    x_adv, x = judged.x_adv.clone().double(), judged.x[row].flatten().double()
    z = judged.model(judged.x[row : row + 1]).flatten()
    y = int(judged.y[row])
    other = int(judged.model(judged.x_adv[row : row + 1]).argmax())
    # Between right and wrong lies a point where both logits are equal; a hair on the right side.
    towards = judged.x_adv[row].flatten().double() - x
    slope = (weight[y] - weight[other]).double() @ towards
    margin = (weight[y] - weight[other]).double() @ x + (bias[y] - bias[other]).double()
    x_adv[row] = (x - 0.99999 * margin / slope * towards).view(3, 4, 4)
    assert z.argmax() == y
    found = lint(make(adversarial=x_adv.float()))
    assert [(f.rule, f.fails) for f in found] == [("adversarial", False)]
    assert found[0].value == "1 verdicts are not the evaluation's, all with nearly equal logits"


def test_another_device_turns_more(make: Make, judged: Judged) -> None:
    """Verdicts of a GPU in TF32, judged on the CPU: a margin of half a percent decides nothing."""
    row = int((judged.clean & ~judged.robust).nonzero()[0])
    x_adv, x = judged.x_adv.clone(), judged.x[row]
    for step in torch.linspace(0, 1, 2001):  # from the image that is right to the one that is not
        point = x + step * (judged.x_adv[row] - x)
        with torch.no_grad():
            z = judged.model(point[None])[0]
        top = z.topk(2).values
        if z.argmax() == judged.y[row] and 2e-4 < (top[0] - top[1]) / z.abs().max() < 8e-3:
            x_adv[row] = point
    assert not torch.equal(x_adv, judged.x_adv)
    for device, fails in (("cpu", True), ("cuda:0", False)):
        (found,) = lint(make(adversarial=x_adv, facts={"device": device}))
        assert (found.rule, found.fails) == ("adversarial", fails)


def test_the_model_that_is_sent_is_judged(make: Make, judged: Judged) -> None:
    """Not the one that was trained: an export that lost something must not pass."""
    other = nn.Sequential(nn.Flatten(), nn.Linear(48, 10)).eval()
    sent = Export("Linear", "# entry", other.state_dict(), other, "", "", 0.0)
    assert rules(lint(make(exported=sent))) == ["clean accuracy", "adversarial"]


def test_the_rules_for_models_are_among_them(make: Make) -> None:
    """What behaviour() finds must reach the author."""

    class Noisy(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.rand_like(x))

    torch.manual_seed(0)
    noisy = Noisy(nn.Flatten(), nn.Linear(48, 10)).eval()
    assert "deterministic" in rules(lint(make(model=noisy)))


def test_the_rules_hold_for_what_robustbench_runs(make: Make, judged: Judged) -> None:
    """Attached code may do what the judged model does not, in front of an attacker only."""

    class TwoFaced(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach() if torch.is_grad_enabled() else x)

    sent = TwoFaced(*judged.model).eval()
    exported = Export("Linear", "# entry", sent.state_dict(), sent, "", "", 0.0)
    assert rules(lint(make(exported=exported))) == ["gradients"]


def test_a_model_that_fails(make: Make) -> None:
    """It is told of, and the images are not judged by it."""

    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("nothing")

    assert rules(lint(make(model=Failing(), exported=None))) == ["model"]


def test_what_is_missing_fails(make: Make) -> None:
    """All of it at once, and the rest is linted all the same."""
    why = {"model": "no RUN folder", "exported": "no such architecture", "adversarial": "no file"}
    gone: dict[str, Any] = dict.fromkeys(("model", "exported", "images", "adversarial", "weights"))
    found = lint(make(missing=why, **gone, **declared(licence=None)))
    assert rules(found) == ["licence", "model", "architecture", "adversarial"]


def test_no_evaluation(make: Make, tmp_path: Path) -> None:
    """A misspelt path is the user's mistake."""
    with pytest.raises(RunError, match="cannot read"):
        lint(Submission(tmp_path / "nowhere.json", PAPER, DECLARED))


def test_imagenet_is_robustbenchs_own_list(make: Make) -> None:
    """5,000 other images give another figure."""
    wanted = imagenet_list()
    if wanted is None:
        pytest.skip("RobustBench is not installed: pip install 'robustlabels[robustbench]'")
    assert len(wanted) == 5000
    eps = 4 / 255
    facts: dict[str, Any] = {"dataset": "imagenet", "n": 5000, "num_classes": 1000, "eps": eps}
    facts["indices"] = list(range(7, 5007))
    attack = {"params": {"eps": eps, "norm": "Linf", "version": "standard"}}
    gone = dict.fromkeys(("images", "adversarial"))

    def found(files: list[str]) -> list[str]:
        findings = lint(make(facts=facts, attack=attack, files=files, **gone))
        return [f.value for f in findings if f.rule == "images"]

    files = sorted(wanted)
    assert found(files) == []
    other = "n01440764/ILSVRC2012_val_0.JPEG"
    assert found([*files[1:], other]) == ["4,999 of RobustBench's 5,000, and 1 others"]
    assert found([*files, files[0]]) == ["5,000 of RobustBench's 5,000"]


DOCS = (Path(__file__).parents[2] / "docs" / "submission.md").read_text()


def test_every_rule_is_documented() -> None:
    """A rule that is broken is looked up; one that no lint has would be a false promise."""
    folder = Path(submission_package.__file__).parent
    used = set(lints._RULES.values()) | set(lints._REMEDIES) - set(lints._RULES)
    for file in (*folder.glob("*.py"), folder.parent / "fairness.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Finding", "Reason"):
                used |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant)}
    used |= {"title", "authors"}  # whose calls are in a loop
    (table,) = re.findall(r"## The lints\n\n(.*?)\n\n", DOCS, re.DOTALL)
    rows = table.splitlines()[2:]
    assert {name for row in rows for name in re.findall("`(.*?)`", row.split("|")[1])} == used


def test_the_documented_code_runs(make: Make, tmp_path: Path) -> None:
    """Whoever submits from Python starts from it."""
    (block,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    ours = make()
    names["export"] = lambda *_, **__: ours.exported  # RobustBench lacks this tiny net
    names["write"] = lambda submission, _: write(submission, tmp_path / "out")
    assert ours.images is not None
    folder = names["submit"](
        ours.evaluation, ours.model, ours.images, ours.adversarial, ours.weights
    )
    assert (folder / "models" / "cifar10" / "Linf" / "Doe2026Labels.pt").is_file()
