"""Tells suggester, ledger, tracking and view what happens to the trials of one session; knows no Ray."""

import math
import re
import time
from collections import deque
from typing import Any

from senet.data.catalogue import Description
from sweeps.booking import device_seconds
from sweeps.config import Recipe
from sweeps.constraints import Constraints
from sweeps.ledger import Entry, Ledger, Result, answered
from sweeps.memory import base_of
from sweeps.progress import View
from sweeps.pruning import Pruner, Verdict, rungs_of
from sweeps.search import Suggester
from sweeps.shared import Shared
from sweeps.shares import Shares
from sweeps.space import Space
from sweeps.stages import stage_seconds
from sweeps.sweep import Sweep, remove_checkpoints
from sweeps.tracking import SweepTracking

# A trial that ran out of memory is tried once more with so many times the share.
_LARGER_SHARE = 2
# So long a trial waits whose base another sweep is training.
_HELD_SECONDS = 5.0
# So long a trial waits whose process died, the first time, the next, and so on: until a lost machine is known to be
# lost, trials may be sent there. One that dies once more without having finished an epoch in between is given up.
_DIED_SECONDS = (5.0, 20.0, 60.0)


class Driver:
    """One session of a sweep.

    Args:
        concurrency: trials at a time.
        largest: cores and GPUs of the largest machine: what one trial can have at most.
        gpus: of all machines; where shares differ, trials whose shares are more than that are not begun together.
    """

    def __init__(
        self,
        sweep: Sweep,
        ledger: Ledger,
        tracking: SweepTracking,
        view: View,
        data: Description,
        concurrency: int,
        largest: dict[str, float],
        gpus: float = math.inf,
    ) -> None:
        self._sweep, self._ledger, self._tracking, self._view = sweep, ledger, tracking, view
        self._recipe: Recipe = sweep.recipe()
        self._sweep_id, self._bucket = sweep.about()["id"], Shared(sweep.home).url
        self._space: Space = self._recipe.parsed_space("recipe")
        self._constraints = Constraints(self._recipe, self._space, data)
        self._suggester = Suggester(self._recipe, self._space, ledger, self._constraints.fits)
        pruning = self._recipe.search.pruning
        metrics = self._recipe.objective.metrics
        self._pruner = None
        if pruning is not None:
            earlier = ledger.entries()
            self._pruner = Pruner(pruning, earlier, self._base, metrics, self._passed(earlier), self._space.seed)
        # All bases are probed alike, whatever their trials' own streaming settings are.
        self._probe = self._space.config({}).streaming.model_dump(mode="json")
        self._probe |= {} if pruning is None else {"epochs": pruning.probe_epochs, "stages": 1}
        self.concurrency, self.largest, self.gpus = concurrency, largest, gpus
        self._live: dict[str, Entry] = {}
        # By number: what trials have said of each epoch, and how often their processes died since.
        self._reports: dict[int, dict[tuple[str, int], dict[str, Any]]] = {}
        self._deaths: dict[int, int] = {}
        self._given_up: dict[str, Verdict] = {}
        self._shares = Shares(self._recipe.resources, self._constraints.memory_size)
        # What trials have of a machine.
        self._given: dict[int, dict[str, float]] = {}
        # Trials whose base somebody else trains: which have said so, and when to look again.
        self._gives_way: set[str] = set()
        self._held: dict[int, float] = {}
        self._failures: deque[str] = deque(maxlen=self._recipe.search.alike_failures)
        self._device_seconds = device_seconds(ledger.entries())
        for entry in ledger.entries():
            self._shares.learn(entry)
        self._earlier_seconds, self._start = sweep.seconds_driven(), time.monotonic()
        self.broken: Exception | None = None
        """what the session ended of, if the user can mend it"""
        self.stop_again = 0.0
        """when all may be stopped once more, if it goes on"""
        self.ending: str | None = None
        """why no further trial is begun before all planned ones were, if so"""

    def next_assignment(self, trial_id: str) -> dict[str, Any] | None:
        """What Ray's trial `trial_id` shall do; None: ask again later, unless all is `done`."""
        self._keep_to_budget()
        if len(self._live) >= self.concurrency:
            return None
        now = time.monotonic()
        self._held = {number: until for number, until in self._held.items() if until > now}
        entry = self._suggester.next(self._held)
        while entry is not None and entry.answers is not None:
            self._answer(self._with_run(entry))
            entry = self._suggester.next(self._held)
        if entry is None:
            return None
        earlier = self._sweep.attempts(entry.number)
        resources = (earlier[-1].get("next_resources") if earlier else None) or self._shares.of(entry.params)
        given = sum(self._given[live.number]["gpu"] for live in self._live.values())
        # Where all shares are alike the number of trials at a time says it all. The first one always begins: a cluster
        # may have no machine yet, and add one for it.
        if self._recipe.resources.by_size and self._live and given + resources["gpu"] > self.gpus:
            self._suggester.given_back(entry)
            return None
        self._given[entry.number] = resources
        entry = self._with_run(entry)
        self._live[trial_id] = entry
        self._reports.setdefault(entry.number, {})
        self._view.started(entry)
        config = self._space.config(entry.params, seed=entry.seed)
        return {
            "number": entry.number,
            "config": config.model_dump(mode="json"),
            "home": str(self._sweep.home),
            "bucket": self._bucket,
            "folder": str(self._sweep.trial_folder(entry.number)),
            "resources": resources,
            "trainer": f"{self._sweep_id}/{entry.number}",
            "rungs": list(self._rungs(entry).items()),
            "probe": self._probe,
        }

    def done(self) -> bool:
        """Whether no trial is left to start, nor may be: one that runs may yet have to be started again."""
        return not self._live and self._suggester.done()

    def asked(self) -> str | None:
        """What somebody from outside asks for."""
        return self._sweep.asked()

    def hear(self) -> None:
        """Get what was asked for on another machine."""
        self._sweep.hear()

    def close(self, reason: str) -> None:
        """Begin no further trial; unless the sweep is to pause, those that were begun are brought to their end."""
        paused = reason.startswith("paused")
        if self.ending is None or (paused and not self.ending.startswith("paused")):
            self.ending = reason
            self._suggester.close(drop=paused)

    def reported(self, trial_id: str, report: dict[str, Any]) -> bool:
        """A trial has its base, has finished an epoch, or has left its result. Returns whether it goes on.

        One that has left its result has ended, and is stopped at once: Ray Tune then has its process at hand when the
        next one is assigned, before it asks the cluster for another, which it would take back at once. Of what is taken
        back so soon Ray may lose a part (ray-project/ray#64693), and a larger share then never has room.
        """
        entry = self._live.get(trial_id)
        if entry is None:  # Ray Tune has started an ended trial once more.
            return True
        self._view.reported(entry.number, report)
        if report["phase"] == "ready":
            self._suggester.base_stands(entry)
        elif report["phase"] == "held":
            self._gives_way.add(trial_id)
            self._held[entry.number] = time.monotonic() + _HELD_SECONDS
        elif report["phase"] == "blocked":
            self.close(f"paused: trial {entry.number} {report['reason']}; mend that")
        elif report["phase"] == "end":
            # Without a result it has not ended well: a share may not show it yet.
            self.ended(trial_id, died=True)
            # Stopped, its process would be kept for the next one: a spoilt one is left to end itself.
            return bool(report.get("spoilt"))
        else:
            told, epoch = self._reports[entry.number], (report["phase"], report["epoch"])
            # A process that goes on from a checkpoint tells the epochs before it again.
            if epoch not in told:
                self._deaths.pop(entry.number, None)
            told[epoch] = _plain(report)
            self._tracking.log_epochs(entry, self._said(entry.number))
            verdict = None if self._pruner is None else self._pruner.judge(entry, report)
            if verdict is not None:
                self._given_up[trial_id] = verdict
                return False
        return True

    def ended(self, trial_id: str, died: bool) -> None:
        """A trial has left its process: with a result, given up, because the process died, or because all stops."""
        if trial_id not in self._live:
            return
        entry = self._live.pop(trial_id)
        result = self._sweep.result(entry.number)
        verdict = self._given_up.pop(trial_id, None)
        if result is None and verdict is not None:
            result = self._written(entry, verdict.result())
        gives_way = trial_id in self._gives_way
        self._gives_way.discard(trial_id)
        if result is None and not died and gives_way:
            # Another sweep, or a machine that is lost, is training its base.
            self._suggester.given_back(entry, held=True)
            return
        if result is None and not died:
            # Interrupted: it goes on when the sweep is resumed.
            self._tracking.kill_trial(entry, self._said(entry.number))
            return
        result = result or self._died(entry)
        if result is None or self._tries_again(entry, result):
            return
        self._reports.pop(entry.number)
        earlier = self._sweep.attempts(entry.number)
        if entry.run_id is None:
            # The tracking was gone when the trial began; a closed trial takes no run any more.
            self._with_run(entry)
        self._ledger.finish(entry.number, result | ({"attempts": earlier} if earlier else {}))
        closed = self._ledger.entry(entry.number)
        self._shares.learn(closed)
        self._suggester.ended(closed)
        self._told(closed)
        self._device_seconds += device_seconds([closed])
        self._sweep.note_seconds_driven(self._seconds())
        self._break_circuit(closed)

    def interrupt(self) -> None:
        """Close the runs of trials that are still running."""
        for trial_id in list(self._live):
            self.ended(trial_id, died=False)
        self._sweep.note_seconds_driven(self._seconds())

    def _with_run(self, entry: Entry) -> Entry:
        """`entry` with its tracking run, written down."""
        run_id = self._tracking.begin_trial(entry)
        if run_id is None or run_id == entry.run_id:
            return entry
        self._ledger.set_run(entry.number, run_id)
        return self._ledger.entry(entry.number)

    def _answer(self, entry: Entry) -> None:
        """Close a trial that repeats an earlier one with that one's result."""
        assert isinstance(entry.answers, int)
        self._ledger.finish(entry.number, answered(self._ledger.entry(entry.answers)))
        closed = self._ledger.entry(entry.number)
        self._suggester.ended(closed)
        self._told(closed)

    def _told(self, closed: Entry) -> None:
        self._tracking.end_trial(closed)
        self._view.ended(closed)

    def _passed(self, entries: list[Entry]) -> dict[str, float]:
        """The base epochs that bases in the making have passed; at the last one said the verdict may be missing."""
        said = {self._base(e): self._sweep.progress(e.number) or {} for e in entries if e.state == "running"}
        return {
            base: report["epoch"] - 1 if report["phase"] == "base" else math.inf
            for base, report in said.items()
            if "epoch" in report
        }

    def _said(self, number: int) -> list[dict[str, Any]]:
        """The epochs of a trial."""
        return list(self._reports[number].values())

    def _base(self, entry: Entry) -> str:
        return base_of(self._space, entry.params, entry.seed)

    def _rungs(self, entry: Entry) -> dict[int, int]:
        pruning = self._recipe.search.pruning
        if pruning is None or not pruning.rungs:
            return {}
        cost = self._constraints.relative_cost(entry.params) if pruning.equal_cost else 1.0
        return rungs_of(pruning, self._space.config(entry.params).base.epochs, cost)

    def _written(self, entry: Entry, result: Result) -> Result:
        """What a trial leaves that was given up or lost, written down as if it had done so itself."""
        reports = self._said(entry.number)
        spent = stage_seconds(reports[-1]) if reports else {}
        result = result | {"history": reports, "stage_seconds": spent, "seconds": sum(spent.values())}
        self._sweep.write_result(entry.number, result)
        remove_checkpoints(Shared(self._sweep.home), self._sweep.trial_folder(entry.number))
        return result

    def _died(self, entry: Entry) -> Result | None:
        """Give a trial back whose process died, to go on after a while; a result if it has died too often."""
        deaths = self._deaths.get(entry.number, 0)
        if deaths == len(_DIED_SECONDS):
            reason = f"lost: the trial's process died {deaths + 1} times"
            return self._written(entry, {"state": "failed", "error": reason})
        self._deaths[entry.number] = deaths + 1
        self._held[entry.number] = time.monotonic() + _DIED_SECONDS[deaths]
        self._suggester.given_back(entry, held=True)
        return None

    def _tries_again(self, entry: Entry, result: Result) -> bool:
        """Give a trial that ran out of memory back once, to be started with a larger share if there is one."""
        if not out_of_memory(result) or self._sweep.attempts(entry.number):
            return False
        now = self._given[entry.number]
        more = {n: max(share, min(_LARGER_SHARE * share, self.largest.get(n, share))) for n, share in now.items()}
        # A trial computes on one GPU, and Ray gives no more than one but whole ones.
        more["gpu"] = max(now["gpu"], min(1.0, more["gpu"]))
        short_on_gpu = re.search("CUDA|CUDNN|find an engine", str(result["error"])) is not None
        if more == now or (short_on_gpu and more["gpu"] == now["gpu"]):
            return False
        self._sweep.set_attempt_aside(entry.number, more)
        self._reports.pop(entry.number)
        self._suggester.given_back(entry)
        return True

    def _break_circuit(self, closed: Entry) -> None:
        if closed.state != "failed":
            self._failures.clear()
            return
        # Numbers tell failures of one kind apart.
        self._failures.append(re.sub(r"\d+(\.\d+)?", "#", str(closed.result.get("error"))))
        if len(self._failures) == self._failures.maxlen and len(set(self._failures)) == 1:
            self.close(f"paused: the last {len(self._failures)} trials failed alike: {closed.result['error']}")

    def _keep_to_budget(self) -> None:
        budget = self._recipe.search.budget
        if budget.hours is not None and self._seconds() >= 3600 * budget.hours:
            self.close(f"ended: {budget.hours:g} hours have passed (`search.budget.hours`)")
        if budget.device_hours is not None and self._device_seconds >= 3600 * budget.device_hours:
            self.close(f"ended: {budget.device_hours:g} device-hours are used (`search.budget.device_hours`)")
        if budget.target is not None and self._suggester.best() >= budget.target:
            self.close(f"ended: the joint value {budget.target:g} is reached (`search.budget.target`)")

    def _seconds(self) -> float:
        return self._earlier_seconds + time.monotonic() - self._start


def out_of_memory(result: Result) -> bool:
    """Whether that is what a trial failed of."""
    return str(result.get("error")).startswith("out of memory")


def _plain(report: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a report, without what Ray adds to it."""
    own = ("phase", "epoch", "epochs", "seconds", "learning_rate", "rung")
    measured = (
        *("train_", "base_", "original_", "streaming_", "stage_", "retention", "forgetting", "backward", "joint"),
        *("probe_", "spent_"),
    )
    return {key: value for key, value in report.items() if key in own or key.startswith(measured)}
