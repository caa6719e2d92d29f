"""Without these, the folder could tell RobustBench something else than was measured, or be half
there."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from robustlabels.errors import BadValueError, RunError
from robustlabels.leaderboard import refresh
from robustlabels.leaderboard.submission import Declaration, Paper, Submission, write
from robustlabels.models.exporting import Export

EPS = 8 / 255
PAPER = Paper("Doe2026Labels", "Labels", "J. Doe, R. Roe", "https://arxiv.org/abs/1", "ICML 2026")
DECLARED = Declaration(extra_data=True, synthetic="1M", licence="MIT", footnote="Slow.")
# The labels of RobustBench's template new-model.md, at commit 78fcc9e.
LABELS = ["Paper Title", "Paper URL", "Paper authors", "Architecture", "Threat Model", "eps"]
LABELS += ["Clean accuracy", "Robust accuracy", "Additional data", "Evaluation method"]
LABELS += ["Checkpoint and code"]
FILES = ["README.md", "adversarial.pt", "autoattack.log", "evaluation.json"]
FILES += ["model_info/cifar10/Linf/Doe2026Labels.json", "model_zoo_entry.py"]
FILES += ["models/cifar10/Linf/Doe2026Labels.pt", "new-model.md", "run.json"]
FILES += ["weights.safetensors"]
Make = Callable[..., Submission]


@pytest.fixture
def make(tmp_path: Path, evaluation: Callable[..., dict[str, Any]]) -> Make:
    """A whole submission of eight images, of which AutoAttack leaves 57.25 %, changed as asked."""

    def build(facts: dict[str, Any] | None = None, **fields: Any) -> Submission:
        (tmp_path / "config.toml").write_text('dataset = "cifar10"\n')
        (tmp_path / "run.json").write_text('{"status": "finished", "seed": 3}')
        attack = {**evaluation()["attacks"]["autoattack"], "robust_accuracy": 0.57249}
        attack |= {"seconds": 61.25, "max_perturbation": 0.0313725}
        attack["per_attack"] = {"apgd-ce": 0.6, "apgd-t": 0.58, "fab-t": 0.58, "square": 0.57249}
        told = evaluation(0.57249, clean={"top1": 0.85, "top5": 1.0}, run=str(tmp_path))
        told |= {"attacks": {"autoattack": attack}, "seed": 5, "batch_size": 100, **(facts or {})}
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10)).eval()
        state = {f"model.{k}": v for k, v in model.state_dict().items()}
        given = {
            "paper": PAPER,
            "declared": DECLARED,
            "exported": Export("ResNet-18", "# the entry\n", state, model, "", "", 0.0),
            "adversarial": torch.rand(9, 3, 4, 4)[:8],
            **fields,
        }
        return Submission(told, **given)

    return build


def test_what_lies_in_the_folder(make: Make, tmp_path: Path) -> None:
    """Each file is what RobustBench, or a reader, takes it for."""
    submission = make()
    assert write(submission, tmp_path / "out") == tmp_path / "out"
    out = tmp_path / "out"
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) == sorted(FILES)
    assert submission.exported is not None
    checkpoint = torch.load(out / "models/cifar10/Linf/Doe2026Labels.pt", weights_only=True)
    assert checkpoint.keys() == submission.exported.checkpoint.keys()
    weights = load_file(out / "weights.safetensors")
    for key, value in submission.exported.model.state_dict().items():
        assert torch.equal(weights[key], value)
        assert torch.equal(checkpoint[f"model.{key}"], value)
    images = torch.load(out / "adversarial.pt", weights_only=True)
    assert torch.equal(images, submission.adversarial)
    assert images.untyped_storage().nbytes() == 4 * images.numel()  # not the ninth image too
    assert json.loads((out / "evaluation.json").read_text()) == submission.facts
    assert json.loads((out / "run.json").read_text())["seed"] == 3
    assert (out / "model_zoo_entry.py").read_text() == "# the entry\n"
    assert out.stat().st_mode & 0o777 == 0o755


def test_the_leaderboards_entry(make: Make, tmp_path: Path, shared: Path) -> None:
    """In the schema of RobustBench's own files, which our own reader of them reads back."""
    write(make(), tmp_path / "out")
    path = tmp_path / "out" / FILES[4]
    info = json.loads(path.read_text())
    assert info == {
        "link": "https://arxiv.org/abs/1",
        "name": "Labels",
        "authors": "J. Doe, R. Roe",
        "additional_data": True,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "venue": "ICML 2026",
        "architecture": "ResNet-18",
        "eps": "8/255",
        "clean_acc": "85.00",
        "reported": "57.25",
        "autoattack_acc": "57.25",
        "footnote": "It uses additional 1M synthetic images in training. Slow.",
        "unreliable": False,
    }
    published = "model_info/cifar10/Linf/Wang2023Better_WRN-28-10.json"
    theirs = json.loads((shared / published).read_text())
    assert list(info) == list(theirs)
    assert [type(v) for v in info.values()] == [type(v) for v in theirs.values()]
    snapshot, findings = refresh(tmp_path / "out", "2026-01-01")
    assert findings == []
    (entry,) = snapshot.entries
    assert (entry.clean, entry.autoattack, entry.external) == (0.85, 0.5725, None)
    assert entry.data == "extra + 1M synthetic"


def test_a_lower_figure_of_other_attacks(make: Make, tmp_path: Path) -> None:
    """AutoAttack's own stays AutoAttack's; RobustBench ranks by the external one."""
    submission = make({"robust_accuracy": 0.5})
    write(submission, tmp_path / "out")
    (entry,) = refresh(tmp_path / "out", "2026-01-01")[0].entries
    assert (entry.autoattack, entry.external, entry.robust) == (0.5725, 0.5, 0.5)
    form = (tmp_path / "out" / "new-model.md").read_text()
    assert "- **Robust accuracy**: 57.25%" in form
    assert "all attacks of the evaluation together leave 50.00%" in form


