"""What breaks on a cluster: a worker, a cable, the head, the tracking server. Every trial counts once nevertheless."""

import time
from typing import Any

import pytest

from tests.cluster.machines import NamespaceMachine
from tests.cluster.team import ClusterHome
from tests.conftest import merged
from tests.sweeps.commands import RECIPE, kill_everything, wait_for

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

PATIENCE_SECONDS = 900
TRIALS = 6
# Long enough base phases that what breaks finds trials at work.
SLOW = merged(RECIPE, {"config": {"base": {"epochs": 12}}, "search": {"trials": TRIALS}})


def started(home: ClusterHome, name: str, results: int, **changes: Any) -> Any:
    """A sweep that has so many results, whose trials are at work on all machines."""
    process = home.start(
        "sweeps", "run", str(home.recipe(name, **merged(SLOW, changes))), "--address", home.ray.address
    )
    wait_for(lambda: len(home.ended(name)) >= results or process.poll() is not None, PATIENCE_SECONDS)
    assert process.poll() is None, process.communicate()
    return process


def finished(home: ClusterHome, process: Any, name: str, untracked: bool = False) -> str:
    """The sweep ends well; returns what it said on standard error."""
    out, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, out + error
    assert "Traceback" not in error, error
    home.assert_right(name, TRIALS, untracked)
    return str(error)


def test_a_worker_is_killed(home: ClusterHome) -> None:
    process = started(home, "killed", 1)
    home.ray.machines["worker-1"].kill()
    finished(home, process, "killed")
    assert [trial["state"] for trial in home.status("killed")["trials"]] == ["complete"] * TRIALS


def test_a_worker_is_cut_off_for_half_a_minute(home: ClusterHome) -> None:
    worker = home.ray.machines["worker-1"]
    if not isinstance(worker, NamespaceMachine):
        pytest.skip("without namespaces there is no cable to pull")
    process = started(home, "cut", 1)
    worker.plug(False)
    time.sleep(30)
    worker.plug(True)
    finished(home, process, "cut")
    assert [trial["state"] for trial in home.status("cut")["trials"]] == ["complete"] * TRIALS


def test_the_head_is_killed_and_the_sweep_resumed_on_a_new_one(home: ClusterHome) -> None:
    process = started(home, "headless", 2)
    home.ray.machines.pop("head").kill()
    kill_everything(process)
    before = home.ended("headless")
    home.ray.start_head("new-head")
    assert home.status("headless")["state"] == "interrupted"
    for name in ("worker-1", "worker-2"):
        home.ray.start_worker(name)
    finished(home, home.start("sweeps", "resume", "headless", "--address", home.ray.address), "headless")
    after = home.ended("headless")
    assert {path: after[path] for path in before} == before, "no finished trial ran again"


def test_the_tracking_server_is_gone_for_a_minute(home: ClusterHome) -> None:
    process = started(home, "untracked", 1, config={"streaming": {"epochs": 400}})
    home.ray.tracking.stop()
    time.sleep(60)
    home.ray.tracking.start()
    assert process.poll() is None, "the sweep is longer than that"
    error = finished(home, process, "untracked", untracked=True)
    assert error.count("the sweep goes on") == 1


def test_the_tracking_server_is_back_after_the_sweep_has_ended(home: ClusterHome) -> None:
    process = started(home, "late", 1, search={"trials": 4})
    home.ray.tracking.stop()
    try:
        out, error = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        home.ray.tracking.start()
    assert process.returncode == 0, out + error
    assert error.count("the sweep goes on") == 1
    assert "nothing is run again" in home.call("sweeps", "resume", "late")
    home.assert_right("late", 4, untracked=True)
    parent = home.runs("late")[0][0]
    assert parent.data.metrics["best_joint"] == home.status("late")["best"]["metrics"]["joint"]
