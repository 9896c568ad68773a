"""Sweeps killed at random moments, then resumed: every trial once, nothing lost."""

import json
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import merged
from tests.soak.checker import problems
from tests.sweeps.commands import RECIPE, Home, kill_everything

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

# A sweep begins its first trial after some seconds, and ends about so many later.
FIRST_SECONDS, LAST_SECONDS = 5.0, 22.0
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("seed", range(20))
def test_a_sweep_killed_at_any_moment_is_whole_after_a_resume(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    home = Home(tmp_path)
    changes = {"config": {"base": {"epochs": 5}}, "search": {"trials": 12, "pruning": {"rungs": [2]}}}
    recipe = home.recipe("chaos", **merged(RECIPE, changes))
    process = home.start("sweeps", "run", str(recipe))
    finished: dict[str, bytes] = {}
    for _ in range(dice.choice([1, 1, 2])):
        time.sleep(dice.uniform(FIRST_SECONDS, LAST_SECONDS))
        kill_everything(process)
        results = written(tmp_path)
        assert {path: results[path] for path in finished} == finished, "a finished trial ran again"
        finished = results
        # Killed before there was a sweep, it is simply run again.
        begun = (tmp_path / "sweeps" / "chaos").exists()
        process = home.start("sweeps", *(["resume", "chaos"] if begun else ["run", str(recipe)]))
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, out + error
    results = written(tmp_path)
    assert {path: results[path] for path in finished} == finished, "a finished trial ran again"
    check = [sys.executable, "-m", "tests.soak.checker", str(tmp_path), "chaos", "12"]
    checked = subprocess.run(check, capture_output=True, text=True, cwd=ROOT)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def written(home: Path) -> dict[str, bytes]:
    """Result files with what is in them: seconds too, so that a second run of a trial shows."""
    return {str(path): path.read_bytes() for path in home.glob("sweeps/chaos/trials/*/result.json")}


def test_the_checker_sees_what_is_wrong(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.call("sweeps", "run", str(home.recipe("whole", **merged(RECIPE, {"search": {"trials": 4}}))))
    assert problems(tmp_path, "whole", 4) == []
    for damage, said in DAMAGES:
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "sweeps", copy / "sweeps")
        shutil.copy(tmp_path / "mlflow.db", copy / "mlflow.db")
        damage(copy)
        assert any(said in line for line in problems(copy, "whole", 4)), said
        shutil.rmtree(copy)


def _sql(database: Path, statement: str) -> None:
    with sqlite3.connect(database) as connection:
        assert connection.execute(statement).rowcount > 0


def _without_result(copy: Path) -> None:
    (copy / "sweeps" / "whole" / "trials" / "0002" / "result.json").unlink()


def _run_left_open(copy: Path) -> None:
    runs = "SELECT run_uuid FROM tags WHERE key = 'trial' AND value = '1'"
    _sql(copy / "mlflow.db", f"UPDATE runs SET status = 'RUNNING' WHERE run_uuid IN ({runs})")


def _run_doubled(copy: Path) -> None:
    _sql(copy / "mlflow.db", "UPDATE tags SET value = '1' WHERE key = 'trial' AND value = '2'")


def _trial_left_running(copy: Path) -> None:
    _sql(copy / "sweeps" / "whole" / "ledger.db", "UPDATE trials SET state = 'RUNNING' WHERE number = 3")


def _other_value(copy: Path) -> None:
    _sql(copy / "sweeps" / "whole" / "ledger.db", "UPDATE trial_values SET value = value + 0.1 WHERE trial_id = 1")


def _two_sessions_ended_it(copy: Path) -> None:
    ray = copy / "sweeps" / "whole" / "ray"
    shutil.copytree(ray / "session-1", ray / "session-2")


def _unknown_to_ray(copy: Path) -> None:
    ray = copy / "sweeps" / "whole" / "ray"
    (path,) = ray.glob("session-1/experiment_state-*.json")
    state = json.loads(path.read_text())
    state["trial_data"] = [pair for pair in state["trial_data"] if json.loads(pair[0])["config"]["number"] != 3]
    path.write_text(json.dumps(state))
    shutil.rmtree(ray / "session-1" / "trial-0003", ignore_errors=True)


DAMAGES = [
    (_without_result, "the result files: trials"),
    (_run_left_open, "trial 1: state in the study and of the run"),
    (_run_doubled, "MLflow: trials"),
    (_trial_left_running, "trial 3: state in the study and in the result file"),
    (_other_value, "trial 0: objective in the study and in the result file"),
    (_two_sessions_ended_it, "Ray: trial 0 ended 2 times"),
    (_unknown_to_ray, "Ray: trial 3 was never begun"),
]
