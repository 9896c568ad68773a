"""The squeeze-and-excitation block with expansion (thesis §4.1, §5.1).

Shapes: N images, C channels of the block, e expansion, r reduction, C' channels that enter the excitation: e·C, or C
where the expanded ones are averaged.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from senet.config import ModelConfig
from senet.models.layers import convolution, normalised, pooled

Attention = Callable[[int], nn.Module]
"""Makes the block for so many channels; it keeps the shape (N, C, H, W)."""


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
    on the pooled vector, at 1/(H·W) of the cost and with the same result. With `nonlinearity` it does not commute:
    then z = mean of relu(BN(E · U)), on the whole feature map.

    The thesis leaves open what the expanded channels feed. The output keeps C channels; all e·C enter the excitation,
    or, with `average`, the C means of e consecutive ones (without `nonlinearity` that is one linear map from C to C).
    C / r is counted from the channels that enter.
    """

    def __init__(
        self,
        channels: int,
        expansion: int,
        reduction: float | str,
        *,
        average: bool = False,
        nonlinearity: bool = False,
    ) -> None:
        super().__init__()
        expanded = channels * expansion
        entering = channels if average else expanded
        hidden = reduced_channels(entering, reduction)
        self.group = expansion if average else 1
        self.expand_first = nonlinearity and expansion > 1
        self.expand: nn.Module = nn.Identity()
        if self.expand_first:
            self.expand = normalised(convolution(channels, expanded, (1, 1)), expanded)
        elif expansion > 1:
            self.expand = nn.Linear(channels, expanded)
        self.reduce = nn.Linear(entering, hidden)
        self.restore = nn.Linear(hidden, channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        squeezed = pooled(self.expand(features)) if self.expand_first else self.expand(pooled(features))
        if self.group > 1:
            squeezed = squeezed.unflatten(1, (-1, self.group)).mean(dim=2)
        gate = torch.sigmoid(self.restore(torch.relu(self.reduce(squeezed))))
        return features * gate[:, :, None, None]


def squeeze_excite(config: ModelConfig) -> Attention:
    """Makes the squeeze-and-excitation block of `config` for a number of channels."""
    return lambda channels: SqueezeExcite(
        channels,
        config.expansion,
        config.reduction,
        average=config.expanded == "average",
        nonlinearity=config.expansion_nonlinearity,
    )
