"""VGG-16 with batch-norm (Simonyan and Zisserman 2015, configuration D; the thesis' table 1).

Shapes: N images of 3×H×W, at least 32 pixels a side; five groups of w, 2w, 4w, 8w, 8w channels, each followed by a
max-pool to half the resolution; K classes.
"""

import torch
from torch import Tensor, nn

from senet.config import ModelConfig
from senet.errors import InputError
from senet.models.layers import Head, averages, filter3x3, initialise

GROUPS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Of each group: its channels in widths, and its convolutions."""

SMALLEST_SIDE = 32
POOLED_SIDE = 7


class VGG16(nn.Module):
    """Thirteen 3×3 convolutions with BN and ReLU, pooling to 7×7, two hidden layers with ReLU and dropout, linear head.

    The thesis does not say whether its VGG-16 has batch-norm: ours is torchvision's `vgg16_bn`, since the plain one
    does not train at the thesis' learning rate of 0.1. The hidden layers have 64 · w units (4096 at w = 64). The first
    convolution counts as the stem, which has no dimension reduction. As in torchvision the convolutions have biases,
    which batch-norm takes away again.
    """

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels_in = 3
        for widths, count in GROUPS:
            channels = widths * config.width
            for _ in range(count):
                convolved = filter3x3(config, channels_in, channels, bias=True, in_stem=not layers)
                layers += [convolved, nn.BatchNorm2d(channels), nn.ReLU()]
                channels_in = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        hidden = 64 * config.width
        self.hidden = nn.Sequential(
            nn.Linear(channels_in * POOLED_SIDE**2, hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
        )
        self.head = Head(hidden, classes)
        # The deviation is torchvision's.
        initialise(self, linear_deviation=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) → logits (N, K). Raises InputError if the images are too small."""
        height, width = images.shape[2:]
        if height < SMALLEST_SIDE or width < SMALLEST_SIDE:
            raise InputError(
                f"`model.name`: vgg16 needs images of at least {SMALLEST_SIDE}×{SMALLEST_SIDE} pixels,"
                f" but got {height}×{width}"
            )
        features = averages(self.features(images), POOLED_SIDE)
        features = averages(features.mT, POOLED_SIDE).mT
        logits: Tensor = self.head(self.hidden(torch.flatten(features, 1)))
        return logits
