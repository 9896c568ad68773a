"""What it costs to find a good configuration: this project's search beside others, replayed from a recorded table.

    python benchmarks/search/compare.py [--runs 40] [--slots 4] [--output benchmarks/results/search.json]

Nothing is trained: trials come to what record.py has written down, in virtual time. The compute of a search is the
busy seconds of all slots until the first trial reaches the target: the best joint value of 40 random trials, the median
over 2,000 draws, one target for each seed of the table; it is fixed before any search is run. Run i has the search's
seed i and the table's seed i modulo 3. A run that has spent as much as 200 whole trials has not reached the target.

ours: the suggester, the pruner and the gain rule of `sweeps`, with `search` as space.yaml has it.
ray: what Ray's documentation shows, made to run on two phases: OptunaSearch (its default sampler, TPE, define-by-run),
    ASHAScheduler on the base's accuracy; both are Ray's own objects. Every trial trains its own base. Once with a grace
    period of 1 epoch and a third that goes on, once milder, with 2 epochs and a half.
optuna: Optuna alone, TPE by default; with its default pruner on the base's accuracy, and without.
random: independent draws.
"""

import argparse
import heapq
import itertools
import json
import logging
import math
import platform
import statistics
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import optuna
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from sweeps.config import Recipe, load_recipe, validate_recipe
from sweeps.samplers import suggested
from sweeps.simulator import simulate
from sweeps.space import Params, Space

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
# A base costs so many times what a streaming phase costs.
RATIOS = {"quickstart": 5.0, "thesis": 70.0}
CAP_TRIALS, RANDOM_TRIALS, DRAWS = 200, 40, 2000
QUANTILES = {"q25": 0.25, "q75": 0.75, "q90": 0.9}


class Table:
    """What record.py has written down, with streaming phases as dear as asked for."""

    def __init__(self, path: Path, ratio: float) -> None:
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        self._bases = {(_key(line["base"]), line["seed"]): line for line in lines}
        self._paths = list(lines[0]["base"])
        self._settings = {
            (_key(line["base"] | setting["params"]), line["seed"]): setting
            for line in lines
            for setting in line["settings"]
        }
        self.seeds = sorted({line["seed"] for line in lines})
        epochs, settings, probes = defaultdict(list), defaultdict(list), defaultdict(list)
        for line in (line for line in lines if line["seed"] == self.seeds[0]):
            network = self._network(line["base"])
            epochs[network] += [epoch["seconds"] for epoch in line["epochs"]]
            settings[network] += [setting["seconds"] for setting in line["settings"]]
            probes[network] += [epoch["probe"]["seconds"] for epoch in line["epochs"] if "probe" in epoch]
        count = len(lines[0]["epochs"])
        # The median over the trainings of a network, first seed: what disturbed one of them is no cost of its own.
        self._epoch, self._setting, self._probe = (_medians(found) for found in (epochs, settings, probes))
        self.base_seconds = count * statistics.mean(self._epoch.values())
        self.recorded_ratio = self.base_seconds / statistics.mean(self._setting.values())
        self._scale = self.recorded_ratio / ratio

    def joints(self, seed: int) -> list[float]:
        """Of all configurations."""
        return [setting["joint"] for (_, own), setting in self._settings.items() if own == seed]

    def whole_trial_seconds(self) -> float:
        """Of a base and a streaming phase, on average."""
        return self.base_seconds + self._scale * statistics.mean(self._setting.values())

    def base_topk(self, params: Params, seed: int) -> list[float]:
        """Base accuracy after every epoch."""
        return [epoch["base_topk"] for epoch in self._line(params, seed)["epochs"]]

    def epoch_seconds(self, params: Params) -> float:
        """Of the base phase."""
        return self._epoch[self._network(params)]

    def streamed(self, params: Params, seed: int) -> dict[str, float]:
        """joint, original_topk and streaming_topk after the whole trial."""
        return _accuracies(self._settings[_key(params), seed])

    def streaming_seconds(self, params: Params) -> float:
        """Of the streaming phase."""
        return self._scale * self._setting[self._network(params)]

    def probe(self, params: Params, seed: int, epoch: int) -> dict[str, float]:
        """joint, original_topk and streaming_topk of a probe after a base epoch."""
        return _accuracies(self._line(params, seed)["epochs"][epoch - 1]["probe"])

    def probe_seconds(self, params: Params) -> float:
        """Of one probe."""
        return self._scale * self._probe[self._network(params)]

    def _line(self, params: Params, seed: int) -> dict[str, Any]:
        return self._bases[_key({path: params[path] for path in self._paths}), seed]

    def _network(self, params: Params) -> str:
        return _key({path: value for path, value in params.items() if path.startswith("model.")})


def _key(params: Params) -> str:
    return json.dumps(params, sort_keys=True)


