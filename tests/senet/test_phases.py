"""Both phases: what they report, that they repeat to the bit, resume to the bit, and do what the knobs say."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from senet.config import TrialConfig
from senet.data.store import Dataset
from senet.device import Runtime, make_runtime
from senet.errors import NonFiniteError
from senet.phases import Report, Trained, learning_rate_at, stream, train_base

MakeConfig = Callable[..., TrialConfig]
CPU = Runtime(torch.device("cpu"), bf16=False)


def ignore(report: Report) -> None:
    """Hear nothing."""


def without_times(history: list[Report]) -> list[Report]:
    return [{key: value for key, value in report.items() if key != "seconds"} for report in history]


def assert_same(one: Trained, other: Trained) -> None:
    assert without_times(one.history) == without_times(other.history)
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


@pytest.fixture(scope="module")
def base(tiny: Dataset) -> Trained:
    from tests.conftest import TINY_TRIAL

    return train_base(TrialConfig.model_validate(TINY_TRIAL), tiny, CPU, ignore)


def test_a_trial_learns_and_reports_every_epoch(trial_config: MakeConfig, tiny: Dataset, base: Trained) -> None:
    heard: list[Report] = []
    streamed = stream(trial_config(streaming={"epochs": 3}), base, tiny, CPU, heard.append)
    assert heard == streamed.history
    assert [(r["phase"], r["epoch"], r["epochs"]) for r in heard] == [("streaming", i, 3) for i in (1, 2, 3)]
    assert base.history[-1]["base_topk"] > 0.6, "by chance it would be 0.33"
    assert base.history[-1]["train_loss"] < base.history[0]["train_loss"]
    assert {"train_loss", "train_top1", "train_topk", "base_top1", "base_topk"} <= base.history[0].keys()
    last = heard[-1]
    assert last["streaming_topk"] > base.history[-1]["base_streaming_topk"]
    assert last["joint"] == pytest.approx(0.7 * last["original_topk"] + 0.3 * last["streaming_topk"])
    assert last["retention"] == pytest.approx(last["original_topk"] / base.history[-1]["base_topk"])
    assert last["forgetting"] == pytest.approx(base.history[-1]["base_topk"] - last["original_topk"])
    assert 0 < last["streaming_map"] <= 1
    assert 0 <= last["streaming_exact_match"] <= 1


def test_same_config_same_numbers(trial_config: MakeConfig, tiny: Dataset, base: Trained) -> None:
    torch.manual_seed(123)  # What came before must not matter.
    again = train_base(trial_config(), tiny, CPU, ignore)
    assert_same(again, base)
    assert_same(stream(trial_config(), again, tiny, CPU, ignore), stream(trial_config(), base, tiny, CPU, ignore))
    other = train_base(trial_config(seed=1), tiny, CPU, ignore)
    assert without_times(other.history) != without_times(base.history)


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_phase_is_the_undisturbed_one(
    trial_config: MakeConfig, tiny: Dataset, base: Trained, tmp_path: Path, stop_after: int
) -> None:
    progress = tmp_path / "progress.pt"

    def stop(report: Report) -> None:
        if report["epoch"] == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_base(trial_config(), tiny, CPU, stop, progress)
    heard: list[Report] = []
    resumed = train_base(trial_config(), tiny, CPU, heard.append, progress)
    assert_same(resumed, base)
    assert [report["epoch"] for report in heard] == [1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"half a file", b"garbage garbage", None])
def test_progress_of_another_phase_or_a_broken_one_is_not_used(
    trial_config: MakeConfig, tiny: Dataset, base: Trained, tmp_path: Path, content: bytes | None
) -> None:
    progress = tmp_path / "progress.pt"
    if content is None:
        train_base(trial_config(seed=7), tiny, CPU, ignore, progress)
    else:
        progress.write_bytes(content)
    assert_same(train_base(trial_config(), tiny, CPU, ignore, progress), base)


def test_frozen_batchnorm_keeps_its_statistics(trial_config: MakeConfig, tiny: Dataset, base: Trained) -> None:
    frozen = stream(trial_config(streaming={"freeze_batchnorm": True}), base, tiny, CPU, ignore)
    free = stream(trial_config(), base, tiny, CPU, ignore)
    statistics = [name for name in base.state if name.endswith(("running_mean", "running_var"))]
    assert len(statistics) == 40
    assert all(torch.equal(frozen.state[name], base.state[name]) for name in statistics)
    assert not any(torch.equal(free.state[name], base.state[name]) for name in statistics)
    assert not torch.equal(frozen.state["head.weight"], base.state["head.weight"])


def test_distillation_holds_the_base_back(trial_config: MakeConfig, tiny: Dataset, base: Trained) -> None:
    def forgotten(weight: float) -> float:
        settings = {"epochs": 4, "learning_rate": 0.02, "distillation": weight, "freeze_batchnorm": True}
        return float(stream(trial_config(streaming=settings), base, tiny, CPU, ignore).history[-1]["forgetting"])

    assert forgotten(3.0) < forgotten(0.0) - 0.05


def test_streaming_does_not_look_at_base_training_images(
    trial_config: MakeConfig, tiny: Dataset, base: Trained
) -> None:
    from dataclasses import replace

    images = tiny.base.images.copy()
    images[tiny.base.indices("train")] = 0
    blinded = replace(tiny, base=replace(tiny.base, images=images))
    seen, unseen = (stream(trial_config(), base, data, CPU, ignore) for data in (tiny, blinded))
    assert_same(seen, unseen)


@pytest.mark.parametrize("phase", ["base", "streaming"])
def test_leaving_the_finite_numbers_says_where(
    trial_config: MakeConfig, tiny: Dataset, base: Trained, phase: str
) -> None:
    config = trial_config(**{phase: {"learning_rate": 1e30}})
    train = train_base if phase == "base" else lambda *rest: stream(rest[0], base, *rest[1:])
    with pytest.raises(NonFiniteError, match=rf"not finite in the {phase} phase, epoch 1, learning rate"):
        train(config, tiny, CPU, ignore)


def test_bf16_trains_too(trial_config: MakeConfig, tiny: Dataset, base: Trained) -> None:
    half = train_base(trial_config(precision="bf16"), tiny, make_runtime("cpu", "bf16"), ignore)
    assert half.history[-1]["base_topk"] == pytest.approx(base.history[-1]["base_topk"], abs=0.25)
    assert all(value.dtype != torch.bfloat16 for value in half.state.values())


def test_step_schedule_is_the_thesis(trial_config: MakeConfig) -> None:
    config = TrialConfig(data="x")
    rates = [learning_rate_at(config, "base", epoch * 7, 7) for epoch in range(15)]
    assert rates == pytest.approx([0.1] * 10 + [0.01] * 2 + [0.001] * 3)


def test_one_cycle_rises_to_the_peak_and_falls_to_nothing(trial_config: MakeConfig) -> None:
    config = trial_config(base={"epochs": 10, "learning_rate": 0.2})
    rates = [learning_rate_at(config, "base", step, 10) for step in range(100)]
    peak = rates.index(max(rates))
    assert 28 <= peak <= 31
    assert max(rates) == pytest.approx(0.2, rel=0.05)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.005
