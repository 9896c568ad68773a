"""The ledger of a sweep: its Optuna study. One trial number joins configuration, run, base and result.

Only the driver writes it. A trial is RUNNING until its result is told: COMPLETE with a joint value, PRUNED, or FAIL
with a reason. Where it lies is the business of `sweeps.storage`.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from senet.errors import InputError
from senet.files import aside
from sweeps.config import Recipe
from sweeps.space import Params, Space
from sweeps.storage import SQLITE, open_database, open_file, reason_of, storage_file
from sweeps.sweep import Sweep

Result = dict[str, Any]

optuna.logging.set_verbosity(optuna.logging.ERROR)

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}
_ENDS = {
    "complete": TrialState.COMPLETE,
    "answered": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


@dataclass(frozen=True)
class Entry:
    """One trial as the ledger knows it."""

    number: int
    state: str
    """complete, pruned, failed, running, or answered: its result is that of an earlier trial"""
    params: Params
    enqueued: int | None
    """position in the recipe's `enqueue`, or None"""
    run_id: str | None
    """of the tracking run"""
    result: Result
    """what the trial left; empty while it runs"""
    seed: int | None = None
    """of weights, order and augmentation; None: the recipe's"""
    answers: int | str | None = None
    """the earlier trial of the same configuration whose result this one has; `SWEEP/NUMBER` if it is another sweep's"""

    @property
    def joint(self) -> float:
        """The objective, −inf where there is none."""
        return (
            float(self.result.get("metrics", {}).get("joint", -math.inf))
            if self.state in ("complete", "answered")
            else -math.inf
        )

    def values(self, metrics: Sequence[str]) -> list[float]:
        """Some of a finished trial's metrics."""
        return [float(self.result["metrics"][name]) for name in metrics]


class NoLedgerError(InputError):
    """The sweep has no ledger."""


class Ledger:
    """The study of one sweep, as it was when it was opened and with what was written here since.

    Every change is in the storage before it is seen here. What takes two writes is made good when the driver is next
    started, should it be killed between them.

    Args:
        folder: the sweep's folder.
        name: the study's.
        create: the driver opens it: the ledger is made where there is none, and trials that were told what they left
            but not closed are closed.
        url: of the database (`search.storage`); not given: a file in the folder.
        objectives: the metrics that are maximised.

    Raises:
        InputError: there is no such ledger, or it cannot be read or, here as in every method, be written.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        create: bool = False,
        url: str | None = None,
        objectives: Sequence[str] = ("joint",),
    ) -> None:
        self._objectives = objectives
        path = None if url else storage_file(folder)
        self._where = str(path or f"`search.storage`: {url}")
        if path and not create and not path.exists():
            raise NoLedgerError(f"{folder}: the sweep has no ledger; delete it and run it again")
        try:
            if path and create and path.name == SQLITE and not path.exists():
                _make_file(path, name, len(objectives))
            self._storage = open_file(path) if path else open_database(str(url))
            self._study = _study(self._storage, name, create, self._where, len(objectives))
            # None after a write that failed: it may have come through nevertheless.
            self._trials: list[FrozenTrial] | None = self._storage.get_all_trials(self._study, deepcopy=False)
        except (SQLAlchemyError, StorageInternalError, ValueError, LookupError, TypeError, AssertionError) as error:
            raise InputError(f"{self._where}: is no ledger of the sweep `{name}`: {reason_of(error)}") from None
        except RuntimeError as error:
            # The database was made by another version of Optuna.
            raise InputError(f"{self._where}: {reason_of(error)}") from None
        if create:
            for trial in self.trials():
                if trial.state == TrialState.RUNNING and "result" in trial.user_attrs:
                    self._close(trial)

    def trials(self) -> list[FrozenTrial]:
        """All trials as Optuna holds them, by number; not to be changed."""
        if self._trials is None:
            with self._clearly():
                self._trials = self._storage.get_all_trials(self._study, deepcopy=False)
        return self._trials

    def entries(self) -> list[Entry]:
        """All trials, by number."""
        return [_entry(trial) for trial in self.trials()]

    def entry(self, number: int) -> Entry:
        """One trial."""
        return _entry(self.trials()[number])

    def open(
        self,
        params: Params,
        space: Space,
        enqueued: int | None = None,
        seed: int | None = None,
        notes: dict[str, Any] | None = None,
        answers: int | str | None = None,
    ) -> Entry:
        """Write down a new running trial, whole, and return it with its number.

        Args:
            notes: of the sampler that suggested it.
            answers: the earlier trial whose result it will have.
        """
        attributes: dict[str, Any] = {"seed": space.seed if seed is None else seed}
        attributes |= {} if enqueued is None else {"enqueued": enqueued}
        attributes |= {} if answers is None else {"answers": answers}
        trials, trial = self.trials(), running_trial(params, space, attributes, notes)
        with self._clearly():
            trial._trial_id = self._storage.create_new_trial(self._study, trial)
        # Nobody else writes: the storage numbers as we do.
        trial.number = len(trials)
        trials.append(trial)
        return _entry(trial)

    def set_run(self, number: int, run_id: str) -> None:
        """Write down the tracking run of a running trial."""
        self._set(self.trials()[number], "run_id", run_id)

    def finish(self, number: int, result: Result) -> None:
        """Close a running trial with what it left. A closed one stays as it is."""
        trial = self.trials()[number]
        if trial.state.is_finished():
            return
        self._close(self._set(trial, "result", result))

    def delete(self) -> None:
        """Delete the study."""
        with self._clearly():
            self._storage.delete_study(self._study)

    def _close(self, trial: FrozenTrial) -> None:
        """End a trial as the result says that it has."""
        result = trial.user_attrs["result"]
        state = _ENDS[result["state"]]
        complete = state == TrialState.COMPLETE
        values = [result["metrics"][name] for name in self._objectives] if complete else None
        # Of several objectives Optuna knows no values of pruned trials.
        probe = result.get("probe") if len(self._objectives) == 1 else None
        with self._clearly():
            if probe is not None:
                # Optuna's samplers rank pruned trials behind complete ones, by step and value.
                self._storage.set_trial_intermediate_value(trial._trial_id, result["step"], probe["joint"])
            self._storage.set_trial_state_values(trial._trial_id, state, values)
        steps = {} if probe is None else {result["step"]: probe["joint"]}
        self._keep(trial, state=state, values=values, intermediate_values=steps, datetime_complete=datetime.now())

    def _set(self, trial: FrozenTrial, key: str, value: Any) -> FrozenTrial:
        with self._clearly():
            self._storage.set_trial_user_attr(trial._trial_id, key, value)
        return self._keep(trial, user_attrs=trial.user_attrs | {key: value})

    def _keep(self, trial: FrozenTrial, **changes: Any) -> FrozenTrial:
        """Change a trial as it was changed in the storage, where reading it again would take as long as the write."""
        kept = copy.copy(trial)
        for name, value in changes.items():
            setattr(kept, name, value)
        self.trials()[trial.number] = kept
        return kept

    @contextmanager
    def _clearly(self) -> Iterator[None]:
        """Say in one line that the storage failed, and read all again before the ledger is used again."""
        try:
            yield
        except (SQLAlchemyError, StorageInternalError, OSError) as error:
            self._trials = None
            raise InputError(f"{self._where}: the ledger fails: {reason_of(error)}; mend that, and resume") from None


def open_ledger(sweep: Sweep, create: bool = False) -> Ledger:
    """The ledger of a sweep, where its recipe says. Raises InputError."""
    url = sweep.recipe().search.storage
    # A database holds the sweeps of many homes, which may be alike in name.
    name = f"{sweep.name}-{sweep.about()['id']}" if url else sweep.name
    return Ledger(sweep.folder, name, create, url, sweep.recipe().objective.metrics)


def entries_of(sweep: Sweep) -> list[Entry]:
    """All trials of a sweep, by number; none where it was killed before it had a ledger. Raises InputError."""
    try:
        return open_ledger(sweep).entries()
    except NoLedgerError:
        return []


def delete_ledger(sweep: Sweep) -> None:
    """Delete the ledger of a sweep, where it lies elsewhere than in the sweep's folder. Raises InputError."""
    if sweep.recipe().search.storage is not None:
        with suppress(NoLedgerError):
            open_ledger(sweep).delete()


