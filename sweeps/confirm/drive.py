"""Confirms a sweep: runs its study on Ray, looks at the pictures of every trial, concludes."""

import sys

from rich.console import Console

from sweeps.confirm.result import Result, conclude
from sweeps.confirm.study import check_study, study_begun, study_of, study_recipe
from sweeps.environment import set_ray_environment
from sweeps.inventory import quota
from sweeps.status import sweep_status
from sweeps.storage import tracking_uri
from sweeps.sweep import Sweep, check_same_data, create_sweep


def confirm_sweep(sweep: Sweep, top: int, seeds: int, address: str | None, console: Console) -> Result | str:
    """Run what is left of the study of `sweep`, and conclude it.

    Args:
        top: so many of the best configurations are candidates, and the baseline.
        seeds: fresh ones of each candidate.
        address: of the Ray cluster to join; None: start Ray.

    Returns:
        The result, as confirm.json holds it; or why the study has ended before all of it ran.

    Raises:
        InputError: the sweep cannot be confirmed, or its study was begun otherwise.
        FailedError: the baseline has failed with every fresh seed, or a worker died again and again.
    """
    found = sweep_status(sweep)
    recipe, study = study_recipe(sweep, found, top, seeds), study_of(sweep)
    check_study(sweep, recipe)
    check_same_data(sweep)
    quota()
    tracking_uri(sweep.home)
    set_ray_environment(local=address is None)

    # Ray reads its environment when it is imported.
    from sweeps.confirm.hits import measure_hits
    from sweeps.run import close, drive, possible_concurrency, ray_cluster
    from sweeps.tasks import run_tasks

    _say(console, f"starting Ray for sweep {study.name}: {recipe.search.trials} trials on fresh seeds")
    with ray_cluster(address):
        concurrency = possible_concurrency(recipe, "recipe", address)
        if not study_begun(sweep):
            create_sweep(sweep.home, study.name, study.name, recipe, sweep.about()["data_fingerprint"])
        if sweep_status(study)["state"] == "finished":
            close(study)
        elif (ending := drive(study, concurrency, console)) is not None:
            return ending
        _say(console, "looking at the pictures of every trial")
        with study.driving():
            return conclude(sweep, found, top, lambda work: run_tasks(measure_hits, work, recipe.resources.cpu))


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
    sys.stdout.flush()
