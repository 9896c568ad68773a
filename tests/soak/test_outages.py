"""What a sweep needs is taken from it while it runs: the disk's room, the right to write, the tracking server."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.conftest import merged
from tests.sweeps.commands import RECIPE, Home, wait_for
from tests.sweeps.raycluster import free_ports
from tests.sweeps.trackingserver import tracking_server

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


def mount(*arguments: str) -> None:
    """Mount something, or skip where this user or machine cannot."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[list[Path]]:
    """Folders that are unmounted at the end."""
    folders: list[Path] = []
    yield folders
    for folder in folders:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def results(home: Home, name: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (home.folder / "sweeps" / name).glob("trials/*/result.json")}


def test_a_disk_that_is_full_pauses_the_sweep(tmp_path: Path, mounted: list[Path]) -> None:
    home = Home(tmp_path)
    (tmp_path / "bases").mkdir()
    # Room for the first base and its checkpoint, and for no other.
    mount("-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path / "bases"))
    mounted.append(tmp_path / "bases")
    process = home.start("sweeps", "run", str(home.recipe("full")))
    out, error = process.communicate(timeout=400)
    assert process.returncode == 1, out + error
    assert "paused: trial" in out
    assert "cannot write: No space left on device" in out
    assert "go on: sweeps resume full" in out
    assert "Traceback" not in out + error
    assert home.status("full")["state"] == "paused"
    before = results(home, "full")
    assert {trial.state.name for trial in home.study("full").trials} <= {"COMPLETE", "RUNNING"}, "none has failed"

    mount("-o", "remount,size=200m", str(tmp_path / "bases"))
    home.call("sweeps", "resume", "full")
    home.assert_consistent("full", 8)
    after = results(home, "full")
    assert {path: after[path] for path in before} == before, "no finished trial ran again"
    assert {trial.state.name for trial in home.study("full").trials} == {"COMPLETE"}


def test_a_folder_that_can_no_longer_be_written_loses_nothing(tmp_path: Path, mounted: list[Path]) -> None:
    home = Home(tmp_path)
    folder = tmp_path / "sweeps" / "readonly"
    slow = merged(RECIPE, {"config": {"base": {"epochs": 12}}})
    process = home.start("sweeps", "run", str(home.recipe("readonly", **slow)))
    wait_for(lambda: results(home, "readonly"))
    mount("--bind", str(folder), str(folder))
    mounted.append(folder)
    mount("-o", "remount,bind,ro", str(folder))
    # What was open before stays writable; a new process sees the folder as it is now.
    os.kill(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=300)
    assert process.returncode in (1, 2), out + error
    assert "Traceback" not in out + error
    before = results(home, "readonly")

    said = home.call("sweeps", "resume", "readonly", code=2)
    assert "Read-only file system" in said
    assert said.count("\n") == 1
    mount("-o", "remount,bind,rw", str(folder))
    home.call("sweeps", "resume", "readonly")
    home.assert_consistent("readonly", 8)
    after = results(home, "readonly")
    assert {path: after[path] for path in before} == before, "no finished trial ran again"


def test_a_tracking_server_that_is_gone_for_a_minute_is_caught_up_with(tmp_path: Path) -> None:
    home = Home(tmp_path)
    (port,) = free_ports(1)
    home.settings = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    # Long enough that trials end before, during and after the outage.
    slow = merged(RECIPE, {"config": {"base": {"epochs": 60}}, "search": {"trials": 12}})
    with tracking_server(home.folder / "server.db", port):
        process = home.start("sweeps", "run", str(home.recipe("away", **slow)))
        wait_for(lambda: len(results(home, "away")) >= 2)
    time.sleep(60)
    during = len(results(home, "away"))
    assert during > 2, "the sweep went on without"
    with tracking_server(home.folder / "server.db", port):
        out, error = process.communicate(timeout=400)
        assert process.returncode == 0, out + error
        assert "Traceback" not in error
        assert sum(line.startswith("tracking: ") for line in error.splitlines()) == 1, error
        # Should the sweep have ended while the server was away, this writes what is missing.
        home.call("sweeps", "resume", "away")
        assert f"tracking UI: http://127.0.0.1:{port}/#/experiments/1/runs" in home.call("sweeps", "ui")
        client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")
        runs = client.search_runs([e.experiment_id for e in client.search_experiments()], "tags.sweep = 'away'")
        trials = {int(run.data.tags["trial"]): run for run in runs if run.data.tags["trial"] != "parent"}
        assert len(runs) == 13
        assert {run.info.status for run in runs} == {"FINISHED"}
        for trial in home.study("away").trials:
            assert trials[trial.number].data.metrics["joint"] == trial.value
            losses = client.get_metric_history(trials[trial.number].info.run_id, "base/train_loss")
            assert [point.step for point in losses] == list(range(1, 61)), "every epoch once"
