"""Both phases: what they report, that they repeat to the bit, resume to the bit, and do what the knobs say."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from senet.config import TrialConfig
from senet.data.store import Dataset
from senet.device import Runtime, make_runtime
from senet.errors import NonFiniteError
from senet.loop import Report, Trained
from senet.phases import base_fingerprint, stream, train_base

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

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
    assert {"train_loss", "train_top1", "base_top1", "base_loss"} <= base.history[0].keys()
    assert base.history[0]["base_gap"] == base.history[0]["train_topk"] - base.history[0]["base_topk"]
    last = heard[-1]
    assert last["streaming_topk"] > base.history[-1]["base_streaming_topk"]
    assert last["joint"] == pytest.approx(0.7 * last["original_topk"] + 0.3 * last["streaming_topk"])
    assert last["retention"] == pytest.approx(last["original_topk"] / base.history[-1]["base_topk"])
    assert last["forgetting"] == pytest.approx(base.history[-1]["base_topk"] - last["original_topk"])
    assert last["forgetting_top1"] == pytest.approx(base.history[-1]["base_top1"] - last["original_top1"])
    assert last["streaming_gap"] == last["train_topk"] - last["streaming_topk"]
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


def test_a_phase_without_epochs_only_evaluates(trial_config: MakeConfig, tiny: Dataset, base: Trained) -> None:
    heard: list[Report] = []
    untouched = stream(trial_config(streaming={"epochs": 0}), base, tiny, CPU, heard.append)
    assert all(torch.equal(untouched.state[name], base.state[name]) for name in base.state)
    assert heard == untouched.history
    assert (heard[0]["epoch"], heard[0]["epochs"]) == (0, 0)
    assert heard[0]["original_topk"] == base.history[-1]["base_topk"]
    assert heard[0]["streaming_topk"] == base.history[-1]["base_streaming_topk"]
    assert heard[0]["retention"] == 1


@pytest.mark.parametrize("phase", ["base", "streaming"])
def test_leaving_the_finite_numbers_says_where(
    trial_config: MakeConfig, tiny: Dataset, base: Trained, phase: str
) -> None:
    config = trial_config(**{phase: {"learning_rate": 1e30}})
    train = train_base if phase == "base" else lambda *rest: stream(rest[0], base, *rest[1:])
    with pytest.raises(
        NonFiniteError, match=rf"not finite in the {phase} phase, epoch 1, step \d, learning rate .*e\+"
    ):
        train(config, tiny, CPU, ignore)


def test_what_decides_a_base_is_in_its_key(trial_config: MakeConfig, tiny: Dataset) -> None:
    def key(**changes: object) -> str:
        return base_fingerprint(trial_config(**changes), tiny, CPU)

    same = [{}, {"streaming": {"l2_sp": 1.0}}, {"model": {"stem": "traditional"}}, {"model": {"expanded": "average"}}]
    assert len({key(**changes) for changes in same}) == 1
    other = [{"loss": "focal"}, {"nonfinite": "rollback"}, {"base": {"l1": 1e-6}}, {"model": {"dropout": 0.1}},
             {"model": {"expansion": 2}}, {"model": {"expansion": 2, "expanded": "average"}},
             {"protocol": "single_label"}, {"protocol": "single_target"}]  # fmt: skip
    keys = {key(**changes) for changes in [{}, *other]}
    assert len(keys) == 1 + len(other)
    # Softmax and its epochs are the same for both.
    assert key(protocol="label_splitting") == key(protocol="single_label", loss="focal")


def test_bf16_trains_too(trial_config: MakeConfig, tiny: Dataset, base: Trained) -> None:
    half = train_base(trial_config(precision="bf16"), tiny, make_runtime("cpu", "bf16"), ignore)
    assert half.history[-1]["base_topk"] == pytest.approx(base.history[-1]["base_topk"], abs=0.25)
    assert all(value.dtype != torch.bfloat16 for value in half.state.values())
