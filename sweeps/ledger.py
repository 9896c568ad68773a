"""The ledger of a sweep: its Optuna study. One trial number joins configuration, run, base and result.

Only the driver writes it. A trial is RUNNING until its result is told: COMPLETE with a joint value, or FAIL with a
reason.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from senet.errors import InputError
from sweeps.config import Recipe
from sweeps.space import Params, Space

Result = dict[str, Any]

optuna.logging.set_verbosity(optuna.logging.ERROR)

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
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


class Ledger:
    """The study of one sweep, on disk."""

    def __init__(self, folder: Path, name: str, create: bool = False) -> None:
        path = folder / "ledger.db"
        if not create and not path.exists():
            raise InputError(f"{folder}: the sweep has no ledger; delete it and run it again")
        try:
            self._storage = RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
            if create:
                self._study = optuna.create_study(
                    storage=self._storage, study_name=name, direction="maximize", load_if_exists=True
                )
            else:
                self._study = optuna.load_study(storage=self._storage, study_name=name)
            self._study_id = self._storage.get_study_id_from_name(name)
        except (SQLAlchemyError, StorageInternalError, KeyError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path}: is no ledger of the sweep `{name}`: {reason}") from None

    def trials(self) -> list[FrozenTrial]:
        """All trials as Optuna holds them, by number; not to be changed."""
        return self._study.get_trials(deepcopy=False)

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
        self._study.add_trial(running_trial(params, space, attributes, notes))
        return _entry(self.trials()[-1])

    def set_run(self, number: int, run_id: str) -> None:
        """Write down the tracking run of a running trial."""
        self._set(number, "run_id", run_id)

    def finish(self, number: int, result: Result) -> None:
        """Close a running trial with what it left. A closed one stays as it is."""
        if self.trials()[number].state.is_finished():
            return
        self._set(number, "result", result)
        if result["state"] in ("complete", "answered"):
            self._study.tell(number, result["metrics"]["joint"])
        elif result["state"] == "pruned":
            # Optuna's samplers rank pruned trials behind complete ones, by step and value.
            if result["probe"] is not None:
                trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
                self._storage.set_trial_intermediate_value(trial_id, result["step"], result["probe"]["joint"])
            self._study.tell(number, state=TrialState.PRUNED)
        else:
            self._study.tell(number, state=TrialState.FAIL)

    def _set(self, number: int, key: str, value: Any) -> None:
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        self._storage.set_trial_user_attr(trial_id, key, value)


def answered(earlier: Entry) -> Result:
    """The result of a trial that is not run because it repeats `earlier`."""
    return earlier.result | {"state": "answered", "seconds": 0.0, "seconds_saved": 0.0, "stage_seconds": {}}


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
