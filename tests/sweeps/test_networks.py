"""Sweeps over networks that are the user's own, or trained already, through the real commands."""

from pathlib import Path

import pytest
import yaml

from tests.conftest import TINY_TRIAL
from tests.sweeps.commands import RECIPE, Home

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

NETWORK = """
from torch import nn

def build(config, classes):
    width = config.width
    return nn.Sequential(
        nn.Conv2d(3, width, 5, 2), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, classes),
    )
"""


# An epoch has six steps.
BREAKS = """
import os
from pathlib import Path
from torch import nn

class Breaks(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.width, self.steps = width, 0
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, classes)

    def forward(self, images):
        self.steps += self.training
        if self.steps == 1:
            with Path(__file__).with_name("pids").open("a") as file:
                file.write(f"{os.getpid()} ")
        scores = self.head(self.body(images))
        if self.steps > 6 and self.width == 9:
            return scores * float("nan")
        if self.steps > 6 and self.width == 10:
            raise ValueError("it breaks")
        if self.steps > 6 and self.width == 11:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return scores

def build(config, classes):
    return Breaks(config.width, classes)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_network_of_the_users_own_is_searched(home: Home) -> None:
    (home.folder / "mine.py").write_text(NETWORK)
    recipe = home.recipe(
        "own",
        config=RECIPE["config"] | {"model": {"name": "mine:build"}},
        space={
            "model.width": {"choice": [8, 16]},
            "streaming.l2_sp": {"log": [0.001, 0.1]},
            "streaming.ewc": {"choice": [0.0, 1.0]},
            "streaming.head_only": {"choice": [False, True]},
            "streaming.stages": {"choice": [1, 3]},
            "streaming.replay": {"choice": [0, 2, "all"]},
        },
        enqueue=[{"model.width": 8, "streaming.ewc": 1.0, "streaming.stages": 3, "streaming.l2_sp": 0.01}],
        constraints={"parameters": [0, 10_000]},
        search={"trials": 3},
    )
    home.call("sweeps", "run", str(recipe))
    found = home.status("own")
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 3
    assert {"backward_transfer", "stage_forgetting"} <= found["trials"][0]["metrics"].keys()
    home.assert_consistent("own", 3)


def test_trials_that_break_in_their_second_epoch_fail_alone(home: Home) -> None:
    (home.folder / "mine.py").write_text(BREAKS)
    recipe = home.recipe(
        "breaks",
        config=RECIPE["config"] | {"model": {"name": "mine:build"}},
        space={"model.width": {"choice": [8, 9, 10]}, "streaming.learning_rate": {"log": [0.003, 0.03]}},
        enqueue=[{"model.width": 9}, {"model.width": 10}, {"model.width": 8}],
        search={"trials": 3},
    )
    home.call("sweeps", "run", str(recipe))
    home.assert_consistent("breaks", 3)
    nan, raises, whole = home.status("breaks")["trials"]
    assert (nan["state"], raises["state"], whole["state"]) == ("failed", "failed", "complete")
    assert nan["error"].startswith("non-finite: not finite in the base phase, epoch 2, step 1, learning rate")
    assert raises["error"] == "error: ValueError: it breaks"
    assert "ValueError: it breaks" in home.call("sweeps", "logs", "breaks", "1")


def test_no_trial_gets_a_process_whose_gpu_is_lost_to_it(home: Home) -> None:
    (home.folder / "mine.py").write_text(BREAKS)
    recipe = home.recipe(
        "spoilt",
        config=RECIPE["config"] | {"model": {"name": "mine:build"}},
        space={"model.width": {"choice": [8, 11]}, "streaming.learning_rate": {"log": [0.003, 0.03]}},
        enqueue=[{"model.width": 11}, {"model.width": 8}],
        search={"trials": 2, "concurrency": 1},
    )
    said = home.call("sweeps", "run", str(recipe))
    home.assert_consistent("spoilt", 2)
    spoilt, whole = home.status("spoilt")["trials"]
    assert (spoilt["state"], whole["state"]) == ("failed", "complete"), said
    assert spoilt["error"] == "error: RuntimeError: CUDA error: an illegal memory access was encountered"
    assert len(set((home.folder / "pids").read_text().split())) == 2, "each had a process of its own"


def test_streaming_is_searched_over_a_base_that_one_has(home: Home) -> None:
    config = TINY_TRIAL | {"streaming": {"epochs": 0}}
    (home.folder / "config.yaml").write_text(yaml.safe_dump(config))
    home.call("senet", "train", "config.yaml", "--name", "base")
    recipe = home.recipe(
        "onward",
        config=RECIPE["config"] | {"model": {"width": 8, "initial": "models/base"}, "base": {"epochs": 0}},
        space={"streaming.learning_rate": {"log": [0.001, 0.1]}},
        enqueue=[],
        search={"trials": 3},
    )
    home.call("sweeps", "run", str(recipe))
    trials = home.status("onward")["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 3
    assert len({trial["base_key"] for trial in trials}) == 1
    base = yaml.safe_load((home.folder / "models" / "base" / "metrics.json").read_text())["validation"]
    assert {trial["metrics"]["base_topk"] for trial in trials} == {base["base_topk"]}
