"""Trained models that are streamed again: what they carry along, and what is refused."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from senet.config import StreamingConfig, TrialConfig
from senet.data.breeds import prepare_breeds
from senet.data.catalogue import check_fits, description
from senet.data.store import Dataset, open_dataset
from senet.device import Runtime
from senet.errors import InputError
from senet.final import stream_model, train_final
from senet.loop import Report
from senet.modelfolder import Model, load_model, save_model
from senet.training import print_epoch
from tests.conftest import TINY

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

CPU = Runtime(torch.device("cpu"), bf16=False)


def ignore(report: Report) -> None:
    """Hear nothing."""


@pytest.fixture
def train(tiny: Dataset, trial_config: Callable[..., TrialConfig]) -> Callable[..., Model]:
    def trained(**changes: object) -> Model:
        return train_final(trial_config(base={"epochs": 1}, **changes), tiny, CPU, ignore, {})

    return trained


def test_what_matters_to_old_images_goes_along(tiny: Dataset, train: Callable[..., Model], tmp_path: Path) -> None:
    model = train(streaming={"epochs": 1, "ewc": 10.0})
    save_model(tmp_path / "model", model)
    found = load_model(tmp_path / "model")
    assert found.importance is not None
    again = stream_model(found, found.config.streaming, tiny, CPU, ignore)
    assert again.importance is not None
    # What was streamed is added to what mattered before.
    assert all((again.importance[name] >= value).all() for name, value in found.importance.items())
    assert sum(float(value.sum()) for value in again.importance.values()) > sum(
        float(value.sum()) for value in found.importance.values()
    )


def test_of_two_that_write_one_model_the_second_is_refused(train: Callable[..., Model], tmp_path: Path) -> None:
    model = train()

    def saved(_: int) -> str:
        try:
            save_model(tmp_path / "model", model)
        except InputError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(4) as pool:
        said = sorted(pool.map(saved, range(4)))
    assert said[0] == ""
    assert all("exists already" in one for one in said[1:]), said
    assert load_model(tmp_path / "model").classes == model.classes
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing is left of the others"


def test_a_model_that_does_not_fit_is_the_disks_error(
    train: Callable[..., Model], tmp_path: Path, small_files: None
) -> None:
    with pytest.raises(OSError, match="File too large"):
        save_model(tmp_path / "model", train())
    assert not list(tmp_path.iterdir()), "nothing half-written is left"


def test_what_later_streams_did_to_earlier_ones_is_told(
    tiny: Dataset, trial_config: Callable[..., TrialConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    config = trial_config(base={"epochs": 1}, streaming={"epochs": 1, "stages": 2})
    model = train_final(config, tiny, CPU, print_epoch, {})
    _, first, second = capsys.readouterr().out.splitlines()
    assert "backward transfer" not in first
    found = model.metrics["validation"]
    said = f"backward transfer {100 * found['backward_transfer']:.1f}, stage forgetting"
    assert f"{said} {100 * found['stage_forgetting']:.1f} (" in second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ewc": 1.0}, "`streaming.ewc`: the model does not say how much its weights matter"),
        ({"replay": 3}, "`streaming.replay`: looks at old images, which a trained model comes without"),
        ({"epochs": 0}, "`streaming.epochs`: must be 1 or more to stream anything"),
        ({"stages": 4}, "`streaming.stages`: must be at most 3"),
    ],
)
def test_what_a_model_cannot_do_is_refused(
    tiny: Dataset, train: Callable[..., Model], changes: dict[str, float], message: str
) -> None:
    model = train(streaming={"epochs": 0})
    with pytest.raises(InputError, match=message):
        stream_model(model, StreamingConfig.model_validate({"batch_size": 20} | changes), tiny, CPU, ignore)


def test_too_many_stages_are_refused_before_anything_is_trained(
    tiny: Dataset, trial_config: Callable[..., TrialConfig]
) -> None:
    heard: list[Report] = []
    with pytest.raises(InputError, match=r"`streaming\.stages`: must be at most 3"):
        train_final(trial_config(streaming={"stages": 4}), tiny, CPU, heard.append, {})
    assert not heard


def test_a_model_that_was_not_made_to_stream_is_refused(tiny: Dataset, train: Callable[..., Model]) -> None:
    with pytest.raises(InputError, match="protocol `single_label`, which does not stream"):
        stream_model(train(protocol="single_label"), StreamingConfig(), tiny, CPU, ignore)


def test_some_of_the_classes_are_enough_to_stream(
    tiny: Dataset, trial_config: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    model = train_final(trial_config(base={"epochs": 1}, objective={"top_k": 3}), tiny, CPU, ignore, {})
    prepare_breeds(tmp_path / "few", dataclasses.replace(TINY, breeds=3, mixes=1))
    few = open_dataset(tmp_path / "few")
    assert set(few.classes) < set(tiny.classes)
    streamed = stream_model(model, model.config.streaming, few, CPU, ignore)
    assert streamed.classes == tiny.classes


def test_a_single_picture_is_no_stream(tiny: Dataset, trial_config: Callable[..., TrialConfig]) -> None:
    data = description(tiny)
    one = dataclasses.replace(data, counts=data.counts | {"streaming": {"train": 1, "validation": 1, "test": 1}})
    with pytest.raises(InputError, match="c: data set `tiny` has 1 streaming pictures to train on, but a step needs 2"):
        check_fits(trial_config(), one, "c")
    check_fits(trial_config(protocol="single_label"), one, "c")
