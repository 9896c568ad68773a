"""Sweeps killed at random moments, then resumed: every trial once, nothing lost."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import merged
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
