"""MLflow: one parent run a sweep, one nested run a trial.

A tracking server may fail; a sweep must not. Every call that fails is remembered, and what it would have written is
written later from the trial's result: when the trial ends, when the sweep ends, or when it is resumed.
"""

import fcntl
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A sweep does not wait long for a server that does not answer.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.tracking import MlflowClient

from senet.errors import InputError
from sweeps.ledger import Entry
from sweeps.storage import own_database, tracking_uri

T = TypeVar("T")

EXPERIMENT = "senet-sweeps"
# Lets the UI open the experiment on its view for training runs.
_KIND = ("mlflow.experimentKind", "custom_model_development")
# So long a tracking that failed is left alone.
_PAUSE_SECONDS = 30
# Runs that `mlflow gc` is given at once: Linux takes 128 KiB in one argument.
_SWEPT_AT_ONCE = 1000
# So often a trial's epochs are logged at most.
_EVERY_SECONDS = 5
# Sweeps whose user has been told: once is enough.
_WARNED: set[str] = set()
_PAST_EPOCH = ("phase", "epoch", "epochs")

logging.getLogger("mlflow").setLevel(logging.ERROR)
logging.getLogger("alembic").setLevel(logging.ERROR)


def _make_database(home: Path) -> None:
    """Make the tracking's database, whole or not at all: MLflow takes seconds for that, and uses none half made."""
    database, new = home / "mlflow.db", home / ".mlflow-new.db"
    if database.exists():
        return
    with (home / ".mlflow.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if database.exists():
            return
        # What somebody left who was killed.
        for path in home.glob(f"{new.name}*"):
            path.unlink()
        MlflowClient(tracking_uri=f"sqlite:///{new}").search_experiments(max_results=1)
        new.replace(database)


def connect(home: Path) -> tuple[MlflowClient, str]:
    """A client and the experiment's id; makes database and experiment where they are missing."""
    uri = tracking_uri(home)
    home.mkdir(parents=True, exist_ok=True)
    if uri == own_database(home):
        _make_database(home)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        return client, str(experiment.experiment_id)
    artifacts = (home / "artifacts").as_uri() if uri.startswith("sqlite:") else None
    return client, str(client.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=dict([_KIND])))


def tracking_problem(home: Path) -> str | None:
    """Why a sweep could not write its tracking now; None: it could. What is written anyway is written for it."""
    try:
        with failing_clearly(home):
            client, experiment = connect(home)
            client.set_experiment_tag(experiment, *_KIND)
    except InputError as error:
        return str(error).removeprefix("tracking at ")
    return None


def _reason(error: Exception) -> str:
    """What a tracking complains about, in one line."""
    return str(error).partition("\n")[0] or type(error).__name__


@contextmanager
def failing_clearly(home: Path) -> Iterator[None]:
    """Turn what a database or server raises into an InputError: for commands that cannot do without it."""
    uri = tracking_uri(home)
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 Each store, database and bucket raises errors of its own.
        raise InputError(f"tracking at {uri}: {_reason(error)}") from None


