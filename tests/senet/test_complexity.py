"""Parameters, FLOPs and activations, against hand-made and published numbers."""

import time

import pytest
import torch
from torch import nn

from senet.complexity import Complexity, complexity
from senet.config import ModelConfig
from senet.errors import InputError

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow


def tiny_network(config: ModelConfig, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )


def test_counted_by_hand() -> None:
    config = ModelConfig(name="tests.senet.test_complexity:tiny_network")
    # The convolution turns 3×8×8 into 4×4×4, each from 27 numbers; a product and its addition are two operations.
    assert complexity(config, 5, 8) == Complexity(
        parameters=(4 * 27 + 4) + (4 + 4) + (4 * 5 + 5), flops=2 * (64 * 27 + 4 * 5), activations=64 + 5
    )
    # Without batch-norm's shortcut the numbers are those of the network as it runs.
    images = torch.empty(1, 3, 8, 8)
    assert tiny_network(config, 5).eval()(images).shape == (1, 5)


@pytest.mark.parametrize(
    ("name", "parameters", "macs", "activations"),
    [
        # Parameters and multiply-adds: torchvision's table of models; activations: the model zoo of Radosavovic et al.
        ("resnet18", 11_689_512, 1.814e9, None),
        ("resnet50", 25_557_032, 4.089e9, 11.1e6),
        ("resnet152", 60_192_808, 11.514e9, 22.6e6),
        ("vgg16", 138_365_992, 15.470e9, None),
    ],
)
def test_published_numbers(name: str, parameters: int, macs: float, activations: float | None) -> None:
    counted = complexity(ModelConfig(name=name), 1000, 224)
    assert counted.parameters == parameters
    assert counted.flops == pytest.approx(2 * macs, rel=1e-3)
    if activations is not None:
        assert counted.activations == pytest.approx(activations, rel=5e-3)


def test_the_deepest_network_is_counted_quickly() -> None:
    complexity(ModelConfig(width=1), 7, 32)  # Imports what torch needs for it.

    def seconds() -> float:
        start = time.process_time()
        complexity(ModelConfig(name="senet152"), 7, 300)
        return time.process_time() - start

    # Four tenths of a second where nothing else runs.
    assert min(seconds() for _ in range(3)) < 1


@pytest.mark.parametrize(("expansion", "percent"), [(2, 11), (4, 23)])
def test_an_expansion_on_the_pooled_vector_costs_next_to_nothing(expansion: int, percent: int) -> None:
    plain, pooled, literal = (
        complexity(ModelConfig(**options), 120, 300).flops
        for options in ({}, {"expansion": expansion}, {"expansion": expansion, "expansion_nonlinearity": True})
    )
    # Of the eight blocks two have 64 channels at 75×75 pixels, and so on.
    stages = [(64, 75), (128, 38), (256, 19), (512, 10)]
    saved = sum(2 * 2 * c * expansion * c * (side**2 - 1) for c, side in stages)
    assert literal - pooled == saved
    assert pooled / plain < 1.002
    assert round(100 * literal / plain - 100) == percent


def test_images_that_are_too_small_are_told() -> None:
    with pytest.raises(InputError, match="vgg16 needs images of at least 32"):
        complexity(ModelConfig(name="vgg16"), 5, 24)
