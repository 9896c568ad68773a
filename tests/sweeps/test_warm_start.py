"""What a new sweep takes over from an earlier one, also where that is interrupted."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from senet.errors import InputError
from sweeps.config import validate_recipe
from sweeps.ledger import Ledger, open_ledger
from sweeps.search import Suggester
from sweeps.sweep import Sweep, create_sweep
from sweeps.warmstart import take_over
from tests.conftest import merged
from tests.sweeps.test_search import RECIPE as TINY

RECIPE = TINY | {"data": "breeds"}


@pytest.fixture
def other(tmp_path: Path) -> Sweep:
    """A sweep with four complete trials and a failed one."""
    recipe = validate_recipe(RECIPE, "r")
    sweep, space = create_sweep(tmp_path, "old", "old", recipe, "data"), recipe.parsed_space("r")
    ledger = open_ledger(sweep, create=True)
    for number, params in enumerate(recipe.first_configurations(space, "r")):
        result: dict[str, Any] = {"state": "complete", "metrics": {"joint": number / 10}, "seconds": 1.0}
        ledger.finish(ledger.open(params, space).number, result)
    ledger.finish(ledger.open(params, space).number, {"state": "failed", "error": "error: x"})
    return sweep


def begun(other: Sweep) -> Sweep:
    return create_sweep(other.home, "new", "new", validate_recipe(RECIPE, "r"), "data", other.name)


@pytest.mark.slow
def test_it_is_taken_over_whole_however_often_it_is_interrupted(other: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, finish, calls = begun(other), Ledger.finish, 0

    def killed(self: Ledger, number: int, result: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        finish(self, number, result)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            take_over(sweep)
    assert [entry.state for entry in open_ledger(sweep).entries()] == ["answered", "running"]
    assert take_over(sweep) == "took over 4 trials of old, left out 1: trial 4: failed there"
    entries = open_ledger(sweep).entries()
    assert [(entry.state, entry.answers, entry.joint) for entry in entries] == [
        ("answered", f"old/{number}", number / 10) for number in range(4)
    ]
    assert take_over(sweep) == "", "once"
    shutil.rmtree(other.folder)
    assert take_over(sweep) == "", "the other one is not needed any more"
    suggester = Suggester(sweep.recipe(), sweep.recipe().parsed_space("r"), open_ledger(sweep))
    first = suggester.next()
    assert first is not None
    assert first.answers is None


def test_what_the_new_sweep_could_not_have_run_is_left_out(other: Sweep) -> None:
    changes = {"constraints": {"parameters": [0, 12_000_000]}, "enqueue": RECIPE["enqueue"][:2]}
    sweep = create_sweep(other.home, "new", "new", validate_recipe(RECIPE | changes, "r"), "data", other.name)
    # With the expansion by 2 there are 12.7 million.
    left_out = "left out 3: trial 2, 3: it is outside of `constraints`; trial 4: failed there"
    assert take_over(sweep) == f"took over 2 trials of old, {left_out}"


def test_what_is_gone_is_named(other: Sweep) -> None:
    sweep = begun(other)
    shutil.rmtree(other.folder)
    with pytest.raises(InputError, match="no sweep `old`"):
        take_over(sweep)


def test_a_sweep_of_its_own_takes_nothing(tmp_path: Path) -> None:
    recipe = validate_recipe(merged(RECIPE, {"search": {"trials": 5}}), "r")
    assert take_over(create_sweep(tmp_path, "own", "own", recipe, "data")) == ""
