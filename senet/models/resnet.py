"""ResNet-18 and SENet-18 (thesis §4.2).

Shapes: N images of 3×H×W; four stages of w, 2w, 4w, 8w channels, the last three at half the resolution of the one
before; C classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Attention = Callable[[int], nn.Module]


class Subsample(nn.Module):
    """Every `stride`-th pixel: with a 1×1 convolution after it, a 1×1 convolution of that stride.

    The strided convolution itself corrupts memory on some CPUs (torch 2.15, channels last, odd batches, two threads).
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H/stride, W/stride)."""
        return x[:, :, :: self.stride, :: self.stride]


class TwoLayerBlock(nn.Module):
    """3×3 conv, BN, ReLU, 3×3 conv, BN, attention; added to the shortcut, then ReLU."""

    def __init__(self, channels_in: int, channels: int, stride: int, attention: Attention) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.attention = attention(channels)
        # A projection stands only where the dimensions change.
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                Subsample(stride), nn.Conv2d(channels_in, channels, 1, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) → (N, channels, H/stride, W/stride)."""
        residual = torch.relu(self.bn1(self.conv1(x)))
        residual = self.attention(self.bn2(self.conv2(residual)))
        return torch.relu(residual + self.shortcut(x))


class ResNet(nn.Module):
    """7×7/2 conv, max-pool, four stages of two-layer blocks, global average pooling, linear head.

    The head gives logits; the thesis' sigmoid is part of the losses and of `predict`. Max-pool and global average
    pooling are not in the thesis' text, but in the ResNets that it builds on.
    """

    def __init__(self, classes: int, width: int, blocks: tuple[int, ...], attention: Attention) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        stages = []
        channels_in = width
        for stage, count in enumerate(blocks):
            channels = width * 2**stage
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(TwoLayerBlock(channels_in, channels, stride, attention))
                channels_in = channels
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels_in, classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) → logits (N, C)."""
        features = self.stages(self.stem(images))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits
