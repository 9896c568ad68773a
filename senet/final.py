"""Final training of one config, and streaming of further images into a trained model."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from senet import calibration, metrics
from senet.calibration import Calibration
from senet.config import StreamingConfig, TrialConfig
from senet.data.catalogue import check_fits
from senet.data.store import Dataset, ImageSet, Split
from senet.device import Runtime
from senet.errors import InputError
from senet.modelfolder import Model
from senet.phases import Evaluation, OnEpoch, State, Trained, restored, stream, train_base

Metrics = dict[str, float]


def train_final(
    config: TrialConfig,
    dataset: Dataset,
    runtime: Runtime,
    on_epoch: OnEpoch,
    provenance: dict[str, Any],
    progress: Path | None = None,
) -> Model:
    """Both phases of `config`, calibrated on the validation split, judged on the test split.

    Args:
        progress: a folder that keeps the state after every epoch; None keeps nothing.
        provenance: where the config comes from; the data set's fingerprint is added.
    """
    check_fits(config, dataset, "config")
    base = train_base(config, dataset, runtime, on_epoch, progress and progress / "base.pt")
    streamed = stream(config, base, dataset, runtime, on_epoch, progress and progress / "streaming.pt")
    return _finished(config, dataset, runtime, base.state, streamed, provenance)


def stream_model(
    model: Model, streaming: StreamingConfig, dataset: Dataset, runtime: Runtime, on_epoch: OnEpoch
) -> Model:
    """Stream the multi-label images of `dataset` into `model`, which does not see `dataset`'s base images.

    The base images only measure what is forgotten.

    Raises:
        InputError: a class of `dataset` is unknown to the model, or its images have another size.
    """
    config = model.config.model_copy(update={"streaming": streaming, "data": dataset.name})
    dataset = _as_seen_by(model, dataset)
    check_fits(config, dataset, "model")
    before = _base_accuracy(config, dataset, runtime, model.state, "validation")
    base = Trained(model.state, [before], 0.0)
    streamed = stream(config, base, dataset, runtime, on_epoch)
    earlier = model.provenance.get("streamed_into", [])
    provenance = model.provenance | {"streamed_into": [*earlier, {"metrics": model.metrics}]}
    return _finished(config, dataset, runtime, model.state, streamed, provenance)


def _finished(
    config: TrialConfig,
    dataset: Dataset,
    runtime: Runtime,
    base: State,
    streamed: Trained,
    provenance: dict[str, Any],
) -> Model:
    network = _placed(restored(config, streamed.state, len(dataset.classes)), runtime)
    (base_logits, base_labels), (logits, labels) = Evaluation(config, dataset, "validation", runtime).scores(network)
    fitted = calibration.fit(torch.cat([base_logits, logits]), torch.cat([base_labels, labels]))
    results = {}
    for split in ("validation", "test"):
        before = _base_accuracy(config, dataset, runtime, base, split)
        evaluation = Evaluation(config, dataset, split, runtime)
        results[split] = before | _numbers(
            evaluation.measure(network, before["base_top1"], before["base_topk"], fitted)
            | _calibration_error(evaluation, network, fitted)
        )
    return Model(
        config=config,
        classes=dataset.classes,
        size=dataset.size,
        mean=dataset.mean,
        std=dataset.std,
        state=streamed.state,
        calibration=Calibration(fitted.scale.cpu(), fitted.bias.cpu()),
        metrics=results,
        provenance=provenance | {"data": {"name": dataset.name, "fingerprint": dataset.fingerprint}},
    )


def _base_accuracy(config: TrialConfig, dataset: Dataset, runtime: Runtime, state: State, split: Split) -> Metrics:
    network = _placed(restored(config, state, len(dataset.classes)), runtime)
    (logits, labels), (streaming_logits, streaming_labels) = Evaluation(config, dataset, split, runtime).scores(network)
    k = config.objective.top_k
    return {
        "base_top1": float(metrics.top1_hits(logits, labels).double().mean()),
        "base_topk": float(metrics.topk_hits(logits, labels, k).double().mean()),
        "base_streaming_topk": float(metrics.topk_hits(streaming_logits, streaming_labels, k).double().mean()),
    }


def _calibration_error(evaluation: Evaluation, network: nn.Module, fitted: Calibration) -> dict[str, torch.Tensor]:
    (base_logits, base_labels), (logits, labels) = evaluation.scores(network)
    probabilities = fitted.probabilities(torch.cat([base_logits, logits]))
    return {"calibration_error": metrics.calibration_error(probabilities, torch.cat([base_labels, labels]))}


def _placed(network: nn.Module, runtime: Runtime) -> nn.Module:
    return network.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _numbers(values: dict[str, torch.Tensor]) -> Metrics:
    return {name: float(value) for name, value in values.items()}


def _as_seen_by(model: Model, dataset: Dataset) -> Dataset:
    """`dataset` with the model's classes, in the model's order, and the model's normalisation."""
    unknown = [name for name in dataset.classes if name not in model.classes]
    if unknown:
        raise InputError(
            f"data set `{dataset.name}`: the model does not know the class `{unknown[0]}`"
            f" ({len(unknown)} unknown); it knows: {', '.join(model.classes)}"
        )
    if dataset.size != model.size:
        raise InputError(
            f"data set `{dataset.name}`: its pictures have a side of {dataset.size}, but the model takes {model.size};"
            f" import them with `--size {model.size}`"
        )
    columns = [model.classes.index(name) for name in dataset.classes]

    def relabelled(part: ImageSet) -> ImageSet:
        labels = np.zeros((len(part.labels), len(model.classes)), np.bool_)
        labels[:, columns] = part.labels
        return dataclasses.replace(part, labels=labels)

    return dataclasses.replace(
        dataset,
        classes=model.classes,
        mean=model.mean,
        std=model.std,
        base=relabelled(dataset.base),
        streaming=relabelled(dataset.streaming),
    )
