"""Is the winner of a sweep better than its baseline? Both are trained anew on fresh seeds and judged on the test split.

    python benchmarks/confirm.py SWEEP [--seeds 5] [--first-seed 1000] [--output FILE]

Prints, and writes as JSON, the test joint of both for every seed, and the mean of the paired differences with a
95 % interval (Student's t over seeds).
"""

import argparse
import json
import os
import platform
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student

from senet.config import TrialConfig
from senet.data.catalogue import obtain_dataset
from senet.device import make_runtime
from senet.final import train_final
from senet.home import home
from sweeps.export import trial_config
from sweeps.status import sweep_status
from sweeps.sweep import find_sweep, versions


def trained_metrics(values: dict[str, Any], seed: int) -> dict[str, dict[str, float]]:
    """Train a config with `seed`, in a process of its own; returns its metrics on validation and test split."""
    torch.set_num_threads(1)
    config = TrialConfig.model_validate(values | {"seed": seed})
    dataset = obtain_dataset(home(), config.data)
    model = train_final(config, dataset, make_runtime("auto", config.precision), lambda report: None, {})
    return model.metrics


def interval(differences: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of paired differences."""
    mean = statistics.mean(differences)
    half = student.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return mean, mean - half, mean + half


def main() -> None:
    """Confirm one sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    sweep = find_sweep(home(), arguments.sweep)
    status = sweep_status(sweep)
    chosen = {role: status[role] for role in ("best", "baseline")}
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        runs = {
            (role, seed): pool.submit(trained_metrics, trial_config(sweep, trial).model_dump(mode="json"), seed)
            for seed in seeds
            for role, trial in chosen.items()
        }
        metrics = {key: run.result() for key, run in runs.items()}
    joints = {role: [metrics[role, seed]["test"]["joint"] for seed in seeds] for role in chosen}
    mean, low, high = interval([a - b for a, b in zip(joints["best"], joints["baseline"], strict=True)])
    result = {
        "command": " ".join(["python", "benchmarks/confirm.py", *sys.argv[1:]]),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__},
        "versions": versions(),
        "seeds": list(seeds),
        "trials": {
            role: {
                "number": trial["number"],
                "params": trial["params"],
                "validation_joint_in_the_sweep": trial["metrics"]["joint"],
                **{
                    split: {name: [metrics[role, seed][split][name] for seed in seeds] for name in names}
                    for split, names in metrics["best", seeds[0]].items()
                },
            }
            for role, trial in chosen.items()
        },
        "difference": {"mean": mean, "interval_95": [low, high], "n": len(seeds)},
    }
    for role in chosen:
        spread = statistics.stdev(joints[role])
        joint = statistics.mean(joints[role])
        print(f"{role}: test joint {joint:.4f} ± {spread:.4f} (standard deviation, n={len(seeds)})")
    print(f"best − baseline: {mean:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
