"""What confirming a sweep has come to: `confirm.json` in its folder, written once, after the test split was read."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from senet.data.store import Split
from senet.errors import InputError
from senet.files import write_atomically
from sweeps.analysis import configuration_key, configurations, spread, weights_of_first_place
from sweeps.confirm.bootstrap import REPLICATES, Interval, paired_interval
from sweeps.confirm.hits import Hits, read_hits
from sweeps.confirm.study import Candidate, outcome, study_of
from sweeps.errors import FailedError
from sweeps.shared import Shared
from sweeps.status import Status, complete_trials, sweep_status
from sweeps.sweep import Sweep, versions

Result = dict[str, Any]
Measured = dict[int, dict[str, Hits]]
"""hits by split, by seed"""

FILE = "confirm.json"
_KEYS = {"pick", "validation", "test", "complete_trials"}


def stored_result(sweep: Sweep) -> Result | None:
    """What confirming `sweep` came to; None where that was not done. Raises InputError where the file is damaged."""
    path = sweep.folder / FILE
    try:
        found: Any = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not found.keys() >= _KEYS:
        raise InputError(f"{path}: is no result; delete it and confirm again: sweeps confirm {sweep.name}")
    return found


def conclude(sweep: Sweep, status: Status, top: int, measure_all: Callable[[list[dict[str, Any]]], None]) -> Result:
    """Rank the candidates of a sweep whose study has finished, look at their pictures, and write confirm.json.

    The first, which is the pick, and the baseline are looked at on validation and test split, the others on validation
    alone.

    Args:
        measure_all: calls `measure_hits` with every assignment that it is given.

    Raises:
        FailedError: the baseline failed with all fresh seeds.
    """
    everyone = outcome(sweep, status, top)
    ranking = [candidate for candidate in everyone if candidate.replicates]
    if not any(candidate.is_baseline for candidate in ranking):
        study = study_of(sweep).name
        raise FailedError(f"the baseline failed with all fresh seeds; look at it: sweeps status {study}")
    result = _result(sweep, ranking, _measured(sweep, ranking, measure_all), top) | {
        "split": status["objective"]["split"],
        "complete_trials": complete_trials(status),
        "weights_of_first_place": _weights(sweep, ranking[0]),
        "failed": [candidate.configuration.first["number"] for candidate in everyone if not candidate.replicates],
    }
    write_atomically(sweep.folder / FILE, (json.dumps(result, indent=2) + "\n").encode())
    sweep.pass_on()
    return result


def _measured(
    sweep: Sweep, ranking: Sequence[Candidate], measure_all: Callable[[list[dict[str, Any]]], None]
) -> list[Measured]:
    """The hits of every candidate's trials, from the files that hold them already or are written now."""
    study = study_of(sweep)
    shared = Shared(study.home)
    study_id, recipe = study.about()["id"], study.recipe()
    space = recipe.parsed_space("recipe")
    assignments = []
    for i, candidate in enumerate(ranking):
        splits: list[Split] = ["validation", "test"] if i == 0 or candidate.is_baseline else ["validation"]
        for trial in candidate.replicates.values():
            folder = study.trial_folder(trial["number"])
            shared.fetch(folder / "hits.npz")
            if read_hits(folder).keys() >= set(splits):
                continue
            assignments.append(
                {
                    "config": space.config(trial["params"], seed=trial["seed"]).model_dump(mode="json"),
                    "home": str(study.home),
                    "bucket": shared.url,
                    "folder": str(folder),
                    "gpu": _gpu_share(study, trial["number"]),
                    "splits": splits,
                    "trainer": f"{study_id}/{trial['number']}",
                }
            )
    if assignments:
        measure_all(assignments)
        for assignment in assignments:
            shared.fetch(Path(str(assignment["folder"])) / "hits.npz")
    return [
        {seed: read_hits(study.trial_folder(trial["number"])) for seed, trial in candidate.replicates.items()}
        for candidate in ranking
    ]


def _gpu_share(study: Sweep, number: int) -> float:
    """What a trial of the study ran with at most: one that ran out of memory was given more."""
    attempts = study.attempts(number)
    given = attempts[-1].get("next_resources", {}) if attempts else {}
    return float(max(given.get("gpu", 0), study.recipe().resources.most()["gpu"]))


def row_of(result: Result, params: dict[str, Any]) -> Result | None:
    """The row of the configuration with these parameters; None where it was no candidate."""
    key = configuration_key(params)
    return next((row for row in result["validation"] if configuration_key(row["params"]) == key), None)


