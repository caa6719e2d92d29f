"""The torchattacks family: every name runs or fails as documented, soft labels, eps and norms."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlabels import make_attack, real_classes
from robustlabels.attacks import ready_torchattacks
from robustlabels.attacks.from_torchattacks import NAMES, TorchAttack
from robustlabels.attacks.ready_torchattacks import L2, SOFT
from robustlabels.errors import BadValueError

torchattacks = pytest.importorskip("torchattacks")

K = 4  # not 10, torchattacks' default
# As few steps as each can do.
FEW: dict[str, dict[str, Any]] = {
    "APGD": {"steps": 3},
    "APGDT": {"steps": 3},
    "BIM": {"steps": 2},
    "CW": {"steps": 2},
    "DIFGSM": {"steps": 2},
    "DeepFool": {"steps": 2},
    "EADEN": {"max_iterations": 10, "binary_search_steps": 1},
    "EADL1": {"max_iterations": 10, "binary_search_steps": 1},
    "EOTPGD": {"steps": 2, "eot_iter": 1},
    "FAB": {"steps": 2},
    "JSMA": {"gamma": 0.02},
    "Jitter": {"steps": 2},
    "MIFGSM": {"steps": 2},
    "NIFGSM": {"steps": 2},
    "OnePixel": {"steps": 1, "popsize": 4},
    "PGD": {"steps": 2},
    "PGDL2": {"steps": 2},
    "PGDRS": {"steps": 2, "noise_batch_size": 1},
    "PGDRSL2": {"steps": 2, "noise_batch_size": 1},
    "Pixle": {"restarts": 1, "max_iterations": 2},
    "RFGSM": {"steps": 2},
    "SINIFGSM": {"steps": 2, "m": 1},
    "SPSA": {"nb_iter": 1, "nb_sample": 8},
    "SparseFool": {"steps": 1, "lam": 3},
    "Square": {"n_queries": 4},
    "TIFGSM": {"steps": 2},
    "TPGD": {"steps": 2},
    "UPGD": {"steps": 2},
    "VMIFGSM": {"steps": 2, "N": 1},
    "VNIFGSM": {"steps": 2, "N": 1},
}
COLOUR_ONLY = {"TIFGSM", "PIFGSM", "PIFGSMPP"}


def net(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 144, K)
    ).eval()


def images(n: int = 3, channels: int = 3) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, channels, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, net(channels)(x).argmax(dim=1)  # all right at first: all must be attacked


def made(name: str, eps: float = 8 / 255, **more: Any) -> TorchAttack:
    norm = "L2" if name in L2 else "Linf"
    params = {"norm": norm, **FEW.get(name, {}), **more}
    attack = make_attack(f"torchattacks:{name}", eps, **params)
    assert isinstance(attack, TorchAttack)
    return attack


def test_the_list_is_torchattacks_own() -> None:
    """A new version's attacks would be unreachable, a removed one listed."""
    assert sorted(NAMES) == sorted(set(torchattacks.__all__) - {"MultiAttack", "LGV"})
    assert len(NAMES) == 37


@pytest.mark.parametrize("name", NAMES)
def test_every_name_runs(name: str) -> None:
    """Thirty-seven names are promised; one that fails on its first batch is a broken promise. K
    is 4: attacks that assume 10 classes would index past the logits."""
    x, y = images()
    torch.manual_seed(0)
    adv = made(name)(net(), x, y)
    assert adv.shape == x.shape
    assert adv.isfinite().all()
    assert not adv.requires_grad
    assert adv.min() >= 0
    assert adv.max() <= 1
    if name in ("VANILA",):
        assert torch.equal(adv, x)
    elif name not in (
        "JSMA",
        "SparseFool",
        "OnePixel",
        "Pixle",
        "EADEN",
        "EADL1",
        "CW",
        "FAB",
        "Square",
    ):
        # those may give a sample back that they failed on
        assert not torch.equal(adv, x)


EPS_BALL = [n for n in NAMES if n not in L2 and TorchAttack(n, 0.1).eps is not None]


@pytest.mark.parametrize("name", EPS_BALL)
@pytest.mark.parametrize("eps", [2 / 255, 32 / 255])
def test_eps_reaches_the_attack(name: str, eps: float) -> None:
    """Its default radius of 8/255 instead of the user's would be a figure for another threat
    model; and so would a default step that overshoots or can't reach the edge."""
    if name == "AutoAttack":
        eps = min(8 * eps, 0.5)  # slow where it fails
    x, y = images()
    torch.manual_seed(0)
    moved = (made(name, eps)(net(), x, y) - x).abs().max().item()
    assert moved <= eps + 1e-5
    if name not in ("FAB", "SPSA", "VANILA", "Square"):
        # two steps of the scaled default: at least a third of the radius
        assert moved > eps / 3


@pytest.mark.parametrize("name", sorted(L2))
def test_l2_attacks_stay_in_the_l2_ball(name: str) -> None:
    """The same, in L2."""
    x, y = images()
    for eps in (0.1, 2.0):
        moved = (made(name, eps)(net(), x, y) - x).flatten(1).norm(dim=1)
        assert moved.max() <= eps + 1e-4
        assert moved.min() > eps / 10


