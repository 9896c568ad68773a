"""Inception-ResNet and Inception-SENet, the thesis' narrow ones and the full-size ones (Szegedy et al. 2016).

Shapes: N images of 3×H×W; K classes. A stem, then three groups of modules, the second and the third at half the
resolution of the one before, global average pooling, linear head:

| network | stem gives | Inception-A | Inception-B | Inception-C | features |
|---|---|---|---|---|---|
| of width w | w channels | 2 modules, w | 2 modules, 3w | 2 modules, 6w | 6w |
| full-size | 384 channels | 4 modules, 384 | 7 modules, 1152 | 3 modules, 2144 | 2144, averaged to 512 |

Inception-SENet, which the thesis proposes without having tried it, ends every module in squeeze-and-excitation with
`expansion: 2` and `reduction: 32`. Here both are settings like any other, and their defaults are no others than
elsewhere.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from senet.config import ModelConfig
from senet.errors import InputError
from senet.models.layers import Head, Kernel, averages, convolution, filter3x3, initialise, normalised, pooled
from senet.models.resnet import TwoLayerBlock
from senet.models.squeeze_excite import Attention, squeeze_excite

Branch = tuple[tuple[Kernel, int], ...]
"""A chain of convolutions: kernel and channels of each."""


@dataclass(frozen=True)
class Design:
    """An Inception module at the size that it has in Inception-ResNet-v2."""

    channels: int
    branches: tuple[Branch, ...]


MODULE_A = Design(
    384,
    (
        (((1, 1), 32),),
        (((1, 1), 32), ((3, 3), 32)),
        (((1, 1), 32), ((3, 3), 48), ((3, 3), 64)),
    ),
)
MODULE_B = Design(1152, ((((1, 1), 192),), (((1, 1), 128), ((1, 7), 160), ((7, 1), 192))))
MODULE_C = Design(2144, ((((1, 1), 192),), (((1, 1), 192), ((1, 3), 224), ((3, 1), 256))))

NARROW_MODULES = (2, 2, 2)
FULL_MODULES = (4, 7, 3)
FULL_FEATURES = 512
SMALLEST_TRADITIONAL_WIDTH = 3


def scaled(channels: int, ratio: float) -> int:
    """So many channels of a network that is `ratio` times as wide."""
    return max(1, round(channels * ratio))


def chain(config: ModelConfig, channels_in: int, branch: Branch, *, in_stem: bool = False) -> nn.Sequential:
    """Convolutions one after the other, each with BN and ReLU: (N, channels_in, H, W) → (N, last channels, H, W)."""
    layers = []
    for kernel, channels in branch:
        layer: nn.Module = convolution(channels_in, channels, kernel)
        if kernel == (3, 3):
            layer = filter3x3(config, channels_in, channels, in_stem=in_stem)
        layers.append(normalised(layer, channels))
        channels_in = channels
    return nn.Sequential(*layers)


class InceptionModule(nn.Module):
    """Branches of convolutions side by side, 1×1 projection, BN, attention; added to the input, then ReLU.

    The branches' widths are those of Inception-ResNet-v2, scaled with the module's channels, since the thesis does not
    give them. It does not mention a factor on the residual either: there is none, but batch-norm after the projection.
    """

    def __init__(self, config: ModelConfig, design: Design, channels: int, attention: Attention) -> None:
        super().__init__()
        ratio = channels / design.channels
        branches = [tuple((kernel, scaled(full, ratio)) for kernel, full in branch) for branch in design.branches]
        self.branches = nn.ModuleList(chain(config, channels, branch) for branch in branches)
        self.projection = convolution(sum(branch[-1][1] for branch in branches), channels, (1, 1))
        self.bn = nn.BatchNorm2d(channels)
        self.attention = attention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        together = torch.cat([branch(x) for branch in self.branches], dim=1)
        return torch.relu(x + self.attention(self.bn(self.projection(together))))


class TraditionalStem(nn.Module):
    """The stem of Inception-v4 and Inception-ResNet-v2 (Szegedy et al. 2016, figure 3), scaled to `channels` channels.

    Three times two branches are concatenated. Unlike there, all convolutions are padded, so that small images survive.
    The last convolution has the channels that are left to `channels`, which must be 3 at least.

    (N, 3, H, W) → (N, channels, H/8, W/8).
    """

    def __init__(self, config: ModelConfig, channels: int) -> None:
        super().__init__()
        ratio = channels / 384
        c32, c64, c96 = (scaled(full, ratio) for full in (32, 64, 96))

        def filtered(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
            return normalised(filter3x3(config, channels_in, channels_out, stride, in_stem=True), channels_out)

        self.begin = nn.Sequential(
            filtered(3, c32, 2),
            filtered(c32, c32, 1),
            filtered(c32, c64, 1),
        )
        self.pool1 = nn.MaxPool2d(3, 2, 1)
        self.conv1 = filtered(c64, c96, 2)
        self.short = chain(config, c64 + c96, (((1, 1), c64), ((3, 3), c96)), in_stem=True)
        self.long = chain(config, c64 + c96, (((1, 1), c64), ((7, 1), c64), ((1, 7), c64), ((3, 3), c96)), in_stem=True)
        self.conv2 = filtered(2 * c96, channels - 2 * c96, 2)
        self.pool2 = nn.MaxPool2d(3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, channels, H/8, W/8)."""
        x = self.begin(images)
        x = torch.cat([self.pool1(x), self.conv1(x)], dim=1)
        x = torch.cat([self.short(x), self.long(x)], dim=1)
        return torch.cat([self.conv2(x), self.pool2(x)], dim=1)


