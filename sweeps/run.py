"""Drives a sweep: Ray Tune executes, the suggester decides, the ledger and the tracking are told."""

import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from threading import Event
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from rich.console import Console

from senet.data.catalogue import describe_dataset
from senet.errors import InputError
from sweeps.analysis import configurations, knee
from sweeps.config import Recipe
from sweeps.driver import Driver, out_of_memory
from sweeps.inventory import QUOTA
from sweeps.ledger import Entry, Ledger, entries_of, is_finished, open_ledger
from sweeps.progress import LiveView, PlainView, Tally, View
from sweeps.storage import is_server
from sweeps.sweep import Sweep
from sweeps.tracking import SweepTracking
from sweeps.trial import run_trial

_WORKER_ENVIRONMENT = {
    # A slow stop must not fail the next trial in a reused process.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "30",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
# A driver's secrets that its machine's environment may hold too: a worker, which runs no tracking, gets them empty.
_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME",
            "PGHOST", "PGPASSFILE", "PGPASSWORD", "PGSERVICE", "PGUSER")  # fmt: skip
_OBJECT_STORE_BYTES = 100 * 2**20
# So long what the machines hold is taken to stay as it was.
_LOOK_SECONDS = 5.0
# So long Ray Tune has to stop what runs, before it is asked once more.
_STOP_SECONDS = 10.0


def _worker_environment() -> dict[str, str]:
    """What workers see: the driver's quota, none of its secrets."""
    return _WORKER_ENVIRONMENT | {QUOTA: os.environ.get(QUOTA, "")} | dict.fromkeys(_SECRETS, "")


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
                runtime_env={"env_vars": _worker_environment()},
            )
        except Exception as error:  # noqa: BLE001 Ray raises all kinds here, plain exceptions among them.
            reason = str(error).partition("\n")[0]
            where = "Ray does not start here" if address is None else f"--address {address}: cannot join Ray there"
            raise InputError(f"{where}: {reason}") from None
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _check_tracking() -> None:
    """Raise InputError where a cluster of several machines would be tracked in a file."""
    if is_server(os.environ.get("MLFLOW_TRACKING_URI", "")):
        return
    machines = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(machines) > 1:
        raise InputError(
            f"the cluster has {len(machines)} machines, and the sweep's folder is on a disk that they share, where "
            f"sqlite is not safe: start a tracking server (cluster/mlflow), and name it in MLFLOW_TRACKING_URI"
        )


def possible_concurrency(recipe: Recipe, source: str, address: str | None) -> int:
    """How many trials the machines hold at a time, or what the recipe says if that is less.

    On a cluster that was joined (`address`) the recipe's number counts even where they hold fewer: machines may be
    added when trials wait for them.

    Raises:
        InputError: no machine holds a trial, or several machines would be tracked in a file.
    """
    _check_tracking()
    asked, room = recipe.search.concurrency, _room(recipe)
    if asked is not None and address is not None:
        return min(asked, recipe.search.trials)
    if room < 1:
        have, most = _largest_machine(), recipe.resources.most()
        demand = "" if address is None else "; if the cluster adds machines on demand, set `search.concurrency`"
        for name, share in most.items():
            if share > have[name]:
                raise InputError(
                    f"{source}: `resources.{name}`: a trial asks for {share:g}, but no machine has more than "
                    f"{have[name]:g}{demand}"
                )
        wanted = " and ".join(f"{name} {share:g}" for name, share in most.items())
        raise InputError(f"{source}: `resources`: a trial asks for {wanted}, but no machine has both{demand}")
    return min(room, asked or recipe.search.trials, recipe.search.trials)


def _room(recipe: Recipe) -> int:
    """How many trials the machines hold now; what is left over on one does not help another."""
    return sum(recipe.resources.room(node["Resources"]) for node in ray.nodes() if node["Alive"])


class _Adapter(Searcher):  # type: ignore[misc]
    """Ray Tune's searcher: suggests, and hears of ends. Never restored: the ledger knows more than Tune's snapshot."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver: Driver | None = driver

    def __getstate__(self) -> dict[str, Any]:
        return {"_driver": None}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        driver = self._driver
        assert driver is not None
        # While trials wait for nothing but time, Ray Tune calls nobody else.
        _obey(driver)
        with _breaking(driver):
            assignment = driver.next_assignment(trial_id)
            return Searcher.FINISHED if assignment is None and driver.done() else assignment
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler hears reports."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        assert self._driver is not None
        with _breaking(self._driver):
            self._driver.ended(trial_id, died=error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a session begins from the ledger."""


