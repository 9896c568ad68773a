"""Both phases for one batch, in a worker with a trial's resources: what does not fit there shows itself now."""

import resource
import time
from typing import Any

import numpy as np

from senet.config import TrialConfig
from senet.data.store import SPLITS, Dataset, ImageSet
from senet.device import make_runtime
from senet.initial import normalised_for
from senet.phases import stream, train_base, with_importance
from senet.protocols import for_protocol

# At this one no network leaves the finite numbers.
_LEARNING_RATE = 1e-4


def rehearse(assignment: dict[str, Any]) -> dict[str, float]:
    """Run a config for one batch a phase, on random images.

    Args:
        assignment: `config`, `classes` (their names), `size` in pixels, `labels` of a streaming image, and `gpu`.

    Returns:
        `seconds`, and the most memory that was used, `bytes`: of the GPU, or of the process.
    """
    start = time.monotonic()
    config = TrialConfig.model_validate(assignment["config"])
    runtime = make_runtime("cuda" if assignment["gpu"] else "cpu", config.precision)
    runtime.hold_to(assignment["gpu"])
    few = {"learning_rate": _LEARNING_RATE}
    base = config.base.model_copy(update=few | {"epochs": min(1, config.base.epochs)})
    streaming = config.streaming.model_copy(update=few | {"epochs": 1, "stages": 1})
    config = config.model_copy(update={"base": base, "streaming": streaming})
    dataset = _random(config, assignment["classes"], assignment["size"], assignment["labels"])
    dataset = for_protocol(config, normalised_for(config, dataset))
    trained = train_base(config, dataset, runtime, _nothing)
    if config.streaming.ewc:
        trained = with_importance(config, trained, dataset, runtime)
    stream(config, trained, dataset, runtime, _nothing)
    peak = runtime.peak_memory() or {"bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    return {"seconds": time.monotonic() - start, "bytes": peak["bytes"]}


def _random(config: TrialConfig, classes: list[str], size: int, labels: int) -> Dataset:
    """A data set of one batch to train on and one to validate on, of each kind."""
    random = np.random.default_rng(0)

    def images(batch: int, each: int) -> ImageSet:
        true = np.zeros((2 * batch, len(classes)), bool)
        for i in range(each):
            true[np.arange(2 * batch), (np.arange(2 * batch) + i) % len(classes)] = True
        split = np.repeat([SPLITS.index("train"), SPLITS.index("validation")], batch).astype(np.uint8)
        return ImageSet(random.integers(0, 256, (2 * batch, size, size, 3), np.uint8), true, split)

    return Dataset(
        name=config.data,
        classes=tuple(classes),
        size=size,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        kind="several objects",
        fingerprint="0" * 16,
        manifest={"source": {}, "split": {"name": "random"}},
        base=images(config.base.batch_size, 1),
        streaming=images(config.streaming.batch_size, labels),
    )


def _nothing(report: dict[str, Any]) -> None:
    """Hear a report."""
