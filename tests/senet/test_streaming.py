"""Streaming strategies: one contract for all of them, and what each does on its own; several streams in a row."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from senet.config import ModelConfig, TrialConfig
from senet.data.store import Dataset
from senet.device import Runtime
from senet.loop import Report, Trained
from senet.phases import stream, train_base, with_importance
from senet.streaming import Replay, importance
from tests.conftest import TINY_TRIAL, merged

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

MakeConfig = Callable[..., TrialConfig]
CPU = Runtime(torch.device("cpu"), bf16=False)

STRATEGIES: dict[str, dict[str, Any]] = {
    "fine-tuning": {},
    "frozen statistics": {"freeze_batchnorm": True},
    "head only": {"head_only": True},
    "distillation": {"distillation": 1.0, "freeze_batchnorm": True},
    "L2-SP": {"l2_sp": 10.0},
    "elastic weight consolidation": {"ewc": 100.0},
    "replay": {"replay": 10},
    "joint training": {"replay": "all"},
}
REFERENCES = ("replay", "joint training")


def ignore(report: Report) -> None:
    """Hear nothing."""


def without_times(history: list[Report]) -> list[Report]:
    return [{key: value for key, value in report.items() if key != "seconds"} for report in history]


def assert_same(one: Trained, other: Trained) -> None:
    assert without_times(one.history) == without_times(other.history)
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


@pytest.fixture(scope="module")
def base(tiny: Dataset) -> Trained:
    config = TrialConfig.model_validate(TINY_TRIAL)
    return with_importance(config, train_base(config, tiny, CPU, ignore), tiny, CPU)


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(strategy: str, trial_config: MakeConfig) -> TrialConfig:
    return trial_config(streaming={"epochs": 3, "learning_rate": 0.02} | STRATEGIES[strategy])


@pytest.fixture(scope="module")
def streamed_by(tiny: Dataset, base: Trained) -> Callable[[str], Trained]:
    """What a strategy makes of the base, computed once."""

    @cache
    def streamed(strategy: str) -> Trained:
        settings = {"epochs": 3, "learning_rate": 0.02} | STRATEGIES[strategy]
        config = TrialConfig.model_validate(merged(TINY_TRIAL, {"streaming": settings}))
        before = {name: value.clone() for name, value in base.state.items()}
        result = stream(config, base, tiny, CPU, ignore)
        assert all(torch.equal(before[name], base.state[name]) for name in before), "the base stays as it is"
        return result

    return streamed


class TestContract:
    """What every strategy must keep."""

    def test_it_learns_the_new_images(
        self, strategy: str, config: TrialConfig, tiny: Dataset, base: Trained, streamed_by: Callable[[str], Trained]
    ) -> None:
        streamed = streamed_by(strategy)
        untouched = config.model_copy(update={"streaming": config.streaming.model_copy(update={"epochs": 0})})
        (before,) = stream(untouched, base, tiny, CPU, ignore).history
        assert before["original_topk"] == base.history[-1]["base_topk"]
        assert streamed.history[-1]["streaming_topk"] > before["streaming_topk"]
        assert [report["epoch"] for report in streamed.history] == [1, 2, 3]

    def test_only_references_look_at_old_images(
        self, strategy: str, config: TrialConfig, tiny: Dataset, base: Trained, streamed_by: Callable[[str], Trained]
    ) -> None:
        images = tiny.base.images.copy()
        images[tiny.base.indices("train")] = 0
        blinded = replace(tiny, base=replace(tiny.base, images=images))
        unseen = stream(config, base, blinded, CPU, ignore)
        same = without_times(streamed_by(strategy).history) == without_times(unseen.history)
        assert same == (strategy not in REFERENCES)

    @pytest.mark.slow
    def test_a_resumed_stream_is_the_undisturbed_one(
        self,
        strategy: str,
        config: TrialConfig,
        tiny: Dataset,
        base: Trained,
        streamed_by: Callable[[str], Trained],
        tmp_path: Path,
    ) -> None:
        def stop(report: Report) -> None:
            if report["epoch"] == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stream(config, base, tiny, CPU, stop, tmp_path / "streaming.pt")
        resumed = stream(config, base, tiny, CPU, ignore, tmp_path / "streaming.pt")
        assert_same(resumed, streamed_by(strategy))

    @pytest.mark.slow
    def test_it_works_in_stages(self, strategy: str, trial_config: MakeConfig, tiny: Dataset, base: Trained) -> None:
        streamed = stream(trial_config(streaming={"stages": 3} | STRATEGIES[strategy]), base, tiny, CPU, ignore)
        assert [report["epoch"] for report in streamed.history] == [1, 2, 3, 4, 5, 6]
        assert -1 <= streamed.history[-1]["backward_transfer"] <= 1


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in ("fine-tuning", "head only")])
def test_it_forgets_less_than_fine_tuning(strategy: str, streamed_by: Callable[[str], Trained]) -> None:
    forgotten, plain = (streamed_by(name).history[-1]["forgetting"] for name in (strategy, "fine-tuning"))
    assert forgotten < plain - 0.05


def test_head_only_changes_the_head_alone(trial_config: MakeConfig, tiny: Dataset, base: Trained) -> None:
    streamed = stream(trial_config(streaming={"head_only": True}), base, tiny, CPU, ignore)
    changed = {name for name in base.state if not torch.equal(base.state[name], streamed.state[name])}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.parametrize("knob", ["l2_sp", "ewc"])
def test_an_anchor_holds_the_weights_that_it_counts(
    trial_config: MakeConfig, tiny: Dataset, base: Trained, knob: str
) -> None:
    assert base.importance is not None
    counted = base.importance if knob == "ewc" else {name: torch.ones(()) for name in base.importance}

    def distance(weight: float) -> float:
        settings = {"learning_rate": 1e-3, "momentum": 0.0, knob: weight}
        streamed = stream(trial_config(streaming=settings), base, tiny, CPU, ignore)
        return sum(float((f * (streamed.state[name] - base.state[name]).square()).sum()) for name, f in counted.items())

    assert distance(300.0) < 0.8 * distance(0.0)


def test_importance_is_the_mean_squared_gradient_of_single_images(
    trial_config: MakeConfig, tiny: Dataset, base: Trained
) -> None:
    from senet.checkpoint import restored
    from senet.data.batches import Batches
    from senet.losses import margin

    config = trial_config()
    model = restored(config.model, base.state, len(tiny.classes)).eval()
    batches = Batches.of_split(tiny, tiny.base, "train", CPU.device)
    images = torch.cat(list(batches.evaluation()))
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for image, label in zip(images, batches.labels, strict=True):
        model.zero_grad()
        margin(model(image[None]), label[None]).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                sums[name] += parameter.grad.square()
    found = importance(config, base.state, tiny, tiny.base, CPU)
    for name, total in sums.items():
        torch.testing.assert_close(found[name], total / len(images), rtol=1e-3, atol=1e-9)
    assert sum(float(value.sum()) for value in found.values()) > 0


class Choosing(nn.Module):
    """A network that looks at its values, which functions of many images at once refuse."""

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        self.convolution, self.last = nn.Conv2d(3, config.width, 3), nn.Linear(config.width, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.chosen(self.convolution(images))
        scores: Tensor = self.last(features.mean(dim=(2, 3)))
        return scores

    def chosen(self, features: Tensor) -> Tensor:
        """Positive values, by way of a question."""
        return features.relu() if bool((features < 0).any()) else features


class NotChoosing(Choosing):
    """The same network without the question."""

    def chosen(self, features: Tensor) -> Tensor:
        return features.relu()


def test_importance_in_a_network_that_takes_one_image_at_a_time(trial_config: MakeConfig, tiny: Dataset) -> None:
    state, found = None, []
    for network in (Choosing, NotChoosing):
        config = trial_config(model={"name": f"{__name__}:{network.__name__}"})
        state = state or network(config.model, len(tiny.classes)).state_dict()
        found.append(importance(config, state, tiny, tiny.base, CPU))
    for name, value in found[1].items():
        torch.testing.assert_close(found[0][name], value)
        assert value.sum() > 0


def test_replay_takes_as_many_images_of_each_class(tiny: Dataset) -> None:
    chosen = Replay(4, seed=3).old_images(tiny.base)
    assert set(chosen) <= set(tiny.base.indices("train"))
    assert tiny.base.labels[chosen].sum(axis=0).tolist() == [4] * 6
    assert not np.array_equal(chosen, Replay(4, seed=4).old_images(tiny.base))
    assert np.array_equal(Replay(None, 0).old_images(tiny.base), tiny.base.indices("train"))


class TestStages:
    """First some combinations, then others."""

    @pytest.fixture
    def config(self, trial_config: MakeConfig) -> TrialConfig:
        return trial_config(streaming={"stages": 3, "learning_rate": 0.05})

    def test_transfer_and_forgetting_follow_from_the_table(
        self, config: TrialConfig, tiny: Dataset, base: Trained
    ) -> None:
        history = stream(config, base, tiny, CPU, ignore).history
        names = [f"stage_{i}_topk" for i in (1, 2, 3)]
        table = np.array([[history[end][name] for name in names] for end in (1, 3, 5)])
        assert "backward_transfer" not in history[1]
        for last, end in ((1, 3), (2, 5)):
            own = np.diagonal(table)[:last]
            assert history[end]["backward_transfer"] == pytest.approx((table[last, :last] - own).mean())
            best = table[:last, :last].max(axis=0)
            assert history[end]["stage_forgetting"] == pytest.approx((best - table[last, :last]).mean())
        # The stages have as many images each.
        assert history[5]["streaming_topk"] == pytest.approx(table[2].mean())
        assert table[0, 0] > table[2, 0], "the first stage's images were forgotten, or never learned"

    @pytest.mark.slow
    @pytest.mark.parametrize("stop_at", [2, 3, 5])
    def test_resuming_in_any_stage_changes_nothing(
        self, config: TrialConfig, tiny: Dataset, base: Trained, tmp_path: Path, stop_at: int
    ) -> None:
        def stop(report: Report) -> None:
            if report["epoch"] == stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stream(config, base, tiny, CPU, stop, tmp_path / "streaming.pt")
        heard: list[Report] = []
        resumed = stream(config, base, tiny, CPU, heard.append, tmp_path / "streaming.pt")
        assert_same(resumed, stream(config, base, tiny, CPU, ignore))
        assert [report["epoch"] for report in heard] == [1, 2, 3, 4, 5, 6]
        assert not list(tmp_path.glob("streaming-*"))

    def test_a_stage_sees_its_own_combinations_alone(self, config: TrialConfig, tiny: Dataset, base: Trained) -> None:
        one_stage = config.model_copy(update={"streaming": config.streaming.model_copy(update={"stages": 1})})
        first = tiny.streaming.labels[np.lexsort(tiny.streaming.labels.T[::-1])[-1]]
        mine = (tiny.streaming.labels == first).all(axis=1)
        images = tiny.streaming.images.copy()
        images[~mine & (tiny.streaming.split == 0)] = 0
        blinded = replace(tiny, streaming=replace(tiny.streaming, images=images))
        seen, unseen = (stream(config, base, data, CPU, ignore).history for data in (tiny, blinded))
        assert without_times(seen[:2]) == without_times(unseen[:2])
        assert without_times(seen[2:]) != without_times(unseen[2:])
        assert len(stream(one_stage, base, tiny, CPU, ignore).history) == 2

    def test_more_stages_than_combinations_are_refused(
        self, trial_config: MakeConfig, tiny: Dataset, base: Trained
    ) -> None:
        from senet.errors import InputError

        with pytest.raises(InputError, match=r"`streaming.stages`: must be at most 3 .* but got 4"):
            stream(trial_config(streaming={"stages": 4}), base, tiny, CPU, ignore)
