"""Every registered model: shapes, sizes that the field expects, checkpoint names, bad values."""

import inspect
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from robustlabels.errors import BadValueError
from robustlabels.models import Normalize, register_models
from robustlabels.models._checks import check_dropout
from robustlabels.models.preact_resnet import PreActResNet18
from robustlabels.models.resnext import ResNeXt29
from robustlabels.models.wide_resnet import WideResNet

FACTORIES = {}
register_models(register=FACTORIES.__setitem__)

NAMES = [
    "linear",
    "mlp",
    "lenet",
    "small-cnn",
    "resnet18",
    "resnet50",
    "preactresnet18",
    "wrn-28-10",
    "wrn-34-10",
    "wrn-34-20",
    "wrn-50-2",
    "resnext29",
    "resnext50",
    "vgg16",
    "mobilenet-v2",
    "vit-tiny",
    "t2t-vit-14",
    "t2t-vit-24",
]
TWINS = ("wrn-34-10", "wrn-34-20")  # of another depth or width than wrn-28-10


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def on_meta(name, shape=(3, 32, 32), num_classes=10, **params):
    if name == "vit-tiny":  # timm 1.0.9, which robustbench pins, reads values as it builds
        return FACTORIES[name](num_classes=num_classes, input_shape=shape, **params).to("meta")
    with torch.device("meta"):
        return FACTORIES[name](num_classes=num_classes, input_shape=shape, **params)


def test_the_names_of_the_design_are_registered():
    """A forgotten name would only be missed by the user who asks for it."""
    assert list(FACTORIES) == [*NAMES, "robustbench:"]


@pytest.mark.parametrize("name", NAMES)
def test_factories_have_explicit_parameters(name):
    """**kwargs would switch off the check that refuses a misspelt --set model.dropuot=.5."""
    kinds = {p.kind for p in inspect.signature(FACTORIES[name]).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert {"num_classes", "input_shape", "mean", "std"} <= set(
        inspect.signature(FACTORIES[name]).parameters
    )


@pytest.mark.parametrize(
    ("name", "shape"),
    [(n, (3, 32, 32)) for n in NAMES]
    + [(n, (1, 28, 28)) for n in NAMES if n not in ("vgg16", *TWINS)]
    + [
        (n, (1, 8, 8))
        for n in NAMES
        if n not in ("vgg16", "lenet", "t2t-vit-14", "t2t-vit-24", *TWINS)
    ]
    + [("resnet18", (1, 96, 96)), ("mobilenet-v2", (2, 96, 80)), ("vit-tiny", (3, 96, 80))]
    + [("vgg16", (1, 64, 48)), ("wrn-28-10", (3, 64, 64)), ("preactresnet18", (3, 64, 64))],
)
def test_logits_have_one_column_per_class(name, shape):
    """A head or stem fitted to 32x32 RGB only would fail on the other data sets."""
    model = on_meta(name, shape, num_classes=7).eval()
    assert model(torch.empty(2, *shape, device="meta")).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("mlp", (1, 28, 28), 784 * 500 + 500 + 500 * 256 + 256 + 256 * 10 + 10),
        ("lenet", (1, 28, 28), 61_706),  # LeNet-5 with full connections from 6 to 16 maps
        ("resnet18", (3, 32, 32), 11_173_962),
        # kuangliu's 11,171,146 and the 1,024 of the final BN
        ("preactresnet18", (3, 32, 32), 11_172_170),
        ("wrn-28-10", (3, 32, 32), 36_479_194),
        ("wrn-34-10", (3, 32, 32), 46_160_474),
        ("wrn-34-20", (3, 32, 32), 184_531_674),
        # kuangliu's 9,128,778 and a stem of 3x3 instead of 1x1
        ("resnext29", (3, 32, 32), 9_128_778 + 64 * 3 * 8),
        ("vgg16", (3, 32, 32), 14_728_266),
    ],
)
def test_number_of_weights(name, shape, expected):
    """A wrong width or a missing layer would make results incomparable with the field's."""
    assert count(on_meta(name, shape)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet50", 25_557_032), ("resnext50", 25_028_904), ("wrn-50-2", 68_883_240)],
)
def test_number_of_weights_on_imagenet(name, expected):
    """As torchvision's documentation has them, with ImageNet's stem and 1,000 classes."""
    assert count(on_meta(name, (3, 224, 224), num_classes=1000)) == expected