@pytest.mark.parametrize("name", ["APGD", "APGDT", "FAB", "Square", "AutoAttack"])
def test_those_with_a_norm_get_the_runs(name: str) -> None:
    """Linf by default, L2 where asked for."""
    assert made(name).params["norm"] == "Linf"
    size = 8 if name in ("Square", "AutoAttack") else 12  # torchattacks' Square fails at 12
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, K))
    y = model(x).argmax(dim=1)
    attack = make_attack(f"torchattacks:{name}", 0.3, "L2", **FEW.get(name, {}))
    assert attack.params["norm"] == "L2"
    moved = (attack(model, x, y) - x).flatten(1).norm(dim=1)
    assert moved.max() <= 0.3 + 1e-3


def test_alpha_scales_with_eps() -> None:
    """2/255 at 8/255: a step of 2/255 at 128/255 never reaches the edge in ten steps."""
    assert made("PGD", 8 / 255).params["alpha"] == pytest.approx(2 / 255)
    assert made("PGD", 16 / 255).params["alpha"] == pytest.approx(4 / 255)
    assert made("PGDL2", 0.5).params["alpha"] == pytest.approx(0.1)
    assert made("FFGSM", 8 / 255).params["alpha"] == pytest.approx(10 / 255)
    assert made("PGD", 0.2, alpha=0.01).params["alpha"] == 0.01
    assert "alpha" not in made("FGSM").params
    assert made("PGD", "16/255").params["eps"] == 16 / 255


@pytest.mark.parametrize("name", sorted(set(NAMES) - COLOUR_ONLY))
def test_one_channel(name: str) -> None:
    """Digits and MNIST have one; all but three attacks must take them."""
    x, y = images(2, channels=1)
    torch.manual_seed(0)
    assert made(name, 0.3)(net(1), x, y).shape == x.shape


@pytest.mark.parametrize("size", [8, 12, 14, 18, 19, 24, 28, 32])
def test_square_with_l2_fails_on_some_sizes(size: int) -> None:
    """torchattacks' own limit; docs/torchattacks.md has the sizes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, K))
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    y = model(x).argmax(dim=1)
    attack = make_attack("torchattacks:Square", 0.01, "L2", n_queries=20)
    if size in (8, 28, 32):
        assert attack(model, x, y).shape == x.shape
    else:
        with pytest.raises(BadValueError, match="RuntimeError"):
            attack(model, x, y)


@pytest.mark.parametrize("name", sorted(COLOUR_ONLY))
def test_three_need_three_channels(name: str) -> None:
    """torchattacks' own limit (a fixed depthwise kernel): if this passes one day, say so in the
    docs."""
    x, y = images(2, channels=1)
    with pytest.raises((RuntimeError, ValueError)):
        made(name)(net(1), x, y)


# Soft labels.


@pytest.mark.parametrize("name", NAMES)
def test_which_take_soft_labels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A one-hot row must give what the class index gives, or the name is not in the table; and a
    name that could be in it but isn't would be refused for no reason."""
    x, y = images()
    attack = made(name)
    soft = F.one_hot(y, K).float()
    if name in SOFT:
        torch.manual_seed(0)
        hard = attack(net(), x, y)
        torch.manual_seed(0)
        torch.testing.assert_close(attack(net(), x, soft), hard, atol=1e-5, rtol=0)
        assert attack.takes_soft_labels
        return
    with pytest.raises(ValueError, match="class indices only") as caught:
        attack(net(), x, soft)
    assert "\n" not in str(caught.value)
    assert not attack.takes_soft_labels
    try:
        monkeypatch.setattr(ready_torchattacks, "SOFT", {*SOFT, name})
        torch.manual_seed(0)
        hard = attack(net(), x, y)
        torch.manual_seed(0)
        same = torch.allclose(attack(net(), x, soft), hard, atol=1e-5)
    except Exception:
        same = False
    if same:
        # It looks as if it worked: then a soft row must be ignored, which is why it is refused.
        torch.manual_seed(0)
        turned = attack(net(), x, F.one_hot((y + 1) % K, K).float())
        assert torch.allclose(turned, hard, atol=1e-5), f"{name} takes soft labels"


@pytest.mark.parametrize("name", sorted(SOFT - {"GN", "TPGD", "VANILA"}))
def test_soft_labels_are_really_used(name: str) -> None:
    """An attack that argmaxes them would pass the test above."""
    x, y = images()
    q = 0.5 * F.one_hot(y, K).float() + 0.5 * F.one_hot((y + 1) % K, K)
    q[:, :] += 0.02 * torch.arange(K) * (q > 0)
    q = q / q.sum(dim=1, keepdim=True)
    attack = made(name)
    torch.manual_seed(0)
    soft = attack(net(), x, q)
    torch.manual_seed(0)
    hard = attack(net(), x, q.argmax(dim=1))
    assert not torch.allclose(soft, hard, atol=1e-4)


def test_upgds_other_losses_take_none() -> None:
    """Its loss="margin" indexes by class."""
    assert made("UPGD").takes_soft_labels
    assert not made("UPGD", loss="margin").takes_soft_labels


