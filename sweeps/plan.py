"""What a sweep would run and cost, without starting anything."""

import math
import os
from pathlib import Path

import torch

from senet.config import TrialConfig
from senet.cost import Cost, measure_cost
from senet.data.catalogue import describe_dataset
from senet.device import make_runtime
from sweeps.config import Recipe
from sweeps.memory import MOST_STREAMS, base_of
from sweeps.progress import clock
from sweeps.report import describe_params
from sweeps.space import Space, describe


def plan(recipe: Recipe, home: Path, name: str) -> str:
    """The dry run's text: data, space, first configurations, bases, arithmetic, time, saving."""
    space = recipe.parsed_space("recipe")
    config = space.config({})
    data = describe_dataset(home, recipe.data)
    torch.set_num_threads(max(1, min(int(recipe.resources.cpu), os.cpu_count() or 1)))
    runtime = make_runtime("auto" if recipe.resources.gpu else "cpu", config.precision)
    cost = measure_cost(config, len(data.classes), data.size, runtime)
    network = cost.complexity
    base = _seconds(config, cost, data.counts, "base")
    streaming = _seconds(config, cost, data.counts, "streaming")
    device = runtime.identity()["device"]
    here = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
    slots = recipe.search.concurrency or max(1, recipe.resources.room(here))
    most, trials = expected_bases(recipe, space), recipe.search.trials
    fewest = fewest_bases(recipe, space)
    shared = to(*(clock((bases * base + trials * streaming) / slots) for bases in (fewest, most)))
    alone = clock(trials * (base + streaming) / slots)
    counts = "; ".join(
        f"{which} {part['train']} training, {part['validation']} validation" for which, part in data.counts.items()
    )
    given = len(recipe.enqueue) * recipe.search.replicates
    lines = [
        f"sweep {name}: {recipe.description}".rstrip(": "),
        f"data {recipe.data}: {len(data.classes)} classes, {data.size} px; {counts}",
        f"search: {trials} trials by {recipe.search.sampler}, {given} of them given, {slots} at a time",
        *(f"  {path}: {describe(distribution)}" for path, distribution in space.distributions.items()),
        *(f"  first: {describe_params(entry)}" for entry in recipe.enqueue),
        f"network at its defaults: {network.parameters:,} parameters, {network.flops / 1e6:.1f} MFLOPs and"
        f" {network.activations:,} activations an image forward",
        f"a base takes about {base:.0f} s, a streaming phase {streaming:.0f} s (measured just now on {device})",
        f"about {to(str(fewest), str(most))} bases for {trials} trials, as gains turn out: {shared} of training, "
        f"against {alone} if no base were shared",
        "nothing was started",
    ]
    return "\n".join(lines)


def to(low: str, high: str) -> str:
    """A range in words."""
    return low if low == high else f"{low} to {high}"


def fewest_bases(recipe: Recipe, space: Space) -> int:
    """How many bases the search will train if further settings always promise more gain a second than new bases."""
    search, most = recipe.search, expected_bases(recipe, space)
    if search.sampler == "grid":
        return most
    # The given configurations have the bases that they have.
    given = {base_of(space, params) for params in recipe.first_configurations(space, "recipe")}
    least = search.replicates * len(given)
    own = search.trials - (search.replicates - 1) * len(recipe.enqueue)
    others = math.ceil(own / (MOST_STREAMS * search.streams_per_base)) + (search.replicates - 1) * len(given)
    return min(most, max(least, others))


def expected_bases(recipe: Recipe, space: Space) -> int:
    """How many bases the search will train, at most: if every base gets its `streams_per_base` and no more, no
    suggestion repeats one and none is in the store."""
    search = recipe.search
    streams: dict[str, int] = {}
    first = recipe.first_configurations(space, "recipe")
    for params in first:
        base = base_of(space, params)
        streams[base] = streams.get(base, 0) + 1
    room = sum(max(0, search.streams_per_base - count) for count in streams.values())
    rest = max(0, search.trials - search.replicates * len(first) - room)
    return search.replicates * len(streams) + -(-rest // search.streams_per_base)


def _seconds(config: TrialConfig, cost: Cost, counts: dict[str, dict[str, int]], phase: str) -> float:
    """Seconds of one phase: every epoch trains on one set, or a stage's part of it; streaming evaluates on both."""
    settings = config.base if phase == "base" else config.streaming
    stages = 1 if phase == "base" else config.streaming.stages
    evaluated = [counts["base"], counts["streaming"]] if phase == "streaming" else [counts["base"]]
    evaluation = sum(part["validation"] for part in evaluated) * cost.evaluation_seconds
    return settings.epochs * (counts[phase]["train"] * cost.training_seconds + stages * evaluation)
