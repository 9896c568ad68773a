"""The protocols that the thesis compares its own with."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from senet.config import TrialConfig
from senet.data.store import Dataset
from senet.device import Runtime
from senet.final import train_final
from senet.loop import Report
from senet.phases import stream, train_base
from senet.protocols import for_protocol, split_labels, stages

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

MakeConfig = Callable[..., TrialConfig]
CPU = Runtime(torch.device("cpu"), bf16=False)


def ignore(report: Report) -> None:
    """Hear nothing."""


def test_streaming_sees_the_data_as_they_are(trial_config: MakeConfig, tiny: Dataset) -> None:
    for protocol in ("streaming", "single_label", "label_splitting"):
        assert for_protocol(trial_config(protocol=protocol), tiny) is tiny


def test_single_target_makes_every_combination_a_class(trial_config: MakeConfig, tiny: Dataset) -> None:
    seen = for_protocol(trial_config(protocol="single_target"), tiny)
    assert len(seen.classes) == 9
    assert seen.classes[:6] == tiny.classes
    assert seen.fingerprint != tiny.fingerprint
    for part in (seen.base, seen.streaming):
        assert (part.labels.sum(axis=1) == 1).all()
    mixes = ["+".join(tiny.classes[i] for i in np.flatnonzero(row)) for row in tiny.streaming.labels]
    assert [seen.classes[row.argmax()] for row in seen.streaming.labels] == mixes
    # All training images are trained on, and the base's accuracy stays that on the old ones.
    assert len(seen.base.indices("train")) == len(tiny.base.indices("train")) + len(tiny.streaming.indices("train"))
    for split in ("validation", "test"):
        np.testing.assert_array_equal(seen.base.indices(split), tiny.base.indices(split))
    np.testing.assert_array_equal(seen.base.images[: len(tiny.base.images)], tiny.base.images)


def test_of_single_target_an_image_with_one_label_has_that_class(trial_config: MakeConfig, tiny: Dataset) -> None:
    labels = tiny.streaming.labels.copy()
    labels[:7] = np.eye(6, dtype=np.bool_)[2]
    streaming = dataclasses.replace(tiny.streaming, labels=labels)
    seen = for_protocol(trial_config(protocol="single_target"), dataclasses.replace(tiny, streaming=streaming))
    assert len(set(seen.classes)) == len(seen.classes) == 9
    assert (seen.streaming.labels.sum(axis=1) == 1).all()
    assert (seen.streaming.labels.argmax(axis=1)[:7] == 2).all()
    assert (seen.streaming.labels.argmax(axis=1)[7:] >= 6).all()


def test_label_splitting_shows_an_image_once_for_each_label(tiny: Dataset) -> None:
    pixels, labels = split_labels(tiny.streaming.images[:5], tiny.streaming.labels[:5])
    assert len(pixels) == len(labels) == 10
    assert (labels.sum(axis=1) == 1).all()
    for i in range(5):
        np.testing.assert_array_equal(pixels[2 * i], tiny.streaming.images[i])
        np.testing.assert_array_equal(labels[2 * i] | labels[2 * i + 1], tiny.streaming.labels[i])


def test_stages_share_out_the_combinations(tiny: Dataset) -> None:
    parts = stages(tiny.streaming, 2)
    assert sorted(np.concatenate(parts)) == list(range(len(tiny.streaming.labels)))
    combinations = [{tuple(row) for row in tiny.streaming.labels[part].tolist()} for part in parts]
    assert [len(part) for part in combinations] == [2, 1]
    assert not combinations[0] & combinations[1]


@pytest.mark.parametrize("protocol", ["single_label", "single_target", "label_splitting"])
def test_every_protocol_trains_and_reports_the_same_metrics(
    trial_config: MakeConfig, tiny: Dataset, protocol: str
) -> None:
    config = trial_config(protocol=protocol)
    dataset = for_protocol(config, tiny)
    base = train_base(config, dataset, CPU, ignore)
    last = stream(config, base, dataset, CPU, ignore).history[-1]
    assert base.history[-1]["train_loss"] < base.history[0]["train_loss"]
    assert {"original_topk", "streaming_topk", "joint", "retention"} <= last.keys()
    if protocol == "label_splitting":
        assert last["streaming_topk"] > base.history[-1]["base_streaming_topk"]
    else:
        assert (last["epoch"], last["retention"]) == (0, 1)
    if protocol == "single_target":
        assert last["streaming_topk"] > 0.4, "the mixes were learned as classes; by chance it would be 0.22"


def test_cross_entropy_is_what_they_minimise(trial_config: MakeConfig, tiny: Dataset) -> None:
    config = trial_config(protocol="single_label", base={"epochs": 1})
    one, other = (
        train_base(config.model_copy(update={"loss": loss}), tiny, CPU, ignore) for loss in ("margin", "focal")
    )
    assert one.history[0]["base_loss"] == other.history[0]["base_loss"]
    assert one.history[0]["base_loss"] > 1, "near log 6 at the start"


def test_a_single_target_model_knows_the_combinations(trial_config: MakeConfig, tiny: Dataset) -> None:
    model = train_final(trial_config(protocol="single_target"), tiny, CPU, ignore, {})
    assert len(model.classes) == 9
    assert model.metrics["test"]["streaming_topk"] > 0.3