def answered(earlier: Entry) -> Result:
    """The result of a trial that is not run because it repeats `earlier`."""
    nothing: Result = {"seconds": 0.0, "seconds_saved": 0.0, "stage_seconds": {}, "attempts": []}
    return earlier.result | nothing | {"state": "answered"}


def is_finished(recipe: Recipe, entries: list[Entry], ending: str | None) -> bool:
    """Whether a sweep has ended: it has run all its trials, or begins no more for a reason that stays."""
    if any(entry.state == "running" for entry in entries):
        return False
    run = sum(entry.answers is None for entry in entries)
    return run >= recipe.search.trials or str(ending).startswith("ended")


def running_trial(
    params: Params, space: Space, attributes: dict[str, Any], notes: dict[str, Any] | None = None
) -> FrozenTrial:
    """An Optuna trial that has begun, with all its parameters and what its sampler notes of it."""
    return optuna.create_trial(
        state=TrialState.RUNNING,
        params=params,
        distributions={path: space.distributions[path] for path in params},
        user_attrs=attributes,
        system_attrs=notes or {},
    )


def _make_file(path: Path, name: str, objectives: int) -> None:
    """Make a sqlite ledger, whole or not at all: who only looks at it would make the tables, too."""
    for left in path.parent.glob(f".{path.name}-*"):
        left.unlink()
    new = aside(path)
    storage = open_file(new)
    assert isinstance(storage, RDBStorage)
    _study(storage, name, True, str(path), objectives)
    storage.remove_session()
    storage.engine.dispose()
    new.replace(path)


def _study(storage: BaseStorage, name: str, create: bool, where: str, objectives: int) -> int:
    """The id of a study. Raises NoLedgerError where there is none and none shall be made."""
    try:
        study = storage.get_study_id_from_name(name)
    except KeyError:
        if not create:
            raise NoLedgerError(f"{where}: holds no sweep `{name}`; delete the sweep and run it again") from None
        return storage.create_new_study([StudyDirection.MAXIMIZE] * objectives, name)
    if len(storage.get_study_directions(study)) != objectives:
        raise InputError(f"{where}: was begun with another `objective.mode` than the recipe's; put that back")
    return study


def _entry(trial: FrozenTrial) -> Entry:
    attributes = trial.user_attrs
    return Entry(
        number=trial.number,
        state="answered" if "answers" in attributes and trial.state.is_finished() else _STATES[trial.state],
        params=dict(trial.params),
        enqueued=attributes.get("enqueued"),
        run_id=attributes.get("run_id"),
        result=attributes.get("result", {}),
        seed=attributes.get("seed"),
        answers=attributes.get("answers"),
    )
