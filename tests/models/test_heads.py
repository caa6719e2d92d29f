"""Virtual classes in the last layer, and the classifier without them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from robustlabels.errors import BadValueError
from robustlabels.labels import VirtualSmoothing
from robustlabels.models import MODELS, RealClasses, adapt_model, real_classes

VS = VirtualSmoothing(num_classes=3, virtual_classes=4)


def net(out: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, out))


def test_old_rows_stay_bit_for_bit():
    """Adapting a pretrained model must not change what it says of the real classes."""
    model = net()
    weight, bias = model[3].weight.clone(), model[3].bias.clone()
    x = torch.rand(2, 1, 2, 2)
    before = model(x)
    assert adapt_model(model, VS) is model
    assert model[3].out_features == 7
    assert torch.equal(model[3].weight[:3], weight)
    assert torch.equal(model[3].bias[:3], bias)
    assert model(x).shape == (2, 7)
    assert torch.allclose(model(x)[:, :3], before, atol=1e-6)
    assert model[1].out_features == 5


def test_new_rows_are_drawn_as_torch_draws_them():
    """Zero rows would give every virtual class the same gradient for ever."""
    bound = 1 / 5**0.5
    rows = adapt_model(net(), VS)[3].weight[3:]
    assert rows.abs().max() <= bound
    assert rows.std() > 0.1 * bound
    torch.manual_seed(1)
    first = adapt_model(net(), VS)[3].weight
    torch.manual_seed(1)
    assert torch.equal(adapt_model(net(), VS)[3].weight, first)


def test_dtype_device_mode_and_freezing_stay():
    """A frozen float64 layer in eval mode must not come back trainable, float32, training."""
    model = net().double().eval()
    model[3].weight.requires_grad_(False)
    adapt_model(model, VS)
    assert model[3].weight.dtype == torch.float64
    assert not model[3].weight.requires_grad
    assert model[3].bias.requires_grad
    assert not model[3].training
    meta = adapt_model(net().to("meta"), VS)
    assert meta[3].weight.device.type == "meta"


def test_layer_without_bias():
    """Some heads have none, and must not get one."""
    model = nn.Sequential(nn.Linear(5, 3, bias=False))
    assert adapt_model(model, VS)[0].bias is None
    assert model[0].weight.shape == (7, 5)


def test_the_model_itself_may_be_the_layer():
    """There is no parent to change: a new module is returned and the old one left alone."""
    layer = nn.Linear(5, 3)
    wide = adapt_model(layer, VS)
    assert wide is not layer
    assert (layer.out_features, wide.out_features) == (3, 7)
    assert layer.weight.shape == (3, 5)
    assert torch.equal(wide.weight[:3], layer.weight)


def test_already_wide_is_left_alone():
    """A resumed run adapts again: new rows would throw the trained ones away."""
    model = adapt_model(net(), VS)
    weight = model[3].weight
    assert adapt_model(model, VS)[3].weight is weight
    plain = net()
    weight = plain[3].weight
    adapt_model(plain, SimpleNamespace(num_classes=3, num_outputs=3))
    assert plain[3].weight is weight


def test_named_layer_and_shared_hooks():
    """A model whose head isn't its last Linear; hooks on the layer must survive."""
    model = nn.ModuleDict({"head": nn.Linear(5, 3), "projection": nn.Linear(5, 2)})
    seen = []
    model["head"].register_forward_hook(lambda *args: seen.append(1))
    with pytest.raises(BadValueError, match=r"'projection' has 2 outputs, not 3 .*head"):
        adapt_model(model, VS)
    adapt_model(model, VS, layer="head")
    assert model["head"](torch.rand(1, 5)).shape == (1, 7)
    assert seen == [1]


