"""ResNets and SENets of 18, 34, 50, 101 and 152 layers (thesis §4.2; He et al. 2016, table 1; Hu et al. 2018).

Shapes: N images of 3×H×W; four stages of w, 2w, 4w, 8w channels, four times as many in three-layer blocks, the last
three at half the resolution of the one before; K classes.
"""

import torch
from torch import Tensor, nn

from senet.config import ModelConfig
from senet.models.layers import Head, convolution, filter3x3, initialise, pooled
from senet.models.squeeze_excite import Attention


def projection(channels_in: int, channels: int, stride: int) -> nn.Module:
    """The shortcut, (N, channels_in, H, W) → (N, channels, H/stride, W/stride): 1×1 where the dimensions change."""
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    # Every `stride`-th pixel. A strided 1×1 convolution corrupts memory on some CPUs (torch 2.15, channels last, odd
    # batches, two threads); a slice's gradient is not channels last.
    chosen = nn.AvgPool2d(1, stride) if stride > 1 else nn.Identity()
    return nn.Sequential(chosen, convolution(channels_in, channels, (1, 1)), nn.BatchNorm2d(channels))


class TwoLayerBlock(nn.Module):
    """3×3 conv, BN, ReLU, 3×3 conv, BN, attention; added to the shortcut, then ReLU."""

    widening = 1

    def __init__(
        self,
        config: ModelConfig,
        channels_in: int,
        channels: int,
        stride: int,
        attention: Attention,
        *,
        in_stem: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = filter3x3(config, channels_in, channels, stride, in_stem=in_stem)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = filter3x3(config, channels, channels, in_stem=in_stem)
        self.bn2 = nn.BatchNorm2d(channels)
        self.attention = attention(channels)
        self.shortcut = projection(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) → (N, channels, H/stride, W/stride)."""
        residual = torch.relu(self.bn1(self.conv1(x)))
        residual = self.attention(self.bn2(self.conv2(residual)))
        return torch.relu(residual + self.shortcut(x))


class ThreeLayerBlock(nn.Module):
    """1×1 conv, BN, ReLU, 3×3 conv, BN, ReLU, 1×1 conv, BN, attention; added to the shortcut, then ReLU.

    With p channels in the first two convolutions and 4p after the third, which the attention works on. The thesis does
    not say which of them has the stride: the 3×3 one, as in torchvision.
    """

    widening = 4

    def __init__(self, config: ModelConfig, channels_in: int, channels: int, stride: int, attention: Attention) -> None:
        super().__init__()
        wide = channels * self.widening
        self.conv1 = convolution(channels_in, channels, (1, 1))
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = filter3x3(config, channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = convolution(channels, wide, (1, 1))
        self.bn3 = nn.BatchNorm2d(wide)
        self.attention = attention(wide)
        self.shortcut = projection(channels_in, wide, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) → (N, 4 · channels, H/stride, W/stride)."""
        residual = torch.relu(self.bn1(self.conv1(x)))
        residual = torch.relu(self.bn2(self.conv2(residual)))
        residual = self.attention(self.bn3(self.conv3(residual)))
        return torch.relu(residual + self.shortcut(x))


Layout = tuple[type[TwoLayerBlock] | type[ThreeLayerBlock], tuple[int, int, int, int]]

LAYOUTS: dict[int, Layout] = {
    18: (TwoLayerBlock, (2, 2, 2, 2)),
    34: (TwoLayerBlock, (3, 4, 6, 3)),
    50: (ThreeLayerBlock, (3, 4, 6, 3)),
    101: (ThreeLayerBlock, (3, 4, 23, 3)),
    152: (ThreeLayerBlock, (3, 8, 36, 3)),
}
"""Layers: the kind of block, and how many of them each stage has."""


class ResNet(nn.Module):
    """7×7/2 conv, BN, ReLU, max-pool, four stages of residual blocks, global average pooling, dropout, linear head.

    The head gives logits; the thesis' sigmoid is part of the losses and of `predict`. Max-pool, global average pooling
    and the ReLU after the addition are not in the thesis' text, but in the ResNets that it builds on. Its §8.1.1 speaks
    of three groups of layers and a "7×7 SE" first convolution, its §4.2 of four groups: this is §4.2.
    """

    def __init__(self, config: ModelConfig, classes: int, layers: int, attention: Attention) -> None:
        super().__init__()
        block, counts = LAYOUTS[layers]
        width = config.width
        self.stem = nn.Sequential(
            convolution(3, width, (7, 7), (2, 2)), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        stages: list[nn.Module] = []
        channels_in = width
        for stage, count in enumerate(counts):
            channels = width * 2**stage
            for position in range(count):
                stride = 2 if stage > 0 and position == 0 else 1
                stages.append(block(config, channels_in, channels, stride, attention))
                channels_in = channels * block.widening
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(config.dropout)
        self.head = Head(channels_in, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) → logits (N, K)."""
        features = self.stages(self.stem(images))
        logits: Tensor = self.head(self.dropout(pooled(features)))
        return logits
