"""What it takes to find a good configuration, on real Ray: this project's search and Ray's documented wiring, trained.

    python benchmarks/search/live.py [--searches 4] [--cap 300] [--output benchmarks/results/search-live.json]

Both search space.yaml, as compare.py's replays do, on the data that the table was recorded on, with one trial a core,
for the same joint value: the table's target for the seed that is the trainings'. These are in turn the table's seeds 1
and 2, which nothing was tuned on (see README.md). One search after the other, ours first, each in a home of its own, so
that no base of another search serves it. Compute is seconds of trials, waiting for a process not among them, until the
first trial reaches the target; `wall` are seconds of the search from its start on, Ray's start included. A search whose
trials have spent `cap` seconds has not reached the target.

ours: `sweeps run`, as anybody runs it.
ray: OptunaSearch (define-by-run, its default sampler), ASHAScheduler on the base's accuracy in the milder variant of
    compare.py, a function that trains both phases by `senet`, processes reused, Ray's MLflow callback.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sweeps.environment import set_ray_environment

set_ray_environment(local=True)

import ray  # noqa: E402
from compare import RATIOS, RayMilder, Table, targets  # noqa: E402
from ray import tune  # noqa: E402
from ray.air.integrations.mlflow import MLflowLoggerCallback  # noqa: E402
from record import DATA, HERE  # noqa: E402

from senet.data.breeds import prepare_breeds  # noqa: E402
from senet.data.store import open_dataset  # noqa: E402
from senet.device import make_runtime  # noqa: E402
from senet.phases import stream, train_base  # noqa: E402
from sweeps.config import Recipe, load_recipe  # noqa: E402
from sweeps.space import Params  # noqa: E402

RESULTS = HERE.parent / "results"
SEEDS = (1, 2)
SLOTS = os.cpu_count() or 1


def ours(home: Path, seed: int, trained: int, target: float, cap: float) -> dict[str, Any]:
    """A sweep, and what its trials' files say of it; `trained` is the trainings' seed."""
    command = [str(Path(sys.executable).parent / "sweeps"), "run", str(HERE / "space.yaml"), "--name", "live"]
    changes = {"search.seed": seed, "search.concurrency": SLOTS, "search.budget.target": target, "config.seed": trained}
    for key, value in changes.items():
        command += ["--set", f"{key}={value}"]
    began = time.time()
    subprocess.run(command, check=True, env=os.environ | {"SWEEPS_HOME": str(home)})
    trials = []
    for path in (home / "sweeps" / "live" / "trials").glob("*/result.json"):
        result = json.loads(path.read_text())
        end = path.stat().st_mtime
        trials.append((end - result["seconds"], end, result.get("metrics", {}).get("joint", 0.0)))
    reached = min((end for _, end, joint in trials if joint >= target), default=None)
    last = reached or max(end for _, end, _ in trials)
    spent = sum(max(0.0, min(end, last) - start) for start, end, _ in trials)
    known = reached is not None and spent <= cap
    return {"reached": known, "seconds": round(spent, 1), "wall": round(last - began, 1), "trials": len(trials)}


class Until(tune.Stopper):
    """Ends Ray's search at the target or the cap, and knows what it has spent."""

    def __init__(self, target: float, cap: float) -> None:
        self.target, self.cap = target, cap
        self.seconds: dict[str, float] = {}
        self.reached: float | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Take note; no trial is stopped alone."""
        if self.reached is None:
            self.seconds[trial_id] = result["seconds"]
            if result.get("joint", 0.0) >= self.target:
                self.reached = time.time()
        return False

    def stop_all(self) -> bool:
        """Whether the search has ended."""
        return self.reached is not None or sum(self.seconds.values()) > self.cap


def train_both(params: Params, recipe: Recipe, folder: Path, trained: int) -> None:
    """A trial of Ray's search."""
    space = recipe.parsed_space("space.yaml")
    config, dataset, runtime = space.config(params, seed=trained), open_dataset(folder), make_runtime("cpu", "fp32")
    start = time.monotonic()

    def on_epoch(report: dict[str, Any]) -> None:
        # After the last epoch there is nothing more to decide.
        if report["epoch"] < config.base.epochs:
            found = {"base_epoch": report["epoch"], "base_topk": report["base_topk"]}
            tune.report(found | {"seconds": time.monotonic() - start})

    base = train_base(config, dataset, runtime, on_epoch)
    last = stream(config, base, dataset, runtime, lambda report: None).history[-1]
    tune.report({"joint": last["joint"], "seconds": time.monotonic() - start})


def rays(home: Path, recipe: Recipe, seed: int, trained: int, target: float, cap: float) -> dict[str, Any]:
    """A search as Ray's documentation has it."""
    space = recipe.parsed_space("space.yaml")
    wiring = RayMilder(space, seed, recipe.config["base"]["epochs"])
    until = Until(target, cap)
    began = time.time()
    ray.init(num_cpus=SLOTS, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_parameters(train_both, recipe=recipe, folder=home / "datasets" / recipe.data, trained=trained),
        tune_config=tune.TuneConfig(
            search_alg=wiring.search,
            scheduler=wiring.scheduler,
            num_samples=10_000,
            max_concurrent_trials=SLOTS,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="ray-search",
            storage_path=str(home / "ray"),
            stop=until,
            verbose=0,
            callbacks=[MLflowLoggerCallback(tracking_uri=f"sqlite:///{home}/ray.db", experiment_name="ray")],
        ),
    )
    tuner.fit()
    ray.shutdown()
    return {
        "reached": until.reached is not None,
        "seconds": round(sum(until.seconds.values()), 1),
        "wall": round((until.reached or time.time()) - began, 1),
        "trials": len(until.seconds),
    }


def main() -> None:
    """Search with both, one search after the other, and write down what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=4)
    parser.add_argument("--cap", type=float, default=300, help="seconds of trials")
    parser.add_argument("--output", type=Path, default=RESULTS / "search-live.json")
    arguments = parser.parse_args()
    recipe, _, _ = load_recipe(str(HERE / "space.yaml"), [])
    table = Table(RESULTS / "search-table.jsonl", RATIOS["quickstart"])
    found: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{SLOTS} cores, {platform.machine()}",
        "versions": {name: version(name) for name in ("mlflow", "optuna", "ray", "torch")}
        | {"python": platform.python_version()},
        "targets": {seed: targets(table)[seed] for seed in SEEDS},
        "cap_seconds": arguments.cap,
        "base_over_streaming": round(table.recorded_ratio, 2),
        "searches": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        prepare_breeds(Path(folder) / "data", DATA)
        for search in range(arguments.searches):
            trained = SEEDS[search % len(SEEDS)]
            target = found["targets"][trained]
            one: dict[str, Any] = {"search": search, "trained": trained}
            homes = [Path(folder) / f"{name}-{search}" for name in ("ours", "ray")]
            for home in homes:
                shutil.copytree(Path(folder) / "data", home / "datasets" / recipe.data)
            one["ours"] = ours(homes[0], search, trained, target, arguments.cap)
            one["ray"] = rays(homes[1], recipe, search, trained, target, arguments.cap)
            found["searches"].append(one)
            print(json.dumps(one), flush=True)
            arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
