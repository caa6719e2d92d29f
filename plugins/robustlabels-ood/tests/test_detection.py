"""Scores and metrics against values worked out by hand, and the evaluation on models whose answers
are known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from robustlabels_ood import SCORES, OODDetection, detection
from torch import Tensor, nn

import robustlabels as rl


def test_metrics_by_hand() -> None:
    """OOD 1..20, ID 0..3. 19 of 20 OOD reach 2, as 2 of 4 ID do; all 4 ID are at most 3, as 3 of 20
    OOD are; of the 80 pairs 20 + 19.5 + 18.5 + 17.5 are in order. The paper's FPR-95 is the first,
    not the second."""
    found = detection([0, 1, 2, 3], np.arange(1, 21))
    assert found["fpr95"] == 0.5
    assert found["fpr95_id"] == 0.15
    assert found["auroc"] == pytest.approx(75.5 / 80)


def test_precision_by_hand() -> None:
    """3 (OOD), 2 (ID), 1 (OOD), 0 (ID): precision 1 at recall 1/2, 2/3 at 1; for ID the same from
    below. Without the second OOD sample: 1; from below 1, 1."""
    found = detection([0, 2], [1, 3])
    assert found["aupr"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["aupr_id"] == pytest.approx((1 + 2 / 3) / 2)
    found = detection([0, 2], [3])
    assert (found["aupr"], found["aupr_id"], found["auroc"], found["fpr95"]) == (1, 1, 1, 0)


def test_a_score_that_knows_nothing() -> None:
    """All equal: every ID sample is flagged with the OOD ones; AUPR is the base rate."""
    found = detection(np.zeros(30), np.zeros(10))
    assert found == {"auroc": 0.5, "fpr95": 1.0, "aupr": 0.25, "fpr95_id": 1.0, "aupr_id": 0.75}


@pytest.mark.parametrize("m", [1, 19, 20, 21, 40, 137])
def test_fpr_by_search(m: int) -> None:
    """Against every threshold there is: the least ID share among those that flag 95 % of OOD."""
    draw = np.random.default_rng(m)
    inside, outside = draw.normal(size=50), draw.normal(size=m) + 1
    shares = [np.mean(inside >= t) for t in outside if np.sum(outside >= t) * 100 >= 95 * m]
    assert detection(inside, outside)["fpr95"] == min(shares)


def test_infinite_scores() -> None:
    """A score of a probability that is 0 is a score like any other."""
    found = detection([-np.inf, 0], [1, np.inf])
    assert (found["auroc"], found["fpr95"]) == (1, 0)


@pytest.mark.parametrize("bad", [[], [np.nan], [[1.0]]])
def test_bad_scores(bad: Any) -> None:
    """One line, not scikit-learn's."""
    with pytest.raises(ValueError, match="outside must be scores"):
        detection([0.0], bad)


def test_scores_by_hand() -> None:
    """Probabilities 1/2 and 1/4 of two classes, 1/4 of a virtual one: the deployed classifier is
    sure to 2/3, the whole to 1/2; the energy is that of the classes alone."""
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    found = {name: score(logits, 2).item() for name, score in SCORES.items()}
    odds = {"msp": 1 / 2, "msp-all": 1.0, "virtual": 1 / 3}
    assert found == pytest.approx(
        {**{k: np.log(v) for k, v in odds.items()}, "energy": -np.log(0.75)}
    )


def test_no_ties_at_great_logits() -> None:
    """As probabilities they would all be 1 or 0, and the order lost."""
    logits = torch.tensor([[90.0, 0.0, 10.0], [95.0, 0.0, 10.0]], dtype=torch.float64)
    for name in ("msp", "msp-all", "virtual"):
        first, second = SCORES[name](logits, 2).tolist()
        assert first > second, name
    assert SCORES["virtual"](-logits, 2)[0] < 0


def test_the_virtual_score_needs_virtual_classes() -> None:
    """One line that says how to get some."""
    with pytest.raises(ValueError, match="train with labels vs or ssl"):
        SCORES["virtual"](torch.zeros(1, 2), 2)


class Reads(nn.Module):
    """The first pixels are the logits (times 10)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, 2, 2) -> (N, outputs)."""
        return x.flatten(1)[:, : self.outputs] * self.scale


def told(*rows: list[float]) -> Tensor:
    """Images of which the model makes these logits / 10."""
    return torch.tensor(rows).reshape(-1, 1, 2, 2)