def test_kuangliu_variant_has_no_final_bn():
    """Checkpoints of the original would not load with it."""
    model = on_meta("preactresnet18", final_bn=False)
    assert count(model) == 11_171_146
    assert not any(k.startswith("bn.") for k in model.state_dict())


def test_preactresnet18_has_the_names_of_published_checkpoints():
    """Rice's, AWP's and RobustBench's weights are loaded by these names."""
    state = on_meta("preactresnet18").state_dict()
    block = {
        **{f"bn{i}.{k}": (64,) for i in (1, 2) for k in ("weight", "bias")},
        **{f"conv{i}.weight": (64, 64, 3, 3) for i in (1, 2)},
    }
    for key, shape in block.items():
        assert state[f"layer1.0.{key}"].shape == shape
    assert "layer1.0.shortcut.0.weight" not in state
    for stage, planes in ((2, 128), (3, 256), (4, 512)):
        shape = (planes, planes // 2, 1, 1)
        assert state[f"layer{stage}.0.shortcut.0.weight"].shape == shape
        assert f"layer{stage}.1.shortcut.0.weight" not in state
    assert state["conv1.weight"].shape == (64, 3, 3, 3)
    assert state["bn.running_var"].shape == (512,)
    assert state["linear.weight"].shape == (10, 512)
    # conv1, 8 blocks of 2 convs and 2 BNs of 5 entries, 3 shortcuts, bn, linear
    assert len(state) == 1 + 8 * 12 + 3 + 5 + 2


def test_wrn_has_the_names_of_published_checkpoints():
    """TRADES's and RobustBench's weights are loaded by these names."""
    state = on_meta("wrn-28-10").state_dict()
    assert state["conv1.weight"].shape == (16, 3, 3, 3)
    for block, before, planes in ((1, 16, 160), (2, 160, 320), (3, 320, 640)):
        first = f"block{block}.layer.0"
        assert state[f"{first}.bn1.weight"].shape == (before,)
        assert state[f"{first}.conv1.weight"].shape == (planes, before, 3, 3)
        assert state[f"{first}.conv2.weight"].shape == (planes, planes, 3, 3)
        assert state[f"{first}.convShortcut.weight"].shape == (planes, before, 1, 1)
        assert f"block{block}.layer.1.convShortcut.weight" not in state
        assert f"block{block}.layer.3.bn2.running_mean" in state
        assert f"block{block}.layer.4.bn1.weight" not in state
    assert state["bn1.weight"].shape == (640,)
    assert state["fc.weight"].shape == (10, 640)
    assert len(state) == 1 + 12 * 12 + 3 + 5 + 2


def test_preact_shortcut_sees_the_activated_input():
    """The two published variants share their weights' names: only the outputs tell them apart."""
    torch.manual_seed(0)
    raw = FACTORIES["preactresnet18"](num_classes=3, input_shape=(1, 8, 8)).eval()
    active = FACTORIES["preactresnet18"](
        num_classes=3, input_shape=(1, 8, 8), preact_shortcut=True
    ).eval()
    active.load_state_dict(raw.state_dict())
    x = torch.rand(1, 1, 8, 8)
    assert not torch.allclose(raw(x), active(x))
    block, twin = raw.layer2[0], active.layer2[0]
    x = torch.rand(1, 64, 4, 4) - 0.5
    with torch.no_grad():
        block.conv2.weight.zero_(), twin.conv2.weight.zero_()
    # with its residual branch cut, a block is its shortcut
    assert torch.equal(block(x), block.shortcut(x))
    assert torch.equal(twin(x), twin.shortcut(torch.relu(twin.bn1(x))))


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize(
    "build",
    [partial(WideResNet, 10, 1, 2, 1), partial(PreActResNet18, 2, 1), partial(ResNeXt29, 2, 1)],
)
def test_in_place_operations_spare_the_input_and_the_gradient(build, activation):
    """An in-place activation on the image would corrupt the batch that the attack started from."""
    model = build(activation=activation)
    x = torch.randn(2, 1, 4, 4)
    before = x.clone()
    model(x).sum().backward()
    assert torch.equal(x, before)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", ["preactresnet18", "wrn-28-10", "resnext29"])
def test_silu(name):
    """One ReLU that is left would be another network; checkpoints must not tell them apart."""
    model, twin = on_meta(name, activation="silu"), on_meta(name)
    kinds = [type(m) for m in model.modules() if isinstance(m, nn.ReLU | nn.SiLU)]
    assert kinds == [nn.SiLU] * len(kinds) != []
    assert list(model.state_dict()) == list(twin.state_dict())
    with pytest.raises(BadValueError, match="activation must be 'relu' or 'silu', not 'gelu'"):
        on_meta(name, activation="gelu")


def test_activations_are_where_they_belong():
    """With f(x) = x for activation, the network is linear: none hides in a functional call."""
    for model in (WideResNet(10, 1, 2, 1), PreActResNet18(2, 1), ResNeXt29(2, 1)):
        for module in model.modules():
            if hasattr(module, "activation"):
                module.activation = nn.Identity()
        a, b = torch.rand(2, 1, 1, 8, 8)
        model.double().eval()
        middle = model((a + b).double() / 2)
        assert torch.allclose(middle, (model(a.double()) + model(b.double())) / 2)


def test_small_images_get_the_cifar_stem():
    """The ImageNet stem would leave 1x1 features of a 32x32 image."""
    small, large = on_meta("resnet18"), on_meta("resnet18", (3, 96, 96))
    assert small.conv1.kernel_size == (3, 3)
    assert small.conv1.stride == (1, 1)
    assert isinstance(small.maxpool, nn.Identity)
    assert large.conv1.kernel_size == (7, 7)
    x = torch.empty(1, 3, 32, 32, device="meta")
    assert on_meta("mobilenet-v2").features(x).shape == (1, 1280, 4, 4)


def test_vit_patches():
    """A patch of 16 would leave one token of an 8x8 digit."""
    tokens = {
        side: on_meta("vit-tiny", (1, side, side)).patch_embed.num_patches
        for side in (8, 28, 32, 64, 224)
    }
    assert tokens == {8: 16, 28: 49, 32: 64, 64: 256, 224: 196}
    assert on_meta("vit-tiny", (1, 8, 8), patch_size=4).patch_embed.num_patches == 4


def test_small_cnn_is_small():
    """It is the demo's model: it must stay fast on a CPU."""
    model = FACTORIES["small-cnn"](num_classes=10, input_shape=(3, 32, 32))
    assert count(model) < 200_000
    assert count(on_meta("small-cnn", width=8)) < count(model) / 10


def test_small_cnn_learns_the_digits():
    """A net that can't fit the embedded digits would make the demo and most tests pointless."""
    from robustlabels.data.embedded import digits

    data = digits()
    torch.manual_seed(0)
    model = FACTORIES["small-cnn"](num_classes=10, input_shape=(1, 8, 8), width=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    cpu = torch.device("cpu")
    for _ in range(6):
        batches = torch.randperm(len(data.train)).split(64)
        for x, y in data.train.batches(batches, cpu):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    model.eval()
    ((x, y),) = data.test.batches([torch.arange(len(data.test))], cpu)
    assert (model(x).argmax(1) == y).float().mean() > 0.95


@pytest.mark.parametrize("name", [n for n in NAMES if n != "linear" and "t2t" not in n])
def test_dropout_acts_in_training_only(name):
    """ALPS trains with dropout .5: an ignored parameter would pass for one that was honoured."""
    shape = (1, 32, 32) if name == "vgg16" else (1, 12, 12)
    if name.startswith("wrn") or name.endswith("50"):  # large: looked at, not run
        model = on_meta(name, shape, dropout=0.5)
        assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.5}
        return
    torch.manual_seed(0)
    model = FACTORIES[name](num_classes=3, input_shape=shape, dropout=0.5)
    model.eval()
    with torch.no_grad():
        for module in model.modules():  # timm starts its head at zero
            if isinstance(module, nn.Linear):
                module.weight.normal_()
        x = torch.rand(2, *shape)
        assert torch.equal(model(x), model(x))
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("name", NAMES)
def test_normalisation_is_the_first_layer(name):
    """Normalised data instead would make eps and the range [0, 1] wrong in every attack."""
    shape = (3, 32, 32)
    model = on_meta(name, shape, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    assert isinstance(model.normalize, Normalize)
    assert next(iter(model.state_dict())) == "normalize.mean"
    assert model(torch.empty(2, *shape, device="meta")).shape == (2, 10)


def test_normalize_is_what_it_says():
    """(x - mean) / std per channel, saved with the weights."""
    model = FACTORIES["linear"](
        num_classes=2, input_shape=(2, 1, 1), mean=(0.5, 0.25), std=(0.5, 0.25)
    )
    x = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    assert torch.equal(model.normalize(x).flatten(), torch.tensor([1.0, -1.0]))
    plain = nn.Sequential(model.normalize, nn.Flatten(), model.model.fc)
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"mean": (0.5,)}, "both"),
        ({"mean": (0.5,), "std": (0.2,)}, "3 numbers"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.2,)}, "one number per channel"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.0, 0.2)}, "above 0"),
        ({"mean": (0.5, 0.5, float("nan")), "std": (0.2, 0.2, 0.2)}, "finite"),
        ({"mean": "abc", "std": (0.2, 0.2, 0.2)}, "mean"),
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 2.0}, "num_classes"),
        ({"input_shape": (3, 32)}, "input_shape"),
        ({"input_shape": (3, 0, 32)}, "input_shape"),
        ({"input_shape": 3072}, "input_shape"),
    ],
)
@pytest.mark.parametrize("name", ["linear", "resnet18"])
def test_bad_values_are_named(name, params, word):
    """A broadcast mean or a wrong shape would otherwise fail in a forward, or not at all."""
    given = {"num_classes": 10, "input_shape": (3, 32, 32), **params}
    with pytest.raises(BadValueError, match=word) as info:
        FACTORIES[name](**given)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("name", "params", "word"),
    [
        ("mlp", {"hidden": (500, 0)}, "hidden"),
        ("mlp", {"hidden": 500}, "hidden"),
        ("mlp", {"dropout": 1.0}, "dropout"),
        ("lenet", {"input_shape": (1, 8, 8)}, "12x12"),
        ("small-cnn", {"input_shape": (1, 2, 2)}, "4x4"),
        ("small-cnn", {"width": 0}, "width"),
        ("vgg16", {"input_shape": (1, 28, 28)}, "32x32"),
        ("resnet18", {"dropout": -0.1}, "dropout"),
        ("vit-tiny", {"input_shape": (1, 30, 30)}, "patch_size"),
        ("vit-tiny", {"patch_size": 0}, "patch_size"),
    ],
)
def test_bad_parameters_are_named(name, params, word):
    """One line for the user instead of a traceback from torch."""
    with pytest.raises(BadValueError, match=word):
        FACTORIES[name](**{"num_classes": 10, "input_shape": (3, 32, 32), **params})


