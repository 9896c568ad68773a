"""The networks, built from a config."""

from torch import nn

from senet.config import ModelConfig
from senet.models.resnet import ResNet
from senet.models.squeeze_excite import SqueezeExcite

BLOCKS = {"resnet18": (2, 2, 2, 2), "senet18": (2, 2, 2, 2)}


def build_model(config: ModelConfig, classes: int) -> nn.Module:
    """The network of `config` with `classes` logits; its weights come from torch's random state."""

    def squeeze_excite(channels: int) -> nn.Module:
        return SqueezeExcite(channels, config.expansion, config.reduction)

    attention = squeeze_excite if config.name == "senet18" else lambda channels: nn.Identity()
    return ResNet(classes, config.width, BLOCKS[config.name], attention)
