"""Searches in virtual time: suggester and pruner against recorded or made-up learning curves, without Ray.

Thousands of trials take seconds, and every decision can be told exactly.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol

from optuna.trial import FrozenTrial

from sweeps.config import Recipe
from sweeps.ledger import Entry, Result, answered
from sweeps.memory import base_of
from sweeps.pruning import Pruner, rungs_of
from sweeps.search import Suggester
from sweeps.space import Params, Space


class World(Protocol):
    """What trials would come to, and what they would cost."""

    def base_topk(self, params: Params, seed: int) -> list[float]:
        """Base accuracy after every epoch."""

    def epoch_seconds(self, params: Params) -> float:
        """Of the base phase."""

    def streamed(self, params: Params, seed: int) -> dict[str, float]:
        """joint, original_topk and streaming_topk after the whole trial."""

    def streaming_seconds(self, params: Params) -> float:
        """Of the streaming phase."""

    def probe(self, params: Params, seed: int, epoch: int) -> dict[str, float]:
        """joint, original_topk and streaming_topk of a probe after a base epoch."""

    def probe_seconds(self, params: Params) -> float:
        """Of one probe."""


@dataclass
class MemoryLedger:
    """A ledger that is forgotten at the end."""

    written: list[Entry] = field(default_factory=list)

    def trials(self) -> list[FrozenTrial]:
        """None that a sampler has not seen."""
        return []

    def entries(self) -> list[Entry]:
        """All trials, by number."""
        return list(self.written)

    def entry(self, number: int) -> Entry:
        """One trial."""
        return self.written[number]

    def open(
        self,
        params: Params,
        space: Space,
        enqueued: int | None = None,
        seed: int | None = None,
        notes: dict[str, Any] | None = None,
        answers: int | str | None = None,
    ) -> Entry:
        """A new running trial."""
        seed = space.seed if seed is None else seed
        self.written.append(Entry(len(self.written), "running", params, enqueued, None, {}, seed, answers))
        return self.written[-1]

    def finish(self, number: int, result: Result) -> None:
        """Close a running trial."""
        self.written[number] = replace(self.written[number], state=result["state"], result=result)


@dataclass(frozen=True)
class Simulation:
    """What a simulated search came to."""

    entries: list[Entry]
    ended: list[tuple[float, int]]
    """busy seconds until then, summed over slots, and number of every trial that ended, in that order"""
    seconds: float
    """virtual time until the last one ended"""
    busy_seconds: float
    """summed over slots"""
    waiting_seconds: float
    """summed over slots that had nothing to do while trials were left to begin"""

    def seconds_to(self, joint: float) -> float | None:
        """Busy seconds, summed over slots, until a trial had reached `joint`; None: never."""
        for spent, number in self.ended:
            if self.entries[number].state == "complete" and self.entries[number].joint >= joint:
                return spent
        return None


def simulate(recipe: Recipe, world: World, slots: int, fits: Callable[[Params], bool] | None = None) -> Simulation:
    """Run a whole search in virtual time.

    Args:
        slots: trials at a time.
        fits: as for the suggester.
    """
    return _Run(recipe, world, slots, fits).run()


class _Run:
    def __init__(self, recipe: Recipe, world: World, slots: int, fits: Callable[[Params], bool] | None) -> None:
        self._recipe, self._world, self._slots = recipe, world, slots
        self._space, self._ledger = recipe.parsed_space("recipe"), MemoryLedger()
        more = {} if fits is None else {"fits": fits}
        self._suggester = Suggester(recipe, self._space, self._ledger, **more)
        pruning = recipe.search.pruning
        self._pruner = (
            None
            if pruning is None
            else Pruner(pruning, [], self._base, recipe.objective.metrics, first_seed=self._space.seed)
        )
        self._events: list[tuple[float, int, int, int, bool]] = []
        self._order = count()
        self._standing: set[str] = set()
        self._trained: dict[str, int] = {}
        """base epochs, also of bases that were given up: who wants one again goes on from there"""
        self._spent: dict[int, dict[str, float]] = {}
        self._history: dict[int, list[dict[str, Any]]] = {}
        self._now = self._busy = self._waiting = 0.0
        self._used = 0.0
        """seconds of trials that have ended"""
        self._live = 0
        self._ended: list[tuple[float, int]] = []

    def run(self) -> Simulation:
        self._fill()
        while self._events:
            time, _, number, epoch, probed = heapq.heappop(self._events)
            if not self._suggester.done():
                self._waiting += (self._slots - self._live) * (time - self._now)
            self._busy += self._live * (time - self._now)
            self._now = time
            self._step(self._ledger.entry(number), epoch, probed)
            self._keep_to_budget()
            self._fill()
        return Simulation(self._ledger.entries(), self._ended, self._now, self._busy, self._waiting)

    def _fill(self) -> None:
        while self._live < self._slots and (entry := self._suggester.next()) is not None:
            if isinstance(entry.answers, int):
                self._ledger.finish(entry.number, answered(self._ledger.entry(entry.answers)))
                self._suggester.ended(self._ledger.entry(entry.number))
                continue
            self._live += 1
            self._spent[entry.number], self._history[entry.number] = {"base": 0.0, "probe": 0.0}, []
            if self._base(entry) in self._standing:
                self._stream(entry)
            else:
                epoch = self._trained.get(self._base(entry), 0) + 1
                self._after(self._world.epoch_seconds(entry.params), entry.number, epoch)

    def _step(self, entry: Entry, epoch: int, probed: bool) -> None:
        """A base epoch, or the probe after it, or with epoch 0 the whole trial, has ended."""
        if not epoch:
            metrics = self._world.streamed(entry.params, self._seed(entry))
            self._end(entry, {"state": "complete", "metrics": metrics})
            return
        curve = self._world.base_topk(entry.params, self._seed(entry))
        spent, seconds = self._spent[entry.number], self._world.epoch_seconds(entry.params)
        rung = self._rungs(entry, len(curve)).get(epoch)
        if not probed:
            spent["base"] += seconds
            self._trained[self._base(entry)] = epoch
        if rung is not None and not probed:
            self._after(self._world.probe_seconds(entry.params), entry.number, epoch, probed=True)
            return
        report = {"phase": "base", "epoch": epoch, "base_topk": curve[epoch - 1]}
        if rung is not None:
            probe = self._world.probe(entry.params, self._seed(entry), epoch)
            report |= {"rung": rung, **{f"probe_{name}": value for name, value in probe.items()}}
            spent["probe"] += self._world.probe_seconds(entry.params)
        self._history[entry.number].append(report)
        verdict = None if self._pruner is None else self._pruner.judge(entry, report)
        if verdict is not None:
            self._end(entry, verdict.result())
        elif epoch == len(curve):
            self._standing.add(self._base(entry))
            self._suggester.base_stands(entry)
            self._stream(entry)
        else:
            self._after(seconds, entry.number, epoch + 1)

    def _stream(self, entry: Entry) -> None:
        self._spent[entry.number]["streaming"] = seconds = self._world.streaming_seconds(entry.params)
        self._after(seconds, entry.number, 0)

    def _end(self, entry: Entry, result: Result) -> None:
        spent = {stage: seconds for stage, seconds in self._spent.pop(entry.number).items() if seconds}
        result |= {"stage_seconds": spent, "history": self._history.pop(entry.number)}
        if self._base(entry) in self._standing:
            result["base_key"] = self._base(entry)
        self._used += sum(spent.values())
        self._ledger.finish(entry.number, result)
        self._suggester.ended(self._ledger.entry(entry.number))
        self._ended.append((self._busy, entry.number))
        self._live -= 1

    def _keep_to_budget(self) -> None:
        budget, hour = self._recipe.search.budget, 3600
        if (
            (budget.target is not None and self._suggester.best() >= budget.target)
            or (budget.hours is not None and self._now >= hour * budget.hours)
            or (budget.device_hours is not None and self._used >= hour * budget.device_hours)
        ):
            self._suggester.close()

    def _after(self, seconds: float, number: int, epoch: int, probed: bool = False) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._order), number, epoch, probed))

    def _rungs(self, entry: Entry, epochs: int) -> dict[int, int]:
        pruning = self._recipe.search.pruning
        if pruning is None or not pruning.rungs:
            return {}
        # Seconds stand for FLOPs.
        reference = self._world.epoch_seconds(self._space.defaults()) if pruning.equal_cost else 0.0
        return rungs_of(pruning, epochs, self._world.epoch_seconds(entry.params) / reference if reference else 1.0)

    def _base(self, entry: Entry) -> str:
        return base_of(self._space, entry.params, entry.seed)

    def _seed(self, entry: Entry) -> int:
        return self._space.seed if entry.seed is None else entry.seed
