"""Our models in torchattacks' hands: every attack as it is, on the real classes, and no trace."""

from __future__ import annotations

import copy
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustlabels as rl
from robustlabels.attacks.from_torchattacks import NAMES
from robustlabels.attacks.ready_torchattacks import DEAF, L2, SOFT
from robustlabels.errors import BadValueError, RunError
from robustlabels.integrations.torchattacks import for_torchattacks
from robustlabels.models.normalize import Normalize

torchattacks = pytest.importorskip("torchattacks")

K, V = 10, 10  # torchattacks' default number of classes: attacks are used as they are
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
# As few steps as each can do; the rest of the 37 is fast enough.
FEW: dict[str, dict[str, Any]] = {
    "CW": {"steps": 5},
    "EADEN": {"max_iterations": 10, "binary_search_steps": 1},
    "EADL1": {"max_iterations": 10, "binary_search_steps": 1},
    "FAB": {"steps": 2},
    "JSMA": {"gamma": 0.02},
    "OnePixel": {"steps": 1, "popsize": 4},
    "Pixle": {"restarts": 1, "max_iterations": 2},
    "Square": {"n_queries": 20},
    "AutoAttack": {"seed": 0, "eps": 0.3},
}


def net(outputs: int = K + V) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        Normalize(MEAN, STD),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 64, outputs),
    )


def truncated(model: nn.Module) -> nn.Module:
    """The same network with a last layer of K rows: what real_classes must amount to."""
    cut = copy.deepcopy(model)
    head = nn.Linear(4 * 64, K, dtype=model[-1].weight.dtype)
    with torch.no_grad():
        head.weight.copy_(model[-1].weight[:K])
        head.bias.copy_(model[-1].bias[:K])
    cut[-1] = head
    return cut.eval()


