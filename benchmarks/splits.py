"""Does a config do on test pictures what it does on validation pictures? Trained on several splits of one data set.

    python benchmarks/splits.py CONFIG DATASET [DATASET …] [--output FILE]

The data sets are imports of the same pictures with other `--seed`s. Prints, and writes as JSON, streaming and original
top-k on both splits, and of the differences the mean, its 95 % interval (Student's t over the splits) and the standard
deviation.
"""

import argparse
import json
import math
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student

from senet.config import read_config
from senet.data.catalogue import obtain_dataset
from senet.device import make_runtime
from senet.final import train_final
from senet.home import home


def main() -> None:
    """Train on every split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    config, provenance = read_config(arguments.config)
    rows = []
    for name in arguments.datasets:
        chosen = config.model_copy(update={"data": name})
        dataset = obtain_dataset(home(), name)
        runtime = make_runtime("auto", config.precision)
        metrics = train_final(chosen, dataset, runtime, lambda report: None, {}).metrics
        rows.append({"data": name, "fingerprint": dataset.fingerprint, **metrics})
        shown = {split: f"{values['streaming_topk']:.3f}" for split, values in metrics.items()}
        print(f"{name}: streaming top-k {shown}", flush=True)
    gaps = {
        key: [row["test"][key] - row["validation"][key] for row in rows]  # type: ignore[index]
        for key in ("streaming_topk", "original_topk", "joint")
    }
    found = {key: _mean(values) for key, values in gaps.items() if len(values) > 1}
    for key, value in found.items():
        low, high = value["interval"]
        print(
            f"{key}: test − validation {value['mean']:+.4f} (95 %: {low:+.4f} to {high:+.4f}), "
            f"sd {value['sd']:.4f}, n={len(rows)} splits"
        )
    if arguments.output is not None:
        result = {
            "command": " ".join(["python", "benchmarks/splits.py", *sys.argv[1:]]),
            "machine": {"cores": os.cpu_count(), "torch": torch.__version__},
            "config": config.model_dump(mode="json"),
            "provenance": provenance,
            "splits": rows,
            "test_minus_validation": gaps,
            "mean_difference": found,
        }
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


def _mean(values: list[float]) -> dict[str, Any]:
    """Mean, its 95 % interval, and standard deviation."""
    mean, sd = statistics.mean(values), statistics.stdev(values)
    half = float(student.ppf(0.975, len(values) - 1)) * sd / math.sqrt(len(values))
    return {"mean": mean, "interval": [mean - half, mean + half], "sd": sd}


if __name__ == "__main__":
    main()
