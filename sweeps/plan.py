"""What a sweep would run and cost, without starting anything."""

import math
import os
from collections import Counter
from itertools import islice
from pathlib import Path
from statistics import median_low

import torch

from senet.config import TrialConfig
from senet.cost import Cost, measure_cost
from senet.data.catalogue import describe_dataset
from senet.device import make_runtime
from sweeps.config import Recipe
from sweeps.memory import MOST_STREAMS, base_of
from sweeps.progress import clock
from sweeps.report import describe_params
from sweeps.space import Params, Space, describe, whole_values

_EPOCHS = ("base.epochs", "streaming.epochs", "streaming.stages")

# More combinations of a finite space than these are not counted.
_CELLS = 5000


def plan(recipe: Recipe, home: Path, name: str, address: str | None = None) -> str:
    """The dry run's text: data, space, first configurations, bases, arithmetic, time, saving.

    Args:
        address: of the cluster that the sweep would join, whose machines are not looked at; None: this machine.
    """
    space = recipe.parsed_space("recipe")
    config = space.config(middle_epochs(space))
    data = describe_dataset(home, recipe.data)
    torch.set_num_threads(max(1, min(int(recipe.resources.cpu), os.cpu_count() or 1)))
    runtime = make_runtime("auto" if recipe.resources.gpu else "cpu", config.precision)
    cost = measure_cost(config, len(data.classes), data.size, runtime)
    network = cost.complexity
    base = _seconds(config, cost, data.counts, "base")
    streaming = _seconds(config, cost, data.counts, "streaming")
    device = runtime.identity()["device"]
    here = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
    trials, room = recipe.search.trials, recipe.resources.room(here)
    asked = recipe.search.concurrency or trials
    joins = address is not None and recipe.search.concurrency is not None
    slots = min(asked, trials) if joins else max(1, min(room, asked, trials))
    fewest, most = fewest_bases(recipe, space, slots), expected_bases(recipe, space, slots)
    shared = to(*(clock((bases * base + trials * streaming) / slots) for bases in (fewest, most)))
    alone = clock(trials * (base + streaming) / slots)
    counts = "; ".join(
        f"{which} {part['train']} training, {part['validation']} validation" for which, part in data.counts.items()
    )
    given = min(trials, len(recipe.enqueue) * recipe.search.replicates)
    lines = [
        f"sweep {name}: {recipe.description}".rstrip(": "),
        f"data {recipe.data}: {len(data.classes)} classes, {data.size} px; {counts}",
        f"search: {trials} trials by {recipe.search.sampler}, {given} of them given, {slots} at a time",
        *(f"  {path}: {describe(distribution)}" for path, distribution in space.distributions.items()),
        *(f"  first: {describe_params(entry)}" for entry in recipe.enqueue),
        f"network at its defaults: {network.parameters:,} parameters, {network.flops / 1e6:.1f} MFLOPs and"
        f" {network.activations:,} activations an image forward",
        f"a base takes about {base:.0f} s, a streaming phase {streaming:.0f} s (measured on {device}, one alone;"
        " several at a time may slow each other down)",
        f"about {to(str(fewest), str(most))} bases for {trials} trials, as gains turn out: {shared} of training, "
        f"against {alone} if no base were shared",
        *(["no trial fits on this machine: lower `resources`, or join a cluster"] if room < 1 and not joins else []),
        "nothing was started",
    ]
    return "\n".join(lines)


def middle_epochs(space: Space) -> Params:
    """The defaults, but with numbers of epochs from the middle of their ranges or choices."""
    middle = {
        path: median_low(whole_values(space.distributions[path])) for path in _EPOCHS if path in space.distributions
    }
    return space.only_active(space.defaults() | middle)


def to(low: str, high: str) -> str:
    """A range in words."""
    return low if low == high else f"{low} to {high}"


def fewest_bases(recipe: Recipe, space: Space, slots: int = 1) -> int:
    """How many bases the search will train if further settings always promise more gain a second than new bases."""
    return _bases(recipe, space, slots, MOST_STREAMS * recipe.search.streams_per_base)


def expected_bases(recipe: Recipe, space: Space, slots: int = 1) -> int:
    """How many bases the search will train, at most, with so many trials at a time: if every base gets its
    `streams_per_base` and no more, no suggestion repeats one and none is in the store."""
    return _bases(recipe, space, slots, recipe.search.streams_per_base)


def _bases(recipe: Recipe, space: Space, slots: int, settings: float) -> int:
    """How many bases are trained if each gets so many settings on average, as far as the space has them."""
    search, first = recipe.search, recipe.first_configurations(space, "recipe")
    # All configurations with the first seed, then all with the next.
    given = [base_of(space, params, seed) for seed in recipe.seeds(space) for params in first][: search.trials]
    own = search.trials - len(given)
    if search.sampler == "grid":
        known = {str(sorted(params.items())) for params in first}
        cells = (params for params in space.cells() if str(sorted(params.items())) not in known)
        return len({*given, *(base_of(space, params) for params in islice(cells, own))})
    of_first_seed = Counter(given[: len(first)])
    base_paths, streaming_paths = space.base_paths(), [p for p in space.distributions if p not in space.base_paths()]
    settings = min(settings, _count(space, without=base_paths))
    room = sum(max(0.0, settings - count) for count in of_first_seed.values())
    # As long as no base stands, there is nothing else to do for whoever has a place.
    at_once = min(slots, own + len(of_first_seed))
    there = max(at_once, len(of_first_seed) + math.ceil(max(0.0, own - room) / settings))
    most = _count(space, without=streaming_paths)
    return len(set(given[len(first) :])) + (there if there <= most else int(most))


def _count(space: Space, without: list[str]) -> float:
    """How many combinations of values a space has without some paths; infinite where there are very many."""
    begun = {path: value for path, value in space.defaults().items() if path in without}
    if not space.is_finite(without=begun):
        return math.inf
    count = sum(1 for _ in islice(space.cells(begun), _CELLS + 1))
    return count if count <= _CELLS else math.inf


def _seconds(config: TrialConfig, cost: Cost, counts: dict[str, dict[str, int]], phase: str) -> float:
    """Seconds of one phase: every epoch trains on one set, or a stage's part of it, and evaluates on both."""
    settings = config.base if phase == "base" else config.streaming
    stages = 1 if phase == "base" else config.streaming.stages
    evaluation = sum(part["validation"] for part in counts.values()) * cost.evaluation_seconds
    return settings.epochs * (counts[phase]["train"] * cost.training_seconds + stages * evaluation)
