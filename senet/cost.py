"""What a config costs on this machine, before it is trained."""

import time
from dataclasses import dataclass

import torch

from senet.complexity import Complexity, complexity
from senet.config import TrialConfig
from senet.device import Runtime, reproducible
from senet.losses import loss_of
from senet.models import build_model

_REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """Cost of one network on one machine."""

    complexity: Complexity
    training_seconds: float
    """of one image: forward, backward and step"""
    evaluation_seconds: float
    """of one image: forward"""


def measure_cost(config: TrialConfig, classes: int, size: int, runtime: Runtime) -> Cost:
    """Count, and time a few batches of random images (N, 3, size, size). Raises InputError as `complexity` does."""
    counted = complexity(config.model, classes, size)
    network = build_model(config.model, classes).to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(config.base.batch_size, 3, size, size, device=runtime.device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(len(images), device=runtime.device)[:, None] % classes == torch.arange(
        classes, device=runtime.device
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def train() -> None:
        with runtime.autocast():
            logits = network(images)
        loss_of(config)(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    def evaluate() -> None:
        with torch.inference_mode(), runtime.autocast():
            network(images)

    count = len(images)
    return Cost(counted, _seconds(train, runtime) / count, _seconds(evaluate, runtime) / count)


def _seconds(action: object, runtime: Runtime) -> float:
    """The fastest of a few runs, after one to warm up."""
    assert callable(action)
    best = float("inf")
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        with reproducible():
            action()
        if runtime.device.type == "cuda":
            torch.cuda.synchronize(runtime.device)
        best = min(best, time.perf_counter() - start)
    return best
