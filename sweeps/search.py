"""Which trial comes next. Pure decisions over the ledger: no Ray, no clock."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice, product

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from senet.config import fingerprint
from senet.errors import InputError
from sweeps.config import Recipe, SearchConfig
from sweeps.ledger import Entry, Ledger, running_trial
from sweeps.space import Params, Space

# So often a suggestion is drawn anew because its base was begun already.
_DRAWS = 20
# So often a suggestion is drawn anew because it does not fit, and so many random draws there are where none fits.
_TRIES = 200
# So often the training of a base may fail before no further trial is given to it.
_FAILURES = 2


def make_sampler(name: str, seed: int) -> BaseSampler:
    """A sampler by its name in a recipe."""
    if name == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def base_of(space: Space, params: Params, seed: int | None = None) -> str:
    """What tells the base of a configuration from others, before data and machine are known."""
    return fingerprint(space.config(params, seed=seed).base_identity())


def random_draws(space: Space, seed: int) -> Iterator[Params]:
    """Configurations drawn independently of each other and of all trials: always the same ones."""
    study = optuna.create_study(sampler=RandomSampler(seed=seed))
    for _ in range(_TRIES):
        yield dict(study.ask(space.distributions).params)


def _everything(params: Params) -> bool:
    return True


class Sampler:
    """Draws configurations, given all trials so far.

    It works on a copy of the study in memory, so that a draw that is not wanted leaves no trace in the ledger. Its
    random state is made from the seed and the number of trials: a resumed sweep goes on as it would have.
    """

    def __init__(self, search: SearchConfig, space: Space, ledger: Ledger) -> None:
        self._search, self._space = search, space
        self._study = optuna.create_study(direction="maximize")
        self._numbers: list[int] = []
        for trial in ledger.trials():
            self._numbers.append(len(self._study.get_trials(deepcopy=False)))
            self._study.add_trial(trial)

    def draw(self, fixed: Params, attempt: int = 0) -> Params:
        """Parameters for the next trial: `fixed` as given, the others as the sampler proposes."""
        seed = int(fingerprint([self._search.seed, len(self._numbers), attempt]), 16) % 2**31
        self._study.sampler = make_sampler(self._search.sampler, seed)
        self._study.enqueue_trial(fixed)
        trial = self._study.ask(self._space.distributions)
        # Samplers pass over failed trials: this one only carried the draw.
        self._study.tell(trial, state=TrialState.FAIL)
        return dict(trial.params)

    def opened(self, params: Params) -> None:
        """A trial with `params` has begun; its number is one more than the last one's."""
        self._numbers.append(len(self._study.get_trials(deepcopy=False)))
        self._study.add_trial(running_trial(params, self._space, {}))

    def finished(self, number: int, joint: float | None) -> None:
        """Trial `number` has ended, with an objective or without."""
        trial = self._study.get_trials(deepcopy=False)[self._numbers[number]]
        if not trial.state.is_finished():
            state = TrialState.FAIL if joint is None else None
            self._study.tell(trial.number, joint, state=state)


