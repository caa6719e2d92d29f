"""Where a model would stand, and every reason why that may be unfair."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustlabels.errors import BadValueError, RunError, UnknownNameError
from robustlabels.leaderboard import Comparison, Snapshot, board, compare

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, evaluation: Make) -> Callable[..., Path]:
    """A RUN folder with an evaluation, as far as both are read; returns the evaluation's path."""

    def make(
        model: str = "wrn-34-10", summary: dict[str, Any] | None = None, **changes: Any
    ) -> Path:
        (tmp_path / "config.toml").write_text(f'dataset = "cifar10"\n[model]\nname = "{model}"\n')
        told = {"status": "finished", "validation_samples": 1000, "weights_sha256": "abc"}
        (tmp_path / "run.json").write_text(json.dumps({**told, **(summary or {})}))
        facts = evaluation(run=str(tmp_path), weights="best", weights_sha256="abc")
        path = tmp_path / "evaluation.json"
        path.write_text(json.dumps({**facts, **changes}))
        return path

    return make


def rules(comparison: Comparison) -> list[str]:
    return [reason.rule for reason in comparison.reasons]


def test_by_hand(run: Callable[..., Path]) -> None:
    """57.00 % lies between 57.09 and 56.94; counted in the published files with grep."""
    found = compare(run())
    assert (found.robust, found.figure, found.clean) == (0.57, "AutoAttack (standard)", 0.85)
    assert found.fair
    assert found.notes == ()
    everybody, wrn, alone = found.standings
    assert [s.among for s in found.standings] == [
        "all",
        "WideResNet-34-10",
        "without extra or synthetic data",
    ]
    # WRN-34-10 above: 62.83 60.27 58.04 57.81 57.30 57.09; 22 are published.
    assert (wrn.rank, wrn.published) == (7, 22)
    assert [e.id for e in wrn.above] == ["Chen2024Data_WRN_34_10", "Cui2023Decoupled_WRN-34-10"]
    assert [e.id for e in wrn.below] == ["Chen2021LTD_WRN34_10", "Jia2022LAS-AT_34_10"]
    # Without other data above: 58.09 58.04 57.81 57.71 57.61 57.30 57.14 57.09.
    assert (alone.rank, alone.published) == (9, 51)
    assert [e.robust for e in (*alone.above, *alone.below)] == [0.5714, 0.5709, 0.5694, 0.5682]
    assert (everybody.rank, everybody.published) == (51, 99)
    assert wrn.level == alone.level == everybody.level == ()


