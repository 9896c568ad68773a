"""The squeeze-and-excitation block with expansion (thesis §4.1, §5.1).

Shapes: N images, C channels of the block, e expansion, r reduction, C' = e·C channels that enter the excitation.
"""

import math

import torch
from torch import Tensor, nn


def reduced_channels(channels: int, reduction: float | str) -> int:
    """Hidden units of an excitation that `channels` enter: max(1, round(C / r)).

    Args:
        channels: C, the channels that enter the excitation.
        reduction: r itself, `sqrt` for r = √C, or `c/log c` for r = C / log2 C. The thesis does not give the
            logarithm's base; 2 is our choice.
    """
    if reduction == "sqrt":
        return max(1, round(math.sqrt(channels)))
    if reduction == "c/log c":
        return max(1, round(math.log2(channels)))
    return max(1, round(channels / float(reduction)))


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate that is computed from all of them.

    z = mean of U over H×W; with expansion, z ← E·z + b of length e·C; s = sigmoid(W2 · relu(W1 · z)); output s · U.

    The expansion is a 1×1 convolution without a nonlinearity. It commutes with the mean over H×W, so it is computed
    on the pooled vector, at 1/(H·W) of the cost and with the same result. The thesis leaves open what the expanded
    channels feed; here all e·C enter the excitation, and the output keeps C channels.
    """

    def __init__(self, channels: int, expansion: int, reduction: float | str) -> None:
        super().__init__()
        squeezed = channels * expansion
        hidden = reduced_channels(squeezed, reduction)
        self.expand = nn.Linear(channels, squeezed) if expansion > 1 else nn.Identity()
        self.reduce = nn.Linear(squeezed, hidden)
        self.restore = nn.Linear(hidden, channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        pooled = self.expand(features.mean(dim=(2, 3)))
        gate = torch.sigmoid(self.restore(torch.relu(self.reduce(pooled))))
        return features * gate[:, :, None, None]
