"""The study that confirms a sweep: a sweep of its own, of given configurations with fresh seeds, without a search."""

from dataclasses import dataclass
from typing import Any

from senet.errors import InputError
from sweeps.analysis import Configuration, Trial, configuration_key, configurations
from sweeps.config import BudgetConfig, Recipe, validate_recipe
from sweeps.status import Status, sweep_status
from sweeps.sweep import Sweep, find_sweep, sweep_names

# Seeds of a trial config are below this.
_SEEDS = 2**31


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration of the sweep, and what came of it on fresh seeds."""

    configuration: Configuration
    is_baseline: bool
    replicates: dict[int, Trial]
    """the study's complete trials, by seed"""

    @property
    def joint(self) -> float:
        """Mean joint on validation over the fresh seeds, −inf without any."""
        joints = [trial["metrics"]["joint"] for trial in self.replicates.values()]
        return sum(joints) / len(joints) if joints else float("-inf")


def study_of(sweep: Sweep) -> Sweep:
    """The sweep that confirms `sweep`; it may not exist yet."""
    return Sweep(sweep.home, f"{sweep.name}-confirm")


def with_study(sweep: Sweep) -> list[Sweep]:
    """The sweep, and the one that confirms it if there is one."""
    study = study_of(sweep)
    known = study_begun(sweep) and sweep.about()["id"] in study.recipe().description
    return [sweep, study] if known else [sweep]


def study_begun(sweep: Sweep) -> bool:
    """Whether there is the sweep that confirms `sweep`, begun on whatever machine; its files are then on this one."""
    study = study_of(sweep)
    if study.name not in sweep_names(sweep.home):
        return False
    find_sweep(sweep.home, study.name)
    return True


def study_recipe(sweep: Sweep, status: Status, top: int, seeds: int) -> Recipe:
    """The recipe of the study: the `top` best configurations and the baseline, each with `seeds` fresh seeds.

    Raises:
        InputError: the sweep is not finished, has no complete trial or no baseline, or there are too few seeds.
    """
    if status["state"] != "finished":
        hint = "watch it: sweeps status" if status["state"] == "running" else "go on with it: sweeps resume"
        raise InputError(f"sweep `{sweep.name}` is not finished; {hint} {sweep.name}")
    if status["best"] is None:
        raise InputError(f"sweep `{sweep.name}` has no complete trial; look at it: sweeps status {sweep.name}")
    if status["baseline"] is None:
        raise InputError(
            f"sweep `{sweep.name}` has no baseline: no configuration of `enqueue` in its recipe is complete"
        )
    recipe = sweep.recipe()
    chosen = candidates(status, top)
    # Nothing is suggested: the given configurations fill the budget.
    # All of it is run, whatever limits the search had.
    whole = {"trials": len(chosen) * seeds, "replicates": seeds, "pruning": None, "budget": BudgetConfig()}
    search = recipe.search.model_copy(update=whole)
    values: dict[str, Any] = recipe.model_dump(mode="json") | {
        "description": f"the best of sweep {sweep.name} ({sweep.about()['id']}) and its baseline on fresh seeds",
        "config": recipe.config | {"seed": _fresh_seed(status, recipe, seeds)},
        "search": search.model_dump(mode="json"),
        "enqueue": [one.first["params"] for one in chosen],
    }
    return validate_recipe(values, f"what confirms sweep `{sweep.name}`")


def candidates(status: Status, top: int) -> list[Configuration]:
    """The `top` best configurations, and the baseline where it is not among them.

    In pareto mode the knee, which is exported unless another is asked for, is the first of them.
    """
    ranking = sorted(configurations(status["trials"]), key=lambda one: not _is_knee(status, one))
    baseline = next(one for one in ranking if one.key == _baseline_key(status))
    best = ranking[:top]
    return best if baseline in best else [*best, baseline]


def check_study(sweep: Sweep, recipe: Recipe) -> None:
    """Raise InputError where there is a study already, and it is another."""
    study = study_of(sweep)
    if study_begun(sweep) and study.recipe() != recipe:
        raise InputError(
            f"sweep `{study.name}` exists, and was begun with other configurations, --top or --seeds; give those, or "
            f"delete it: sweeps delete {study.name}"
        )


def outcome(sweep: Sweep, status: Status, top: int) -> list[Candidate]:
    """The candidates with the trials of the finished study, best first, in pareto mode the knee before all.

    One that failed with some seed stands behind those that did not: it is ranked by what is left of it.
    """
    study = study_of(sweep)
    recipe, chosen = study.recipe(), candidates(status, top)
    given = recipe.first_configurations(recipe.parsed_space("recipe"), "recipe")
    trials = {one.key: one.trials for one in configurations(sweep_status(study)["trials"])}
    found = [
        Candidate(
            configuration=one,
            is_baseline=one.key == _baseline_key(status),
            replicates={trial["seed"]: trial for trial in trials.get(configuration_key(params), ())},
        )
        for one, params in zip(chosen, given, strict=True)
    ]
    return sorted(found, key=lambda one: (-len(one.replicates), not _is_knee(status, one.configuration), -one.joint))


def _is_knee(status: Status, one: Configuration) -> bool:
    """Whether this is what a sweep in pareto mode is for."""
    return bool(status["objective"]["mode"] == "pareto" and one.first["number"] == status["knee"])


def _baseline_key(status: Status) -> str:
    return configuration_key(status["baseline"]["params"])


def _fresh_seed(status: Status, recipe: Recipe, count: int) -> int:
    """The first of `count` seeds in a row that no trial of the sweep has had, or would have had."""
    used = {trial["seed"] for trial in status["trials"]} | set(recipe.seeds(recipe.parsed_space("recipe")))
    for first in [*(seed + 1 for seed in sorted(used, reverse=True)), 0]:
        if first + count <= _SEEDS and used.isdisjoint(range(first, first + count)):
            return first
    raise InputError(f"--seeds {count}: there are not so many fresh ones")
