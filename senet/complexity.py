"""What a network costs, counted before anything is trained."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from senet.config import ModelConfig
from senet.models import build_model
from senet.models.custom import logits_of

_COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Complexity:
    """Cost of one network, whatever the machine."""

    parameters: int
    flops: int
    """floating-point operations of one image forward, in convolutions and matrix products; a product and its addition
    are two"""
    activations: int
    """output elements of all convolution and linear layers, for one image (Radosavovic et al. 2020)"""


def complexity(model: ModelConfig, classes: int, size: int) -> Complexity:
    """Count one image (1, 3, size, size) on the meta device: nothing is computed, no weights exist.

    It takes tenths of a second, and the first time in a process some seconds more, for what torch then imports.

    Raises:
        InputError: the network does not take images of this size, or is the user's own and cannot be counted.
    """
    activations = 0

    def count(module: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal activations
        activations += output.numel()

    with torch.device("meta"):
        network = build_model(model, classes).eval()
        for module in network.modules():
            if isinstance(module, _COUNTED):
                module.register_forward_hook(count)
            elif type(module) is nn.BatchNorm2d:
                # It counts for nothing and changes no shape, but on the meta device it takes most of the time.
                module.forward = _unchanged  # type: ignore[method-assign]
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            images = torch.empty(1, 3, size, size)
            if model.is_custom:
                logits_of(network, model, classes, images)
            else:
                network(images)
    return Complexity(sum(p.numel() for p in network.parameters()), counter.get_total_flops(), activations)


def _unchanged(input: Tensor) -> Tensor:
    return input
