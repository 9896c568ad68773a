"""Sweeps that are interrupted, killed, or whose trials fail: nothing is lost, nothing is done twice."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import merged
from tests.sweeps.commands import RECIPE, Home, descendants, kill_everything, wait_for

# Every command starts a process, and a sweep several: on a slow machine that adds up.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def ended(home: Home, name: str) -> dict[str, float]:
    """Result files of a sweep with the times of their writing."""
    return {str(path): path.stat().st_mtime for path in (home.folder / "sweeps" / name).glob("trials/*/result.json")}


@pytest.mark.soak
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_sweep_ends_cleanly_and_goes_on(home: Home, sent: signal.Signals) -> None:
    # Long enough base phases that the signal finds trials at work.
    slow = merged(RECIPE, {"config": {"base": {"epochs": 12}}, "search": {"trials": 6}})
    process = home.start("sweeps", "run", str(home.recipe("cut", **slow)))
    # While the first trials load what they need there is time to ask.
    wait_for((home.folder / "sweeps" / "cut" / "driver.lock").exists)
    assert "running already" in home.call("sweeps", "resume", "cut", code=2)
    assert "interrupt it first" in home.call("sweeps", "delete", "cut", "--yes", code=2)
    wait_for(lambda: len(ended(home, "cut")) >= 2)
    os.kill(process.pid, sent)
    out, error = process.communicate(timeout=180)
    assert process.returncode == 1, out + error
    assert "interrupted; go on: sweeps resume cut" in out
    assert "Traceback" not in error, error

    found = home.status("cut")
    assert found["state"] == "interrupted"
    assert {trial["state"] for trial in found["trials"]} <= {"complete", "running"}
    (parent,), nested = home.runs("cut")
    assert parent.info.status == "KILLED"
    assert {run.info.status for run in nested} <= {"FINISHED", "KILLED"}
    assert len(nested) == len(found["trials"])
    before = ended(home, "cut")

    home.call("sweeps", "resume", "cut")
    home.assert_consistent("cut", 6)
    after = ended(home, "cut")
    assert {path: after[path] for path in before} == before, "no finished trial ran again"
    assert home.status("cut")["state"] == "finished"
    assert "is finished" in home.call("sweeps", "resume", "cut")
    assert ended(home, "cut") == after


@pytest.mark.soak
def test_a_killed_sweep_goes_on(home: Home) -> None:
    process = home.start("sweeps", "run", str(home.recipe("killed")))
    wait_for(lambda: len(ended(home, "killed")) >= 3)
    kill_everything(process)
    before = ended(home, "killed")
    assert home.status("killed")["state"] == "interrupted"
    home.call("sweeps", "resume", "killed")
    home.assert_consistent("killed", 8)
    after = ended(home, "killed")
    assert {path: after[path] for path in before} == before


def test_trials_that_fail_do_not_stop_the_sweep(home: Home) -> None:
    # One learning rate leaves the finite numbers, one network is larger than any memory.
    space = {
        "base.learning_rate": {"choice": [0.05, 1e30]},
        "model.width": {"choice": [8, 300000]},
        "streaming.learning_rate": {"log": [0.001, 1e30]},
    }
    enqueue = [{}, {"base.learning_rate": 1e30}, {"model.width": 300000}, {"streaming.learning_rate": 1e30}]
    recipe = merged(RECIPE, {"search": {"trials": 4}}) | {"space": space, "enqueue": enqueue}
    out = home.call("sweeps", "run", str(home.recipe("failing", **recipe)))
    home.assert_consistent("failing", 4)
    found = home.status("failing")
    states = {trial["params"]["base.learning_rate"]: trial for trial in found["trials"]}
    assert states[1e30]["state"] == "failed"
    assert "non-finite: not finite in the base phase, epoch 1, step 1, learning rate" in states[1e30]["error"]
    (late,) = [trial for trial in found["trials"] if trial["params"]["streaming.learning_rate"] == 1e30]
    assert "not finite in the streaming phase, epoch 1" in late["error"]
    assert late["base_key"] == found["best"]["base_key"], "what it had is kept"
    (large,) = [trial for trial in found["trials"] if trial["params"]["model.width"] == 300000]
    assert large["state"] == "failed"
    assert large["error"].startswith("out of memory: ")
    assert (home.folder / "sweeps" / "failing" / "trials" / f"{large['number']:04d}" / "attempt-1.json").exists()
    assert "failed, non-finite" in out
    assert found["best"]["state"] == "complete"
    (error,) = home.folder.glob(f"sweeps/failing/trials/{large['number']:04d}/error.txt")
    assert "Traceback" in error.read_text()


@pytest.mark.soak
def test_a_killed_trial_process_is_replaced(home: Home) -> None:
    slow = merged(RECIPE, {"config": {"base": {"epochs": 40}}, "search": {"trials": 2, "concurrency": 1}})
    process = home.start("sweeps", "run", str(home.recipe("lost", **slow)))
    progress = home.folder / "sweeps" / "lost" / "trials" / "0000" / "progress.json"
    wait_for(progress.exists)
    wait_for(lambda: json.loads(progress.read_text())["epoch"] >= 3)
    victims = [
        pid
        for pid in descendants(process.pid)
        if b"ray::ImplicitFunc" in (Path("/proc") / str(pid) / "cmdline").read_bytes()
    ]
    assert victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, out + error
    home.assert_consistent("lost", 2)
    assert [trial["state"] for trial in home.status("lost")["trials"]] == ["complete"] * 2
