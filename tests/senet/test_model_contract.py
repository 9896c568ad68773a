"""What every network must do, whatever its architecture; and what every option changes."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from senet.config import MODELS, ModelConfig
from senet.models import build_model, head_of
from senet.models.squeeze_excite import SqueezeExcite

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

CLASSES = 5

# One of each family and of each kind of block, with and without squeeze-and-excitation, are quick; the others are slow,
# or, where they differ in their number of layers alone, part of the soak.
QUICK = {"resnet18", "senet50", "vgg16", "inception_senet"}
SOAK = {"resnet34", "senet34", "resnet101", "senet101", "resnet152", "inception_resnet_full"}
EVERY_MODEL = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.soak if name in SOAK else pytest.mark.slow)
    for name in MODELS
]

ALL_OPTIONS = {
    "stem": "traditional",
    "expansion": 2,
    "expanded": "average",
    "expansion_nonlinearity": True,
    "dropout": 0.2,
    "factorised": True,
    "dimension_reduction": 2,
}
OTHER_VALUES = {**ALL_OPTIONS, "width": 16, "reduction": "sqrt"}


def small_config(name: str, **options: Any) -> ModelConfig:
    """A narrow network whose branches and hidden layers have a few units: a single one may be dead from the start."""
    width = 24 if name.startswith("inception") else 8
    return ModelConfig.model_validate({"name": name, "width": width, "reduction": 2, **options})


def trained(config: ModelConfig) -> nn.Module:
    """A network for evaluation: its batch-norm statistics are those of a batch of random images.

    Its residuals are small beside what they are added to, as in networks that have learned: those of a fresh one
    magnify every rounding, block by block.
    """
    torch.manual_seed(0)
    network = build_model(config, CLASSES)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        if hasattr(module, "attention"):
            last = [child for child in module.children() if isinstance(child, nn.BatchNorm2d)][-1]
            nn.init.constant_(last.weight, 0.2)
    with torch.no_grad():
        network(torch.randn(8, 3, 40, 36))
    return network.eval()


@pytest.fixture(scope="module", params=EVERY_MODEL)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def network(name: str) -> nn.Module:
    """One for all tests that do not change it."""
    return trained(small_config(name))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 33, 47, generator=torch.Generator().manual_seed(1))


class TestEveryModel:
    @pytest.mark.parametrize("options", [{}, ALL_OPTIONS], ids=["defaults", "all options"])
    def test_every_parameter_learns(self, name: str, options: dict[str, Any], images: Tensor) -> None:
        without_gradient: set[str] = set()
        for seed in range(3):
            torch.manual_seed(seed)
            network = build_model(small_config(name, **options), CLASSES)
            logits = network(images)
            assert logits.shape == (3, CLASSES)
            logits.square().sum().backward()
            still = {key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()}
            without_gradient = still if seed == 0 else without_gradient & still
            if not without_gradient:
                return
        assert not without_gradient

    @pytest.mark.parametrize("size", [(32, 32), (37, 64), (65, 33)])
    def test_any_size_will_do(self, network: nn.Module, size: tuple[int, int]) -> None:
        with torch.no_grad():
            logits = network(torch.randn(1, 3, *size))
        assert logits.shape == (1, CLASSES)
        assert logits.isfinite().all()

    def test_an_image_alone_gives_what_it_gives_among_others(self, network: nn.Module, images: Tensor) -> None:
        with torch.no_grad():
            alone = torch.cat([network(image[None]) for image in images])
            torch.testing.assert_close(alone, network(images), rtol=1e-3, atol=1e-4)

    def test_channels_last_gives_the_same(self, network: nn.Module, images: Tensor) -> None:
        last = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            expected = network(images)
            torch.testing.assert_close(
                last(images.to(memory_format=torch.channels_last)), expected, rtol=1e-3, atol=1e-4
            )

    def test_bf16_is_close(self, network: nn.Module, images: Tensor) -> None:
        with torch.no_grad():
            exact = network(images)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(images)
        assert logits.dtype == torch.float32, "logits of eight bits would be ranked by chance"
        rounded = logits.float()
        # Eight bits of mantissa, in up to 152 layers.
        assert (rounded - exact).norm() < 0.1 * exact.norm()

    def test_bf16_learns(self, network: nn.Module, images: Tensor) -> None:
        learner = copy.deepcopy(network).train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = learner(images)
        logits.float().square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())

    def test_the_state_is_all_there_is(self, name: str, network: nn.Module, images: Tensor) -> None:
        # A network that was built without values and gets the state is the same network.
        with torch.device("meta"):
            other = build_model(small_config(name), CLASSES)
        other = other.to_empty(device="cpu").eval()
        other.load_state_dict(network.state_dict())
        with torch.no_grad():
            assert torch.equal(other(images), network(images))

    def test_the_head_gives_the_logits(self, network: nn.Module, images: Tensor) -> None:
        given: list[Tensor] = []
        hook = head_of(network).register_forward_hook(lambda head, inputs, logits: given.append(logits))
        with torch.no_grad():
            logits = network(images)
        hook.remove()
        assert torch.equal(given[0], logits)

    def test_dropout_is_for_training_alone(self, network: nn.Module, name: str, images: Tensor) -> None:
        dropping = build_model(small_config(name, dropout=0.5), CLASSES)
        dropping.load_state_dict(network.state_dict())
        entering: list[Tensor] = []
        head_of(dropping).register_forward_hook(lambda head, inputs, logits: entering.append(inputs[0]))
        with torch.no_grad():
            assert torch.equal(dropping.eval()(images), network(images))
            dropping.train()(images)
        evaluated, learned = ((features == 0).float().mean().item() for features in entering)
        assert learned > evaluated + 0.1

    def test_factorised_filters(self, name: str) -> None:
        plain, factorised = kernels(small_config(name)), kernels(small_config(name, factorised=True))
        # Inception-C has filters of 1×3 and 3×1 anyhow.
        assert factorised.count((3, 3)) == 0
        assert factorised.count((3, 1)) == plain.count((3, 1)) + plain.count((3, 3))
        assert factorised.count((1, 3)) == plain.count((1, 3)) + plain.count((3, 3))
        assert factorised.count((7, 7)) == plain.count((7, 7))

    @pytest.mark.parametrize("ratio", [2, 4])
    def test_dimension_reduction(self, name: str, ratio: int) -> None:
        plain = filters(small_config(name))
        reduced = filters(small_config(name, dimension_reduction=ratio))
        in_stem = {"vgg16": 1}.get(name, 2 if name.startswith("inception") else 0)
        expected = [max(1, f.in_channels // ratio) if at >= in_stem else f.in_channels for at, f in enumerate(plain)]
        assert [f.in_channels for f in reduced] == expected
        assert [f.out_channels for f in reduced] == [f.out_channels for f in plain]
        count = kernels(small_config(name, dimension_reduction=ratio)).count((1, 1)) - kernels(
            small_config(name)
        ).count((1, 1))
        assert count == len(plain) - in_stem

    @pytest.mark.parametrize("expansion", [1, 4])
    def test_options_change_what_they_should(self, name: str, expansion: int) -> None:
        config = small_config(name, expansion=expansion)
        before = str(on_meta(config))
        without_effect = {
            key for key, value in OTHER_VALUES.items() if str(on_meta(config.model_copy(update={key: value}))) == before
        }
        assert without_effect == config.unused()


def on_meta(config: ModelConfig) -> nn.Module:
    with torch.device("meta"):
        return build_model(config, CLASSES)


def convolutions(config: ModelConfig) -> list[nn.Conv2d]:
    return [module for module in on_meta(config).modules() if isinstance(module, nn.Conv2d)]


def kernels(config: ModelConfig) -> list[tuple[int, ...]]:
    return [convolution.kernel_size for convolution in convolutions(config)]


def filters(config: ModelConfig) -> list[nn.Conv2d]:
    """The 3×3 convolutions, in order."""
    return [convolution for convolution in convolutions(config) if convolution.kernel_size == (3, 3)]


@pytest.mark.parametrize("name", [name for name in MODELS if "senet" in name])
def test_every_block_of_a_senet_squeezes(name: str) -> None:
    config = small_config(name, expansion=2, reduction="sqrt")
    network = on_meta(config)
    blocks = [module for module in network.modules() if isinstance(getattr(module, "attention", None), nn.Module)]
    assert blocks
    for block in blocks:
        squeeze = block.attention
        assert isinstance(squeeze, SqueezeExcite)
        assert squeeze.reduce.in_features == 2 * squeeze.restore.out_features


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16", "inception_resnet"])
@pytest.mark.parametrize("options", [{}, ALL_OPTIONS], ids=["defaults", "all options"])
def test_seeds_decide_the_weights(name: str, options: dict[str, Any]) -> None:
    first, again, other = (seeded(small_config(name, **options), seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def seeded(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return build_model(config, CLASSES).state_dict()