def test_dropout_must_be_a_number():
    """True is an int to Python: dropout=True would silently be 1."""
    for value in (True, "0.5", float("nan")):
        with pytest.raises(BadValueError):
            check_dropout(value)


def test_slow_libraries_are_optional(tmp_path):
    """Without the vision extra, the user must learn the pip command, not a ModuleNotFoundError.

    And `robustlabels list models` must not take seconds because importing the packages loads them.
    """
    staged = tmp_path / "MNIST" / "raw"
    staged.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (staged / f"{name}-ubyte").touch()
    code = (
        "import sys\n"
        "from robustlabels.models import MODELS\n"
        "from robustlabels.data import DATASETS\n"
        "print([m for m in ('torchvision', 'timm', 'sklearn', 'PIL') if m in sys.modules])\n"
        "sys.modules['torchvision'] = sys.modules['timm'] = None\n"
        "for name in ('resnet18', 'vit-tiny'):\n"
        "    try: MODELS[name](num_classes=2, input_shape=(3, 32, 32))\n"
        "    except ImportError as error: print(type(error).__name__, error)\n"
        f"try: DATASETS['mnist'](root={str(tmp_path)!r})\n"
        "except ImportError as error: print(type(error).__name__, error)\n"
        "MODELS['small-cnn'](num_classes=2, input_shape=(3, 32, 32))\n"
        "DATASETS['digits']()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, *lines = done.stdout.splitlines()
    assert loaded == "[]"
    assert [line.split()[0] for line in lines] == ["MissingExtraError"] * 3
    assert all("pip install 'robustlabels[vision]'" in line for line in lines)