@pytest.mark.parametrize("layer", [None, "0"])
def test_1x1_convolution_is_found(layer):
    """Fully convolutional classifiers (NiN, SqueezeNet) end in one."""
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    weight = model[0].weight.clone()
    with pytest.raises(BadValueError, match=r"no Linear layer.*Conv2d"):
        adapt_model(nn.Sequential(nn.Conv2d(2, 3, 3)), VS)
    adapt_model(model, VS, layer=layer)
    assert model(torch.rand(2, 2, 4, 4)).shape == (2, 7)
    assert torch.equal(model[0].weight[:3], weight)


@pytest.mark.parametrize(
    ("model", "layer", "word"),
    [
        (net(5), None, "'3' has 5 outputs, not 3"),
        (net(), "4", "'4' is not in the model; its last Linear layers: 1, 3"),
        (net(), "2", "Linear or a 1x1 Conv2d, not ReLU"),
        (nn.Sequential(nn.Conv2d(2, 3, 3)), "0", "1x1"),
        (nn.Sequential(nn.Conv2d(3, 3, 1, groups=3)), "0", "one group"),
        (nn.Sequential(nn.LazyLinear(3)), None, "one batch"),
        (
            nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3))),
            None,
            "parametrized",
        ),
    ],
)
def test_what_cannot_be_widened_is_refused(model, layer, word):
    """Widening the wrong layer, or half of a parametrized one, would break the model silently."""
    with pytest.raises(BadValueError, match=word) as info:
        adapt_model(model, VS, layer)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_ours_can_be_widened(name):
    """`vs` must work with every registered architecture, also behind a Normalize layer."""
    # timm 1.0.9, which robustbench pins, reads values as it builds a ViT: not on meta
    with torch.device("cpu" if name == "vit-tiny" else "meta"):
        model = MODELS[name](
            num_classes=3, input_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.2,) * 3
        )
    model.to("meta")
    adapt_model(model, VS).eval()
    x = torch.empty(2, 3, 32, 32, device="meta")
    assert model(x).shape == (2, 7)
    assert real_classes(model, VS)(x).shape == (2, 3)


def test_real_classes_are_the_first_k():
    """RobustBench and ART would count a virtual class as a prediction."""
    model = adapt_model(net(), VS)
    deployed = real_classes(model, VS)
    x = torch.rand(2, 1, 2, 2)
    assert torch.equal(deployed(x), model(x)[:, :3])
    assert deployed.num_classes == 3
    assert deployed.model is model
    assert torch.equal(real_classes(model, 3)(x), deployed(x))


def test_real_classes_twice_is_once():
    """evaluate() wraps what a user may have wrapped already."""
    deployed = real_classes(net(7), 3)
    assert real_classes(deployed, VS) is deployed
    assert isinstance(real_classes(deployed, 2), RealClasses)


def test_real_classes_keep_the_mode():
    """A wrapper that says `training` around a model in eval mode would mislead who restores it."""
    assert not real_classes(net().eval(), 3).training
    assert real_classes(net().train(), 3).training


@pytest.mark.parametrize("bad", [1, 0, True, 2.5, None])
def test_bad_number_of_classes(bad):
    """True is an int to Python: [:, :True] would be one class."""
    with pytest.raises(BadValueError, match="num_classes"):
        real_classes(net(), bad)


def test_too_few_columns_is_one_line():
    """Slicing past the end is silent in torch: attacks would judge fewer classes than K."""
    with pytest.raises(BadValueError, match=r"\(N, 4 or more\), not \(2, 3\)"):
        real_classes(net(), 4)(torch.rand(2, 1, 2, 2))


def test_torchvisions_squeezenet_is_widened():
    """Its head is a 1x1 convolution, and the user should not have to know its name."""
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.squeezenet1_1(num_classes=3).eval()
    adapt_model(model, VS)
    assert model.classifier[1].out_channels == 7
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 7)


def test_numpys_integer_counts_classes():
    """y.max() + 1 of a numpy array is an np.int64."""
    assert real_classes(net(), np.int64(3)).num_classes == 3
    assert (
        adapt_model(net(), VirtualSmoothing(np.int64(3), virtual_classes=np.int64(4)))[
            3
        ].out_features
        == 7
    )
