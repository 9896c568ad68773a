"""The networks against torchvision's."""

from typing import Any

import pytest
import torch
from torch import nn

from senet.config import ModelConfig
from senet.models import build_model


@pytest.mark.parametrize(
    "theirs",
    [
        *[pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "resnet50", "resnet152")],
        *[pytest.param(name, marks=pytest.mark.soak) for name in ("resnet34", "resnet101", "vgg16_bn")],
    ],
)
def test_the_network_is_torchvisions(theirs: str) -> None:
    from torchvision import models

    torch.manual_seed(0)
    make: Any = getattr(models, theirs)
    reference: nn.Module = make(weights=None)
    # Statistics as after training: those of a fresh network let the activations grow from block to block.
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        reference(torch.randn(4, 3, 64, 64))
    reference.double().eval()

    ours = build_model(ModelConfig(name=theirs.removesuffix("_bn")), 1000).double().eval()
    # Both define their layers in the order in which they run, but for the projection, which ours has last as well.
    state = dict(zip(ours.state_dict(), reference.state_dict().values(), strict=True))
    ours.load_state_dict(state)
    images = torch.randn(2, 3, 97, 130, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), reference(images), rtol=1e-9, atol=1e-9)