class _Judge(FIFOScheduler):  # type: ignore[misc]
    """Ray Tune's scheduler: hears reports, and stops trials that are given up."""

    def __init__(self, driver: Driver, recipe: Recipe, held: Callable[[], bool]) -> None:
        super().__init__()
        self._driver: Driver | None = driver
        self._held, self._recipe, self._look = held, recipe, time.monotonic() + _LOOK_SECONDS

    def __getstate__(self) -> dict[str, Any]:
        return {"_driver": None}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        assert self._driver is not None
        goes_on = True
        with _breaking(self._driver):
            goes_on = self._driver.reported(trial.trial_id, result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Called at every step: also where somebody from outside is heard."""
        assert self._driver is not None
        _obey(self._driver)
        if time.monotonic() >= self._look:
            with _breaking(self._driver):
                self._driver.hear()
                for trial in tune_controller.get_trials():
                    # Of a process that could not be prepared for its next trial Ray Tune tells nobody.
                    if trial.status == "ERROR":
                        self._driver.ended(trial.trial_id, died=True)
            if not self._held():
                # Another process may drive the sweep by now: what runs here is cut off.
                self._driver.close(_LOCK_LOST)
                _stop(self._driver)
            # Machines may have joined, or been lost.
            self._look = time.monotonic() + _LOOK_SECONDS
            self._driver.gpus = ray.cluster_resources().get("GPU", 0.0)
            self._driver.largest = {n: max(self._driver.largest[n], have) for n, have in _largest_machine().items()}
            if self._recipe.search.concurrency is None:
                self._driver.concurrency = max(1, min(_room(self._recipe), self._recipe.search.trials))
        return super().choose_trial_to_run(tune_controller)


_LOCK_LOST = "paused: the database dropped the sweep's lock, which cannot be had again"


def _obey(driver: Driver) -> None:
    """Do what `sweeps pause` or `sweeps stop` asks for."""
    asked = driver.asked()
    if asked == "pause":
        driver.close("paused: asked to")
    elif asked == "stop":
        _stop(driver)


def _stop(driver: Driver) -> None:
    """Stop all, as Ctrl-C does; not again at once, which would break off what Ray Tune does to end cleanly."""
    now = time.monotonic()
    if now >= driver.stop_again:
        driver.stop_again = now + _STOP_SECONDS
        os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def _breaking(driver: Driver) -> Iterator[None]:
    """Stop all where ledger or disk fail, which the user can mend: Ray Tune would make a traceback of it, or nothing
    at all."""
    try:
        yield
    except (InputError, OSError) as error:
        driver.broken = driver.broken or error
        driver.close("paused: the driver cannot go on")
        _stop(driver)


def drive(sweep: Sweep, concurrency: int, console: Console) -> str | None:
    """Run what is left of a sweep's trials, within a running Ray.

    Returns:
        None if the sweep has ended, else why it has not.
    """
    with sweep.driving() as held, _interruptible() as asked:
        sweep.set_ending(None)
        ledger = open_ledger(sweep, create=True)
        tracking = SweepTracking(sweep.home, sweep.name, sweep.about()["id"])
        recipe = sweep.recipe()
        tracking.begin(parent_params(recipe))
        tally = Tally(recipe.search.trials, ledger.entries())
        view: View = LiveView(console, sweep.name, tally) if console.is_terminal else PlainView(console, tally)
        driver = None
        try:
            reconcile(sweep, ledger, tracking)
            data = describe_dataset(sweep.home, recipe.data)
            gpus = ray.cluster_resources().get("GPU", 0.0)
            driver = Driver(sweep, ledger, tracking, view, data, concurrency, _largest_machine(), gpus)
            try:
                if not asked.is_set():
                    _fit(sweep, recipe, driver, held)
            except KeyboardInterrupt:
                asked.set()
            finally:
                if held():
                    driver.interrupt()
        finally:
            view.close()
            ending, finished = _LOCK_LOST, False
            # Who has lost the lock leaves everything to whoever has it.
            if held():
                ending = _ending(driver, ledger.entries(), asked.is_set())
                sweep.set_ending(ending)
                finished = conclude(recipe, ledger.entries(), tracking, ending)
    if driver.broken is not None:
        raise driver.broken
    return None if finished else ending


def _ending(driver: Driver | None, entries: list[Entry], asked: bool) -> str:
    """How a session has ended, which was `asked` to stop or not."""
    # Tune takes Ctrl-C for itself: what it leaves undone tells of it.
    left = any(entry.state == "running" for entry in entries)
    if driver is not None and driver.ending and driver.ending.startswith("paused") and not asked:
        # Trials that cannot write are left undone as well.
        return driver.ending
    cut = asked or left or driver is None or not driver.done()
    return "interrupted" if driver is None or cut else driver.ending or "ended"


def _largest_machine() -> dict[str, float]:
    """Cores and GPUs that one trial can have at most."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return {name.lower(): max((node.get(name, 0.0) for node in alive), default=0.0) for name in ("CPU", "GPU")}


def parent_params(recipe: Recipe) -> dict[str, Any]:
    """What the parent run says about the whole sweep."""
    return {"data": recipe.data, **recipe.objective.model_dump(), **recipe.search.model_dump()}


def conclude(recipe: Recipe, entries: list[Entry], tracking: SweepTracking, ending: str | None) -> bool:
    """Write to the tracking what it misses, and close the sweep's run; returns whether the sweep has ended."""
    tracking.reconcile(entries)
    finished = is_finished(recipe, entries, ending)
    trials = [asdict(e) | {"enqueued": e.enqueued is not None, "metrics": e.result.get("metrics", {})} for e in entries]
    ranking = configurations(trials)
    # Of several optima the one that `--pick` takes by default.
    chosen = (knee(ranking) if recipe.objective.mode == "pareto" else ranking[0]) if ranking else None
    best = {} if chosen is None else {f"best_{name}": chosen.mean(name) for name in chosen.metrics}
    tracking.end("FINISHED" if finished else "KILLED", best)
    return finished


def close(sweep: Sweep) -> None:
    """What is left to do for a sweep whose trials have all ended, should its driver have died before it did so."""
    with sweep.driving():
        recipe, entries = sweep.recipe(), entries_of(sweep)
        tracking = SweepTracking(sweep.home, sweep.name, sweep.about()["id"])
        tracking.begin(parent_params(recipe))
        conclude(recipe, entries, tracking, sweep.ending())


def _fit(sweep: Sweep, recipe: Recipe, driver: Driver, held: Callable[[], bool]) -> None:
    session = len(list((sweep.folder / "ray").glob("session-*"))) + 1
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    tuner = tune.Tuner(
        tune.with_resources(run_trial, _share),
        tune_config=tune.TuneConfig(
            search_alg=_Adapter(driver),
            scheduler=_Judge(driver, recipe, held),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"trial-{trial.config['number']:04d}",
            trial_dirname_creator=lambda trial: f"trial-{trial.config['number']:04d}",
        ),
        run_config=tune.RunConfig(
            name=f"session-{session}",
            storage_path=str(sweep.folder / "ray"),
            verbose=0,
        ),
    )
    tuner.fit()


def reconcile(sweep: Sweep, ledger: Ledger, tracking: SweepTracking) -> None:
    """Close trials whose result was written but not told when an earlier session died.

    One that ran out of memory is the driver's: it may be tried again.
    """
    for entry in ledger.entries():
        result = sweep.whole_result(entry.number) if entry.state == "running" else None
        if result is not None and (result.get("attempts") or not out_of_memory(result)):
            ledger.finish(entry.number, result)
    tracking.reconcile(ledger.entries())


def _share(assignment: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What of a machine a trial gets."""
    return tune.PlacementGroupFactory(
        [{name.upper(): share for name, share in assignment["resources"].items() if share}]
    )


@contextmanager
def _interruptible() -> Iterator[Event]:
    """Treat SIGTERM as Ctrl-C, and remember either: where Python drops the exception, the event still knows."""
    asked = Event()

    def interrupted(*_: object) -> None:
        asked.set()
        raise KeyboardInterrupt

    # In a job of Ray's it is blocked from the start.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    before = signal.signal(signal.SIGINT, interrupted)
    # Ray Tune, while it runs, ends cleanly on SIGINT alone.
    before_termination = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, before_termination)
