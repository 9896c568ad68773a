"""What a trial costs beside its training: Ray, tracking, ledger and our own code together.

    python benchmarks/overhead.py [--rounds 3] [--output FILE]

`sweeps run`, as anybody runs it, of 216 trials on 8 places (a trial asks for an eighth of the machine). Each trial is a
real one, with a network of the user's own kind (`model.name: second:network`): a tiny one that sleeps in every training
step, one second in the six steps of the streaming phase. All trials stream on one base, which an earlier sweep has
trained, and differ in their learning rate. What else a trial does, from being suggested by TPE to its last line in
MLflow, is overhead, forward and backward passes of the tiny network included.

The first 16 trials warm up: a trial's process waits until all 8 are there, and each has then run at least one trial.
The makespan is the time from the end of the 16th trial to the end of the last, from the ledger; the overhead of a trial
is (makespan − 200 × 1 s / 8) / 200. Seconds of processor time that the machine spent meanwhile, of all programs, are
given beside it.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import yaml

from senet.data.breeds import BreedsSpec, prepare_breeds

PLACES, WARM, TRIALS = 8, 16, 200
BATCH, STEPS = 20, 6
DATA = BreedsSpec(
    breeds=6, mixes=3, train_per_breed=20, validation_per_breed=10, test_per_breed=10, train_per_mix=20,
    validation_per_mix=10, test_per_mix=10, size=24, difficulty=0.5,
)  # fmt: skip

# A step of training takes a sixth of a second more than it would.
NETWORK = f"""
import os
import time
from pathlib import Path
from torch import nn

THERE = Path(__file__).parent / "there"

def wait_for_all():
    if THERE.exists():
        (THERE / str(os.getpid())).touch()
        while len(list(THERE.iterdir())) < {PLACES}:
            time.sleep(0.1)

class Second(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, classes)

    def forward(self, images):
        if self.training:
            wait_for_all()
            time.sleep(1 / {STEPS})
        return self.head(self.features(images))

def network(config, classes):
    return Second(classes)
"""

RECIPE: dict[str, Any] = {
    "data": "tiny",
    "config": {
        "precision": "fp32",
        "model": {"name": "second:network"},
        "base": {"epochs": 1, "batch_size": BATCH},
        "streaming": {"epochs": 2, "batch_size": BATCH},
    },
    "objective": {"top_k": 2},
    "space": {"streaming.learning_rate": {"log": [0.0001, 0.1]}},
}


def main() -> None:
    """Run the rounds and say what they took."""
    parser = argparse.ArgumentParser(description="what a trial costs beside its training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    rounds = [measured(cores) for _ in range(arguments.rounds)]
    overheads = [one["overhead_seconds"] for one in rounds]
    result = {
        "command": " ".join(["python", "benchmarks/overhead.py", *sys.argv[1:]]),
        "machine": {"processor": platform.machine(), "cores": cores, "system": platform.system()},
        "versions": {name: version(name) for name in ("senet-sweeps", "ray", "optuna", "mlflow", "torch")},
        "trials": TRIALS,
        "places": PLACES,
        "n": len(rounds),
        "overhead_seconds": {"median": statistics.median(overheads), "least": min(overheads), "most": max(overheads)},
        "rounds": rounds,
    }
    print(json.dumps(result, indent=2))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


def measured(cores: int) -> dict[str, float]:
    """One sweep in an empty home."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare_breeds(home / "datasets" / "tiny", DATA)
        (home / "second.py").write_text(NETWORK)
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        environment |= {"SWEEPS_HOME": str(home), "OMP_NUM_THREADS": "1"}

        def run(name: str, trials: int) -> None:
            recipe = RECIPE | {"search": {"trials": trials, "seed": 0}, "resources": {"cpu": cores / PLACES}}
            (home / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
            command = [str(Path(sys.executable).parent / "sweeps"), "run", f"{name}.yaml"]
            subprocess.run(command, cwd=home, env=environment, check=True, stdout=subprocess.DEVNULL)

        run("base", 1)
        (home / "there").mkdir()
        before, start = processor_seconds(), time.perf_counter()
        run("second", WARM + TRIALS)
        after, wall = processor_seconds(), time.perf_counter() - start
        study = optuna.load_study(study_name="second", storage=f"sqlite:///{home}/sweeps/second/ledger.db")
        assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
        ends = sorted(trial.datetime_complete for trial in study.trials if trial.datetime_complete is not None)
        makespan = (ends[-1] - ends[WARM - 1]).total_seconds()
        return {
            "makespan_seconds": makespan,
            "overhead_seconds": (makespan - TRIALS / PLACES) / TRIALS,
            "command_seconds": wall,
            "processor_seconds": after - before,
        }


def processor_seconds() -> float:
    """How long this machine's processors have worked since it was started (proc_stat(5))."""
    user, nice, system, *_ = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
