"""Sweeps killed at random moments, then resumed: every trial once, nothing lost."""

import random
import time
from pathlib import Path

import pytest

from tests.conftest import merged
from tests.sweeps.commands import RECIPE, Home, kill_everything

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.mark.parametrize("seed", range(5))
def test_a_sweep_killed_at_any_moment_is_whole_after_a_resume(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    home = Home(tmp_path)
    recipe = merged(RECIPE, {"config": {"base": {"epochs": 8}}, "search": {"trials": 12}})
    process = home.start("sweeps", "run", str(home.recipe("chaos", **recipe)))
    finished: dict[str, float] = {}
    for _ in range(dice.choice([1, 1, 2])):
        # From before the first trial to after the last one.
        time.sleep(dice.uniform(6, 30))
        kill_everything(process)
        results = {str(p): p.stat().st_mtime for p in tmp_path.glob("sweeps/chaos/trials/*/result.json")}
        assert {path: results[path] for path in finished} == finished, "a finished trial ran again"
        finished = results
        if not (tmp_path / "sweeps" / "chaos").exists():
            # Killed before there was a sweep: it is simply run again.
            process = home.start("sweeps", "run", str(home.recipe("chaos", **recipe)))
        else:
            process = home.start("sweeps", "resume", "chaos")
    out, error = process.communicate(timeout=200)
    assert process.returncode == 0, out + error
    home.assert_consistent("chaos", 12)
    results = {str(p): p.stat().st_mtime for p in tmp_path.glob("sweeps/chaos/trials/*/result.json")}
    assert {path: results[path] for path in finished} == finished, "a finished trial ran again"
