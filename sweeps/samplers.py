"""Suggestions: Optuna's samplers by name, and all configurations of a finite space."""

import copy
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from senet.config import fingerprint
from sweeps.config import SearchConfig
from sweeps.space import Params, Space, Value, is_reference

# What Optuna notes on a trial whose parameters were given; it is no state of a sampler.
_GIVEN = "fixed_params"
# What a sequence notes on its study of how far it has come, in notes of ours.
_DRAWN = "sweeps:drawn"
# Trials that only carried a draw are dropped when there are so many, and an eighth of the trials.
_CARRIERS = 64


def make_sampler(name: str, seed: int, conditional: bool, objectives: int = 1) -> BaseSampler:
    """A sampler by its name in a recipe; `grid`, which is none of Optuna's, is drawn at random where it has ended.

    Args:
        conditional: whether some parameters exist only where others have certain values.
    """
    if name == "tpe" and objectives > 1:
        # One parameter after the other, as Optuna does for several objectives by default.
        return TPESampler(seed=seed, multivariate=False, constant_liar=True)
    if name == "tpe":
        return TPESampler(seed=seed, multivariate=True, group=conditional, constant_liar=True)
    if name == "gp":
        return GPSampler(seed=seed, warn_independent_sampling=False)
    if name == "cmaes":
        return CmaEsSampler(seed=seed, warn_independent_sampling=False)
    if name == "nsga2":
        return NSGAIISampler(seed=seed, population_size=20)
    if name == "qmc":
        return QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False, warn_asynchronous_seeding=False)
    return RandomSampler(seed=seed)


def random_draws(space: Space, seed: int, count: int) -> Iterator[Params]:
    """Configurations drawn independently of each other and of all trials: always the same ones."""
    study = optuna.create_study(sampler=RandomSampler(seed=seed))
    for _ in range(count):
        yield suggested(study.ask(), space)


def suggested(trial: Trial, space: Space) -> Params:
    """The parameters of a trial that has just been asked for, those alone whose condition holds."""
    params: Params = {}
    for path, distribution in space.distributions.items():
        if space.is_active(path, params):
            params[path] = _suggest(trial, path, distribution)
    return params


def _suggest(trial: Trial, path: str, distribution: BaseDistribution) -> Value:
    if isinstance(distribution, CategoricalDistribution):
        value: Value = trial.suggest_categorical(path, distribution.choices)  # type: ignore[assignment]
        return value
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(path, distribution.low, distribution.high)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(path, distribution.low, distribution.high, log=distribution.log)


def _without_value(trial: FrozenTrial) -> FrozenTrial:
    """A finished trial as one that has failed: samplers pass over it."""
    found = copy.copy(trial)
    if trial.state == TrialState.COMPLETE:
        found.state, found.values = TrialState.FAIL, None
    return found


@dataclass(frozen=True)
class Draw:
    """A suggestion, and what its sampler notes of it."""

    params: Params
    notes: dict[str, Any]
    """Optuna's system attributes: evolution strategies keep their generations there"""


class Sampler:
    """Draws configurations, given all trials so far.

    It works on a copy of the study in memory, so that a draw that is not wanted leaves no trace in the ledger. Its
    random state is made from the seed and the number of trials: a resumed sweep goes on as it would have.
    """

    def __init__(self, search: SearchConfig, space: Space, trials: list[FrozenTrial], objectives: int = 1) -> None:
        self._search, self._space, self._objectives = search, space, objectives
        self._lasting = search.sampler == "qmc"
        # One sequence for the whole sweep: a resumed one goes on behind what it has drawn.
        noted = (trial.system_attrs[_DRAWN] for trial in reversed(trials) if _DRAWN in trial.system_attrs)
        own = deque(_without_value(trial) if is_reference(trial.params) else trial for trial in trials)
        self._begin(own, next(noted, {}))

    def _begin(self, trials: deque[FrozenTrial], drawn: dict[str, Any]) -> None:
        """A study of these trials alone, which are consumed; a sequence goes on behind what it has `drawn`."""
        self._storage = InMemoryStorage()
        self._study = optuna.create_study(storage=self._storage, directions=["maximize"] * self._objectives)
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._positions: list[int] = []
        if self._lasting:
            self._study.sampler = make_sampler("qmc", self._search.seed, False)
            for name, value in drawn.items():
                self._storage.set_study_system_attr(self._study_id, name, value)
        while trials:
            self.opened(trials.popleft())

    def _drop_carriers(self) -> None:
        """Go on in a new study once too many trials of this one have only carried a draw."""
        kept = self._study.get_trials(deepcopy=False)
        if len(kept) - len(self._positions) > _CARRIERS + len(self._positions) // 8:
            own = deque(kept[position] for position in self._positions)
            del kept
            self._begin(own, self._drawn())

    def _drawn(self) -> dict[str, Any]:
        """How far a sequence has come."""
        return dict(self._storage.get_study_system_attrs(self._study_id)) if self._lasting else {}

    def draw(self, fixed: Params, attempt: int = 0) -> Draw:
        """Parameters for the next trial: `fixed` as given, the others as the sampler proposes."""
        self._drop_carriers()
        if not self._lasting:
            seed = int(fingerprint([self._search.seed, len(self._positions), attempt]), 16) % 2**31
            conditional = bool(self._space.conditions)
            self._study.sampler = make_sampler(self._search.sampler, seed, conditional, self._objectives)
        self._study.enqueue_trial(fixed)
        trial = self._study.ask()
        params = suggested(trial, self._space)
        # Samplers pass over failed trials: this one only carried the draw.
        told = self._study.tell(trial, state=TrialState.FAIL)
        notes = {key: value for key, value in told.system_attrs.items() if key != _GIVEN}
        if self._lasting:
            # Not every draw becomes a trial, and not every trial was drawn.
            notes[_DRAWN] = self._drawn()
        return Draw(params, notes)

    def opened(self, trial: FrozenTrial) -> None:
        """A trial has begun; its number is one more than the last one's."""
        self._positions.append(len(self._study.get_trials(deepcopy=False)))
        self._study.add_trial(trial)

    def finished(self, number: int, values: list[float] | None) -> None:
        """Trial `number` has ended, with a value of every objective or without."""
        self._study.tell(self._positions[number], values, state=TrialState.FAIL if values is None else None)

    def pruned(self, number: int, step: int, probe: dict[str, float] | None) -> None:
        """Trial `number` was given up at `step`, because of its probe if there is one."""
        if probe is not None and self._objectives == 1:
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, self._positions[number])
            self._storage.set_trial_intermediate_value(trial_id, step, probe["joint"])
        self._study.tell(self._positions[number], state=TrialState.PRUNED)