class Suggester:
    """Chooses trials so that bases are shared.

    First the enqueued configurations: all with the first seed, then all with the next. Then, for every base of the
    first seed that stands, streaming settings until it has `streams_per_base` of them; then a new base. A configuration
    whose base another trial is training is held back while that lasts.

    Args:
        fits: whether a configuration may be tried; decided by its model alone. It must hold for the enqueued ones, and
            for one of `random_draws`.
    """

    def __init__(
        self, recipe: Recipe, space: Space, ledger: Ledger, fits: Callable[[Params], bool] = _everything
    ) -> None:
        self._recipe, self._space, self._ledger, self._fits = recipe, space, ledger, fits
        self._sampler = Sampler(recipe.search, space, ledger)
        first = enumerate(recipe.first_configurations(space, "recipe"))
        self._first = [(i, seed, params) for seed, (i, params) in product(recipe.seeds(space), list(first))]
        self._streams: Counter[str] = Counter()
        self._bases: dict[str, Params] = {}
        self._standing: set[str] = set()
        self._training: dict[str, int] = {}
        self._unfinished: list[Entry] = []
        self._enqueued: set[tuple[int, int]] = set()
        self._failures: Counter[str] = Counter()
        self._seen: list[Params] = []
        # Nothing can be started until a base stands or a trial ends: no use in drawing again and again.
        self._idle = False
        self._opened = 0
        for entry in ledger.entries():
            self._remember(entry)

    def done(self) -> bool:
        """Whether no trial is left to start."""
        return not self._unfinished and self._opened >= self._recipe.search.trials

    def next(self) -> Entry | None:
        """The trial to start now, opened in the ledger; None: not now, a base must be trained first."""
        for entry in self._unfinished:
            if self._base_is_free(self._base(entry)):
                self._unfinished.remove(entry)
                return self._started(entry)
        if self._idle or self._opened >= self._recipe.search.trials:
            return None
        waiting = [given for given in self._first if given[:2] not in self._enqueued]
        for i, seed, params in waiting:
            if self._base_is_free(base_of(self._space, params, seed)):
                return self._open(params, enqueued=i, seed=seed)
        # While enqueued configurations wait for their bases, nothing else may take their place in the budget.
        if self._opened + len(waiting) >= self._recipe.search.trials:
            return None
        for base, params in self._bases.items():
            if base in self._standing and self._streams[base] < self._recipe.search.streams_per_base:
                return self._open(self._new_stream(params))
        return self._new_base()

    def base_stands(self, entry: Entry) -> None:
        """A trial has its base: others may stream on it."""
        self._idle = False
        self._standing.add(self._base(entry))
        self._release(entry.number)

    def ended(self, number: int, joint: float | None) -> None:
        """Trial `number` no longer runs; if it was training its base, another may."""
        self._idle = False
        self._sampler.finished(number, joint)
        self._release(number, failed=joint is None)

    def _new_stream(self, base_params: Params) -> Params:
        """A streaming setting for a base, one that was not tried if one turns up."""
        for attempt in range(_DRAWS):
            drawn = self._sampler.draw(base_params, attempt)
            if drawn not in self._seen:
                break
        return drawn

    def _new_base(self) -> Entry | None:
        """A suggestion on a base that nobody has begun; where none turns up, on one that stands."""
        drawn: Params | None = None
        fallback: Params | None = None
        for drawn in self._fitting():
            base = base_of(self._space, drawn)
            if base not in self._bases:
                return self._open(drawn)
            if fallback is None and self._base_is_free(base) and self._failures[base] < _FAILURES:
                fallback = drawn
        if drawn is None:
            raise InputError("recipe: `constraints`: no configuration of `space` fits")
        if fallback is None and not self._training:
            # No trial is under way that could bring another base: one that has failed is tried again.
            fallback = drawn
        if fallback is None:
            self._idle = True
            return None
        return self._open(fallback)

    def _fitting(self) -> Iterator[Params]:
        """At most `_DRAWS` suggestions that fit: the sampler's, and random bases where it has too few."""
        drawn = (self._sampler.draw({}, attempt) for attempt in range(_TRIES))
        random = filter(self._fits, random_draws(self._space, self._recipe.search.seed))
        bases = ({path: params[path] for path in self._space.base_paths()} for params in random)
        completed = (self._sampler.draw(base, attempt) for attempt, base in enumerate(bases))
        return islice(chain(filter(self._fits, drawn), completed), _DRAWS)

    def _open(self, params: Params, enqueued: int | None = None, seed: int | None = None) -> Entry:
        entry = self._ledger.open(params, self._space, enqueued, seed)
        self._sampler.opened(params)
        self._count(entry)
        return self._started(entry)

    def _remember(self, entry: Entry) -> None:
        """Take over a trial of an earlier session."""
        self._count(entry)
        if entry.state == "running":
            self._unfinished.append(entry)
        elif entry.result.get("base_key"):
            self._standing.add(self._base(entry))

    def _count(self, entry: Entry) -> None:
        self._opened += 1
        self._seen.append(entry.params)
        base, seed = self._base(entry), self._space.seed if entry.seed is None else entry.seed
        if entry.enqueued is not None:
            self._enqueued.add((entry.enqueued, seed))
        self._streams[base] += 1
        if seed == self._space.seed:
            self._bases.setdefault(base, {path: entry.params[path] for path in self._space.base_paths()})

    def _base(self, entry: Entry) -> str:
        return base_of(self._space, entry.params, entry.seed)

    def _started(self, entry: Entry) -> Entry:
        base = self._base(entry)
        if base not in self._standing:
            self._training[base] = entry.number
        return entry

    def _base_is_free(self, base: str) -> bool:
        return base not in self._training

    def _release(self, number: int, failed: bool = False) -> None:
        for base, trainer in list(self._training.items()):
            if trainer == number:
                del self._training[base]
                self._failures[base] += failed
