"""Drives a sweep: Ray Tune executes, the suggester decides, the ledger and the tracking are told."""

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher
from rich.console import Console

from senet.data.catalogue import describe_dataset
from senet.errors import InputError
from sweeps.config import Recipe
from sweeps.constraints import Constraints
from sweeps.ledger import Entry, Ledger, entries_of, open_ledger
from sweeps.progress import LiveView, PlainView, Tally, View
from sweeps.search import Suggester
from sweeps.space import Space
from sweeps.sweep import Sweep
from sweeps.tracking import SweepTracking
from sweeps.trial import run_trial

_WORKER_ENVIRONMENT = {
    # A slow stop must not fail the next trial in a reused process.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "30",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_OBJECT_STORE_BYTES = 100 * 2**20


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Start Ray on this machine, or join the cluster at `address`; leave it at the end.

    Its environment must have been set before this module was imported (`sweeps.environment`).
    """
    folder = None
    options: dict[str, Any] = {"address": address}
    if address is None:
        folder = tempfile.mkdtemp(prefix="sweeps-ray-")
        options = {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_temp_dir": folder,
        }
    try:
        try:
            ray.init(
                **options,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": _WORKER_ENVIRONMENT},
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            where = "Ray does not start here" if address is None else f"--address {address}: cannot join Ray there"
            raise InputError(f"{where}: {reason}") from None
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def possible_concurrency(recipe: Recipe, source: str) -> int:
    """How many trials the cluster holds at a time. Raises InputError where it does not hold one."""
    have = ray.cluster_resources()
    room = []
    for name, wanted in (("CPU", recipe.resources.cpu), ("GPU", recipe.resources.gpu)):
        if wanted > have.get(name, 0):
            raise InputError(
                f"{source}: `resources.{name.lower()}`: a trial asks for {wanted:g}, but the cluster has "
                f"{have.get(name, 0):g}"
            )
        if wanted:
            room.append(int(have[name] / wanted))
    return min(*room, recipe.search.concurrency or recipe.search.trials, recipe.search.trials)


class Driver:
    """Tells ledger, tracking and view what happens to the trials of one session."""

    def __init__(self, sweep: Sweep, ledger: Ledger, tracking: SweepTracking, view: View, concurrency: int) -> None:
        self._sweep, self._ledger, self._tracking, self._view = sweep, ledger, tracking, view
        recipe = sweep.recipe()
        self._sweep_id = sweep.about()["id"]
        self._space: Space = recipe.parsed_space("recipe")
        constraints = Constraints(recipe, self._space, describe_dataset(sweep.home, recipe.data))
        self._suggester = Suggester(recipe, self._space, ledger, constraints.fits)
        self._gpu = recipe.resources.gpu
        self._concurrency = concurrency
        self._live: dict[str, Entry] = {}

    def next_assignment(self, trial_id: str) -> dict[str, Any] | str | None:
        """What Ray's trial `trial_id` shall do; None: ask again later; `Searcher.FINISHED`: nothing is left."""
        if len(self._live) >= self._concurrency:
            return None
        entry = self._suggester.next()
        if entry is None:
            return Searcher.FINISHED if self._suggester.done() else None
        run_id = self._tracking.begin_trial(entry)
        if run_id is not None and run_id != entry.run_id:
            self._ledger.set_run(entry.number, run_id)
            entry = self._ledger.entry(entry.number)
        self._live[trial_id] = entry
        self._view.started(entry)
        return {
            "number": entry.number,
            "config": self._space.config(entry.params, seed=entry.seed).model_dump(mode="json"),
            "home": str(self._sweep.home),
            "folder": str(self._sweep.trial_folder(entry.number)),
            "gpu": self._gpu,
            "trainer": f"{self._sweep_id}/{entry.number}",
        }

    def reported(self, trial_id: str, report: dict[str, Any]) -> None:
        """A trial has its base, or has finished an epoch."""
        entry = self._live[trial_id]
        if report["phase"] == "ready":
            self._suggester.base_stands(entry)
        elif report["phase"] != "end":
            self._tracking.log_epoch(entry, _plain(report))
        self._view.reported(entry.number, report)

    def ended(self, trial_id: str, died: bool) -> None:
        """A trial has left its process: with a result, or because the process died, or because all is stopped."""
        entry = self._live.pop(trial_id)
        result = self._sweep.result(entry.number)
        if result is None and not died:
            # Interrupted: it goes on when the sweep is resumed.
            self._tracking.kill_trial(entry)
            return
        result = result or {"state": "failed", "error": "lost: the trial's process died three times", "seconds": 0.0}
        self._ledger.finish(entry.number, result)
        closed = self._ledger.entry(entry.number)
        self._suggester.ended(entry.number, closed.joint if closed.state == "complete" else None)
        self._tracking.end_trial(closed)
        self._view.ended(closed)

    def interrupt(self) -> None:
        """Close the runs of trials that are still running."""
        for trial_id in list(self._live):
            self.ended(trial_id, died=False)


class _Adapter(Searcher):  # type: ignore[misc]
    """Ray Tune's side of the driver. It is never restored: the ledger knows more than Tune's snapshot."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver: Driver | None = driver

    def __getstate__(self) -> dict[str, Any]:
        return {"_driver": None}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        assert self._driver is not None
        return self._driver.next_assignment(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        assert self._driver is not None
        self._driver.reported(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        assert self._driver is not None
        self._driver.ended(trial_id, died=error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a session begins from the ledger."""


def drive(sweep: Sweep, concurrency: int, console: Console) -> bool:
    """Run what is left of a sweep's trials, within a running Ray.

    Returns:
        Whether all trials have ended; False after an interruption.
    """
    with sweep.driving(), _interruptible() as asked:
        ledger = open_ledger(sweep, create=True)
        tracking = SweepTracking(sweep.home, sweep.name, sweep.about()["id"])
        recipe = sweep.recipe()
        tracking.begin(parent_params(recipe))
        tally = Tally(recipe.search.trials, ledger.entries())
        view: View = LiveView(console, sweep.name, tally) if console.is_terminal else PlainView(console, tally)
        try:
            _reconcile(sweep, ledger, tracking)
            driver = Driver(sweep, ledger, tracking, view, concurrency)
            try:
                if not asked.is_set():
                    _fit(sweep, recipe, driver)
            except KeyboardInterrupt:
                asked.set()
            finally:
                driver.interrupt()
        finally:
            view.close()
            finished = conclude(recipe, ledger.entries(), tracking)
    return finished


def parent_params(recipe: Recipe) -> dict[str, Any]:
    """What the parent run says about the whole sweep."""
    return {"data": recipe.data, **recipe.objective.model_dump(), **recipe.search.model_dump()}


def conclude(recipe: Recipe, entries: list[Entry], tracking: SweepTracking) -> bool:
    """Write to the tracking what it misses, and close the sweep's run; returns whether all trials have ended."""
    tracking.reconcile(entries)
    finished = sum(entry.state != "running" for entry in entries) >= recipe.search.trials
    best = max(entries, key=lambda entry: entry.joint, default=None)
    metrics = best.result.get("metrics", {}) if best is not None else {}
    tracking.end("FINISHED" if finished else "KILLED", {f"best_{k}": v for k, v in metrics.items()})
    return finished


def close(sweep: Sweep) -> None:
    """What is left to do for a sweep whose trials have all ended, should its driver have died before it did so."""
    with sweep.driving():
        recipe, entries = sweep.recipe(), entries_of(sweep)
        tracking = SweepTracking(sweep.home, sweep.name, sweep.about()["id"])
        tracking.begin(parent_params(recipe))
        conclude(recipe, entries, tracking)


def _fit(sweep: Sweep, recipe: Recipe, driver: Driver) -> None:
    session = len(list((sweep.folder / "ray").glob("session-*"))) + 1
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    resources = {"cpu": recipe.resources.cpu, "gpu": recipe.resources.gpu}
    tuner = tune.Tuner(
        tune.with_resources(run_trial, resources),
        tune_config=tune.TuneConfig(
            search_alg=_Adapter(driver),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"trial-{trial.config['number']:04d}",
            trial_dirname_creator=lambda trial: f"trial-{trial.config['number']:04d}",
        ),
        run_config=tune.RunConfig(
            name=f"session-{session}",
            storage_path=str(sweep.folder / "ray"),
            failure_config=tune.FailureConfig(max_failures=2),
            verbose=0,
        ),
    )
    tuner.fit()


def _reconcile(sweep: Sweep, ledger: Ledger, tracking: SweepTracking) -> None:
    """Close trials whose result was written but not told when an earlier session died."""
    for entry in ledger.entries():
        result = sweep.result(entry.number) if entry.state == "running" else None
        if result is not None:
            ledger.finish(entry.number, result)
    tracking.reconcile(ledger.entries())


def _plain(report: dict[str, Any]) -> dict[str, Any]:
    """A report without what Ray adds to it."""
    own = ("phase", "epoch", "epochs", "seconds", "learning_rate")
    measured = ("train_", "base_", "original_", "streaming_", "stage_", "retention", "forgetting", "backward", "joint")
    return {key: value for key, value in report.items() if key in own or key.startswith(measured)}


@contextmanager
def _interruptible() -> Iterator[Event]:
    """Treat SIGTERM as Ctrl-C, and remember either: where Python drops the exception, the event still knows."""
    asked = Event()

    def interrupted(*_: object) -> None:
        asked.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupted)
    # Ray Tune, while it runs, ends cleanly on SIGINT alone.
    before_termination = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, before_termination)
