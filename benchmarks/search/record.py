"""Trains the search benchmark's whole table: every base of space.yaml with every streaming setting and three seeds.

    python benchmarks/search/record.py [--output benchmarks/results/search-table.jsonl] [--seeds 3] [--limit N]

It appends a line for every base and seed and goes on where it was ended. A line holds the base's top-k accuracy and
seconds after every epoch, a probe after every epoch but the last, and what every streaming setting came to. Seconds are
those of the processor, one thread, so that what else the machine does counts little.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from senet.config import TrialConfig
from senet.data.breeds import BreedsSpec, prepare_breeds
from senet.data.store import Dataset, open_dataset
from senet.device import Runtime, make_runtime
from senet.loop import Report, Trained
from senet.phases import base_in_the_making, stream, train_base
from sweeps.config import load_recipe
from sweeps.space import Params, Space

HERE = Path(__file__).parent
ACCURACIES = ("joint", "original_topk", "streaming_topk")
DATA = BreedsSpec(
    breeds=12,
    mixes=6,
    train_per_breed=40,
    validation_per_breed=20,
    test_per_breed=1,
    train_per_mix=25,
    validation_per_mix=30,
    test_per_mix=1,
    size=24,
    difficulty=1.0,
)


def main() -> None:
    """Record what the output lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE.parent / "results" / "search-table.jsonl")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="bases to train now; not given: all that are left")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe, _, source = load_recipe(str(HERE / "space.yaml"), [])
    space = recipe.parsed_space(source)
    runtime = make_runtime("cpu", "fp32")
    done = [json.loads(line) for line in arguments.output.read_text().splitlines()] if arguments.output.exists() else []
    known = {(str(line["base"]), line["seed"]) for line in done}
    with tempfile.TemporaryDirectory() as folder, arguments.output.open("a") as output:
        prepare_breeds(Path(folder) / recipe.data, DATA)
        dataset = open_dataset(Path(folder) / recipe.data)
        left = [(base, seed) for seed in range(arguments.seeds) for base in bases(space)]
        left = [(base, seed) for base, seed in left if (str(base), seed) not in known]
        for base, seed in left[: arguments.limit]:
            line = record(space, base, seed, dataset, runtime, Path(folder) / "progress.pt")
            output.write(json.dumps(line) + "\n")
            output.flush()


def bases(space: Space) -> list[Params]:
    """Every base's part of the parameters."""
    paths = space.base_paths()
    found = [{path: params[path] for path in paths} for params in space.cells()]
    return list({str(base): base for base in found}.values())


def record(space: Space, base: Params, seed: int, dataset: Dataset, runtime: Runtime, progress: Path) -> dict[str, Any]:
    """Train a base, probe it on the way, and stream on it with every setting."""
    config = space.config(base, seed=seed)
    probed = config.model_copy(update={"streaming": config.streaming.model_copy(update={"epochs": 1})})
    epochs: list[dict[str, Any]] = []
    since = time.process_time()

    def on_epoch(report: Report) -> None:
        nonlocal since
        epochs.append({"base_topk": report["base_topk"], "seconds": time.process_time() - since})
        making = base_in_the_making(config, dataset, runtime, progress, report["epoch"])
        if making is not None:
            epochs[-1]["probe"] = streamed(probed, making, dataset, runtime)
        since = time.process_time()

    progress.unlink(missing_ok=True)
    trained = train_base(config, dataset, runtime, on_epoch, progress)
    settings = []
    for params in space.cells(base):
        own = {path: value for path, value in params.items() if path not in base}
        settings.append({"params": own} | streamed(space.config(params, seed=seed), trained, dataset, runtime))
    return {"base": base, "seed": seed, "epochs": epochs, "settings": settings}


def streamed(config: TrialConfig, base: Trained, dataset: Dataset, runtime: Runtime) -> dict[str, float]:
    """Accuracies after the streaming phase, and the seconds that it took."""
    start = time.process_time()
    last = stream(config, base, dataset, runtime, lambda report: None).history[-1]
    return {name: round(last[name], 5) for name in ACCURACIES} | {"seconds": time.process_time() - start}


if __name__ == "__main__":
    main()
