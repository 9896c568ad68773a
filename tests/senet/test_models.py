"""The networks against formulas and an independent implementation."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from senet.config import ModelConfig
from senet.models import build_model
from senet.models.resnet import ResNet
from senet.models.squeeze_excite import SqueezeExcite, reduced_channels


@pytest.mark.parametrize(
    ("channels", "reduction", "hidden"),
    [(64, 16, 4), (64, 8, 8), (24, 32, 1), (8, 16, 1), (40, 16, 2), (512, "sqrt", 23), (512, "c/log c", 9), (1, 32, 1)],
)
def test_reduced_channels(channels: int, reduction: float | str, hidden: int) -> None:
    assert reduced_channels(channels, reduction) == hidden


@pytest.mark.parametrize("expansion", [1, 2, 4])
def test_squeeze_excite_is_the_formula(expansion: int) -> None:
    torch.manual_seed(0)
    block = SqueezeExcite(12, expansion, 4).double()
    features = torch.randn(3, 12, 5, 7, dtype=torch.float64)
    u = features.numpy()
    z = u.mean(axis=(2, 3))
    weights = {name: value.detach().numpy() for name, value in block.named_parameters()}
    if expansion > 1:
        z = z @ weights["expand.weight"].T + weights["expand.bias"]
    hidden = np.maximum(z @ weights["reduce.weight"].T + weights["reduce.bias"], 0)
    s = 1 / (1 + np.exp(-(hidden @ weights["restore.weight"].T + weights["restore.bias"])))
    np.testing.assert_allclose(block(features).detach().numpy(), u * s[:, :, None, None], rtol=1e-12)
    assert weights["reduce.weight"].shape == (max(1, round(12 * expansion / 4)), 12 * expansion)


def test_expansion_on_the_pooled_vector_is_the_literal_convolution() -> None:
    torch.manual_seed(0)
    block = SqueezeExcite(6, 4, 2).double()
    assert isinstance(block.expand, nn.Linear)
    convolution = nn.Conv2d(6, 24, 1).double()
    with torch.no_grad():
        convolution.weight.copy_(block.expand.weight[:, :, None, None])
        convolution.bias.copy_(block.expand.bias)  # type: ignore[union-attr]
    features = torch.randn(2, 6, 5, 5, dtype=torch.float64)

    pooled = convolution(features).mean(dim=(2, 3))
    gate = torch.sigmoid(block.restore(torch.relu(block.reduce(pooled))))
    literal = features * gate[:, :, None, None]
    torch.testing.assert_close(block(features), literal, rtol=1e-12, atol=1e-12)

    (gradient,) = torch.autograd.grad(literal.square().sum(), convolution.weight)
    (ours,) = torch.autograd.grad(block(features).square().sum(), block.expand.weight)
    torch.testing.assert_close(ours, gradient[:, :, 0, 0], rtol=1e-10, atol=1e-12)


def parameters(config: ModelConfig, classes: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(config, classes).parameters())


def test_parameter_counts() -> None:
    # ResNet-18 with 1000 classes is published with 11,689,512 parameters.
    assert parameters(ModelConfig(name="resnet18"), 1000) == 11_689_512
    # Each of the two blocks of a stage adds W1, W2 and their biases: 2·C·(C/r) + C/r + C.
    excitation = sum(2 * (2 * c * (c // 16) + c // 16 + c) for c in (64, 128, 256, 512))
    assert parameters(ModelConfig(name="senet18"), 1000) == 11_689_512 + excitation
    # With expansion 2 the excitation has 2C inputs, and the expansion itself 2·C·C + 2·C.
    expanded = sum(2 * (2 * c * c + 2 * c + 3 * c * (2 * c // 16) + 2 * c // 16 + c) for c in (64, 128, 256, 512))
    assert parameters(ModelConfig(name="senet18", expansion=2), 1000) == 11_689_512 + expanded


@pytest.mark.slow
def test_resnet18_is_torchvisions() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs = resnet18(weights=None).eval()
    ours = build_model(ModelConfig(name="resnet18"), 1000).eval()
    # Both define their layers in the order in which they run, but for the projection, which ours has last as well.
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state)
    images = torch.randn(2, 3, 97, 130)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "senet18"])
@pytest.mark.parametrize("expansion", [1, 4])
def test_every_parameter_learns(name: str, expansion: int) -> None:
    torch.manual_seed(0)
    # A single hidden unit may be dead from the start; eight are not.
    config = ModelConfig.model_validate({"name": name, "width": 16, "expansion": expansion, "reduction": 2})
    model = build_model(config, 5)
    model(torch.randn(4, 3, 37, 45)).square().sum().backward()
    assert isinstance(model, ResNet)
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


def test_single_image_and_channels_last_give_the_same() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(width=8), 5).eval()
    images = torch.randn(3, 3, 33, 47)
    whole = model(images)
    torch.testing.assert_close(torch.cat([model(image[None]) for image in images]), whole, rtol=1e-4, atol=1e-5)
    last = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    torch.testing.assert_close(last, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_odd_batches_on_two_threads_do_no_harm() -> None:
    # Strided 1×1 convolutions corrupted the heap here; a crash shows only in a process of its own.
    code = """
import torch
from senet.config import ModelConfig
from senet.models import build_model
torch.set_num_threads(2)
for batch in (3, 5, 7):
    model = build_model(ModelConfig(width=8), 7).to(memory_format=torch.channels_last)
    for _ in range(20):
        images = torch.randn(batch, 3, 24, 24).to(memory_format=torch.channels_last)
        model(images).square().sum().backward()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