@pytest.mark.parametrize("classes", [2, 4, 13])
def test_jsma_knows_the_number_of_classes(classes: int) -> None:
    """torchattacks aims at class (y + 1) % 10: an IndexError with fewer, and with more never the
    higher ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    with torch.no_grad():
        model[1].bias[-1] = 5.0
    x = torch.rand(2, 1, 4, 4)
    y = torch.tensor([classes - 1, classes - 1])
    adv = make_attack("torchattacks:JSMA", 0.1, gamma=1.0)(model, x, y)
    with torch.no_grad():
        before, after = model(x), model(adv)
    assert (after[:, 0] - after[:, -1] > before[:, 0] - before[:, -1]).all()


@pytest.mark.parametrize("name", ["APGD", "APGDT", "FAB", "Square"])
def test_seeded_attacks_leave_the_global_generator_alone(name: str) -> None:
    """They call torch.manual_seed(0): in training, every step's dropout would be the same."""
    (x, y), model = images(), net()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    made(name)(model, x, y)
    assert torch.equal(torch.rand(3), expected)


def test_autoattacks_seeds_come_from_the_global_generator() -> None:
    """torchattacks takes them from the clock: no figure could be repeated."""
    (x, y), model, found = images(), net(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(made("AutoAttack", 0.3)(model, x, y))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_unseeded_attacks_draw_from_the_global_generator() -> None:
    """Restored there too, every random start would be the same."""
    (x, y), model = images(), net()
    first, second = made("PGD")(model, x, y), made("PGD")(model, x, y)
    assert not torch.equal(first, second)


# Errors.


def test_unknown_names() -> None:
    """One line with the nearest match; the two wrappers take attacks, not models' names."""
    for name, hint in (("PDG", "PGD"), ("pgd", "PGD"), ("MultiAttack", "Attack"), ("LGV", "")):
        with pytest.raises(KeyError) as caught:
            make_attack(f"torchattacks:{name}", 0.1)
        message = str(caught.value)
        assert name in message
        assert hint in message
        assert "\n" not in message


def test_unknown_parameters() -> None:
    """A misspelled steps= would be ignored or end in torchattacks' traceback."""
    with pytest.raises(ValueError, match=r"no parameter 'step'.*'steps'"):
        make_attack("torchattacks:PGD", 0.1, step=3)
    for name in ("model", "self"):
        with pytest.raises((ValueError, TypeError)):
            make_attack("torchattacks:PGD", 0.1, **{name: 1})


@pytest.mark.parametrize(
    ("name", "norm"),
    [("PGD", "L2"), ("PGDL2", "Linf"), ("TPGD", "L2"), ("PGD", "L1"), ("PGDL2", "L1")],
)
def test_norm_mismatch(name: str, norm: str) -> None:
    """An Linf attack in an L2 or L1 run would leave the ball by a factor of the image's size."""
    with pytest.raises(ValueError, match=norm) as caught:
        make_attack(f"torchattacks:{name}", 0.1, norm)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("eps", [0, -1, 1.5, "8/0", "x"])
def test_bad_eps(eps: Any) -> None:
    """As everywhere."""
    with pytest.raises(ValueError, match="eps"):
        make_attack("torchattacks:PGD", eps)


@pytest.mark.parametrize(
    ("name", "params", "symptom"),
    [
        ("EADL1", {"max_iterations": 5}, "ZeroDivisionError"),
        ("APGD", {"norm": "L1"}, "AssertionError"),
        ("FAB", {"norm": "L1"}, "UnboundLocalError"),
    ],
)
def test_whatever_torchattacks_raises_is_one_line(
    name: str, params: dict[str, Any], symptom: str
) -> None:
    """It has no errors of its own: on the command line, any of these would be a traceback."""
    x, y = images()
    with pytest.raises(BadValueError, match=f"torchattacks:{name} failed.*{symptom}") as caught:
        made(name, **params)(net(), x, y)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_the_models_own_errors_stay() -> None:
    """They say already what is wrong; torchattacks had no part in it."""
    x, y = images()
    with pytest.raises(BadValueError, match=r"^the model must return logits"):
        made("PGD")(real_classes(net(), K + 1), x, y)


def test_an_empty_batch() -> None:
    """A filter may leave none."""
    x, y = images(3)
    assert made("APGD")(net(), x[:0], y[:0]).shape == (0, 3, 12, 12)


WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchattacks":
            raise ImportError("blocked")
sys.meta_path.insert(0, Blocked())
import robustlabels
assert "torchattacks" not in sys.modules
robustlabels.make_attack("pgd", 0.1)
print(len([n for n in robustlabels.list_attacks() if n.startswith("torchattacks:")]))
try:
    robustlabels.make_attack("torchattacks:PGD", 0.1)
except ImportError as error:
    print(error)
"""


def test_without_torchattacks() -> None:
    """It is optional: everything else works, and its names say what to install."""
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert int(lines[0]) >= 1
    assert "pip install 'robustlabels[torchattacks]'" in lines[1]
    assert len(lines) == 2
