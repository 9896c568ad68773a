"""What each variant of the squeeze-and-excitation block adds to a network, beside the thesis' table 5.

    python benchmarks/variants.py [--width 32] [--size 96] [--batch 50] [--rounds 15] [--device auto] [--output FILE]

Every round times one training step of every variant, in an order drawn for it, so that what slows the machine slows
all alike; a variant's figure is the median over rounds of its time divided by the standard network's of the same round,
with the quartiles. The standard network is timed once more as a variant: what differs there is noise. Parameters and
arithmetic are counted, not measured.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from senet.complexity import complexity
from senet.config import ModelConfig
from senet.device import Runtime, make_runtime
from senet.losses import margin
from senet.models import build_model

CLASSES = 120

# The thesis' seconds per base epoch (table 5), and so what a variant adds there.
PUBLISHED = {
    "standard": 417.2,
    "no excitation": 403.7,
    "2x": 421.4,
    "4x": 425.6,
    "8": 408.2,
    "32": 406.4,
    "sqrt": 402.7,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {},
    "standard again": {},
    "no excitation": {"name": "resnet18"},
    "2x": {"expansion": 2},
    "4x": {"expansion": 4},
    "2x, averaged back": {"expansion": 2, "expanded": "average"},
    "4x, averaged back": {"expansion": 4, "expanded": "average"},
    "2x, batch-norm and ReLU": {"expansion": 2, "expansion_nonlinearity": True},
    "4x, batch-norm and ReLU": {"expansion": 4, "expansion_nonlinearity": True},
    "8": {"reduction": 8},
    "32": {"reduction": 32},
    "sqrt": {"reduction": "sqrt"},
    "c/log c": {"reduction": "c/log c"},
    "factorised": {"factorised": True},
    "dimension reduction 2": {"dimension_reduction": 2},
}


def main() -> None:
    """Time all variants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("width", 32), ("size", 96), ("batch", 50), ("rounds", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    runtime = make_runtime(arguments.device, "auto")
    configs = {name: ModelConfig.model_validate({"width": arguments.width} | v) for name, v in VARIANTS.items()}
    rounds = measure(configs, runtime, arguments)
    result: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/variants.py", *sys.argv[1:]]),
        "machine": runtime.identity() | {"processor": platform.machine(), "cores": os.cpu_count()},
        "n": len(rounds),
        "standard_seconds": statistics.median(one["standard"] for one in rounds),
        "variants": compare(configs, rounds, arguments.size),
    }
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


def measure(configs: dict[str, ModelConfig], runtime: Runtime, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Seconds of a training step of each variant, in rounds of a drawn order each."""
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=runtime.device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.eye(CLASSES, dtype=torch.bool, device=runtime.device)[torch.arange(arguments.batch) % CLASSES]
    networks, optimizers = {}, {}
    for name, config in configs.items():
        networks[name] = build_model(config, CLASSES).to(runtime.device, memory_format=torch.channels_last)
        optimizers[name] = torch.optim.SGD(networks[name].parameters(), lr=1e-3, momentum=0.9, fused=True)

    def seconds(name: str) -> float:
        start = time.perf_counter()
        with runtime.autocast():
            logits = networks[name](images)
        margin(logits.float(), labels).backward()
        optimizers[name].step()
        optimizers[name].zero_grad()
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    dice = random.Random(0)
    orders = [dice.sample(list(configs), len(configs)) for _ in range(arguments.rounds + 2)]
    return [{name: seconds(name) for name in order} for order in orders][2:]


def compare(configs: dict[str, ModelConfig], rounds: list[dict[str, float]], size: int) -> dict[str, Any]:
    """Each variant's step, arithmetic and parameters as ratios to the standard; they are printed, too."""
    counted = {name: complexity(config, CLASSES, size) for name, config in configs.items()}
    standard = counted["standard"]
    compared = {}
    for name in configs:
        low, median, high = statistics.quantiles([one[name] / one["standard"] for one in rounds], n=4)
        ratio = PUBLISHED[name] / PUBLISHED["standard"] if name in PUBLISHED else None
        compared[name] = {
            "step_ratio": {"median": median, "quartiles": [low, high]},
            "published_epoch_ratio": ratio,
            "flops_ratio": counted[name].flops / standard.flops,
            "parameters_ratio": counted[name].parameters / standard.parameters,
        }
        published = f", thesis {100 * ratio - 100:+.1f} %" if ratio else ""
        print(
            f"{name}: step {100 * median - 100:+.1f} % ({100 * low - 100:+.1f} to {100 * high - 100:+.1f}){published}, "
            f"arithmetic {100 * counted[name].flops / standard.flops - 100:+.1f} %, "
            f"parameters {100 * counted[name].parameters / standard.parameters - 100:+.1f} %"
        )
    return compared


if __name__ == "__main__":
    main()