def images(
    model: nn.Module, n: int = 4, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        return x, model(x).argmax(dim=1)


def seeded(attack: Any, *args: Any) -> Tensor:
    torch.manual_seed(3)
    np.random.seed(3)  # Pixle and OnePixel draw from it
    adv: Tensor = attack(*args)
    return adv.detach()


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_as_it_is(name: str) -> None:
    """Images must be those of a network that never had virtual classes; and the model, here in
    the middle of training with one frozen batch norm, must not notice."""
    model = net().train()
    model[2].eval()
    model[1].bias.requires_grad_(False)
    if name == "TPGD":  # it takes the signs of gradients near 0, which float32 rounds at random
        model.double()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    deployed, plain = for_torchattacks(model, K), truncated(model)
    x, y = images(plain, dtype=model[-1].weight.dtype)
    kind, params = getattr(torchattacks, name), FEW.get(name, {})
    found = seeded(kind(deployed, **params), x, y)
    expected = seeded(kind(plain, **params), x, y)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert [m.training for m in model] == [True, True, False, True, True, True, True]
    assert model.training
    assert not deployed.training
    assert [p.requires_grad for p in model.parameters()] == [True, False] + [True] * 4
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_torchattacks_own_restoring_is_wrong() -> None:
    """What for_torchattacks is for; if this fails one day, it has less to do."""
    model = net().train()
    model[2].eval()
    x, y = images(truncated(model))
    torchattacks.CW(model, steps=2)(x, y)
    assert model[2].training
    assert all(p.grad is not None for p in model.parameters())
    model[2].eval()
    model[3].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        torchattacks.PGD(model)(x, y)
    assert not model.training


def test_an_exception_restores_too() -> None:
    """Training would go on in eval mode, with frozen parameters."""
    model = net().train()
    attack = torchattacks.PGD(for_torchattacks(model, K))
    x, y = images(truncated(model))
    model[3].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        attack(x, y)
    assert all(m.training for m in model)
    assert all(p.requires_grad for p in model.parameters())


def test_it_follows_the_model() -> None:
    """In a training loop the attack is made once; a copy of the weights would grow stale."""
    model = net()
    deployed = for_torchattacks(model, K)
    x, _ = images(model)
    before = deployed(x)
    with torch.no_grad():
        model[-1].weight.mul_(2)
    assert not torch.equal(deployed(x), before)
    assert torch.equal(deployed(x), model.eval()(x)[:, :K])


def test_the_device_is_found() -> None:
    """torchattacks asks the parameters; without any it prints a complaint and fails later."""
    deployed = for_torchattacks(net(), K)
    assert torchattacks.PGD(deployed).device == torch.device("cpu")
    assert torchattacks.PGD(deployed.to("meta")).device == torch.device("meta")


def test_normalisation_inside_or_used() -> None:
    """The layer inside must do what set_normalization_used does for the bare network."""
    model = net(K).eval()
    x, y = images(model)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    used = torchattacks.PGD(model[1:], eps=0.1)
    used.set_normalization_used(MEAN, STD)
    theirs = seeded(used, (x - mean) / std, y) * std + mean
    ours = seeded(torchattacks.PGD(for_torchattacks(model), eps=0.1), x, y)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (ours - x).abs().max() == pytest.approx(0.1, abs=1e-6)


def strong(model: nn.Module) -> Any:
    return torchattacks.PGD(model, eps=0.5, alpha=0.05, steps=30)


@pytest.mark.parametrize("mode", ["least_likely", "random", "by_label", "by_function"])
def test_targets_are_real_classes(mode: str) -> None:
    """On K + V outputs a random target is virtual half of the time; here it never is, and each
    target is reached."""
    model = net()
    deployed = for_torchattacks(model, K)
    x, y = images(deployed, 32)
    attack = strong(deployed)
    target = (y + 3) % K
    if mode == "by_function":
        attack.set_mode_targeted_by_function(lambda x, y: (y + 3) % K, quiet=True)
    else:
        getattr(attack, f"set_mode_targeted_{mode}")(quiet=True)
    labels = target if mode == "by_label" else y
    torch.manual_seed(5)
    aimed = attack.get_target_label(x, labels)
    torch.manual_seed(5)
    x_adv = attack(x, labels)
    with torch.no_grad():
        reached = deployed(x_adv).argmax(dim=1)
        if mode == "least_likely":
            target = deployed(x).argmin(dim=1)
        elif mode == "random":
            target = aimed
    assert torch.equal(aimed, target)
    assert aimed.max() < K
    assert (aimed != y).all()
    assert (reached == target).float().mean() > 0.9


def test_on_the_raw_model_targets_are_virtual() -> None:
    """Why the test above is not idle."""
    model = net().eval()
    x, y = images(model, 64)
    attack = strong(model)
    attack.set_mode_targeted_random(quiet=True)
    assert attack.get_target_label(x, y).max() >= K


def test_a_virtual_class_is_no_success() -> None:
    """On all K + V outputs, attacks that stop at a success stop at virtual classes: their images
    leave the deployed classifier right, and its robustness is overestimated."""
    result = rl.fit(
        {"name": "mlp", "hidden": [32]},
        "digits",
        {"name": "vs", "alpha": 0.5},
        "standard",
        epochs=10,
    )
    model = result.model
    deployed = for_torchattacks(model, result.scheme)
    data = rl.make_dataset("digits").test_split()
    x, y = data.x[::4], data.y[::4]

    def right(attacked: nn.Module, judge: nn.Module) -> float:
        attack = torchattacks.APGD(attacked, eps=0.1)
        with torch.no_grad():
            logits = judge(seeded(attack, x, y))
        return (logits.argmax(dim=1) == y).float().mean().item()

    assert right(model, deployed) > right(deployed, deployed) + 0.05
    assert right(model, model) <= right(deployed, deployed)


def test_a_run_folder(tmp_path: Path) -> None:
    """Users have a RUN, not its architecture."""
    result = rl.fit(
        {"name": "mlp", "hidden": [8]}, "digits", "vs", "standard", epochs=1, out=tmp_path / "run"
    )
    data = rl.make_dataset("digits").test_split()
    x, y = data.x[:8], data.y[:8]
    for path in (tmp_path / "run", str(tmp_path / "run")):
        deployed = for_torchattacks(path)
        assert torch.equal(deployed(x), result.model(x)[:, :10])
    last = for_torchattacks(tmp_path / "run", weights="last")
    assert last(x).shape == (8, 10)
    assert torchattacks.PGD(deployed)(x, y).shape == x.shape
    with pytest.raises(RunError):
        for_torchattacks(tmp_path)


def test_saved_images(tmp_path: Path) -> None:
    """Attack.save and Attack.load, floating and quantised, on the deployed classifier."""
    deployed = for_torchattacks(net(), K)
    x, y = images(deployed, 8)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    attack = torchattacks.FGSM(deployed, eps=0.1)
    for save_type, coarse in (("float", 1e-6), ("int", 1 / 255)):
        path = str(tmp_path / f"{save_type}.pt")
        accuracy, _, _ = attack.save(
            loader, path, verbose=False, return_verbose=True, save_type=save_type
        )
        (batch,) = torchattacks.FGSM.load(path)
        saved, labels = batch
        assert torch.equal(labels, y)
        assert (saved - attack(x, y)).abs().max() <= coarse
        if save_type == "float":
            assert accuracy == 100 * (deployed(saved).argmax(dim=1) == y).float().mean().item()


def test_there_is_no_train_mode() -> None:
    """LGV and set_model_training_mode would change what is deployed: refused, in one line that
    says what to use instead."""
    model = net()
    deployed = for_torchattacks(model, K)
    x, y = images(deployed)
    trained = torchattacks.PGD(deployed)
    trained.set_model_training_mode(True)
    lgv = torchattacks.LGV(deployed, [(x, y)], verbose=False)
    for use in (deployed.train, lambda: trained(x, y), lgv.collect_models):
        with pytest.raises(BadValueError, match=r"no train mode.*real_classes") as caught:
            use()
        assert "\n" not in str(caught.value)
    assert deployed.eval() is deployed
    assert model.training
    lgv = torchattacks.LGV(rl.real_classes(model, K), [(x, y)] * 4, epochs=1, verbose=False)
    lgv.collect_models()
    assert lgv.list_models[0](x).shape == (4, K)


def test_wrapping_twice() -> None:
    """Notebook cells are run twice; and our own evaluation must take it as it is."""
    model = net()
    once = for_torchattacks(model, K)
    x, y = images(once, 8)
    twice = for_torchattacks(once, K)
    assert torch.equal(twice(x), once(x))
    assert len(list(twice.modules())) == len(list(once.modules()))
    given = {
        m: rl.evaluate(m, (x, y), ["pgd"], eps=0.05, num_classes=K)["verdicts"]
        for m in (model, once)
    }
    assert given[model] == given[once]


def test_bad_arguments() -> None:
    """One line each."""
    with pytest.raises(BadValueError, match=r"must be an nn\.Module or a run's path"):
        for_torchattacks(7)  # type: ignore[arg-type]
    with pytest.raises(BadValueError, match="num_classes"):
        for_torchattacks(net(), 1)
    x, y = images(net())
    with pytest.raises(BadValueError, match="logits"):
        torchattacks.PGD(for_torchattacks(net(), K + V + 1))(x, y)


def test_it_imports_no_torchattacks() -> None:
    """The page of the integrations must open without the extra."""
    code = (
        "import robustlabels.integrations.torchattacks, sys; print('torchattacks' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


# The page.


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """benchmarks/torchattacks_table.py, which writes the page's tables."""
    path = Path(__file__).parents[2] / "benchmarks" / "torchattacks_table.py"
    spec = importlib.util.spec_from_file_location("torchattacks_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(
        spec
    )  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_page_runs(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code, as it stands there, and what it says of it."""
    monkeypatch.chdir(tmp_path)
    shown: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", script.PAGE.read_text(), re.DOTALL):
        exec(block, shown)
    model, x, x_adv = shown["model"], shown["x"], shown["x_adv"]
    assert model(x_adv).shape == (100, 10)
    assert (x_adv - x).abs().max() <= 0.1 + 1e-6
    clean = [torch.equal(shown["y"], m(x).argmax(dim=1)) for m in (model, shown["run"].model)]
    assert clean == [False, False]
    attacks = shown["found"]["attacks"]
    assert list(attacks) == [
        "torchattacks:multiattack",
        "torchattacks:pgd",
        "torchattacks:pgd-2",
        "torchattacks:CW",
    ]
    robust = {name: a["robust_accuracy"] for name, a in attacks.items()}
    assert robust["torchattacks:multiattack"] < robust["torchattacks:pgd"]
    assert attacks["torchattacks:pgd-2"]["params"]["transfer"]


def test_the_pages_table_is_whole(script: ModuleType) -> None:
    """Each attack that torchattacks exports, once, with every cell."""
    rows = script.parsed(script.PAGE.read_text(), "attacks")
    wrappers = {"LGV", "MultiAttack"}
    assert [r["attack"] for r in rows] == sorted(set(torchattacks.__all__) - wrappers)
    assert all(list(r) == script.COLUMNS for r in rows)
    assert all(r[c] for r in rows for c in script.STABLE)


def test_the_code_knows_what_the_table_says(script: ModuleType) -> None:
    """Soft labels are let through, and deaf targeted modes refused, by lists in the code: a table
    that was measured again and a list that was not would disagree."""
    rows = script.parsed(script.PAGE.read_text(), "attacks")

    def named(column: str, *cells: str) -> set[str]:
        return {r["attack"] for r in rows if r[column] in cells}

    assert named("soft labels", "yes", "ignores labels") == SOFT
    assert named("targeted", "no") == DEAF
    assert named("eps", "L2") == L2
    assert named("virtual classes", "yes") == set(NAMES)
    assert named("3 channels", "yes") == named("8x8", "yes") == set(NAMES)


def test_the_pages_count_of_virtual_classes(script: ModuleType) -> None:
    """The example must show what it is there for: the middle column overestimates the last one."""
    rows = script.parsed(script.PAGE.read_text(), "virtual")
    for row in rows:
        raw, between, real = map(float, list(row.values())[1:])
        assert raw < real <= between
    assert between > real + 0.2


def test_the_tables_are_found_and_replaced(script: ModuleType) -> None:
    """The script rewrites the page: text outside the markers must stay."""
    page = script.PAGE.read_text()
    head, _, tail = script.between(page, "attacks")
    rows = script.parsed(page, "attacks")
    again = head + script.table(script.COLUMNS, [list(r.values()) for r in rows]) + "\n" + tail
    assert script.parsed(again, "attacks") == rows
    assert script.parsed(again, "virtual") == script.parsed(page, "virtual")
