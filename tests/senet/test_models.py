"""The networks' parts against formulas, their layouts against the papers, their sizes against goldens."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from senet.config import MODELS, ModelConfig
from senet.errors import InputError
from senet.models import build_model, head_of
from senet.models.inception import Inception, InceptionModule
from senet.models.layers import averages
from senet.models.squeeze_excite import SqueezeExcite, reduced_channels

GOLDEN = Path(__file__).parent.parent / "goldens" / "parameters.json"


def on_meta(classes: int = 1000, **values: Any) -> nn.Module:
    """A network without values."""
    with torch.device("meta"):
        return build_model(ModelConfig.model_validate(values), classes)


def parameters(classes: int = 1000, **values: Any) -> int:
    return sum(p.numel() for p in on_meta(classes, **values).parameters())


@pytest.mark.parametrize(
    ("channels", "reduction", "hidden"),
    [(64, 16, 4), (64, 8, 8), (24, 32, 1), (8, 16, 1), (40, 16, 2), (512, "sqrt", 23), (512, "c/log c", 9), (1, 32, 1)],
)
def test_reduced_channels(channels: int, reduction: float | str, hidden: int) -> None:
    assert reduced_channels(channels, reduction) == hidden


@pytest.mark.parametrize(
    ("expansion", "average", "nonlinearity"), list(itertools.product([1, 2, 4], [False, True], [False, True]))
)
def test_squeeze_excite_is_the_formula(expansion: int, average: bool, nonlinearity: bool) -> None:
    torch.manual_seed(0)
    block = SqueezeExcite(12, expansion, 4, average=average, nonlinearity=nonlinearity).double().eval()
    for name, value in block.state_dict().items():
        if "running" in name or "bn" in name:
            value.copy_(torch.rand(value.shape) + 0.5)
    features = torch.randn(3, 12, 5, 7, dtype=torch.float64)

    u = features.numpy()
    weights = {name: value.numpy() for name, value in block.state_dict().items()}
    if expansion > 1 and nonlinearity:
        kernel = weights["expand.conv.weight"][:, :, 0, 0]
        mean, variance = weights["expand.bn.running_mean"], weights["expand.bn.running_var"]
        gain, shift = weights["expand.bn.weight"], weights["expand.bn.bias"]
        v = (np.einsum("ec,nchw->nhwe", kernel, u) - mean) / np.sqrt(variance + 1e-5)
        z = np.maximum(v * gain + shift, 0).mean(axis=(1, 2))
    elif expansion > 1:
        z = u.mean(axis=(2, 3)) @ weights["expand.weight"].T + weights["expand.bias"]
    else:
        z = u.mean(axis=(2, 3))
    if average:
        z = np.stack([z[:, expansion * c : expansion * (c + 1)].mean(axis=1) for c in range(12)], axis=1)
    hidden = np.maximum(z @ weights["reduce.weight"].T + weights["reduce.bias"], 0)
    s = 1 / (1 + np.exp(-(hidden @ weights["restore.weight"].T + weights["restore.bias"])))

    np.testing.assert_allclose(block(features).detach().numpy(), u * s[:, :, None, None], rtol=1e-12)
    entering = 12 if average else 12 * expansion
    assert weights["reduce.weight"].shape == (max(1, round(entering / 4)), entering)


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


@pytest.mark.parametrize(("length", "bins"), [(2144, 512), (7, 7), (1, 7), (5, 7), (14, 7), (12, 5)])
def test_averages_are_torchs_adaptive_pooling(length: int, bins: int) -> None:
    features = torch.randn(3, 2, length, dtype=torch.float64)
    torch.testing.assert_close(averages(features, bins), nn.functional.adaptive_avg_pool1d(features, bins))


def two_layer_parameters(blocks: tuple[int, ...], excitations: bool) -> int:
    """Of a ResNet of two-layer blocks for 1000 classes, from its layout."""
    count, inside = 3 * 49 * 64 + 2 * 64, 64
    for stage, repeats in enumerate(blocks):
        c = 64 * 2**stage
        for _ in range(repeats):
            count += 9 * inside * c + 2 * c + 9 * c * c + 2 * c
            count += inside * c + 2 * c if inside != c else 0
            count += excitation_parameters(c) if excitations else 0
            inside = c
    return count + inside * 1000 + 1000


def three_layer_parameters(blocks: tuple[int, ...], excitations: bool) -> int:
    """Of a ResNet of three-layer blocks for 1000 classes, from its layout."""
    count, inside = 3 * 49 * 64 + 2 * 64, 64
    for stage, repeats in enumerate(blocks):
        p = 64 * 2**stage
        for _ in range(repeats):
            count += inside * p + 2 * p + 9 * p * p + 2 * p + p * 4 * p + 2 * 4 * p
            count += inside * 4 * p + 2 * 4 * p if inside != 4 * p else 0
            count += excitation_parameters(4 * p) if excitations else 0
            inside = 4 * p
    return count + inside * 1000 + 1000


def excitation_parameters(c: int) -> int:
    """W1, W2 and their biases at a reduction of 16."""
    return 2 * c * (c // 16) + c // 16 + c


@pytest.mark.parametrize(
    ("layers", "formula", "blocks", "published"),
    [
        (18, two_layer_parameters, (2, 2, 2, 2), 11_689_512),
        (34, two_layer_parameters, (3, 4, 6, 3), 21_797_672),
        (50, three_layer_parameters, (3, 4, 6, 3), 25_557_032),
        (101, three_layer_parameters, (3, 4, 23, 3), 44_549_160),
        (152, three_layer_parameters, (3, 8, 36, 3), 60_192_808),
    ],
)
def test_parameter_counts(layers: int, formula: Any, blocks: tuple[int, ...], published: int) -> None:
    assert parameters(name=f"resnet{layers}") == formula(blocks, False) == published
    assert parameters(name=f"senet{layers}") == formula(blocks, True)


def test_parameter_counts_of_the_expansion() -> None:
    channels, without = (64, 64, 128, 128, 256, 256, 512, 512), two_layer_parameters((2, 2, 2, 2), False)

    def rest(c: int, entering: int) -> int:
        """Of an excitation that so many channels enter."""
        return entering * (entering // 16) + entering // 16 + (entering // 16) * c + c

    linear = [2 * c * c + 2 * c for c in channels]
    literal = [2 * c * c + 4 * c for c in channels]
    all_enter, averaged = [rest(c, 2 * c) for c in channels], [rest(c, c) for c in channels]
    expanded = {"name": "senet18", "expansion": 2}
    assert parameters(**expanded) == without + sum(linear + all_enter)
    assert parameters(**expanded, expanded="average") == without + sum(linear + averaged)
    assert parameters(**expanded, expansion_nonlinearity=True) == without + sum(literal + all_enter)


def test_parameter_counts_are_the_golden_ones(request: pytest.FixtureRequest) -> None:
    counts = {name: parameters(name=name) for name in MODELS}
    if request.config.getoption("--regenerate-goldens"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(counts, indent=2) + "\n")
    assert counts == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize(
    ("values", "channels", "counts"),
    [
        ({"name": "inception_resnet", "width": 48}, (48, 144, 288), (2, 2, 2)),
        ({"name": "inception_senet", "width": 96, "stem": "traditional"}, (96, 288, 576), (2, 2, 2)),
        ({"name": "inception_senet", "width": 10, "stem": "traditional"}, (10, 30, 60), (2, 2, 2)),
        ({"name": "inception_resnet_full"}, (384, 1152, 2144), (4, 7, 3)),
        ({"name": "inception_senet_full", "stem": "traditional"}, (384, 1152, 2144), (4, 7, 3)),
    ],
)
def test_inception_has_the_layout_of_the_thesis(
    values: dict[str, Any], channels: tuple[int, ...], counts: tuple[int, ...]
) -> None:
    network = on_meta(**values)
    assert isinstance(network, Inception)
    groups: list[list[InceptionModule]] = [list(g) for g in (network.group_a, network.group_b, network.group_c)]  # type: ignore[arg-type]
    assert tuple(len(group) for group in groups) == counts
    for group, expected in zip(groups, channels, strict=True):
        for module in group:
            assert module.bn.num_features == expected
            assert isinstance(module.attention, SqueezeExcite) == ("senet" in values["name"])
    branches = [[convolutions(branch) for branch in group[0].branches] for group in groups]
    kernels = [[[kernel for kernel, _ in branch] for branch in group] for group in branches]
    assert kernels == [
        [[(1, 1)], [(1, 1), (3, 3)], [(1, 1), (3, 3), (3, 3)]],
        [[(1, 1)], [(1, 1), (1, 7), (7, 1)]],
        [[(1, 1)], [(1, 1), (1, 3), (3, 1)]],
    ]
    if values["name"].endswith("_full"):
        widths = [[[width for _, width in branch] for branch in group] for group in branches]
        assert widths == [
            [[32], [32, 32], [32, 48, 64]],
            [[192], [128, 160, 192]],
            [[192], [192, 224, 256]],
        ]
        assert network.head.in_features == 512


def convolutions(branch: nn.Module) -> list[tuple[tuple[int, ...], int]]:
    return [(layer.kernel_size, layer.out_channels) for layer in branch.modules() if isinstance(layer, nn.Conv2d)]


def test_the_traditional_stem_is_inception_v4s() -> None:
    network = on_meta(name="inception_resnet_full", stem="traditional")
    assert isinstance(network, Inception)
    assert convolutions(network.stem) == [
        *[((3, 3), 32), ((3, 3), 32), ((3, 3), 64), ((3, 3), 96)],
        *[((1, 1), 64), ((3, 3), 96)],
        *[((1, 1), 64), ((7, 1), 64), ((1, 7), 64), ((3, 3), 96)],
        ((3, 3), 192),
    ]


def test_too_small_networks_and_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"`model.width`: must be 3 at least"):
        on_meta(name="inception_resnet", width=2, stem="traditional")
    for width in (3, 10):
        network = build_model(ModelConfig(name="inception_resnet", width=width, stem="traditional"), 5)
        assert network(torch.randn(2, 3, 9, 9)).shape == (2, 5)
    with torch.device("meta"), pytest.raises(InputError, match=r"at least 32×32 pixels, but got 40×31"):
        on_meta(name="vgg16")(torch.empty(1, 3, 40, 31))


def test_the_head_is_the_attribute_or_the_last_linear_layer() -> None:
    first, last = nn.Linear(4, 3), nn.Linear(3, 2)
    network = nn.Sequential(first, last, nn.ReLU())
    assert head_of(network) is last
    network.head = first
    assert head_of(network) is first
    network = nn.Sequential(first, last)
    network.head = "no module"  # type: ignore[assignment]
    assert head_of(network) is last
    with pytest.raises(InputError, match=r"`model.name`: .*but ReLU has neither"):
        head_of(nn.ReLU())


@pytest.mark.slow
def test_odd_batches_on_two_threads_do_no_harm() -> None:
    # Strided 1×1 convolutions corrupted the heap here; a crash shows only in a process of its own.
    code = """
import torch
from senet.config import ModelConfig
from senet.models import build_model
torch.set_num_threads(2)
for name in ("senet18", "resnet50", "inception_senet"):
    for batch in (3, 5, 7):
        config = ModelConfig(name=name, width=8, factorised=batch == 5)
        model = build_model(config, 7).to(memory_format=torch.channels_last)
        for _ in range(10):
            images = torch.randn(batch, 3, 24, 24).to(memory_format=torch.channels_last)
            model(images).square().sum().backward()
"""
    # Threads that wait without sleeping would take forever on a busy machine.
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