def _result(sweep: Sweep, ranking: Sequence[Candidate], measured: Sequence[Measured], top: int) -> Result:
    """The result, from the candidates in their order and their hits."""
    recipe = sweep.recipe()
    weight = recipe.objective.original_weight
    baseline = next(i for i, candidate in enumerate(ranking) if candidate.is_baseline)
    rows = [_row(candidate, hits, weight) for candidate, hits in zip(ranking, measured, strict=True)]
    for row, (first, second) in zip(rows, pairwise(measured), strict=False):
        row["ahead_of_next"] = _difference(first, second, "validation", weight)
    deviations = [
        abs(joint - trial["metrics"]["joint"])
        for row, candidate in zip(rows, ranking, strict=True)
        for joint, trial in zip(row["joint"]["values"], candidate.replicates.values(), strict=True)
    ]
    return {
        "sweep": sweep.name,
        "sweep_id": sweep.about()["id"],
        "study": study_of(sweep).name,
        "read_test_split": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": recipe.data,
        "data_fingerprint": sweep.about()["data_fingerprint"],
        "objective": recipe.objective.model_dump(),
        "top": top,
        "seeds": sorted({seed for candidate in ranking for seed in candidate.replicates}),
        "pick": rows[0]["trial"],
        "baseline": rows[baseline]["trial"],
        "validation": rows,
        "test": {
            "pick": _accuracies(measured[0], "test", weight),
            "baseline": _accuracies(measured[baseline], "test", weight),
            "better": _difference(measured[0], measured[baseline], "test", weight) if baseline else None,
        },
        "interval": f"95 %, Student's t with the variance of a pigeonhole bootstrap of seeds and pictures, paired, "
        f"{REPLICATES} replicates",
        # Nothing on the machines that the trials ran on; other hardware rounds otherwise.
        "largest_deviation_of_a_joint_measured_again": max(deviations),
        "versions": versions(),
    }


def _weights(sweep: Sweep, pick: Candidate) -> list[float] | None:
    """For which weights of the objective no other candidate is ahead of the pick on validation, fresh seeds alone."""
    among = configurations(sweep_status(study_of(sweep))["trials"])
    numbers = {trial["number"] for trial in pick.replicates.values()}
    found = weights_of_first_place(next(one for one in among if one.first["number"] in numbers), among)
    return None if found is None else list(found)


def _row(candidate: Candidate, measured: Measured, weight: float) -> Result:
    """One candidate on the validation split."""
    one = candidate.configuration
    return {
        "trial": one.first["number"],
        "params": one.first["params"],
        "is_baseline": candidate.is_baseline,
        "in_the_sweep": one.over_seeds("joint")._asdict(),
        "trials": [trial["number"] for trial in candidate.replicates.values()],
        **_accuracies(measured, "validation", weight),
        "ahead_of_next": None,
    }


def _accuracies(measured: Measured, split: Split, weight: float) -> Result:
    """n, pictures, and joint, original and streaming accuracy: mean, standard deviation and the values by seed."""
    original = [float(hits[split].original.mean()) for hits in measured.values()]
    streaming = [float(hits[split].streaming.mean()) for hits in measured.values()]
    joint = [weight * a + (1 - weight) * b for a, b in zip(original, streaming, strict=True)]
    any_hits = next(iter(measured.values()))[split]
    found: Result = {"n": len(joint), "pictures": {name: len(part) for name, part in any_hits._asdict().items()}}
    for name, values in (("joint", joint), ("original_topk", original), ("streaming_topk", streaming)):
        over_seeds = spread(values)
        assert over_seeds is not None
        found[name] = {"mean": over_seeds.mean, "sd": over_seeds.sd, "values": values}
    return found


def _difference(first: Measured, second: Measured, split: Split, weight: float) -> dict[str, float] | None:
    """By how much the first is ahead, over the seeds that both have; None where they share fewer than two: one says
    nothing of how much seeds differ.
    """
    seeds = [seed for seed in first if seed in second]
    if len(seeds) < 2:
        return None

    def of(name: str) -> Any:
        return np.stack(
            [
                getattr(first[seed][split], name).astype(np.float64) - getattr(second[seed][split], name)
                for seed in seeds
            ]
        )

    found: Interval = paired_interval(of("original"), of("streaming"), weight)
    return found._asdict() | {"n": len(seeds)}
