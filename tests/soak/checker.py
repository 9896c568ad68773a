"""Whether a finished sweep did every trial exactly once: looks into Ray's folder, the study, MLflow's database and the
result files, each by its own means and none through this project's code.

    python -m tests.soak.checker HOME SWEEP TRIALS      prints what is wrong, a line each; exit code 1 if anything is

It looks at a sweep whose ledger and tracking are sqlite files.
"""

import json
import math
import sqlite3
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import optuna

# What MLflow calls the end of a run, by the trial's state in Optuna.
_RUN_OF = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}
_RESULT_OF = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


def problems(home: Path, name: str, trials: int) -> list[str]:
    """Everything that is not as it must be."""
    folder = home / "sweeps" / name
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'ledger.db'}")
    results = {int(path.parent.name): json.loads(path.read_text()) for path in folder.glob("trials/*/result.json")}
    runs, parents = _runs(home / "mlflow.db", name)
    wanted, found = list(range(trials)), []
    for what, numbers in (
        ("the study", [trial.number for trial in study.trials]),
        ("the result files", sorted(results)),
        ("MLflow", sorted(run["trial"] for run in runs)),
    ):
        if numbers != wanted:
            found.append(f"{what}: trials {numbers} instead of 0 to {trials - 1}")
    if [run["status"] for run in parents] != ["FINISHED"]:
        found.append(f"MLflow: parent runs {[run['status'] for run in parents]} instead of one that is finished")
    by_number = {run["trial"]: run for run in runs}
    for trial in study.trials:
        if trial.number in results and trial.number in by_number:
            found += _differences(trial, results[trial.number], by_number[trial.number], {p["id"] for p in parents})
    return found + _in_ray(folder / "ray", study) + _twice(study)


def _differences(trial: Any, result: dict[str, Any], run: dict[str, Any], parents: set[str]) -> list[str]:
    """Where study, result file and run of a trial say different things."""
    state, metrics = trial.state.name, result.get("metrics", {})
    pairs = {
        "state in the study and in the result file": (_RESULT_OF.get(state), result["state"]),
        "state in the study and of the run": (_RUN_OF.get(state), run["status"]),
        "run in the study and in MLflow": (trial.user_attrs.get("run_id"), run["id"]),
        "parent run": (run["parent"] in parents, True),
        "base in the study and in the result file": (
            trial.user_attrs.get("result", {}).get("base_key"),
            result.get("base_key"),
        ),
        "objective in the study and in the result file": (trial.value, metrics.get("joint")),
        "objective in the result file and in MLflow": (metrics.get("joint"), run["joint"]),
        "parameters in the study and in MLflow": (
            {key: str(value) for key, value in trial.params.items()},
            {key: value for key, value in run["params"].items() if key != "seed"},
        ),
    }
    found = [f"trial {trial.number}: {what}: {a!r}, {b!r}" for what, (a, b) in pairs.items() if a != b]
    epochs = [(report["phase"], report["epoch"]) for report in result.get("history", [])]
    for what, steps in (("result file", epochs), ("run", run["epochs"])):
        doubled = [step for step, count in Counter(steps).items() if count > 1]
        found += [f"trial {trial.number}: {what}: epochs {doubled} twice"] if doubled else []
    if sorted(epochs) != sorted(set(run["epochs"])):
        found.append(f"trial {trial.number}: epochs in the result file and of the run: {epochs}, {run['epochs']}")
    return found


def _runs(database: Path, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The runs of a sweep's trials, and its parent runs."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        select = connection.execute
        found = []
        for (run_id,) in select("SELECT run_uuid FROM tags WHERE key = 'sweep' AND value = ?", (name,)).fetchall():
            tags = dict(select("SELECT key, value FROM tags WHERE run_uuid = ?", (run_id,)))
            (status,) = select("SELECT status FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
            latest = dict(select("SELECT key, value FROM latest_metrics WHERE run_uuid = ?", (run_id,)))
            losses = "SELECT key, step FROM metrics WHERE run_uuid = ? AND key LIKE '%/train_loss'"
            found.append(
                {
                    "id": run_id,
                    "status": status,
                    "trial": int(tags["trial"]) if tags["trial"] != "parent" else None,
                    "parent": tags.get("mlflow.parentRunId"),
                    "joint": latest.get("joint"),
                    "params": dict(select("SELECT key, value FROM params WHERE run_uuid = ?", (run_id,))),
                    "epochs": [(key.partition("/")[0], step) for key, step in select(losses, (run_id,))],
                }
            )
    return [run for run in found if run["trial"] is not None], [run for run in found if run["trial"] is None]


def _in_ray(folder: Path, study: optuna.Study) -> list[str]:
    """Where Ray's sessions do not agree with the study: a trial that is in none, or that has run to its end twice."""
    params: dict[int, dict[str, Any]] = {trial.number: trial.params for trial in study.trials}
    ended: Counter[int] = Counter()
    seen, spans = set(), []
    found = []
    for path in sorted(folder.glob("session-*/experiment_state-*.json")):
        state = json.loads(path.read_text())
        trials = [(json.loads(trial), json.loads(runtime)) for trial, runtime in state["trial_data"]]
        killed = any(trial["status"] in ("PENDING", "RUNNING") for trial, _ in trials)
        # What it tells is from the moment before it was put down.
        spans.append((state["stats"]["start_time"], path.stat().st_mtime - 1 if killed else math.inf))
        for trial, runtime in trials:
            number = trial["config"]["number"]
            seen.add(number)
            ended[number] += trial["status"] == "TERMINATED" and runtime["last_result"].get("phase") == "end"
            if number not in params:
                found.append(f"Ray, {path.parent.name}: trial {number} is not in the study")
                continue
            for key, value in params[number].items():
                at = trial["config"]["config"]
                for part in key.split("."):
                    at = at[part]
                if at != value:
                    found.append(f"Ray, {path.parent.name}: trial {number}: `{key}` is {at}, in the study {value}")
    found += [f"Ray: trial {number} ended {count} times" for number, count in ended.items() if count > 1]
    # Ray writes its state down every ten seconds. A session that was killed may lack what it had begun since then, even
    # short trials that had ended; the folders tell of some.
    seen |= {int(path.name.removeprefix("trial-")) for path in folder.glob("session-*/trial-*")}
    for trial in study.trials:
        begun = trial.datetime_start.timestamp()
        told = [end for start, end in spans if start <= begun]
        if trial.number not in seen and not (told and begun > told[-1]):
            found.append(f"Ray: trial {trial.number} was never begun")
    return found


def _twice(study: optuna.Study) -> list[str]:
    """Configurations that were run more than once with the same seed."""
    counts = Counter(json.dumps([trial.params, trial.user_attrs["seed"]], sort_keys=True) for trial in study.trials)
    return [f"the study: {key} was run {count} times" for key, count in counts.items() if count > 1]


if __name__ == "__main__":
    lines = problems(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    print("\n".join(lines), end="\n" if lines else "")
    sys.exit(bool(lines))
