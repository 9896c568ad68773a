"""Sweeps that are paused, stopped, extended, pruned and built upon, through the real commands."""

from pathlib import Path

import pytest

from tests.conftest import merged
from tests.sweeps.commands import RECIPE, Home, wait_for

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

PRUNED = merged(
    RECIPE,
    {
        "config": {"base": {"epochs": 4}},
        "search": {
            "trials": 10,
            "seed": 1,
            "streams_per_base": 1,
            "pruning": {"rungs": [1, 2], "reduction_factor": 2},
        },
    },
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


def ended(home: Home, name: str) -> int:
    return len(list((home.folder / "sweeps" / name).glob("trials/*/result.json")))


def test_a_paused_sweep_finishes_what_runs_and_goes_on(home: Home) -> None:
    process = home.start("sweeps", "run", str(home.recipe("steered", **PRUNED)))
    wait_for(lambda: ended(home, "steered") >= 2)
    assert "begins no further trial" in home.call("sweeps", "pause", "steered")
    out, error = process.communicate(timeout=180)
    assert process.returncode == 1, out + error
    assert "paused: asked to; go on: sweeps resume steered" in out
    found = home.status("steered")
    assert found["state"] == "paused"
    assert "running" not in {trial["state"] for trial in found["trials"]}
    assert "is not running" in home.call("sweeps", "pause", "steered", code=2)

    home.call("sweeps", "resume", "steered")
    home.assert_consistent("steered", 10)
    found = home.status("steered")
    assert found["state"] == "finished"
    given_up = [trial for trial in found["trials"] if trial["state"] == "pruned"]
    assert given_up, "half of the probed bases are given up"
    assert all("probe after base epoch" in trial["error"] for trial in given_up)
    spent = found["device_seconds"]
    assert spent["useful"].keys() == {"base", "probe", "streaming"}
    assert spent["pruned"].keys() == {"base", "probe"}
    assert spent["saved"]["base"] > 0
    assert " probe_joint 0." in home.call("sweeps", "logs", "steered", str(given_up[0]["number"]))
    assert "has no trial 99" in home.call("sweeps", "logs", "steered", "99", code=2)


def test_a_finished_sweep_is_extended(home: Home) -> None:
    assert "must be 1 or more" in home.call("sweeps", "extend", "steered", "--trials", "0", code=2)
    home.call("sweeps", "extend", "steered", "--trials", "2")
    home.assert_consistent("steered", 12)
    assert home.status("steered")["planned_trials"] == 12


def test_a_new_sweep_builds_on_another(home: Home, tmp_path: Path) -> None:
    space = RECIPE["space"] | {"model.reduction": {"choice": [16]}}
    enqueue = [{"model.expansion": 1, "streaming.learning_rate": 0.003}]
    recipe = merged(PRUNED, {"search": {"trials": 2}}) | {"space": space, "enqueue": enqueue}
    out = home.call("sweeps", "run", str(home.recipe("onward", **recipe)), "--warm-start", "steered")
    steered, found = home.status("steered")["trials"], home.status("onward")["trials"]
    fitting = [t["number"] for t in steered if t["state"] == "complete" and t["params"]["model.reduction"] == 16]
    # A suggestion that repeats one of them would be answered by its number here.
    taken = [trial["answers"] for trial in found if isinstance(trial["answers"], str)]
    assert taken == [f"steered/{number}" for number in fitting]
    assert f"took over {len(fitting)} trials of steered" in out
    assert "is outside of choice: [16]" in out
    left = [t["number"] for t in steered if t["number"] not in fitting]
    assert f", left out {len(left)}: trial " in out
    named = {int(word.strip(",:")) for word in out.partition("left out")[2].split() if word.strip(",:").isdigit()}
    assert named >= set(left), "by their numbers"
    own = [trial["state"] for trial in found if trial["answers"] is None]
    assert len(own) == 2
    assert set(own) <= {"complete", "pruned"}
    assert "no sweep `nothing`" in home.call(
        "sweeps", "run", str(home.folder / "onward.yaml"), "--warm-start", "nothing", code=2
    )


def test_a_stopped_sweep_goes_on(home: Home) -> None:
    slow = merged(RECIPE, {"config": {"base": {"epochs": 30}}, "search": {"trials": 3}})
    process = home.start("sweeps", "run", str(home.recipe("stopped", **slow)))
    wait_for(lambda: list((home.folder / "sweeps" / "stopped").glob("trials/*/progress.json")))
    assert "stopped sweep stopped" in home.call("sweeps", "stop", "stopped")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted; go on: sweeps resume stopped" in out
    home.call("sweeps", "resume", "stopped")
    home.assert_consistent("stopped", 3)
