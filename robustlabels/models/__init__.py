"""Architectures by name, and what a label scheme asks of a model's last layer.

A model factory is called as ``factory(num_classes=K, input_shape=(C, H, W), mean=None, std=None,
**its own parameters)`` and returns an ``nn.Module`` from images (N, C, H, W) in [0, 1] to logits
(N, K). Importing this package loads neither torchvision nor timm.
"""

from __future__ import annotations

from robustlabels.hookspecs import Register, hookimpl
from robustlabels.models.convnets import lenet, small_cnn
from robustlabels.models.heads import RealClasses, adapt_model, real_classes
from robustlabels.models.mlp import linear, mlp
from robustlabels.models.normalize import Normalize
from robustlabels.models.preact_resnet import preactresnet18
from robustlabels.models.resnext import resnext29
from robustlabels.models.t2t_vit import t2t_vit_14, t2t_vit_24
from robustlabels.models.torchvision_models import (
    mobilenet_v2,
    resnet18,
    resnet50,
    resnext50,
    vgg16,
    wrn_50_2,
)
from robustlabels.models.vit import vit_tiny
from robustlabels.models.wide_resnet import wrn_28_10, wrn_34_10, wrn_34_20
from robustlabels.models.zoo import ZOO, zoo_model

__all__ = ["Normalize", "RealClasses", "adapt_model", "real_classes"]

MODELS = {
    "linear": linear,
    "mlp": mlp,
    "lenet": lenet,
    "small-cnn": small_cnn,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "preactresnet18": preactresnet18,
    "wrn-28-10": wrn_28_10,
    "wrn-34-10": wrn_34_10,
    "wrn-34-20": wrn_34_20,
    "wrn-50-2": wrn_50_2,
    "resnext29": resnext29,
    "resnext50": resnext50,
    "vgg16": vgg16,
    "mobilenet-v2": mobilenet_v2,
    "vit-tiny": vit_tiny,
    "t2t-vit-14": t2t_vit_14,
    "t2t-vit-24": t2t_vit_24,
}


@hookimpl
def register_models(register: Register) -> None:
    """The design's section 5, what else the papers train, and RobustBench's zoo."""
    for name, factory in MODELS.items():
        register(name, factory)
    register(ZOO, zoo_model)