def test_doubts_are_entered(make: Make, tmp_path: Path) -> None:
    """RobustBench marks figures that AutoAttack itself, or an audit, doubts."""
    masked = {"consistent": False, "verdict": "masked: PGD 62.0 %, worst 41.0 % (Square)"}
    declared = dataclasses.replace(DECLARED, audit_note="Square was lucky")
    write(make({"audit": masked}, declared=declared), tmp_path / "out")
    (entry,) = refresh(tmp_path / "out", "2026-01-01")[0].entries
    assert entry.flags == ("unreliable",)
    assert "masked gradients: Square was lucky" in (tmp_path / "out" / "new-model.md").read_text()


def test_the_form(make: Make, tmp_path: Path) -> None:
    """RobustBench's maintainers look for each of its fields."""
    write(make(), tmp_path / "out")
    form = (tmp_path / "out" / "new-model.md").read_text()
    fields = dict(re.findall(r"^- \*\*(.*?)\*\*: (.*)$", form, re.MULTILINE))
    assert list(fields) == LABELS
    assert form.startswith("<!-- Title: [New Model] Doe2026Labels -->")
    assert (fields["eps"], fields["Threat Model"]) == ("8/255", "Linf")
    assert fields["Clean accuracy"] == "85.00%"
    assert fields["Additional data"].startswith("true (It uses additional 1M synthetic images")
    assert "seed 5, batches of 100" in fields["Evaluation method"]
    assert "audit of masked gradients: consistent" in fields["Evaluation method"]
    assert form.count("- [x]") == 3
    assert form.endswith("located here:\n")


def test_code_and_another_licence(make: Make, tmp_path: Path) -> None:
    """The boxes say what is so."""
    submission = make()
    assert isinstance(submission.exported, Export)
    exported = dataclasses.replace(submission.exported, code="x = 1\n", code_file="doe.py")
    declared = dataclasses.replace(DECLARED, licence="https://example.org/l", extra_data=False)
    write(make(exported=exported, declared=declared), tmp_path / "out")
    form = (tmp_path / "out" / "new-model.md").read_text()
    assert "- [ ] I use an architecture" in form
    assert "located here: https://example.org/l" in form
    assert "**Additional data**: false (It uses" in form
    assert (tmp_path / "out" / "architectures" / "doe.py").read_text() == "x = 1\n"
    assert "architectures/doe.py" in (tmp_path / "out" / "README.md").read_text()


def test_autoattacks_log(make: Make, tmp_path: Path) -> None:
    """Line by line what AutoAttack logs, and no time that was not measured."""
    submission = make()
    write(submission, tmp_path / "out")
    assert submission.adversarial is not None
    low, high = (float(v) for v in submission.adversarial.aminmax())
    assert (tmp_path / "out" / "autoattack.log").read_text().splitlines() == [
        "setting parameters for standard version",
        "using standard version including apgd-ce, apgd-t, fab-t, square.",
        "initial accuracy: 85.00%",
        "robust accuracy after APGD-CE: 60.00%",
        "robust accuracy after APGD-T: 58.00%",
        "robust accuracy after FAB-T: 58.00%",
        "robust accuracy after SQUARE: 57.25% (total time 61.2 s)",
        f"max Linf perturbation: 0.03137, nan in tensor: 0, max: {high:.5f}, min: {low:.5f}",
        "robust accuracy: 57.25%",
    ]


def test_the_next_steps(make: Make, tmp_path: Path) -> None:
    """Every file that lies there is explained, and the code that checks it runs."""
    write(make(), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert set(re.findall(r"^\| `(.*?)` \|", text, re.MULTILINE)) == {*FILES} - {"README.md"}
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(re.sub(r"^ {3}", "", block, flags=re.MULTILINE), "README.md", "exec")
    assert "batch_size=100, seed=5" in block


@pytest.mark.parametrize("there", ["folder", "empty folder", "file", "dangling link"])
def test_nothing_is_overwritten(make: Make, tmp_path: Path, there: str) -> None:
    """Not even an empty folder: it may be somebody's mount point."""
    out = tmp_path / "out"
    if there == "file":
        out.write_text("mine")
    elif there == "dangling link":
        out.symlink_to("nowhere")
    else:
        out.mkdir()
        if there == "folder":
            (out / "mine").write_text("mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RunError, match="out is there already: name another folder"):
        write(make(), out)
    assert {*tmp_path.iterdir()} - {*before} == {tmp_path / "config.toml", tmp_path / "run.json"}


def test_a_full_disk_leaves_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a submission looks like a whole one."""
    submission = make()
    assert submission.judged.run is not None
    before = sorted(tmp_path.iterdir())

    def save(*_: Any) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(RunError, match=r"cannot write .*out: PytorchStreamWriter failed"):
        write(submission, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_what_can_not_be_written(make: Make, tmp_path: Path) -> None:
    """Without its parts there is no submission, and no folder appears in one that isn't there."""
    with pytest.raises(RunError, match=r"there is no folder .*nowhere to write out into"):
        write(make(), tmp_path / "nowhere" / "out")
    for gone in ("exported", "adversarial"):
        with pytest.raises(BadValueError, match="needs AutoAttack's figures, the exported model"):
            write(make(**{gone: None}), tmp_path / "out")
    escape = dataclasses.replace(PAPER, id="../Doe2026Labels")
    with pytest.raises(BadValueError, match=r"id must be like Doe2026Labels, not '\.\./Doe"):
        write(make(paper=escape), tmp_path / "out")
    with pytest.raises(BadValueError, match=r"needs run\.json"):
        write(make({"run": None}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