def squeeze_excite_stem(config: ModelConfig, channels: int) -> nn.Sequential:
    """7×7/2 conv to 64, BN, ReLU, max-pool, a two-layer SE block: (N, 3, H, W) → (N, channels, H/4, W/4).

    The thesis does not mention the batch-norm, without which nothing else here stands after a convolution, and does not
    say which block: the one of its 18-layer network.
    """
    return nn.Sequential(
        OrderedDict(
            first=normalised(convolution(3, 64, (7, 7), (2, 2)), 64),
            pool=nn.MaxPool2d(3, 2, 1),
            block=TwoLayerBlock(config, 64, channels, 1, squeeze_excite(config), in_stem=True),
        )
    )


class Inception(nn.Module):
    """A stem, groups of modules A, B and C with a scaling layer between them, global average pooling, linear head.

    A scaling layer is a 3×3 convolution of stride 2 with BN and ReLU, which the thesis leaves open. In the full-size
    networks the thesis pools the features to 512 before the head: we read this as adaptive average pooling over the
    channels, which are 2144.

    Args:
        config: `stem` says which stem; `width` is not used by the full-size networks.
        classes: K.
        attention: what stands at the end of every module's residual.
    """

    def __init__(self, config: ModelConfig, classes: int, attention: Attention) -> None:
        super().__init__()
        full = config.name.endswith("_full")
        a, b, c = (384, 1152, 2144) if full else (config.width, 3 * config.width, 6 * config.width)
        counts = FULL_MODULES if full else NARROW_MODULES
        if config.stem == "traditional" and a < SMALLEST_TRADITIONAL_WIDTH:
            raise InputError(
                f"`model.width`: must be {SMALLEST_TRADITIONAL_WIDTH} at least with the traditional stem, but got {a}"
            )

        def group(design: Design, channels: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(InceptionModule(config, design, channels, attention) for _ in range(count)))

        self.stem = TraditionalStem(config, a) if config.stem == "traditional" else squeeze_excite_stem(config, a)
        self.group_a = group(MODULE_A, a, counts[0])
        self.scaling_ab = normalised(filter3x3(config, a, b, 2), b)
        self.group_b = group(MODULE_B, b, counts[1])
        self.scaling_bc = normalised(filter3x3(config, b, c, 2), c)
        self.group_c = group(MODULE_C, c, counts[2])
        self.features = FULL_FEATURES if full else c
        self.dropout = nn.Dropout(config.dropout)
        self.head = Head(self.features, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) → logits (N, K)."""
        x = self.group_a(self.stem(images))
        x = self.group_b(self.scaling_ab(x))
        x = self.group_c(self.scaling_bc(x))
        features = pooled(x)
        if features.shape[1] != self.features:
            features = averages(features, self.features)
        logits: Tensor = self.head(self.dropout(features))
        return logits
