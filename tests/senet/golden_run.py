"""Trains one small base and streams into it; prints losses and metrics at full precision, and the machine's kind."""

import json
import platform
import sys
import tempfile
from pathlib import Path

import torch

from senet.config import TrialConfig
from senet.data.breeds import BreedsSpec, prepare_breeds
from senet.data.store import open_dataset
from senet.device import Runtime
from senet.phases import stream, train_base

CONFIG = {
    "data": "golden",
    "seed": 3,
    "precision": "fp32",
    "model": {"width": 8, "expansion": 2, "reduction": "sqrt"},
    "base": {"epochs": 4, "batch_size": 20, "learning_rate": 0.05, "schedule": "one_cycle"},
    "streaming": {"epochs": 3, "batch_size": 20, "learning_rate": 0.01, "distillation": 0.3},
    "objective": {"top_k": 2},
}
SPEC = BreedsSpec(
    breeds=6, mixes=3, size=24, train_per_breed=20, validation_per_breed=10, test_per_breed=1,
    train_per_mix=20, validation_per_mix=10, test_per_mix=1, difficulty=0.5,
)  # fmt: skip


def processor() -> str:
    """What tells this processor from others, as far as the system says: its caches decide how sums are cut up."""
    wanted = ("model name", "cpu family", "model", "stepping", "cache size")
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    first = info.read_text().partition("\n\n")[0]
    found = dict(map(str.strip, line.partition(":")[::2]) for line in first.splitlines())
    return ", ".join(f"{name} {found[name]}" for name in wanted if name in found)


def main() -> None:
    """Print one JSON object."""
    runtime = Runtime(torch.device("cpu"), bf16=False)
    config = TrialConfig.model_validate(CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        prepare_breeds(Path(folder) / "golden", SPEC)
        dataset = open_dataset(Path(folder) / "golden")
        base = train_base(config, dataset, runtime, lambda report: None)
        streamed = stream(config, base, dataset, runtime, lambda report: None)
    names = ("train_loss", "base_loss", "streaming_loss", "base_topk", "original_topk", "streaming_topk")
    curve = [{name: report[name] for name in names if name in report} for report in base.history + streamed.history]
    kind = runtime.identity() | {"processor": processor(), "torch": torch.__version__}
    json.dump({"kind": kind, "data": dataset.fingerprint, "curve": curve}, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