DATA = (told([1.0, 0.1, 0, 0], [0.2, 0.9, 0.1, 0], [0.8, 0, 0, 0]), torch.tensor([0, 1, 0]))
VIRTUAL = told([1.0, 0, 0.9, 0.9], [0.0, 1, 0.9, 0.9])  # as sure of a class as the data
UNSURE = told([0.5, 0.5, 0, 0], [0.1, 0.1, 0, 0])


def judge(model: nn.Module, **params: Any) -> dict[str, Any]:
    """What ``robustlabels.evaluate`` has of it."""
    found = rl.evaluate(
        model, DATA, [], num_classes=2, evaluations=[{"name": "ood", "params": params}]
    )
    return json.loads(json.dumps(found["evaluations"]["ood"]))


def test_virtual_classes_are_seen() -> None:
    """The evaluation is handed the K-class model: the virtual classes are inside it. Outliers that
    only these know have AUROC 1 by them, and 0 by MSP, whose log-odds are -10 for each of them and
    -9, -7 and -8 for the data."""
    found = judge(Reads(4), sets={"seen": VIRTUAL, "unsure": UNSURE})
    assert list(found["scores"]) == ["msp", "msp-all", "energy", "virtual"]
    assert found["n"] == {"id": 3, "seen": 2, "unsure": 2, "mixture": 4}
    assert found["scores"]["virtual"]["seen"]["auroc"] == 1
    assert found["scores"]["msp"]["seen"]["auroc"] == 0
    assert found["scores"]["msp"]["unsure"]["auroc"] == 1
    assert found["scores"]["msp"]["mixture"]["auroc"] == pytest.approx(0.5)
    assert set(found["scores"]["energy"]["mixture"]) == set(detection([0.0], [1.0]))


def test_without_virtual_classes() -> None:
    """A plain model has no score of its virtual classes; asked for it is an error."""
    found = judge(Reads(2), sets={"unsure": UNSURE})
    assert list(found["scores"]) == ["msp", "energy"]
    assert found["n"] == {"id": 3, "unsure": 2}  # one set needs no mixture
    with pytest.raises(ValueError, match="train with labels vs or ssl"):
        judge(Reads(2), sets={"unsure": UNSURE}, scores=["virtual"])


def test_sets_by_name_and_so_many_images() -> None:
    """Names and tables as a config has them; n draws the same images each time."""
    quiet = {"size": 2, "channels": 1}
    sets = [{"name": "noise:uniform", **quiet}, {"name": "noise:rademacher", "n": 40, **quiet}]
    found = judge(Reads(4), sets=sets, n=30, scores=["msp"])
    assert found["n"] == {"id": 3, "noise:uniform": 30, "noise:rademacher": 30, "mixture": 60}
    assert found == judge(Reads(4), sets=sets, n=30, scores=["msp"])
    evaluation = OODDetection(sets=sets)
    (split, _) = evaluation.splits.values()
    assert torch.equal(split.x, rl.make_dataset("noise:uniform", **quiet).test.x)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"sets": "textures"}, "sets must be a list of data sets"),
        ({"sets": []}, "sets must be a list"),
        ({"sets": [3]}, "in a list each is a name"),
        ({"sets": {"a": 3}}, "'a' must be a name, a table, a DataSet or images"),
        ({"sets": {"mixture": UNSURE}}, "'mixture' is there twice, or means something else"),
        ({"sets": ["noise:uniform", {"name": "noise:uniform", "seed": 1}]}, "is there twice"),
        ({"sets": ["textures"]}, "nothing is downloaded"),
        ({"sets": {"a": UNSURE}, "scores": ["mps"]}, "scores must be a list of msp, msp-all"),
        ({"sets": {"a": UNSURE}, "n": 0}, "n must be an integer of at least 1"),
        ({"sets": {"a": UNSURE}, "n": 3}, "n is 3, and 'a' has 2 images"),
        ({"sets": {"a": torch.rand(2, 3, 4, 4)}}, r"\(3, 4, 4\), and the test set \(1, 2, 2\)"),
        ({"sets": ["noise:uniform"], "root": 3, "m": 1}, "has no parameter 'm'"),
    ],
)
def test_mistakes(params: dict[str, Any], message: str) -> None:
    """One line each."""
    with pytest.raises(ValueError, match=message):
        judge(Reads(4), **params)
