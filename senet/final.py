"""Final training of one config, and streaming of further images into a trained model."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from senet import metrics
from senet.calibration import Calibration
from senet.checkpoint import State, restored
from senet.config import StreamingConfig, TrialConfig
from senet.data.catalogue import check_fits, description
from senet.data.store import Dataset, ImageSet, Split
from senet.device import Runtime
from senet.errors import InputError
from senet.evaluation import Evaluation
from senet.initial import normalised_for
from senet.loop import OnEpoch, Trained
from senet.modelfolder import Model
from senet.phases import TRANSFER, check_streaming, stream, train_base, with_importance
from senet.protocols import WITHOUT_STREAMING, for_protocol

Metrics = dict[str, float]

_JUDGED_ON: tuple[Split, ...] = ("validation", "test")


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
    check_fits(config, description(dataset), "config")
    dataset = for_protocol(config, normalised_for(config, dataset))
    # What cannot be streamed is known before the base is trained.
    check_streaming(config, dataset, runtime)
    base = train_base(config, dataset, runtime, on_epoch, progress and progress / "base.pt")
    if config.streaming.ewc:
        base = with_importance(config, base, dataset, runtime)
    streamed = stream(config, base, dataset, runtime, on_epoch, progress and progress / "streaming.pt")
    provenance = provenance | {"base_pictures": _base_pictures(dataset)}
    return _finished(config, dataset, runtime, base.state, streamed, provenance)


def has_base_pictures_of(model: Model, dataset: Dataset) -> bool:
    """Whether the base pictures of `dataset`, and their split, are those that `model` was trained on: else what is
    forgotten is measured on others."""
    return bool(model.provenance.get("base_pictures", _base_pictures(dataset)) == _base_pictures(dataset))


def _base_pictures(dataset: Dataset) -> str:
    """A digest of base pictures and their split; empty for a data set that was never written."""
    checksums = dataset.manifest.get("checksums", {})
    return ":".join(checksums[name][:16] for name in ("base.images.npy", "base.split.npy") if name in checksums)


def stream_model(
    model: Model,
    streaming: StreamingConfig,
    dataset: Dataset,
    runtime: Runtime,
    on_epoch: OnEpoch,
    progress: Path | None = None,
) -> Model:
    """Stream the multi-label images of `dataset` into `model`, which does not see `dataset`'s base images.

    The base images only measure what is forgotten.

    Args:
        progress: a folder that keeps the state after every epoch; None keeps nothing.

    Raises:
        InputError: a class of `dataset` is unknown to the model, its images have another size, or the model cannot be
            streamed as `streaming` says.
    """
    if model.config.protocol in WITHOUT_STREAMING:
        raise InputError(f"model: was trained by the protocol `{model.config.protocol}`, which does not stream")
    if streaming.epochs == 0:
        raise InputError("`streaming.epochs`: must be 1 or more to stream anything, but got 0")
    if streaming.ewc and model.importance is None:
        raise InputError(
            "`streaming.ewc`: the model does not say how much its weights matter; train it with `streaming.ewc` above 0"
        )
    if streaming.replay:
        raise InputError("`streaming.replay`: looks at old images, which a trained model comes without; set it to 0")
    config = model.config.model_copy(update={"streaming": streaming, "data": dataset.name})
    dataset = _as_seen_by(model, dataset)
    check_fits(config, dataclasses.replace(description(dataset), classes=dataset.classes), "model")
    evaluation = Evaluation(config, dataset, "validation", runtime)
    before = evaluation.before(evaluation.scores(_placed(config, model.state, dataset, runtime)))
    base = Trained(model.state, [_numbers(before)], 0.0, model.importance)
    streamed = stream(config, base, dataset, runtime, on_epoch, progress and progress / "streaming.pt")
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
    fitted: Calibration | None = None
    results: dict[str, Metrics] = {}
    for split in _JUDGED_ON:
        evaluation = Evaluation(config, dataset, split, runtime)
        before = _numbers(evaluation.before(evaluation.scores(_placed(config, base, dataset, runtime))))
        scores = evaluation.scores(_placed(config, streamed.state, dataset, runtime))
        # The first split is the validation split: the calibration is fitted there, and judged on the test split too.
        fitted = fitted or scores.calibration()
        probabilities = fitted.probabilities(torch.cat([scores.base_logits, scores.logits]))
        labels = torch.cat([scores.base_labels, scores.labels])
        errors = {
            "calibration_error": metrics.calibration_error(probabilities, labels),
            "top1_calibration_error": metrics.top1_calibration_error(probabilities, labels),
        }
        after = evaluation.after(scores, before["base_top1"], before["base_topk"], fitted)
        results[split] = before | _numbers(after | errors)
    assert fitted is not None
    # Stages are told apart on the validation split alone.
    last = streamed.history[-1]
    results["validation"] |= {name: last[name] for name in TRANSFER if name in last}
    return Model(
        config=config,
        classes=dataset.classes,
        size=dataset.size,
        policy=dataset.policy,
        mean=dataset.mean,
        std=dataset.std,
        state=streamed.state,
        importance=streamed.importance,
        calibration=Calibration(fitted.scale.cpu(), fitted.bias.cpu()),
        metrics=results,
        provenance=provenance | {"data": _about(dataset)},
    )


def _about(dataset: Dataset) -> dict[str, Any]:
    images = {
        split: {"original": len(dataset.base.indices(split)), "streaming": len(dataset.streaming.indices(split))}
        for split in _JUDGED_ON
    }
    about = {"name": dataset.name, "fingerprint": dataset.fingerprint, "images": images}
    return about | ({"split": dataset.split_note} if dataset.split_note else {})


def _placed(config: TrialConfig, state: State, dataset: Dataset, runtime: Runtime) -> nn.Module:
    network = restored(config.model, state, len(dataset.classes))
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
    if dataset.policy != model.policy:
        raise InputError(
            f"data set `{dataset.name}`: its pictures were fitted by the policy `{dataset.policy}`, but the model's by "
            f"`{model.policy}`; import them with `--policy {model.policy}`"
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
