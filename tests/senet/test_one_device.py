"""Both phases on a device without data: whatever reads it within an epoch, or mixes it with the host, is an error.

PyTorch's meta device computes shapes alone. What holds on it holds on a GPU, which not every machine has: tensors lie
where they are computed with, and the host waits for the device once an epoch.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from senet.checkpoint import State
from senet.config import TrialConfig, parse_trial
from senet.data.store import Dataset
from senet.device import Runtime
from senet.loop import Trained
from senet.phases import stream, train_base, with_importance
from tests.conftest import TINY_TRIAL, merged

# Shapes are computed in Python.
pytestmark = pytest.mark.slow

CPU = Runtime(torch.device("cpu"), bf16=False)


class Device(Runtime):
    """The meta device, which knows no autocast."""

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()


META = Device(torch.device("meta"), bf16=False)


class Looks:
    """How often the device was read, and the updates that it was given."""

    def __init__(self) -> None:
        self.reads = self.steps = 0

    def decided(self, found: Tensor, runtime: Runtime) -> Tensor:
        """An epoch's numbers: all finite, and no bad step."""
        assert found.device.type == "meta"
        self.reads += 1
        return torch.tensor([0.5] * (len(found) - 2) + [1.0, -1.0])

    def sgd(self, weights: list[Tensor], gradients: list[Tensor], buffers: list[Any], **rest: Any) -> None:
        """In place of the fused kernel, which computes no shapes."""
        self.steps += 1
        tensors = (*weights, *gradients, *(value for value in buffers if value is not None), rest["found_inf"])
        assert {value.device.type for value in tensors} == {"meta"}


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    found = Looks()
    monkeypatch.setattr("senet.loop.decided", found.decided)
    monkeypatch.setattr("senet.loop.sgd", found.sgd)

    def weights(model: nn.Module) -> State:
        return {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in model.state_dict().items()}

    monkeypatch.setattr("senet.loop.host_state", weights)
    return found


@pytest.fixture(scope="module")
def small() -> TrialConfig:
    """As few steps as tell one epoch from the next; shapes alone take their time."""
    base, streaming = {"epochs": 2, "batch_size": 60}, {"epochs": 1, "batch_size": 60}
    changes = {"augment": {"colour": 0.4}, "base": base, "streaming": streaming}
    return parse_trial(merged(TINY_TRIAL, changes | {"model": {"width": 4}}), "test")


@pytest.fixture(scope="module")
def base(tiny: Dataset, small: TrialConfig) -> Trained:
    """Trained where there are numbers."""
    return train_base(small, tiny, CPU, lambda report: None)


def test_the_base_phase_reads_the_device_once_an_epoch(looks: Looks, tiny: Dataset, small: TrialConfig) -> None:
    base = train_base(small, tiny, META, lambda report: None)
    assert len(base.history) == looks.reads == 2
    assert looks.steps == 2 * 2


@pytest.mark.parametrize(
    "streaming",
    [
        {"stages": 2, "distillation": 1.0, "l2_sp": 0.1, "l1": 1e-4, "freeze_batchnorm": True},
        {"replay": "all", "head_only": True, "momentum": 0.0},
    ],
    ids=["penalties", "old images"],
)
def test_the_streaming_phase_reads_the_device_once_an_epoch(
    base: Trained, looks: Looks, tiny: Dataset, small: TrialConfig, streaming: dict[str, Any]
) -> None:
    config = small.model_copy(update={"streaming": small.streaming.model_copy(update=streaming)})
    reports: list[dict[str, Any]] = []
    stream(config, base, tiny, META, reports.append)
    assert len(reports) == looks.reads == config.streaming.stages
    assert looks.steps >= looks.reads


def test_the_importance_of_weights_is_read_when_it_is_known(
    base: Trained, looks: Looks, tiny: Dataset, small: TrialConfig
) -> None:
    config = small.model_copy(update={"streaming": small.streaming.model_copy(update={"ewc": 10.0})})
    known = with_importance(config, base, tiny, CPU)
    reports: list[dict[str, Any]] = []
    # All images' gradients are computed on the device: what this one cannot do is give the sums back.
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        stream(config, known, tiny, META, reports.append)
    assert len(reports) == looks.reads == 1
