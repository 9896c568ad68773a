"""`sweeps train` by several workers: what each gets, what is refused, and that a killed training goes on."""

import os
from pathlib import Path

import pytest
import yaml

from senet.errors import InputError
from senet.modelfolder import load_model
from sweeps.cli import main
from sweeps.final import worker_resources
from tests.conftest import TINY_TRIAL, merged, refusal
from tests.sweeps.commands import Home, kill_everything


@pytest.mark.parametrize(
    ("nodes", "workers", "resources"),
    [
        ([{"CPU": 8}], 2, {"CPU": 4}),
        ([{"CPU": 8}], 3, {"CPU": 2}),
        ([{"CPU": 8}], 8, {"CPU": 1}),
        ([{"CPU": 8}, {"CPU": 4}], 3, {"CPU": 4}),
        ([{"CPU": 8}, {"CPU": 4}, {"memory": 1.0}], 1, {"CPU": 8}),
        ([{"CPU": 2, "GPU": 1.0}, {"CPU": 16, "GPU": 3.0}, {"CPU": 64}], 4, {"CPU": 1, "GPU": 1}),
    ],
)
def test_what_a_worker_gets(nodes: list[dict[str, float]], workers: int, resources: dict[str, float]) -> None:
    assert worker_resources(nodes, workers) == resources


@pytest.mark.parametrize(
    ("nodes", "workers", "message"),
    [
        ([{"CPU": 2}], 3, "--workers 3: there are 2 CPU cores, and every worker needs one"),
        ([{"CPU": 64, "GPU": 2.0}], 3, "--workers 3: there are 2 GPUs with a CPU core beside them, and every worker"),
        # Ray would wait for cores without a word.
        ([{"CPU": 2, "GPU": 4.0}], 4, "--workers 4: there are 2 GPUs with a CPU core beside them"),
        ([{}], 1, "--workers 1: there are 0 CPU cores"),
    ],
)
def test_more_workers_than_there_is_room_for(nodes: list[dict[str, float]], workers: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        worker_resources(nodes, workers)


def test_no_workers_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--workers 0: must be 1 or more" in refusal(main, capsys, "train", "x.yaml", "--workers", "0").err


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_killed_training_by_two_goes_on(tmp_path: Path) -> None:
    home = Home(tmp_path)
    config = tmp_path / "best.yaml"
    config.write_text(yaml.safe_dump(merged(TINY_TRIAL, {"base": {"epochs": 12}})))
    assert "for at most 10 workers" in home.call("sweeps", "train", str(config), "--workers", "11", code=2)
    count = os.cpu_count() or 1
    if count < 10:
        error = home.call("sweeps", "train", str(config), "--workers", str(count + 1), code=2)
        assert f"there are {count} CPU cores, and every worker needs one" in error

    process = home.start("sweeps", "train", str(config), "--workers", "2")
    assert process.stdout is not None
    said = []
    while len(said) < 5:
        said.append(process.stdout.readline())
    kill_everything(process)
    assert [line.partition(":")[0] for line in said] == [f"base epoch {n}/12" for n in range(1, 6)]
    assert (tmp_path / "models" / ".best.progress" / "base.pt").exists()

    out = home.call("sweeps", "train", str(config), "--workers", "2")
    lines = [line for line in out.splitlines() if " epoch " in line]
    assert lines[:5] == [line.rstrip("\n") for line in said], "what was done is told, not done again"
    assert [line.partition(":")[0] for line in lines] == [
        *(f"base epoch {n}/12" for n in range(1, 13)),
        *(f"streaming epoch {n}/2" for n in range(1, 3)),
    ]
    assert "registered best version 1" in out
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["best"]
    model = load_model(tmp_path / "models" / "best")
    assert model.metrics["test"]["base_topk"] > 0.5
