"""torch.compile on every network, forward and backward."""

import copy
from typing import Any

import pytest
import torch

from senet.config import MODELS
from tests.senet.test_model_contract import ALL_OPTIONS, small_config, trained

# More of the same blocks: what is captured is the same, only longer.
DEEPER = {"resnet34", "resnet101", "resnet152", "senet34", "senet101", "senet152"}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((name, "eager" if name in DEEPER else "aot_eager", ALL_OPTIONS) for name in MODELS),
    # The C++ compiler takes minutes, so it gets one network of each kind; the others are captured whole, not compiled.
    *(("resnet18", "inductor", {}), ("vgg16", "inductor", {})),
    *(("senet18", "inductor", ALL_OPTIONS), ("inception_senet", "inductor", ALL_OPTIONS)),
]


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "backend", "options"), CASES)
def test_a_compiled_network_gives_the_same(name: str, backend: str, options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    network = trained(small_config(name, **options))
    images = torch.randn(4, 3, 40, 40)
    compiled = torch.compile(copy.deepcopy(network), fullgraph=True, backend=backend)
    expected, logits = network(images), compiled(images)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)

    expected.square().sum().backward()
    logits.square().sum().backward()
    for (key, ours), theirs in zip(network.named_parameters(), compiled.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        # A gradient that is nothing but rounding has no direction.
        scale = ours.grad.norm() + 1e-3
        assert (ours.grad - theirs.grad).norm() < 0.02 * scale, key