@pytest.mark.parametrize("name", ["cifar10 Linf", "cifar10 L2", "cifar100 Linf", "imagenet Linf"])
def test_every_model_stands_beside_itself(packed: Snapshot, evaluation: Make, name: str) -> None:
    """A published model's own figures, brought as an evaluation, must get its own rank."""
    dataset, threat = name.split()
    place = board(dataset, threat, packed)
    for entry in place.entries:
        facts = evaluation(entry.robust, dataset=dataset, norm=threat, indices=[])
        found = compare(facts, architecture=entry.architecture, snapshot=packed)
        groups = dict(zip(("all", "same", "alone"), found.standings, strict=True))
        assert groups["all"].rank == place.rank(entry.robust)
        assert entry in groups["all"].level
        assert groups["same"].among == entry.architecture
        assert entry in groups["same"].level
        assert (entry in groups["alone"].level) == (not entry.data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(robust=st.floats(0, 1))
def test_ranks_count_who_is_better(packed: Snapshot, evaluation: Make, robust: float) -> None:
    """Neighbours are neighbours: nothing published lies between them and the model."""
    found = compare(evaluation(robust), snapshot=packed)
    figures = [e.robust for e in found.board.entries]
    standing = found.standings[0]
    assert standing.rank == 1 + len([f for f in figures if f > found.robust])
    assert [e.robust for e in standing.level] == [f for f in figures if f == found.robust]
    assert [e.robust for e in standing.above] == [f for f in figures if f > found.robust][-2:]
    assert [e.robust for e in standing.below] == [f for f in figures if f < found.robust][:2]


def official(**changes: Any) -> dict[str, Any]:
    attack = {
        "robust_accuracy": 0.57,
        "params": {"eps": 8 / 255, "norm": "Linf", "version": "standard"},
        "per_attack": dict.fromkeys(("apgd-ce", "apgd-t", "fab-t", "square"), 0.57),
    }
    return {**attack, **changes}


PGD = {"robust_accuracy": 0.61, "params": {"eps": 8 / 255, "steps": 10}, "per_attack": None}
UNFAIR = {
    "jpeg": (
        {"dataset": "cifar10-jpeg75"},
        "data: cifar10-jpeg75, not cifar10; train and evaluate on cifar10 itself",
    ),
    "classes": ({"num_classes": 9}, "data: 9 classes, not 10; train and evaluate on cifar10"),
    "subset": (
        {"n": 1000, "indices": list(range(1000))},
        "images: 1,000, not 10,000; evaluate all of them, without --n: robustlabels evaluate",
    ),
    "drawn": (
        {"indices": list(range(1, 10_001))},
        "images: 10,000 drawn from a larger set; evaluate all",
    ),
    "no AutoAttack": (
        {"attacks": {"pgd": PGD}, "robust_accuracy": 0.61},
        "attack: pgd, not the official AutoAttack (standard) at the evaluation's eps; robustlabels",
    ),
    "rand": (
        {"attacks": {"autoattack": official(params={**official()["params"], "version": "rand"})}},
        "attack: autoattack, not the official AutoAttack (standard)",
    ),
    "another's AutoAttack": (
        {"attacks": {"torchattacks:AutoAttack": official(per_attack=None)}},
        "attack: torchattacks:AutoAttack, not the official",
    ),
    "AutoAttack at a smaller eps": (
        {"attacks": {"autoattack": official(params={**official()["params"], "eps": 4 / 255})}},
        "attack: autoattack, not the official AutoAttack (standard) at the evaluation's eps",
    ),
    "other weights": (
        {"weights_sha256": "def"},
        "checkpoint: not the best weights of the run beside the evaluation; evaluate",
    ),
    "no audit": ({"audit": None}, "audit: not run; see whether gradients are masked: robustlabels"),
    "masked": (
        {"audit": {"consistent": False, "verdict": "masked: PGD 62.0 %, worst 41.0 % (Square)"}},
        "audit: masked: PGD 62.0 %, worst 41.0 % (Square); report the worst attack's figure",
    ),
}


@pytest.mark.parametrize("case", UNFAIR)
def test_each_reason_alone(run: Callable[..., Path], case: str) -> None:
    """Each is found, none drags in another, and the standing is shown all the same."""
    changes, says = UNFAIR[case]
    found = compare(run(**changes))
    assert not found.fair
    (reason,) = found.reasons
    assert f"{reason.rule}: {reason.value}; {reason.remedy}".startswith(says)
    assert len(found.standings) == 3


@pytest.mark.parametrize(
    ("eps", "value"),
    [
        (8 / 255, None),
        (8 / 255 + 5e-10, None),
        (8 / 255 + 2e-9, "0.03137255102 (8.00000051/255), not 8/255"),
        (0.031, "0.031 (7.905/255), not 8/255"),
        (4 / 255, "4/255, not 8/255"),
        (0.3, "0.3 (76.5/255), not 8/255"),
    ],
)
def test_eps(evaluation: Make, eps: float, value: str | None) -> None:
    """0.031 is a hundredth smaller than 8/255, and worth some tenths of a point."""
    reasons = [r for r in compare(evaluation(eps=eps)).reasons if r.rule == "eps"]
    assert [r.value for r in reasons] == ([] if value is None else [value])
    if reasons:
        assert "--norm Linf --eps 8/255" in reasons[0].remedy


def test_another_norm_or_leaderboard(evaluation: Make) -> None:
    """Asked for, it is compared; the reason says what is wrong with it."""
    found = compare(evaluation(norm="L2"), threat="Linf")
    assert "norm" in rules(found)
    assert "attack" in rules(found)  # its AutoAttack is said to be of Linf
    found = compare(evaluation(), dataset="imagenet")
    values = {reason.rule: reason.value for reason in found.reasons}
    assert values["data"] == "cifar10, not imagenet"
    assert values["images"] == "10,000, not 5,000"
    assert values["eps"] == "8/255, not 4/255"
    found = compare(evaluation(dataset="digits", num_classes=10), dataset="cifar10")
    assert [r for r in rules(found) if r != "checkpoint"] == ["data"]


def test_imagenets_images(evaluation: Make) -> None:
    """5,000 drawn by a seed are not RobustBench's 5,000."""
    facts = evaluation(eps=4 / 255, dataset="imagenet", num_classes=1000)
    drawn = {**facts, "n": 5000, "indices": list(range(0, 50_000, 10))}
    (_, reason) = sorted(compare(drawn).reasons, key=lambda r: r.rule)
    assert (reason.rule, reason.value) == ("images", "5,000 drawn from a larger set")
    assert 'RobustBench\'s list: [data] subset = "robustbench"' in reason.remedy


def test_imagenets_images_are_the_list(
    run: Callable[..., Path], evaluation: Make, tmp_path: Path
) -> None:
    """A folder of any 5,000 images passed for RobustBench's."""
    path = run()
    facts = evaluation(eps=4 / 255, dataset="imagenet", num_classes=1000, weights="best")
    facts |= {"n": 5000, "indices": list(range(5000)), "weights_sha256": "abc"}

    def found(config: str) -> list[tuple[str, str]]:
        (tmp_path / "config.toml").write_text(config)
        path.write_text(json.dumps(facts))
        return [(reason.rule, reason.value) for reason in compare(path).reasons]

    unknown = [("images", "not known to be RobustBench's 5,000 images")]
    assert found('dataset = "imagenet"\n') == unknown
    assert found('dataset = "imagenet"\n[data]\nsubset = "robustbench"\n') == []
    assert found('dataset = "cifar10"\n[data]\nsubset = "robustbench"\n') == unknown
    assert [r.rule for r in compare(facts).reasons] == ["images", "checkpoint"]  # no run at all


def test_the_checkpoint(run: Callable[..., Path], evaluation: Make, tmp_path: Path) -> None:
    """Who doesn't know how the weights were chosen must not be told that they were chosen well."""
    path = run()
    assert compare(path).fair
    assert compare(run(summary={"validation_samples": 0})).fair  # the last weights: no choice
    assert compare(run(weights="last", weights_sha256="other")).fair
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = elsewhere / "evaluation.json"
    path.rename(moved)
    assert compare(moved).fair  # it names its run
    assert rules(compare(evaluation())) == ["checkpoint"]
    moved.write_text(json.dumps(evaluation()))
    assert rules(compare(moved)) == ["checkpoint"]
    (tmp_path / "run.json").write_text('{"status": "finished"}')
    moved.write_text(json.dumps(evaluation(run=str(tmp_path))))
    assert rules(compare(moved)) == ["checkpoint"]


def test_which_figure_counts(evaluation: Make) -> None:
    """AutoAttack on the deployed classifier; with virtual classes the worst of everything."""
    both = {"pgd": PGD, "autoattack": official(robust_accuracy=0.56)}
    found = compare(evaluation(attacks=both, robust_accuracy=0.5555))
    assert (found.robust, found.figure) == (0.56, "AutoAttack (standard)")
    assert "all attacks together leave 55.55%" in found.notes[0]
    found = compare(evaluation(attacks=both, robust_accuracy=0.55, virtual_classes=10))
    assert found.robust == 0.55
    assert found.figure == ("robust_accuracy, the worst of pgd, autoattack; 10 virtual classes")
    found = compare(evaluation(attacks={"pgd": PGD}, robust_accuracy=0.61))
    assert (found.robust, found.figure) == (0.61, "robust_accuracy, the worst of pgd")
    assert "attack" in rules(found)
    twice = {"autoattack": official(), "autoattack-2": official(robust_accuracy=0.5699)}
    assert compare(evaluation(attacks=twice)).robust == 0.5699
    with pytest.raises(BadValueError, match="no robust accuracy: robustlabels evaluate RUN"):
        compare(evaluation(attacks={}, robust_accuracy=None))


def test_it_is_rounded_as_robustbench_does(evaluation: Make) -> None:
    """5,694 of 10,000 is LTD's 56.94 %; so is what rounds to it."""
    for robust in (5694 / 10_000, 0.56944):
        found = compare(evaluation(robust))
        assert [e.id for e in found.standings[0].level] == ["Chen2021LTD_WRN34_10"]


def test_notes(evaluation: Make) -> None:
    """What the evaluation and AutoAttack say of themselves is passed on."""
    flagged = {"autoattack": official(flags=["zero gradients"])}
    note = "JPEG copies, not the original pixels"
    found = compare(evaluation(attacks=flagged, note=note, dataset="cifar10-jpeg75"))
    assert found.notes[:2] == (note, "AutoAttack: zero gradients")


def test_the_architecture(run: Callable[..., Path], evaluation: Make) -> None:
    """Of the run, of the caller, or unknown: then nobody is said to be its like."""
    assert compare(run("preactresnet18")).standings[1].among == "PreActResNet-18"
    assert compare(run("wrn-34-10"), architecture="RN18").standings[1].among == "ResNet-18"
    unpublished = compare(run("lenet"))
    assert [s.among for s in unpublished.standings] == ["all", "without extra or synthetic data"]
    assert unpublished.notes == ("no published entry of cifar10 Linf has its architecture, lenet",)
    for unknown in (compare(evaluation()), compare(run(summary={"opaque": ["model"]}))):
        assert unknown.architecture is None
        assert len(unknown.standings) == 2
        assert "its architecture is unknown" in unknown.notes[-1]


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({}, "dataset: Field required"),
        ({"attacks": {"pgd": {}}}, "attacks.pgd.robust_accuracy: Field required"),
        ({"clean": {"top1": 85.0}}, "clean.top1: must be less than or equal to 1"),
        ({"eps": float("nan")}, "eps: must be"),
        ({"n": 0}, "n: must be greater than or equal to 1"),
        ({"robust_accuracy": -0.1}, "robust_accuracy: must be greater than or equal to 0"),
        ({"audit": {"consistent": "perhaps", "verdict": ""}}, "audit.consistent: must be"),
    ],
)
def test_what_is_no_evaluation(evaluation: Make, facts: dict[str, Any], says: str) -> None:
    """Another program's JSON is named as such, in one line."""
    with pytest.raises(RunError) as caught:
        compare({**evaluation(), **facts} if facts else {})
    assert str(caught.value).startswith("the mapping is not an evaluation of robustlabels: " + says)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_evaluation(tmp_path: Path, run: Callable[..., Path]) -> None:
    """Missing, no JSON, JSON of another kind; and a broken run beside a good one."""
    with pytest.raises(RunError, match="cannot read"):
        compare(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("clean 85 %")
    with pytest.raises(RunError, match="is not JSON"):
        compare(tmp_path / "text.json")
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(RunError, match="is not an evaluation of robustlabels"):
        compare(str(tmp_path / "list.json"))
    path = run()
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json is not JSON"):
        compare(path)


def test_leaderboards_that_do_not_fit(evaluation: Make) -> None:
    """There is no leaderboard of MNIST or L1, and none of corruptions for an attack's figure."""
    with pytest.raises(BadValueError, match=r"of 'mnist', which has no leaderboard.*--dataset"):
        compare(evaluation(dataset="mnist"))
    with pytest.raises(UnknownNameError, match="cifar10 for threat 'L1'; did you mean"):
        compare(evaluation(norm="L1"))
    with pytest.raises(BadValueError, match="no figure on common corruptions"):
        compare(evaluation(), threat="corruptions")


def test_the_runs_own_audit_counts(run: Callable[..., Path], evaluation: Make) -> None:
    """The remedy says `robustlabels audit RUN`, which writes a file of its own."""
    path = run()
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "audit": None}))
    about = {k: facts.get(k) for k in ("weights_sha256", "dataset", "norm", "eps")}

    def rules(**changes: Any) -> list[str]:
        audit = {"consistent": True, "verdict": "consistent", **about, **changes}
        path.with_name("audit.json").write_text(json.dumps(audit))
        return [reason.rule for reason in compare(path).reasons if reason.rule == "audit"]

    assert rules() == []
    assert rules(consistent=False) == ["audit"]
    assert rules(eps=0.5) == ["audit"], "another evaluation's"