def _medians(found: dict[str, list[float]]) -> dict[str, float]:
    return {network: statistics.median(seconds) for network, seconds in found.items()}


def _accuracies(found: dict[str, Any]) -> dict[str, float]:
    return {name: found[name] for name in ("joint", "original_topk", "streaming_topk")}


class Method(Protocol):
    """A search whose trials train a base each."""

    def ask(self, number: int) -> Params:
        """Configuration of trial `number`."""

    def goes_on(self, number: int, epoch: int, topk: float) -> bool:
        """Whether a trial goes on after a base epoch."""

    def tell(self, number: int, joint: float | None) -> None:
        """A trial has ended; None: it was stopped."""


class Random:
    """Independent draws."""

    def __init__(self, space: Space, seed: int, epochs: int) -> None:
        self._space = space
        self._study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed))

    def ask(self, number: int) -> Params:
        return suggested(self._study.ask(), self._space)

    def goes_on(self, number: int, epoch: int, topk: float) -> bool:
        return True

    def tell(self, number: int, joint: float | None) -> None:
        self._study.tell(number, joint)


class OptunaAlone(Random):
    """Optuna's default sampler, in as many processes as there are slots."""

    def __init__(self, space: Space, seed: int, epochs: int) -> None:
        self._space, self._trials = space, dict[int, optuna.Trial]()
        self._study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))

    def ask(self, number: int) -> Params:
        self._trials[number] = self._study.ask()
        return suggested(self._trials[number], self._space)


class OptunaPruned(OptunaAlone):
    """And its default pruner, which sees the base's accuracy."""

    def goes_on(self, number: int, epoch: int, topk: float) -> bool:
        self._trials[number].report(topk, epoch)
        return not self._trials[number].should_prune()

    def tell(self, number: int, joint: float | None) -> None:
        state = optuna.trial.TrialState.PRUNED if joint is None else None
        self._study.tell(number, joint, state=state)


class _TwoPhases(OptunaSearch):  # type: ignore[misc]
    """OptunaSearch that bears reports without its metric."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The base's accuracy, by which TPE ranks trials that were stopped."""
        if "base_topk" in result:
            self._ot_trials[trial_id].report(result["base_topk"], result["base_epoch"])


class RayByTheBook:
    """OptunaSearch suggests, ASHAScheduler stops bases by their accuracy."""

    grace_period, reduction_factor = 1, 3

    def __init__(self, space: Space, seed: int, epochs: int) -> None:
        self.search = _TwoPhases(partial(suggested, space=space), metric="joint", mode="max", seed=seed)
        self.scheduler = ASHAScheduler(
            time_attr="base_epoch",
            metric="base_topk",
            mode="max",
            # At max_t itself a survivor would still be stopped.
            max_t=epochs - 1,
            grace_period=self.grace_period,
            reduction_factor=self.reduction_factor,
            stop_last_trials=False,
        )

    def ask(self, number: int) -> Params:
        self.scheduler.on_trial_add(None, SimpleNamespace(trial_id=str(number)))
        params: Params = self.search.suggest(str(number))
        return params

    def goes_on(self, number: int, epoch: int, topk: float) -> bool:
        result = {"base_epoch": epoch, "base_topk": topk}
        action = self.scheduler.on_trial_result(None, SimpleNamespace(trial_id=str(number)), result)
        self.search.on_trial_result(str(number), result)
        return bool(action != TrialScheduler.STOP)

    def tell(self, number: int, joint: float | None) -> None:
        self.search.on_trial_complete(str(number), {} if joint is None else {"joint": joint})


class RayMilder(RayByTheBook):
    """The same, stopping later and less."""

    grace_period, reduction_factor = 2, 2


METHODS: dict[str, Callable[[Space, int, int], Method]] = {
    "ray": RayByTheBook,
    "ray, milder": RayMilder,
    "optuna": OptunaAlone,
    "optuna, its pruner": OptunaPruned,
    "random": Random,
}


def seconds_to(method: Method, table: Table, seed: int, slots: int, target: float, cap: float) -> float | None:
    """Busy seconds until a trial of `method` has reached the target; None: not within the cap."""
    numbers, order = itertools.count(), itertools.count()
    events: list[tuple[float, int, int, int]] = []
    trials: dict[int, Params] = {}
    now = 0.0

    def begin() -> None:
        number = next(numbers)
        trials[number] = method.ask(number)
        heapq.heappush(events, (now + table.epoch_seconds(trials[number]), next(order), number, 1))

    for _ in range(slots):
        begin()
    # All slots are always busy.
    while slots * now <= cap:
        now, _, number, epoch = heapq.heappop(events)
        params = trials[number]
        if not epoch:
            joint = table.streamed(params, seed)["joint"]
            if joint >= target:
                return slots * now
            method.tell(number, joint)
            begin()
            continue
        curve = table.base_topk(params, seed)
        if not method.goes_on(number, epoch, curve[epoch - 1]):
            method.tell(number, None)
            begin()
        elif epoch < len(curve):
            heapq.heappush(events, (now + table.epoch_seconds(params), next(order), number, epoch + 1))
        else:
            heapq.heappush(events, (now + table.streaming_seconds(params), next(order), number, 0))
    return None


