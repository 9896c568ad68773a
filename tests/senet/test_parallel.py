"""Processes that train one network together come to what one process comes to with the whole batches."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from senet.config import ModelConfig, TrialConfig, parse_trial
from senet.data.breeds import prepare_breeds
from senet.data.store import Dataset, open_dataset
from senet.device import Runtime
from senet.errors import InputError, NonFiniteError
from senet.final import train_final
from senet.loop import Report, Trained, batchnorms
from senet.models import build_model
from senet.parallel import check_workers, synchronised
from senet.phases import stream, train_base
from tests.conftest import TINY, TINY_TRIAL, merged
from tests.senet.together import together

# DistributedDataParallel loads PyTorch's compiler, for seconds in every process.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ALONE = Runtime(torch.device("cpu"), bf16=False)


class WithoutStatistics(nn.Module):
    """A network without batch-norm, so that an image knows nothing of the others; a part of it is not used."""

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, config.width, 3, stride=2), nn.ReLU(), nn.Conv2d(config.width, 8, 3))
        self.unused = nn.Linear(3, 3)
        self.last = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.last(torch.relu(self.features(images)).mean(dim=(2, 3)))
        return scores


def plain(config: ModelConfig, classes: int) -> nn.Module:
    """That network, as a config names it."""
    return WithoutStatistics(config, classes)


PLAIN = f"{__name__}:plain"
EQUAL: dict[str, dict[str, Any]] = {
    "both phases": {"model": {"name": PLAIN}, "streaming": {"l2_sp": 0.1, "l1": 1e-4}},
    "parts that differ by an image": {
        "model": {"name": PLAIN},
        "base": {"batch_size": 15},
        "streaming": {"batch_size": 13, "stages": 2, "ewc": 1.0},
        "augment": {"colour": 0.3},
    },
}
# Batch-norm in evaluation mode: from a base that one process has trained.
STREAMED: dict[str, dict[str, Any]] = {
    "fine-tuning": {"streaming": {"freeze_batchnorm": True}},
    "all of the network": {"streaming": {"freeze_batchnorm": True, "distillation": 0.3, "l2_sp": 0.1}},
    "the last layer": {"streaming": {"head_only": True, "batch_size": 15}},
}


def trained(runtime: Runtime, data: Path, changes: dict[str, Any]) -> tuple[dict[str, Tensor], list[Report]]:
    """The weights that final training leaves, and all reports."""
    reports: list[Report] = []
    config = parse_trial(merged(TINY_TRIAL, changes), "test")
    model = train_final(config, open_dataset(data), runtime, reports.append, {})
    return model.state, [{key: value for key, value in report.items() if key != "seconds"} for report in reports]


def streamed(
    runtime: Runtime, data: Path, changes: dict[str, Any], base: Trained
) -> tuple[dict[str, Tensor], list[Report]]:
    """The same of streaming into `base`."""
    reports: list[Report] = []
    config = parse_trial(merged(TINY_TRIAL, changes), "test")
    state = stream(config, base, open_dataset(data), runtime, reports.append).state
    return state, [{key: value for key, value in report.items() if key != "seconds"} for report in reports]


def all_cases(runtime: Runtime, data: Path, base: Trained) -> dict[str, tuple[dict[str, Tensor], list[Report]]]:
    """What is compared with one process."""
    found = {name: trained(runtime, data, changes) for name, changes in EQUAL.items()}
    return found | {name: streamed(runtime, data, changes, base) for name, changes in STREAMED.items()}


def all_trained(runtime: Runtime, data: Path, cases: list[dict[str, Any]]) -> list[Any]:
    """Several configs, one after the other."""
    return [trained(runtime, data, changes) for changes in cases]


def interrupted(runtime: Runtime, data: Path, folder: Path) -> dict[str, Tensor]:
    """Base weights of a training that stops after two epochs and goes on; only the first process keeps files."""
    config, dataset = parse_trial(TINY_TRIAL, "test"), open_dataset(data)
    progress = folder / "base.pt" if runtime.rank == 0 else None

    def stop(report: Report) -> None:
        if report["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_base(config, dataset, runtime, stop, progress)
    heard: list[int] = []
    state = train_base(config, dataset, runtime, lambda report: heard.append(report["epoch"]), progress).state
    assert heard == [1, 2, 3]
    return state


def diverges(runtime: Runtime, data: Path) -> tuple[str, list[Any]]:
    """What a training says that leaves the finite numbers, and where one goes that goes back."""
    dataset = open_dataset(data)
    config = parse_trial(merged(TINY_TRIAL, {"base": {"learning_rate": 1e30}}), "test")
    with pytest.raises(NonFiniteError) as raised:
        train_base(config, dataset, runtime, lambda report: None)
    changes = {"model": {"name": PLAIN}, "base": {"learning_rate": 3000.0, "batch_size": 40}, "nonfinite": "rollback"}
    reports: list[Report] = []
    train_base(parse_trial(merged(TINY_TRIAL, changes), "test"), dataset, runtime, reports.append)
    return str(raised.value), [(report.get("rollbacks"), report["learning_rate"]) for report in reports]


def everything(runtime: Runtime, data: Path, base: Trained, folder: Path) -> dict[str, Any]:
    """One after the other: each process loads the compiler once."""
    return {
        "cases": all_cases(runtime, data, base),
        "batch-norm": trained(runtime, data, {"model": {"dropout": 0.2}}),
        "cut": interrupted(runtime, data, folder),
        "whole": train_base(parse_trial(TINY_TRIAL, "test"), open_dataset(data), runtime, lambda report: None).state,
        "diverges": diverges(runtime, data),
    }


@pytest.fixture(scope="module")
def data(tiny: Dataset) -> Path:
    """Where the tiny data set lies."""
    return Path(str(tiny.base.images.filename)).parent  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def base(data: Path) -> Trained:
    """What one process has trained."""
    return train_base(parse_trial(TINY_TRIAL, "test"), open_dataset(data), ALONE, lambda report: None)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, data: Path, base: Trained) -> list[dict[str, Any]]:
    """What two processes come to, each of them."""
    folder = tmp_path_factory.mktemp("two")
    return together(folder / "group", 2, everything, data, base, folder / "kept")


def assert_equal(answers: list[dict[str, Any]], data: Path, base: Trained) -> None:
    """All cases are those of one process, and all processes agree on them."""
    for name, (state, reports) in all_cases(ALONE, data, base).items():
        for rank, answer in enumerate(answers):
            found, said = answer[name]
            for key, value in state.items():
                torch.testing.assert_close(found[key], value, rtol=0, atol=1e-5, msg=f"{name}, {rank}: {key}")
            for ours, theirs in zip(said, reports, strict=True):
                assert ours.keys() == theirs.keys(), name
                assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-5), (name, rank)
                assert ours["learning_rate"] == theirs["learning_rate"]
            assert said == answers[0][name][1], f"{name}: all say the same"


def test_two_equal_one_with_the_whole_batches(two: list[dict[str, Any]], data: Path, base: Trained) -> None:
    assert_equal([answer["cases"] for answer in two], data, base)


@pytest.mark.soak
def test_three_equal_one_with_the_whole_batches(tmp_path: Path, data: Path, base: Trained) -> None:
    assert_equal(together(tmp_path / "group", 3, all_cases, data, base), data, base)


def test_batch_norm_has_the_same_statistics_everywhere(two: list[dict[str, Any]]) -> None:
    (first, said), (second, also_said) = (answer["batch-norm"] for answer in two)
    assert said == also_said
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_they_go_on_where_they_were(two: list[dict[str, Any]]) -> None:
    for answer in two:
        assert all(torch.equal(value, answer["whole"][key]) for key, value in answer["cut"].items())


def test_what_is_not_finite_stops_all_of_them(two: list[dict[str, Any]]) -> None:
    (message, rates), other = (answer["diverges"] for answer in two)
    assert (message, rates) == other
    assert message.startswith("not finite in the base phase, epoch 1, step ")
    assert rates[-1][0] >= 1, "it went back"


def test_batch_norm_on_gpus_is_over_all_images() -> None:
    network = build_model(ModelConfig(width=8), 6)
    names, layers = list(network.state_dict()), len(batchnorms(network))
    assert synchronised(network, ALONE) is network
    converted = synchronised(network, Runtime(torch.device("cuda"), False, 0, 2))
    found = batchnorms(converted)
    assert len(found) == layers > 10, "the loop knows them still"
    assert {type(layer) for layer in found} == {nn.SyncBatchNorm}
    assert list(converted.state_dict()) == names


def test_a_batch_too_small_for_all_is_refused(trial_config: Callable[..., TrialConfig]) -> None:
    for size in (1, 3, 100):
        check_workers(size, 1, "x")
    check_workers(100, 50, "x")
    with pytest.raises(
        InputError, match=r"^`x`: 100 images a step are for at most 50 workers, two each, but there .* 51"
    ):
        check_workers(100, 51, "`x`")
    with pytest.raises(InputError, match="3 images a step are for one worker"):
        check_workers(3, 2, "`x`")


@pytest.mark.parametrize(("stages", "workers"), [(1, 31), (3, 11)])
def test_a_stream_too_small_for_all_is_refused_before_the_base(
    tiny: Dataset, trial_config: Callable[..., TrialConfig], stages: int, workers: int
) -> None:
    images = TINY.train_per_mix * TINY.mixes // stages
    config = trial_config(base={"batch_size": 100}, streaming={"batch_size": 100, "stages": stages})
    assert images // workers < 2 <= images // (workers - 1), "one worker less would do"
    with pytest.raises(InputError, match=f"`streaming.batch_size`: {images} images a step are for at most"):
        train_final(config, tiny, Runtime(torch.device("cpu"), False, 0, workers), lambda report: None, {})


@pytest.mark.soak
def test_with_batch_norm_of_every_part_accuracy_is_the_same(tmp_path: Path) -> None:
    # Parts of 20 images, and so many validation images that a seed's chance moves accuracy by two points, not by ten.
    spec = replace(TINY, train_per_breed=60, train_per_mix=30, validation_per_breed=100, validation_per_mix=100)
    prepare_breeds(tmp_path / "data", replace(spec, difficulty=1.0))
    phases = {"base": {"epochs": 8, "batch_size": 40}, "streaming": {"batch_size": 40}}
    cases = [phases | {"seed": seed} for seed in range(5)]
    answers, _ = together(tmp_path / "group", 2, all_trained, tmp_path / "data", cases)
    of_one = all_trained(ALONE, tmp_path / "data", cases)
    for name in ("base_topk", "joint"):
        alone, shared = ([_last(reports, name) for _, reports in found] for found in (of_one, answers))
        error = (statistics.variance(alone) / 5 + statistics.variance(shared) / 5) ** 0.5
        assert abs(statistics.mean(alone) - statistics.mean(shared)) <= 2 * error, (name, alone, shared)


def _last(reports: list[Report], name: str) -> float:
    found: float = [report[name] for report in reports if name in report][-1]
    return found
