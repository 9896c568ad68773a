"""The real commands in processes of their own, and what a sweep leaves, read without our own status command."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import yaml

from senet.data.breeds import prepare_breeds
from tests.conftest import TINY, TINY_TRIAL

RECIPE: dict[str, Any] = {
    "data": "tiny",
    "config": {key: TINY_TRIAL[key] for key in ("precision", "model", "base", "streaming")},
    "objective": {"top_k": 2},
    "search": {"trials": 8, "seed": 0, "streams_per_base": 3},
    "resources": {"cpu": 1},
    "space": {
        "model.expansion": {"choice": [1, 2, 4]},
        "model.reduction": {"choice": [4, 16, "sqrt"]},
        "streaming.learning_rate": {"log": [0.001, 0.1]},
        "streaming.distillation": {"choice": [0.0, 0.3]},
    },
    "enqueue": [
        {"model.expansion": 1, "model.reduction": 16, "streaming.learning_rate": 0.003},
        {"model.expansion": 1, "model.reduction": 16, "streaming.learning_rate": 0.01},
    ],
}


class Home:
    """A SWEEPS_HOME with the tiny data set, and the commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, str] = {}
        """environment of the commands, besides this process's"""
        self.tracking = folder / "mlflow.db"
        """the database of the tracking"""
        prepare_breeds(folder / "datasets" / "tiny", TINY)

    def recipe(self, name: str, **changes: Any) -> Path:
        """A recipe file: the small one with top-level changes."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(RECIPE | changes))
        return path

    def start(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a command of this project."""
        return subprocess.Popen(
            [*self.program(command), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(),
            cwd=self.folder,
            start_new_session=True,
        )

    def environment(self) -> dict[str, str]:
        """What a command finds in its environment."""
        environment = os.environ | {"SWEEPS_HOME": str(self.folder), "COLUMNS": "160"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        return environment | self.settings

    def program(self, command: str) -> list[str]:
        """What starts a command."""
        return [str(Path(sys.executable).parent / command)]

    def call(self, command: str, *arguments: str, code: int = 0) -> str:
        """Run a command to its end; returns its standard output, or for a failure its standard error."""
        process = self.start(command, *arguments)
        out, error = process.communicate(timeout=240)
        assert process.returncode == code, out + error
        assert "Traceback" not in error, error
        return out if code == 0 else error

    def status(self, name: str) -> dict[str, Any]:
        """What `sweeps status NAME --json` prints."""
        found: dict[str, Any] = json.loads(self.call("sweeps", "status", name, "--json"))
        return found

    def study(self, name: str) -> optuna.Study:
        """The sweep's ledger, as Optuna opens it."""
        return optuna.load_study(study_name=name, storage=f"sqlite:///{self.folder / 'sweeps' / name / 'ledger.db'}")

    def runs(self, name: str) -> tuple[list[Any], list[Any]]:
        """The sweep's parent runs and trial runs, as MLflow has them."""
        from mlflow.tracking import MlflowClient  # here, since it takes seconds

        client = MlflowClient(tracking_uri=f"sqlite:///{self.tracking}")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments, f"tags.sweep = '{name}'")
        nested = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
        return [run for run in runs if run not in nested], nested

    def assert_consistent(self, name: str, trials: int, untracked: bool = False) -> None:
        """Study, MLflow and result files agree: every trial once, none running.

        Args:
            untracked: the tracking was gone while trials began and ended, whose runs the ledger then does not name.
        """
        study = self.study(name).trials
        parents, nested = self.runs(name)
        folders = sorted((self.folder / "sweeps" / name / "trials").iterdir())
        assert [trial.number for trial in study] == list(range(trials))
        assert {trial.state.name for trial in study} <= {"COMPLETE", "FAIL", "PRUNED"}
        assert len(parents) == 1
        assert parents[0].info.status == "FINISHED"
        assert sorted(int(run.data.tags["trial"]) for run in nested) == list(range(trials))
        assert [folder.name for folder in folders] == [f"{number:04d}" for number in range(trials)]
        for trial in study:
            run = next(run for run in nested if int(run.data.tags["trial"]) == trial.number)
            result = json.loads((folders[trial.number] / "result.json").read_text())
            assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
            named = trial.user_attrs.get("run_id")
            assert named == run.info.run_id or (untracked and named is None)
            if trial.state.name == "COMPLETE":
                assert run.info.status == "FINISHED"
                assert trial.value == result["metrics"]["joint"] == run.data.metrics["joint"]
                assert trial.user_attrs["result"]["base_key"] == result["base_key"] == run.data.tags["base_key"]
            elif trial.state.name == "PRUNED":
                assert (run.info.status, run.data.tags["state"], result["state"]) == ("FINISHED", "pruned", "pruned")
            else:
                assert (run.info.status, result["state"]) == ("FAILED", "failed")


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`, itself included."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def kill_everything(process: subprocess.Popen[str]) -> None:
    """Kill a command and all that it started, at once."""
    kill_tree(process.pid)
    process.communicate(timeout=30)


def kill_tree(root: int) -> None:
    """Kill a process and all below it."""
    for pid in descendants(root):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_for(condition: Any, seconds: float = 180) -> None:
    """Wait until `condition()` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