def ours_to(recipe: Recipe, table: Table, seed: int, slots: int, target: float, cap: float) -> float | None:
    """Busy seconds until this project's search has reached the target; None: not within the cap."""
    spent = simulate(recipe, table, slots).seconds_to(target)
    return spent if spent is not None and spent <= cap else None


def targets(table: Table) -> dict[int, float]:
    """What is to be reached, by the table's seed: the median of the best of 40 random trials."""
    dice = np.random.default_rng(0)
    return {
        seed: float(np.median(dice.choice(table.joints(seed), (DRAWS, RANDOM_TRIALS)).max(axis=1)))
        for seed in table.seeds
    }


def one_run(path: Path, ratio: float, method: str, run: int, slots: int) -> float | None:
    """Compute of one search, in whole trials (a base and a streaming phase)."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    table = Table(path, ratio)
    seed = table.seeds[run % len(table.seeds)]
    target, unit = targets(table)[seed], table.whole_trial_seconds()
    recipe, _, source = load_recipe(str(HERE / "space.yaml"), [])
    values = recipe.model_dump(mode="json")
    values["search"] |= {"seed": run, "budget": {"target": target}}
    values["config"] |= {"seed": seed}
    recipe = validate_recipe(values, source)
    if method == "ours":
        spent = ours_to(recipe, table, seed, slots, target, CAP_TRIALS * unit)
    else:
        space = recipe.parsed_space(source)
        searcher = METHODS[method](space, run, recipe.config["base"]["epochs"])
        spent = seconds_to(searcher, table, seed, slots, target, CAP_TRIALS * unit)
    return None if spent is None else spent / unit


def summary(spent: list[float | None]) -> dict[str, Any]:
    """Quantiles over runs; a run that did not reach the target is beyond all others."""
    values = sorted(math.inf if value is None else value for value in spent)
    quantiles = {name: values[min(len(values) - 1, int(len(values) * q))] for name, q in QUANTILES.items()}
    return {
        "runs": len(values),
        "reached": sum(value is not None for value in spent),
        "median": _finite(statistics.median(values)),
        **{name: _finite(value) for name, value in quantiles.items()},
        "spent": [None if value is None else round(value, 3) for value in spent],
    }


def _finite(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def share(ours: list[float | None], other: list[float | None]) -> dict[str, float]:
    """Median of ours over the median of the other, with a 95 % bootstrap interval over runs.

    A run that did not reach the target counts as the cap, which flatters whoever it belongs to.
    """
    pairs = [np.array([CAP_TRIALS if v is None else v for v in spent], float) for spent in (ours, other)]
    dice = np.random.default_rng(0)
    drawn = [np.median(dice.choice(values, (DRAWS, len(values))), axis=1) for values in pairs]
    low, high = np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
    return {
        "of": round(float(np.median(pairs[0]) / np.median(pairs[1])), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
    }


def main() -> None:
    """Replay all searches, and write down what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=RESULTS / "search-table.jsonl")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "search.json")
    arguments = parser.parse_args()
    found: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "versions": {name: version(name) for name in ("optuna", "ray", "torch")}
        | {"python": platform.python_version()},
        "slots": arguments.slots,
        "cap_trials": CAP_TRIALS,
        "unit": "whole trials: compute of one base and one streaming phase",
        "ratios": {},
    }
    with ProcessPoolExecutor(arguments.processes) as pool:
        for name, ratio in RATIOS.items():
            table = Table(arguments.table, ratio)
            spent: dict[str, list[float | None]] = {}
            for method in ("ours", *METHODS):
                calls = [pool.submit(one_run, arguments.table, ratio, method, run, arguments.slots)
                         for run in range(arguments.runs)]  # fmt: skip
                spent[method] = [call.result() for call in calls]
                print(name, method, {k: v for k, v in summary(spent[method]).items() if k != "spent"}, flush=True)
            shares = {method: share(spent["ours"], spent[method]) for method in METHODS}
            print(name, "ours needs", shares)
            found["ratios"][name] = {
                "base_over_streaming": ratio,
                "recorded": round(table.recorded_ratio, 2),
                "targets": {seed: round(value, 4) for seed, value in targets(table).items()},
                "methods": {method: summary(values) for method, values in spent.items()},
                "ours_over": shares,
            }
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
