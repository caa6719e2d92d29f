"""The search for LTD's temperature (its section 4.2), on the digits."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from robustlabels.errors import BadValueError, MissingExtraError, RobustLabelsWarning, RunError
from robustlabels.factories import make_dataset
from robustlabels.loading import load_run
from robustlabels.training import fit, fit_config
from robustlabels.training import temperature as module
from robustlabels.training.temperature import TemperatureSearch, propose, search_temperature

STUDENT = {"eps": 0.1, "attack": {"name": "pgd", "steps": 1}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    fit("linear", "digits", trainer="standard", epochs=4, out=out, device="cpu", validation=200)
    return out


def searching(teacher: Path, **changed: Any) -> TemperatureSearch:
    usual = {"epochs": 2, "trials": 3, "temperatures": (1.0, 4.0, 40.0, 400.0), "student": STUDENT}
    return TemperatureSearch(teacher, **{**usual, **changed})


@pytest.fixture
def optuna() -> Any:
    return pytest.importorskip("optuna")


def test_both_steps(teacher: Path, optuna: Any, tmp_path: Path) -> None:
    """T_max is where the natural accuracy first falls below the threshold, and the paper searches
    no higher: above it, labels say nothing any more."""
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", RobustLabelsWarning)  # T = 40 is tried, not chosen
        found = search_temperature(
            searching(teacher, threshold=0.2), tmp_path / "s", progress=lambda *p: seen.append(p)
        )
    accuracies = [s["accuracy"] for s in found["substitutes"]]
    assert all(a >= 0.2 for a in accuracies[:-1])
    assert accuracies[-1] < 0.2
    assert found["upper"] == found["substitutes"][-1]["temperature"]
    assert found["bounded"]
    assert len(found["trials"]) == 3
    assert all(1 <= t["temperature"] <= found["upper"] for t in found["trials"])
    assert found["best"]["loss"] == min(t["loss"] for t in found["trials"])
    assert json.loads((tmp_path / "s" / "search.json").read_text()) == found
    assert seen[-1][0].startswith("trial 3 of 3")
    assert seen[-1][1] == seen[-1][2] > 0


def test_a_substitute_is_a_natural_training_on_soft_labels(teacher: Path) -> None:
    """Substitutes trained adversarially would refuse temperatures for another reason."""
    config = searching(teacher).substitute(3.0)
    assert (config.trainer.name, config.labels.name) == ("standard", "ltd")
    assert config.labels.params == {"temperature": 3.0}
    assert (config.dataset, config.model.name, config.validation) == ("digits", "linear", 200)


def test_a_trial_is_the_papers_training(teacher: Path) -> None:
    """Its attack is PGD-8 on the cross-entropy of the true class, TRADES' own is not."""
    config = TemperatureSearch(teacher, epochs=1).trial(5.0)
    assert (config.trainer.name, config.trainer.params) == ("trades", {"inner": "ce"})
    assert config.attack is not None
    assert config.attack.params == {"steps": 8}
    changed = searching(teacher, student={"awp": {"gamma": 0.01}}).trial(5.0)
    assert changed.awp is not None
    assert changed.trainer.params == {"inner": "ce"}


def test_the_loss_is_equation_9(teacher: Path) -> None:
    """Measured against the formula, written out on the held-out images: with the label's entropy
    left out, or the training images, the search would find something else."""
    # No steps that move x: x' = x would make the second term 0, so one step from the images.
    attack = {"name": "pgd", "steps": 1, "start": "none", "step_size": 0.1}
    config = searching(teacher, student={**STUDENT, "attack": attack}).trial(3.0)
    result = fit_config(config)
    measured = module._measured(result)

    data = make_dataset("digits").train_split()
    generator = torch.Generator().manual_seed(module.derived_seed(config.seed, "validation"))
    held_out = torch.randperm(len(data), generator=generator)[:200].sort().values
    ((x, y),) = data.batches([held_out], torch.device("cpu"))
    x = x.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(result.model(x), y)
    (slope,) = torch.autograd.grad(loss, x)
    with torch.no_grad():
        other = (x + 0.1 * slope.sign()).clamp(0, 1)
        q = (load_run(teacher).model(x) / 3).softmax(1)
        own, attacked = (result.model(z).log_softmax(1) for z in (x, other))
        kl = (own.exp() * (own - attacked)).sum(1)
        expected = (-(q * own).sum(1) + 6 * kl).mean()
    assert measured["loss"] == pytest.approx(float(expected), rel=1e-4)
    assert measured["label_entropy"] == pytest.approx(float(-(q * q.log()).sum(1).mean()), rel=1e-4)


