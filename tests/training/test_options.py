"""Accumulation, precision, memory format, determinism: other ways to the same weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from robustlabels.training import PGDTraining, fit

K = 3


def smooth_model() -> nn.Module:
    """Without batch norm, and without kinks that would turn float noise into steps."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, K))


def conv_model() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(64, K),
    )


def shifted(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """An attack without signs: float noise stays float noise."""
    return (x + 0.02).clamp(0, 1)


def differences(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


@pytest.mark.parametrize("scheme", ["als", "vs", "adr"])
@pytest.mark.parametrize("trainer", ["pgd-at", "trades"])
@pytest.mark.parametrize("parts", [2, 3, 16, 40])
def test_accumulation_gives_the_same_weights(
    tiny: Any, options: dict[str, Any], parts: int, trainer: str, scheme: str
) -> None:
    """Parts of 6, 6 and 4 samples must weigh as their samples do, not a third each; a step after
    each part would train another model."""
    options |= {"epochs": 2, "optimizer": {"lr": 0.3}}
    one, many = (
        fit(smooth_model(), tiny, scheme, trainer, attack=shifted, accumulate=n, **options)
        for n in (1, parts)
    )
    assert differences(one.last, many.last) < 2e-5
    assert (
        float((one.last["1.weight"] - smooth_model().state_dict()["1.weight"]).abs().max()) > 1e-2
    )
    for a, b in zip(one.history, many.history, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
        assert a["train_accuracy"] == b["train_accuracy"]


def test_uneven_parts_would_show() -> None:
    """The check above can fail: equal weights for parts of 6, 6 and 4 move the loss by far more
    than its tolerance."""
    parts = [t.double().mean() for t in torch.arange(16.0).chunk(3)]
    assert [len(t) for t in torch.arange(16).chunk(3)] == [6, 6, 4]
    assert abs(float(sum(parts) / 3) - 7.5) > 0.1


@pytest.mark.filterwarnings("ignore:weight_averaging is")
@pytest.mark.parametrize("trainer", ["standard", "pgd-at", "trades", "mart", "fast-at"])
@pytest.mark.parametrize("scheme", ["one-hot", "adr", "als"])
def test_bf16_trains_and_keeps_fp32_weights(
    tiny: Any, options: dict[str, Any], trainer: str, scheme: str
) -> None:
    """Weights or averages in bf16 lose small updates; a cast that was cached without a gradient
    stops training."""
    dtypes = set()

    class Model(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            z: Tensor = super().forward(x)
            if torch.is_autocast_enabled("cpu"):
                dtypes.add(z.dtype)
            return z

    options |= {"epochs": 12, "optimizer": {"lr": 0.3}, "precision": "bf16", "eps": 0.05}
    model = Model(*smooth_model())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = fit(model, tiny, scheme, trainer, weight_averaging=0.5, **options)
    assert dtypes == {torch.bfloat16}
    assert result.average is not None
    for weights in (result.last, result.average):
        assert {v.dtype for v in weights.values()} == {torch.float32}
        assert all(not torch.equal(v, before[k]) for k, v in weights.items())
    x, y = tiny
    with torch.no_grad():
        assert (model(x).argmax(dim=1) == y).float().mean() > 0.9
    full = fit(smooth_model(), tiny, scheme, trainer, **{**options, "precision": "fp32"})
    assert result.history[-1]["train_loss"] == pytest.approx(
        full.history[-1]["train_loss"], rel=0.15, abs=0.05
    )


@pytest.mark.parametrize("trainer", ["pgd-at", "trades"])
def test_channels_last_gives_the_same_weights(tiny: Any, options: dict[str, Any], trainer: str):
    """A format of memory must not change what is computed."""
    options |= {"augment": {"crop_padding": 1, "flip": True}}
    one, other = (
        fit(conv_model(), tiny, "ls", trainer, attack=shifted, channels_last=c, **options)
        for c in (False, True)
    )
    assert differences(one.last, other.last) < 1e-5


def test_channels_last_reaches_model_and_batch(tiny: Any, options: dict[str, Any]) -> None:
    """Only one of the two would be slower than neither."""
    seen = []

    class Looking(PGDTraining):
        def loss(self, step: Any) -> Tensor:
            fmt = torch.channels_last
            weight = step.model[0].weight
            seen.append(
                (step.x.is_contiguous(memory_format=fmt), weight.is_contiguous(memory_format=fmt))
            )
            return super().loss(step)

    x, y = tiny
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, K))
    fit(model, (x.expand(-1, 3, -1, -1), y), "ls", Looking(), channels_last=True, **options)
    assert seen == [(True, True)] * 3


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_same_seed_gives_the_same_bits(
    tiny: Any, options: dict[str, Any], deterministic: bool
) -> None:
    """Without it no resumed run could be checked; another seed must give other weights."""
    options |= {"augment": {"crop_padding": 1}, "deterministic": deterministic, "validation": 8}
    before = torch.are_deterministic_algorithms_enabled()
    runs = []
    for seed in (3, 3, 4):
        torch.rand(seed)  # whatever the caller did before
        runs.append(
            fit({"name": "small-cnn", "width": 2}, tiny, "adr", "trades", seed=seed, **options)
        )
    first, again, other = runs
    assert all(torch.equal(first.last[k], again.last[k]) for k in first.last)
    assert not all(torch.equal(first.last[k], other.last[k]) for k in first.last)
    for a, b in zip(first.history, again.history, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {
            k: v for k, v in b.items() if k != "seconds"
        }
    assert torch.are_deterministic_algorithms_enabled() == before


def test_deterministic_is_on_while_it_trains_and_off_after_a_failure(
    tiny: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller's setting would be lost. Without cuBLAS's workspace, older versions of torch
    stop at the first linear layer on a GPU."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seen = []

    class Failing(PGDTraining):
        def loss(self, step: Any) -> Tensor:
            seen.append(torch.are_deterministic_algorithms_enabled())
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")
            raise OSError("mine")

    with pytest.raises(OSError, match="mine"):
        fit(smooth_model(), tiny, "ls", Failing(), deterministic=True, **options)
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()


class HeadFirst(nn.Module):
    """Its head is registered before the layer that feeds it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(5, 3, 1)
        self.body = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.flatten(1))[:, :, None, None]).flatten(1)


def test_layer_names_the_head(tiny: Any, options: dict[str, Any]) -> None:
    """The last Linear need not be the head; the refusal named an argument that fit had not."""
    with pytest.raises(ValueError, match="layer"):
        fit(HeadFirst(), tiny, "vs", "standard", **options)
    result = fit(HeadFirst(), tiny, "vs", "standard", layer="head", **options)
    assert result.model.head.out_channels == result.scheme.num_outputs == 6
    with pytest.raises(ValueError, match="layer 'nose' is not in the model"):
        fit(HeadFirst(), tiny, "vs", "standard", layer="nose", **options)


def test_normalize_of_a_given_model(tiny: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """It was refused; the layer goes in front of the model, and eps stays in pixels."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    options |= {"normalize": True, "epochs": 2}
    result = fit(net, tiny, "vs", "pgd-at", out=tmp_path / "run", **options)
    x = tiny[0]
    expected = net((x - x.mean()) / x.std(correction=0))
    torch.testing.assert_close(result.model(x), expected, rtol=1e-4, atol=1e-4)
    assert result.config.model.params["mean"] == pytest.approx([float(x.mean())], abs=1e-4)

    again = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    resumed = fit(again, tiny, "vs", "pgd-at", out=tmp_path / "run", resume=True, **options)
    torch.testing.assert_close(resumed.model(x), result.model(x))


@pytest.mark.parametrize(
    ("size", "given", "used", "warned"),
    [(12, {}, 12, False), (12, {"batch_size": 8}, 8, True), (1, {}, 128, True)],
)
def test_a_loaders_batch_size(
    tiny: Any,
    options: dict[str, Any],
    recwarn: pytest.WarningsRecorder,
    size: int,
    given: dict[str, Any],
    used: int,
    warned: bool,
) -> None:
    """It was ignored without a word: batches of 128 where the user had chosen 12."""
    del options["batch_size"]
    loader = DataLoader(TensorDataset(*tiny), batch_size=size)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    result = fit(net, (loader, loader), "one-hot", "standard", **options, **given)
    assert result.config.batch_size == used
    said = [str(w.message) for w in recwarn if "batch_size" in str(w.message)]
    assert len(said) == warned
    assert all(f"loader's batch_size {size} is not used: batch_size is {used}" in m for m in said)


def test_normalize_goes_inside_the_model(options: dict[str, Any]) -> None:
    """eps is in pixels: normalisation before the attack would change the radius."""
    seen = []

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append((float(x.min()), float(x.max())))
        return x

    result = fit("linear", "digits", "ls", attack=attack, normalize=True, **options)
    assert seen[0] == (0.0, 1.0)
    assert len(result.config.model.params["mean"]) == 1
    x = torch.rand(2, 1, 8, 8)
    mean, std = result.config.model.params["mean"][0], result.config.model.params["std"][0]
    weights = {k: v for k, v in result.model.state_dict().items() if v.dim() > 0}
    w = next(v for v in weights.values() if v.shape == (10, 64))
    b = next(v for v in weights.values() if v.shape == (10,))
    expected = ((x - mean) / std).flatten(1) @ w.T + b
    torch.testing.assert_close(result.model(x), expected, rtol=1e-4, atol=1e-4)


def test_steps_and_a_last_batch_of_one(tiny: Any, options: dict[str, Any]) -> None:
    """A batch of one sample breaks batch norm: 33 samples are two batches of 16; 34 are three."""
    x, y = tiny
    for n, steps in ((33, 2), (34, 3), (16, 1), (7, 1)):
        result = fit(conv_model(), (x[:n], y[:n]), "ls", "standard", **options)
        assert result.history[-1]["step"] == steps


def test_every_sample_once_an_epoch_in_a_new_order(tiny: Any, options: dict[str, Any]) -> None:
    """Drawn with replacement, or in the same order every epoch."""
    orders: list[Tensor] = []

    class Looking(PGDTraining):
        def loss(self, step: Any) -> Tensor:
            orders.append(step.index.clone())
            return super().loss(step)

    options["epochs"] = 2
    fit(smooth_model(), tiny, "ls", Looking(), attack=shifted, **options)
    first, second = torch.cat(orders[:3]), torch.cat(orders[3:])
    assert torch.equal(first.sort().values, torch.arange(48))
    assert torch.equal(second.sort().values, torch.arange(48))
    assert not torch.equal(first, second)


def test_every_step_augments_anew(tiny: Any, options: dict[str, Any]) -> None:
    """Seeded alike at every step, each place in the batch would be mirrored always or
    never."""
    drawn: list[list[bool]] = []
    x = tiny[0]

    class Looking(PGDTraining):
        def loss(self, step: Any) -> Tensor:
            mirrored = step.x == x[step.index].flip(3)
            drawn.append(mirrored.flatten(1).all(dim=1).tolist())
            return super().loss(step)

    options |= {"epochs": 2, "augment": {"flip": True}}
    fit(smooth_model(), tiny, "ls", Looking(), attack=shifted, **options)
    assert len({tuple(d) for d in drawn}) == 6
