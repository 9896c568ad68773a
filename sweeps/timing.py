"""Seconds of an epoch, one configuration at a time, with nothing else of the sweep running.

On a CPU with the threads that torch takes by itself, which is all cores where OMP_NUM_THREADS does not say otherwise.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from senet.config import TrialConfig
from senet.data.store import Dataset
from senet.device import Runtime, make_runtime
from senet.files import write_atomically
from senet.loop import Report
from senet.phases import stream, train_base, with_importance
from senet.protocols import for_protocol

# Timed epochs of each phase, after one that warms up.
_TIMED = 2
# An epoch takes as long at any rate; at this one no network leaves the finite numbers.
_LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class EpochSeconds:
    """Seconds of the timed epochs, training and validation, of each phase."""

    base: list[float]
    streaming: list[float]
    """empty where the protocol has no streaming phase"""


def epoch_seconds(config: TrialConfig, dataset: Dataset, runtime: Runtime) -> EpochSeconds:
    """Time a config's epochs, here and now."""
    few = {"epochs": 1 + _TIMED, "learning_rate": _LEARNING_RATE}
    base, streaming = config.base.model_copy(update=few), config.streaming.model_copy(update=few | {"stages": 1})
    short = config.model_copy(update={"base": base, "streaming": streaming})
    seen = for_protocol(short, dataset)
    trained = train_base(short, seen, runtime, _nothing)
    if short.streaming.ewc:
        trained = with_importance(short, trained, seen, runtime)
    streamed = stream(short, trained, seen, runtime, _nothing)
    return EpochSeconds(_differences(trained.history), _differences(streamed.history))


def time_epochs(
    file: Path, configs: dict[str, TrialConfig], dataset: Dataset, gpu: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """Time the configs that `file` does not hold yet, and write each into it.

    Args:
        file: JSON; what it holds of another machine, or of other configs, is measured anew.
        configs: by name.
        gpu: whether to time on the GPU.
        say: told what is timed now.

    Returns:
        What the file holds: `environment`, `config` and `seconds` by name.
    """
    first = next(iter(configs.values()))
    runtime = make_runtime("cuda" if gpu else "cpu", first.precision)
    environment = runtime.identity() | {"data_fingerprint": dataset.fingerprint}
    found = _read(file)
    if found.get("environment") != environment:
        found = {"environment": environment, "config": {}, "seconds": {}}
    for name, config in configs.items():
        described = config.model_dump(mode="json")
        if found["config"].get(name) == described:
            continue
        say(f"timing epochs: {name}")
        found["seconds"][name] = asdict(epoch_seconds(config, dataset, runtime))
        found["config"][name] = described
        write_atomically(file, json.dumps(found, indent=2).encode())
    return found


def timed(file: Path, configs: dict[str, TrialConfig]) -> dict[str, Any]:
    """What `time_epochs` has left in a file, on whatever machine; empty where one of the configs was not timed."""
    found = _read(file)
    known = found.get("config", {})
    whole = all(known.get(name) == config.model_dump(mode="json") for name, config in configs.items())
    return found if whole else {}


def _differences(history: list[Report]) -> list[float]:
    """Seconds of every epoch but the first; `seconds` counts from the beginning of the phase."""
    return [after["seconds"] - before["seconds"] for before, after in pairwise(history)]


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _nothing(report: Report) -> None:
    """Hear a report."""
