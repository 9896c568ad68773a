"""What an earlier sweep has found, taken over by a new one, whole, however often that is interrupted."""

import json
from collections import defaultdict
from typing import Any

from senet.config import TrialConfig
from senet.data.catalogue import describe_dataset
from senet.errors import InputError
from senet.files import write_atomically
from sweeps.constraints import Constraints
from sweeps.ledger import answered, entries_of, open_ledger
from sweeps.shared import Shared
from sweeps.space import Params, Space, complete, value_at
from sweeps.sweep import Sweep, find_sweep

_DONE = "warm-start.json"


def take_over(sweep: Sweep) -> str:
    """Write the complete trials of the sweep that `sweep` begins from, if there is one, into its ledger, as answered:
    those that it could have run itself. What is there already is not written again.

    A trial fits if the new space with some parameters, which meet the new constraints, gives the same config on the
    same data, objective included.

    Returns:
        What was taken and what was left out, with the reasons, in a line; nothing where all was done before.

    Raises:
        InputError: the other sweep is gone.
    """
    name, done = sweep.about().get("warm_start"), sweep.folder / _DONE
    if name is None or Shared(sweep.home).fetch(done):
        return ""
    with sweep.driving():
        told = _taken(sweep, find_sweep(sweep.home, name))
        write_atomically(done, json.dumps({"told": told}).encode())
        sweep.pass_on()
    return told


def _taken(sweep: Sweep, other: Sweep) -> str:
    recipe = sweep.recipe()
    space, other_space = recipe.parsed_space("recipe"), other.recipe().parsed_space("recipe")
    constraints = Constraints(recipe, space, describe_dataset(sweep.home, recipe.data))
    same_data = sweep.about()["data_fingerprint"] == other.about()["data_fingerprint"]
    ledger = open_ledger(sweep, create=True)
    there = {entry.answers: entry for entry in ledger.entries()}
    taken = 0
    left_out: dict[str, list[int]] = defaultdict(list)
    for entry in entries_of(other):
        try:
            if entry.state != "complete":
                raise InputError(f"{entry.state} there")
            if not same_data:
                raise InputError("it was trained on other data")
            params = _fitted(space, other_space.config(entry.params, seed=entry.seed))
            if not constraints.fits(params):
                raise InputError("it is outside of `constraints`")
            answers = f"{other.name}/{entry.number}"
            opened = there.get(answers) or ledger.open(params, space, seed=entry.seed, answers=answers)
            ledger.finish(opened.number, answered(entry))
            taken += 1
        except InputError as error:
            left_out[str(error)].append(entry.number)
    told = f"took over {taken} trials of {other.name}"
    if left_out:
        reasons = (f"trial {', '.join(map(str, numbers))}: {reason}" for reason, numbers in left_out.items())
        told += f", left out {sum(map(len, left_out.values()))}: {'; '.join(reasons)}"
    return told


def _fitted(space: Space, config: TrialConfig) -> Params:
    """The parameters with which `space` gives `config`. Raises InputError where there are none."""
    wanted: dict[str, Any] = {path: value_at(config, path) for path in space.distributions}
    params = complete(space, space.only_active(wanted), "this sweep")
    found = space.config(params, seed=config.seed).model_dump()
    for key, value in config.model_dump().items():
        if key != "data" and found[key] != value:
            raise InputError(f"`{key}` is {value} there, and {found[key]} here")
    return params
