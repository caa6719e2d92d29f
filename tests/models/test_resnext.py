"""ResNeXt-29: sizes, the checkpoint names of RobustBench, bad values."""

import importlib

import pytest
import torch
from torch import nn

from robustlabels._compat.robustbench_package import robustbench
from robustlabels.errors import BadValueError, MissingExtraError
from robustlabels.models.resnext import ResNeXt29, resnext29


def on_meta(**params):
    with torch.device("meta"):
        return resnext29(10, (3, 32, 32), **params)


@pytest.mark.parametrize(
    ("cardinality", "base_width", "millions"), [(8, 64, 34.4), (16, 64, 68.1), (4, 32, 6.8)]
)
def test_resnext29_of_other_sizes(cardinality, base_width, millions):
    """Xie 2017 (table 7) and AugMix's: widths that don't double would pass at one size only."""
    model = on_meta(cardinality=cardinality, base_width=base_width)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    assert {m.groups for m in model.modules() if isinstance(m, nn.Conv2d)} == {1, cardinality}


def test_resnext29_is_robustbenchs():
    """AugMix's checkpoint of the zoo must give the same logits in ours."""
    try:
        robustbench()
    except MissingExtraError as error:
        pytest.skip(str(error))
    theirs = importlib.import_module("robustbench.model_zoo.architectures.resnext")
    torch.manual_seed(0)
    model = theirs.CifarResNeXt(theirs.ResNeXtBottleneck, 29, 4, 32, 10).eval()
    ours = ResNeXt29(10, cardinality=4, base_width=32).eval()
    ours.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ours(x), model(x), atol=1e-5)


def test_stages_halve_the_image():
    """A stride in the wrong block, or in none, changes the features' size and the cost."""
    model, x = on_meta(), torch.empty(1, 3, 32, 32, device="meta")
    shapes = []
    for stage in (model.stage_1, model.stage_2, model.stage_3):
        stage.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape)))
    model(x)
    assert shapes == [(1, 256, 32, 32), (1, 512, 16, 16), (1, 1024, 8, 8)]


@pytest.mark.parametrize("name", ["cardinality", "base_width"])
@pytest.mark.parametrize("value", [0, 2.0, True])
def test_bad_sizes_are_named(name, value):
    """One line for the user instead of a traceback from torch."""
    with pytest.raises(BadValueError, match=f"{name} must be an integer of at least 1"):
        on_meta(**{name: value})