class SweepTracking:
    """The runs of one sweep."""

    def __init__(self, home: Path, name: str, sweep_id: str) -> None:
        self._home, self._name, self._sweep_id = home, name, sweep_id
        self._client: MlflowClient | None = None
        self._experiment = self._parent = ""
        self._runs: dict[str, Run] = {}
        self._logged: dict[int, set[tuple[str, int]]] = {}
        # When a trial's epochs may be logged next, and anyone's.
        self._due: dict[int, float] = {}
        self._free = 0.0
        self._params: dict[str, Any] = {}
        self._not_before = 0.0

    def begin(self, params: dict[str, Any]) -> None:
        """Open the parent run, or the one of an earlier session again."""
        self._params = params
        self._try(self._begin)

    def begin_trial(self, entry: Entry) -> str | None:
        """Open the nested run of a trial, or its run of an earlier session again. Returns the run's id."""
        return self._try(lambda: self._begin_trial(entry))

    def log_epochs(self, entry: Entry, reports: list[dict[str, Any]]) -> None:
        """Log the metrics of a trial's epochs so far under their phases; an epoch that was logged is passed over.

        Trials wait for this, and a server may take a good part of a second for each call. So quick epochs go together,
        the last ones at the trial's end, and no more than a fifth of the time is spent here.
        """
        start = time.monotonic()
        if entry.run_id and start >= max(self._due.get(entry.number, 0.0), self._free):
            self._try(lambda: self._log_epochs(entry, reports))
            end = time.monotonic()
            self._due[entry.number] = end + _EVERY_SECONDS
            self._free = end + 4 * (end - start)

    def end_trial(self, entry: Entry) -> None:
        """Log what is missing of an ended trial and its final numbers, and close its run; `reconcile` does so later for
        one that has no run."""
        if entry.run_id:
            self._try(lambda: self._end_trial(entry))

    def kill_trial(self, entry: Entry, reports: list[dict[str, Any]]) -> None:
        """Log what is missing of a trial that was interrupted, and close its run as killed."""
        if entry.run_id:
            self._try(lambda: self._kill_trial(entry, reports))

    def end(self, status: str, metrics: dict[str, float]) -> None:
        """Close the parent run, with the winner's numbers."""
        self._try(lambda: self._end(status, metrics))

    def attach(self, files: list[Path]) -> None:
        """Put the report's files beside the parent run."""
        self._try(lambda: self._attach(files))

    def reconcile(self, entries: list[Entry]) -> None:
        """Bring runs of ended trials that are still open, or were never opened, to where the ledger is."""
        self._not_before = 0.0
        self._try(lambda: self._reconcile(entries))

    def _begin(self, reopen: bool = True) -> None:
        client, self._experiment = connect(self._home)
        self._runs = self._stored(client)
        found = self._runs.get("parent")
        if found is None:
            tags = self._tags("parent")
            run = client.create_run(self._experiment, run_name=self._name, tags=tags)
            self._parent = run.info.run_id
        else:
            run, self._parent = found, found.info.run_id
            if reopen:
                client.update_run(self._parent, status="RUNNING")
        self._client = client
        self._log_params(run, self._params)

    def _begin_trial(self, entry: Entry) -> str:
        client = self._connected()
        params = entry.params | ({} if entry.seed is None else {"seed": entry.seed})
        found = self._runs.get(str(entry.number))
        if found is not None:
            client.update_run(found.info.run_id, status="RUNNING")
            self._log_params(found, params)
            return str(found.info.run_id)
        self._logged[entry.number] = set()
        tags = self._tags(str(entry.number)) | {"mlflow.parentRunId": self._parent}
        tags["enqueued"] = str(entry.enqueued is not None).lower()
        run = client.create_run(self._experiment, run_name=f"{self._name}-{entry.number:04d}", tags=tags)
        self._runs[str(entry.number)] = run
        self._log_params(run, params)
        return str(run.info.run_id)

    def _log_params(self, run: Run, params: Mapping[str, Any]) -> None:
        """Log a run's parameters, if whoever opened it has not come to that."""
        if not run.data.params:
            self._connected().log_batch(run.info.run_id, params=[Param(key, str(v)) for key, v in params.items()])

    def _log_epochs(
        self, entry: Entry, reports: list[dict[str, Any]], last: Sequence[Metric] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        """Log what is missing of a trial's epochs, and in the same call what is known when it has ended."""
        client = self._connected()
        if entry.number not in self._logged:
            self._logged[entry.number] = {
                (phase, point.step)
                for phase in ("base", "streaming")
                for point in client.get_metric_history(entry.run_id, f"{phase}/train_loss")
            }
        logged = self._logged[entry.number]
        now = int(time.time() * 1000)
        fresh = [report for report in reports if (report["phase"], report["epoch"]) not in logged]
        metrics = [
            Metric(f"{report['phase']}/{key}", value, now, report["epoch"])
            for report in fresh
            for key, value in report.items()
            if key not in _PAST_EPOCH
        ]
        metrics += last
        # The server takes at most a thousand entries a call, tags among them.
        for start in range(0, len(metrics), 900):
            client.log_batch(entry.run_id, metrics=metrics[start : start + 900], tags=tags if start == 0 else ())
        logged.update((report["phase"], report["epoch"]) for report in fresh)

    def _end_trial(self, entry: Entry) -> None:
        result = entry.result
        now = int(time.time() * 1000)
        numbers = {**result.get("metrics", {}), "trial_seconds": result["seconds"]}
        if "seconds_saved" in result:
            numbers["seconds_saved"] = result["seconds_saved"]
        if memory := result.get("gpu_memory"):
            numbers |= {"gpu_memory_bytes": memory["bytes"], "gpu_memory_fraction": memory["fraction"]}
        tags = {"state": entry.state, "base_key": result.get("base_key"), "error": result.get("error")}
        tags["base_reused"] = str(result["base_reused"]).lower() if "base_reused" in result else None
        self._log_epochs(
            entry,
            result.get("history", []),
            last=[Metric(key, value, now, 0) for key, value in numbers.items()],
            tags=[RunTag(key, value) for key, value in tags.items() if value],
        )
        self._connected().set_terminated(entry.run_id, "FAILED" if entry.state == "failed" else "FINISHED")

    def _kill_trial(self, entry: Entry, reports: list[dict[str, Any]]) -> None:
        self._log_epochs(entry, reports)
        self._connected().set_terminated(entry.run_id, "KILLED")

    def _end(self, status: str, metrics: dict[str, float]) -> None:
        client = self._connected()
        now = int(time.time() * 1000)
        client.log_batch(self._parent, metrics=[Metric(key, value, now, 0) for key, value in metrics.items()])
        client.set_terminated(self._parent, status)

    def _attach(self, files: list[Path]) -> None:
        self._begin(reopen=False)
        for path in files:
            self._connected().log_artifact(self._parent, str(path))

    def _reconcile(self, entries: list[Entry]) -> None:
        self._runs = self._stored(self._connected())
        for entry in entries:
            run = self._runs.get(str(entry.number))
            # A trial that began while the tracking was down has no run yet; one whose run is gone had it deleted.
            missing = run is None and entry.run_id is None
            still_open = run is not None and run.info.status in ("RUNNING", "KILLED")
            if entry.state != "running" and (missing or still_open):
                self._end_trial(replace(entry, run_id=self._begin_trial(entry)))

    def _tags(self, trial: str) -> dict[str, str]:
        return {"sweep": self._name, "sweep_id": self._sweep_id, "trial": trial, "mlflow.source.name": "sweeps"}

    def _stored(self, client: MlflowClient) -> dict[str, Run]:
        """The runs that there are of this sweep, by trial."""
        found = _runs_of(client, self._experiment, self._sweep_id, ViewType.ACTIVE_ONLY)
        return {run.data.tags["trial"]: run for run in found}

    def _connected(self) -> MlflowClient:
        if self._client is None:
            self._begin()
        assert self._client is not None
        return self._client

    def _try(self, action: Callable[[], T]) -> T | None:
        """Do it, or say once that it cannot be done now."""
        if time.monotonic() < self._not_before:
            return None
        try:
            return action()
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001 Each store, database and bucket raises errors of its own.
            self._not_before = time.monotonic() + _PAUSE_SECONDS
            # What failed may have been done, and only its answer be lost: look again at what there is.
            self._client = None
            self._logged.clear()
            if self._sweep_id not in _WARNED:
                _WARNED.add(self._sweep_id)
                told = "the sweep goes on, and what is missing is written when the tracking is back, or at the next"
                print(f"tracking: {_reason(error)}; {told} sweeps resume {self._name}", file=sys.stderr)
            return None


def _runs_of(client: MlflowClient, experiment: str, sweep_id: str, view: int) -> list[Run]:
    """All runs of a sweep, the parent among them."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment], f"tags.sweep_id = '{sweep_id}'", view, 1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def delete_sweep_runs(home: Path, sweep_id: str) -> int:
    """Delete all runs of a sweep, for good where the database is ours; returns how many there were."""
    client, experiment = connect(home)
    # Those too that a call which was interrupted has marked, and not swept.
    found = _runs_of(client, experiment, sweep_id, ViewType.ALL)
    for run in found:
        if run.info.lifecycle_stage == "active":
            client.delete_run(run.info.run_id)
    uri = tracking_uri(home)
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri, "--tracking-uri", uri]
    for start in range(0, len(found) if uri.startswith("sqlite:") else 0, _SWEPT_AT_ONCE):
        named = ",".join(run.info.run_id for run in found[start : start + _SWEPT_AT_ONCE])
        swept = subprocess.run([*command, "--run-ids", named], capture_output=True, text=True)
        if swept.returncode:
            print(f"tracking: the runs are marked as deleted, but mlflow gc failed: {swept.stderr}", file=sys.stderr)
    return len(found)