def test_the_threshold_is_relative_where_none_is_given(
    teacher: Path, optuna: Any, tmp_path: Path
) -> None:
    """Short trainings are worse than the teacher at any temperature: they are compared with T=1."""
    found = search_temperature(searching(teacher, trials=1), tmp_path / "s")
    first = found["substitutes"][0]["accuracy"]
    assert found["accepted_above"] == pytest.approx(first - 0.05)


def test_none_refused(teacher: Path, optuna: Any, tmp_path: Path) -> None:
    """The last temperature bounds the search then, and the result says so."""
    found = search_temperature(
        searching(teacher, trials=1, threshold=0.2, temperatures=(1.0, 1.1)), tmp_path / "s"
    )
    assert (found["upper"], found["bounded"]) == (1.1, False)


def test_it_goes_on(
    teacher: Path, optuna: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search takes hours: one that was stopped ends as one that was not, and trains nothing
    twice."""
    whole = search_temperature(searching(teacher), tmp_path / "whole")
    trained: list[float] = []
    stop_after = [1]

    def counted(config: Any, **options: Any) -> Any:
        if len(trained) in stop_after:
            raise KeyboardInterrupt
        trained.append(config.labels.params["temperature"])
        return fit_config(config, **options)

    monkeypatch.setattr(module, "fit_config", counted)
    for stop in (1, len(whole["substitutes"]) + 1):
        stop_after[:] = [stop]
        with pytest.raises(KeyboardInterrupt):
            search_temperature(searching(teacher), tmp_path / "s", resume=bool(trained))
    stop_after.clear()
    assert search_temperature(searching(teacher), tmp_path / "s", resume=True) == whole
    both = whole["substitutes"] + whole["trials"]
    assert trained == [t["temperature"] for t in both]
    with pytest.raises(RunError, match="another epochs"):
        search_temperature(searching(teacher, epochs=3), tmp_path / "s", resume=True)


def test_proposals(teacher: Path, optuna: Any) -> None:
    """They lie in the range, differ, and come closer to the best: a search that ignores what it
    has found is a lottery."""
    search = searching(teacher)
    trials: list[dict[str, float]] = []
    for _ in range(24):
        t = propose(trials, 50.0, search)
        assert propose(trials, 50.0, search) == t
        trials.append({"temperature": t, "loss": (t - 6.0) ** 2})
    places = [t["temperature"] for t in trials]
    assert all(1 <= t <= 50 for t in places)
    assert len(set(places)) == 24
    early = sorted(abs(t - 6) for t in places[:4])[2]
    assert sorted(abs(t - 6) for t in places[12:])[6] < early


def test_a_threshold_that_nothing_reaches(teacher: Path, optuna: Any, tmp_path: Path) -> None:
    """Otherwise T_max would be 1, and the range empty."""
    with pytest.raises(BadValueError, match=r"threshold 0.999 is above the natural accuracy"):
        search_temperature(searching(teacher, threshold=0.999), tmp_path / "s")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temperatures": (2.0, 3.0)}, "temperatures must rise from 1"),
        ({"temperatures": (1.0, 3.0, 2.0)}, "temperatures must rise from 1"),
        ({"temperatures": (1.0,)}, "temperatures must rise from 1"),
        ({"objective": "clean"}, "objective must be loss or robust_accuracy"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"threshold": 90.0}, "threshold must be a share"),
    ],
)
def test_bad_input(changed: dict[str, Any], message: str) -> None:
    """Each is found before anything is trained."""
    with pytest.raises(BadValueError, match=message):
        searching(Path("teacher"), **changed)


def test_without_held_out_images(tmp_path: Path) -> None:
    """The loss on training images favours whatever overfits."""
    out = tmp_path / "run"
    fit("linear", "digits", trainer="standard", epochs=1, out=out, device="cpu", validation=0)
    with pytest.raises(BadValueError, match="held out no images"):
        searching(out).trial(1.0)


def test_without_optuna(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said before hours of training, with the command that helps."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"robustlabels\[search\]"):
        search_temperature(searching(teacher), tmp_path / "s")
    assert not (tmp_path / "s").exists()
