"""What a sweep has come to, as one object: for `sweeps status`, the report and the export."""

from typing import Any

from senet.data.catalogue import chance_topk, dataset_folder
from senet.data.store import open_dataset
from senet.errors import InputError
from sweeps.analysis import configurations, front, knee
from sweeps.booking import booked
from sweeps.config import Recipe
from sweeps.ledger import Entry, entries_of, is_finished
from sweeps.sweep import Sweep

Status = dict[str, Any]


def sweep_status(sweep: Sweep) -> Status:
    """State, objective, bases, best trial, baseline and all trials of a sweep; plain values for JSON.

    `state` is running, paused, interrupted or finished. A trial that was running when its sweep was interrupted stays
    `running`: it goes on when the sweep is resumed. `best` and `baseline` are configurations, ranked by their mean
    joint over seeds: the first complete trial of each, with `n`, `joint_mean` and `joint_sd`. `front` are the numbers
    of those that no other beats on both accuracies, from the best original to the best streaming accuracy, `knee` the
    one of them that `--pick knee` takes.
    """
    recipe = sweep.recipe()
    driven = sweep.is_driven()
    entries = entries_of(sweep)
    seed = recipe.parsed_space("recipe").seed if entries else 0
    trials = [_trial(sweep, entry, seed) for entry in entries]
    ending = sweep.ending()
    finished = is_finished(recipe, entries, ending)
    stopped = "paused" if str(ending).startswith("paused") else "interrupted"
    run = [trial for trial in trials if trial["answers"] is None]
    reused = [trial for trial in run if trial["base_reused"]]
    ranking = configurations(trials)
    return {
        "name": sweep.name,
        "state": "running" if driven and not finished else "finished" if finished else stopped,
        "ending": ending,
        "created": sweep.about()["created"],
        "data": recipe.data,
        "objective": {
            "mode": recipe.objective.mode,
            "original_weight": recipe.objective.original_weight,
            "top_k": recipe.objective.top_k,
            **_difficulty(sweep, recipe),
        },
        "planned_trials": recipe.search.trials,
        "bases": {
            "trained": sum(trial["base_reused"] is False for trial in run),
            "reused": len(reused),
            "seconds_saved": sum(trial["seconds_saved"] for trial in reused),
        },
        "best": next((one.described() for one in ranking), None),
        "baseline": next((one.described() for one in ranking if one.enqueued), None),
        "front": [one.first["number"] for one in reversed(front(ranking))],
        "knee": knee(ranking).first["number"] if ranking else None,
        "device_seconds": booked(entries),
        "trials": trials,
    }


def _trial(sweep: Sweep, entry: Entry, seed: int) -> Status:
    result = entry.result
    progress = (sweep.progress(entry.number) or {}) if entry.state == "running" else {}
    return {
        "number": entry.number,
        "state": entry.state,
        "params": entry.params,
        "seed": seed if entry.seed is None else entry.seed,
        "enqueued": entry.enqueued is not None,
        "metrics": result.get("metrics", {}),
        "progress": progress,
        "base_key": result.get("base_key"),
        "base_reused": result.get("base_reused"),
        "seconds_saved": result.get("seconds_saved", 0.0),
        "seconds": result.get("seconds"),
        "gpu_memory": result.get("gpu_memory"),
        "answers": entry.answers,
        "mlflow_run_id": entry.run_id,
        "error": result.get("error"),
    }


def _difficulty(sweep: Sweep, recipe: Recipe) -> dict[str, Any]:
    """Chance level of both accuracies, the number of images that they are measured on, and what must be said of the
    split; None without the data."""
    try:
        dataset = open_dataset(dataset_folder(sweep.home, recipe.data))
    except InputError:
        return {"chance": None, "images": None, "split": ""}
    classes, k = len(dataset.classes), recipe.objective.top_k
    labels = dataset.streaming.labels.sum(axis=1)
    streaming = sum(chance_topk(classes, int(n), k) for n in labels) / max(1, len(labels))
    counts = dataset.manifest["counts"]
    return {
        "chance": {"original": chance_topk(classes, 1, k), "streaming": streaming},
        "split": dataset.split_note,
        "images": {"original": counts["base"]["validation"], "streaming": counts["streaming"]["validation"]},
    }


def complete_trials(status: Status) -> int:
    """How many of a sweep's trials are complete."""
    return sum(trial["state"] == "complete" for trial in status["trials"])
