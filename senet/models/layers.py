"""What several networks are made of: convolutions, pooling, and their first weights.

Shapes: N images, C channels, H×W pixels.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from senet.config import ModelConfig

Kernel = tuple[int, int]


def convolution(
    channels_in: int, channels: int, kernel: Kernel, stride: Kernel = (1, 1), bias: bool = False
) -> nn.Conv2d:
    """A convolution of odd kernel that is padded with zeros, so that only its stride changes the size.

    (N, channels_in, H, W) → (N, channels, ⌈H / stride⌉, ⌈W / stride⌉).
    """
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Conv2d(channels_in, channels, kernel, stride, padding, bias=bias)


def normalised(layer: nn.Module, channels: int) -> nn.Sequential:
    """`layer`, which gives `channels` channels, batch-norm, ReLU."""
    return nn.Sequential(OrderedDict(conv=layer, bn=nn.BatchNorm2d(channels), relu=nn.ReLU()))


def filter3x3(
    config: ModelConfig, channels_in: int, channels: int, stride: int = 1, *, bias: bool = False, in_stem: bool = False
) -> nn.Module:
    """A 3×3 convolution with what `config` asks for against overfitting.

    - `factorised`: 3×1, then 1×3, with nothing between them; the first has the stride of the rows, the second that of
      the columns. The thesis leaves the channels between them open: as many as come out.
    - `dimension_reduction` k, not `in_stem`: before it a 1×1 convolution to max(1, ⌊channels_in / k⌋) channels,
      batch-norm, ReLU. The thesis leaves open which filters it stands before; here all but a stem's.

    (N, channels_in, H, W) → (N, channels, ⌈H / stride⌉, ⌈W / stride⌉).
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if config.dimension_reduction > 1 and not in_stem:
        fewer = max(1, channels_in // config.dimension_reduction)
        parts["reduced"] = normalised(convolution(channels_in, fewer, (1, 1)), fewer)
        channels_in = fewer
    if config.factorised:
        parts["rows"] = convolution(channels_in, channels, (3, 1), (stride, 1))
        parts["columns"] = convolution(channels, channels, (1, 3), (1, stride), bias)
    else:
        parts["conv"] = convolution(channels_in, channels, (3, 3), (stride, stride), bias)
    # The plain filter stands alone, so that its weights have the name that they have without the options.
    return parts["conv"] if len(parts) == 1 else nn.Sequential(parts)


def pooled(features: Tensor) -> Tensor:
    """Global average pooling: (N, C, H, W) → (N, C)."""
    return features.mean(dim=(2, 3))


def averages(features: Tensor, bins: int) -> Tensor:
    """Adaptive average pooling of the last dimension: (…, L) → (…, bins).

    Bin i is the mean from ⌊i·L / bins⌋ up to ⌈(i + 1)·L / bins⌉, as in torch's own, whose gradient on a GPU is not the
    same from run to run; a product with a matrix is.
    """
    length = features.shape[-1]
    position = torch.arange(length, device=features.device)
    index = torch.arange(bins, device=features.device)[:, None]
    inside = (position >= index * length // bins) & (position * bins < (index + 1) * length)
    weights = inside.to(features.dtype) / inside.sum(dim=1, keepdim=True)
    return features @ weights.T


class Head(nn.Linear):
    """The linear layer that gives the logits, in its weights' precision whatever that of the layers before it.

    bf16 has eight bits: logits of a few units would be rounded to hundredths, and ranked by chance.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(B, features) → logits (B, classes)."""
        if features.is_meta:  # Where nothing is computed there is no autocast either.
            return super().forward(features)
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.to(self.weight.dtype))


def initialise(network: nn.Module, linear_deviation: float | None = None) -> None:
    """He's initialisation of all convolutions, for the ReLU after them; no bias at first.

    Linear layers get normal weights of `linear_deviation` and no bias; not given, they stay as torch makes them. On
    the meta device, where there is nothing to set, this does nothing: torch would load its compiler, for seconds.
    """
    for module in network.modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)) or module.weight.is_meta:
            continue
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif linear_deviation is not None:
            nn.init.normal_(module.weight, 0, linear_deviation)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
