"""The networks, built from a config."""

from torch import nn

from senet.config import ModelConfig
from senet.errors import InputError
from senet.models.custom import build_custom
from senet.models.inception import Inception
from senet.models.resnet import ResNet
from senet.models.squeeze_excite import Attention, squeeze_excite
from senet.models.vgg import VGG16


def build_model(config: ModelConfig, classes: int) -> nn.Module:
    """The network of `config`, which maps images (N, 3, H, W) to logits (N, classes).

    Its weights come from torch's random state. Raises InputError if the network is the user's own and cannot be built,
    or too narrow for its stem.
    """
    if config.is_custom:
        return build_custom(config, classes)
    if config.name == "vgg16":
        return VGG16(config, classes)
    attention: Attention = squeeze_excite(config) if "senet" in config.name else lambda channels: nn.Identity()
    if config.name.startswith("inception"):
        return Inception(config, classes, attention)
    layers = int(config.name.removeprefix("resnet").removeprefix("senet"))
    return ResNet(config, classes, layers, attention)


def head_of(model: nn.Module) -> nn.Module:
    """The layer that gives the logits: the attribute `head`, or else the last nn.Linear. Raises InputError."""
    head = getattr(model, "head", None)
    if isinstance(head, nn.Module):
        return head
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise InputError(
            f"`model.name`: the network must have a last layer, the attribute `head` or an nn.Linear,"
            f" but {type(model).__name__} has neither"
        )
    return linears[-1]
