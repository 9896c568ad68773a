"""Which trial comes next. Pure decisions over the ledger: no Ray, no clock."""

from collections import deque
from collections.abc import Callable, Container, Iterator
from itertools import chain, islice, product
from typing import Any, Protocol

from optuna.trial import FrozenTrial

from senet.config import fingerprint
from senet.errors import InputError
from sweeps.config import Recipe
from sweeps.ledger import Entry, running_trial
from sweeps.memory import Memory, base_of
from sweeps.samplers import Draw, Sampler, random_draws
from sweeps.space import Params, Space, is_reference

# So often a suggestion is drawn anew because it repeats a configuration or a base.
_DRAWS = 20
# So often a suggestion is drawn anew because it does not fit, and so many random draws there are where none fits.
TRIES = 200
# So many suggestions in a row are answered from the ledger before that is taken for all there is.
_ANSWERS = 5
# So often the training of a base may fail before no further trial is given to it.
_FAILURES = 2
# So many configurations of a finite space are looked through for one that is left.
_CELLS = 5000


def _everything(params: Params) -> bool:
    return True


class Book(Protocol):
    """What of a ledger the suggester needs."""

    def trials(self) -> list[FrozenTrial]:
        """All trials as Optuna holds them, by number."""

    def entries(self) -> list[Entry]:
        """All trials, by number."""

    def open(
        self,
        params: Params,
        space: Space,
        enqueued: int | None = None,
        seed: int | None = None,
        notes: dict[str, Any] | None = None,
        answers: int | str | None = None,
    ) -> Entry:
        """Write down a new running trial."""


class Suggester:
    """Chooses trials so that bases are shared.

    First the enqueued configurations: all with the first seed, then all with the next. Then, for every base of the
    first seed that stands, streaming settings until it has `streams_per_base` of them; then a further setting for one
    of the bases, or a new base, whichever has the larger expected gain a second (`sweeps.gain`). A configuration whose
    base another trial is training is held back while that lasts.

    Args:
        fits: whether a configuration may be tried; decided by its model alone. It must hold for the enqueued ones, and
            for one of `random_draws`.
    """

    def __init__(
        self, recipe: Recipe, space: Space, ledger: Book, fits: Callable[[Params], bool] = _everything
    ) -> None:
        self._recipe, self._space, self._ledger, self._fits = recipe, space, ledger, fits
        self._metrics = recipe.objective.metrics
        self._sampler = Sampler(recipe.search, space, ledger.trials(), len(self._metrics))
        first = enumerate(recipe.first_configurations(space, "recipe"))
        self._waiting = {(i, seed): params for seed, (i, params) in product(recipe.seeds(space), list(first))}
        self._memory = Memory(space, self._metrics)
        # Once a base has been begun it need not be looked at again.
        self._elsewhere = self._random_bases()
        self._training: dict[str, int] = {}
        self._unfinished: list[Entry] = []
        # Nothing can be started until a base stands or a trial ends: no use in drawing again and again.
        self._idle = False
        self._closed, self._drops = False, False
        # Of a finite space: the configurations that nobody has looked at yet, and those whose base was not free.
        self._cells = filter(fits, space.cells()) if space.is_finite() else iter(())
        self._blocked = deque[Params]()
        # Suggestions in a row that were answered from the ledger.
        self._answers = 0
        for entry in ledger.entries():
            self._remember(entry)

    def done(self) -> bool:
        """Whether no trial is left to start."""
        if self._unfinished and not self._drops:
            return False
        return self._closed or self._memory.run >= self._recipe.search.trials

    def close(self, drop: bool = False) -> None:
        """Open no further trial: the sweep is to drain.

        Args:
            drop: neither start one again that has left its process without a result.
        """
        self._closed, self._drops = True, self._drops or drop

    def next(self, held: Container[int] = ()) -> Entry | None:
        """The trial to start now, opened in the ledger; None: not now, a base must be trained first.

        Args:
            held: numbers of trials that are not to be started again yet.

        An entry that `answers` is not to be run: its result is that of the earlier trial.
        """
        for entry in [] if self._drops else self._unfinished:
            if entry.number not in held and self._training.get(self._memory.base(entry)) in (None, entry.number):
                self._unfinished.remove(entry)
                return self._started(entry)
        if self._closed or self._idle or self._memory.run >= self._recipe.search.trials:
            return None
        for (i, seed), params in self._waiting.items():
            if self._base_is_free(base_of(self._space, params, seed)):
                return self._open(params, enqueued=i, seed=seed)
        # While enqueued configurations wait for their bases, nothing else may take their place in the budget.
        if self._memory.run + len(self._waiting) >= self._recipe.search.trials:
            return None
        if self._recipe.search.sampler == "grid":
            return self._next_cell()
        return self._stream_or_base()

    def best(self) -> float:
        """The largest joint value so far; −inf without one."""
        return self._memory.best

    def base_stands(self, entry: Entry) -> None:
        """A trial has its base: others may stream on it."""
        self._idle = False
        self._memory.standing.add(self._memory.base(entry))
        self._release(entry.number)

    def ended(self, entry: Entry) -> None:
        """A trial has been closed in the ledger; if it was training its base, another may."""
        self._idle = False
        if entry.state == "pruned":
            self._sampler.pruned(entry.number, entry.result["step"], entry.result["probe"])
        else:
            # What a reference comes to is nothing to look for.
            without = entry.state == "failed" or is_reference(entry.params)
            self._sampler.finished(entry.number, None if without else entry.values(self._metrics))
        self._memory.learn(entry)
        self._release(entry.number, failed=entry.state == "failed")

    def given_back(self, entry: Entry, held: bool = False) -> None:
        """A trial has left its process without a result, and is to be started again.

        Args:
            held: somebody else is training its base: no other trial of this sweep needs to try.
        """
        self._idle = False
        if not held:
            self._release(entry.number)
        self._unfinished.append(entry)

    def _stream_or_base(self) -> Entry | None:
        """A further streaming setting, or a new base."""
        while (
            base := self._memory.next_to_stream_on(self._recipe.search.streams_per_base, self._weights())
        ) is not None:
            entry = self._new_stream(base)
            if entry is not None:
                return entry
            self._memory.exhausted.add(base)
        return self._new_base()

    def _weights(self) -> list[float]:
        """How much each objective counts in the next choice between bases.

        Of two they are drawn anew for every trial, so that all parts of the front are looked for (ParEGO, Knowles
        2006).
        """
        if len(self._metrics) == 1:
            return [1.0]
        weight = int(fingerprint(["weight", self._recipe.search.seed, self._memory.run]), 16) / 16**16
        return [weight, 1 - weight]

    def _new_stream(self, base: str) -> Entry | None:
        """A streaming setting for a base, one that was not tried; None where none is left."""
        fixed = self._memory.bases[base]
        for attempt in range(_DRAWS):
            draw = self._sampler.draw(fixed, attempt)
            if not self._memory.knows(draw.params):
                return self._open(draw.params, notes=draw.notes)
        unseen = self._unseen(fixed)
        return None if unseen is None else self._open(unseen)

    def _new_base(self) -> Entry | None:
        """A suggestion on a base that nobody has begun, at random where the sampler suggests none; where none turns up,
        a setting for one that was."""
        fallback: Draw | None = None
        repeat: Draw | None = None
        failed: Draw | None = None
        draw: Draw | None = None
        for draw in self._fitting():
            base = base_of(self._space, draw.params)
            if base not in self._memory.bases:
                return self._open(draw.params, notes=draw.notes)
            if not self._base_is_free(base):
                continue
            if self._memory.knows(draw.params):
                replicate = self._replicate(draw)
                if replicate is not None:
                    return replicate
                repeat = draw
            elif self._memory.failures[base] < _FAILURES:
                fallback = fallback or draw
                if not self._space.base_paths():
                    # All draws have this base.
                    break
            else:
                failed = failed or draw
        if draw is None:
            raise InputError("recipe: `constraints`: no configuration of `space` fits")
        for base_params in self._elsewhere:
            if base_of(self._space, base_params) not in self._memory.bases:
                elsewhere = self._sampler.draw(base_params)
                return self._open(elsewhere.params, notes=elsewhere.notes)
        if fallback is None and self._space.is_finite():
            return self._next_cell()
        if fallback is None and not self._memory.running:
            # No trial is under way that could bring another base: one that has failed is tried again.
            fallback = failed
        if fallback is not None:
            return self._open(fallback.params, notes=fallback.notes)
        unseen = self._random_unknown({})
        if unseen is not None:
            return self._open(unseen)
        answer = None if repeat is None else self._answer(repeat)
        if answer is None:
            self._idle = True
            # Nothing is left, and no trial is under way that could change that.
            self._closed = not (self._memory.running or self._unfinished or self._waiting)
        return answer

    def _next_cell(self) -> Entry | None:
        """The next configuration of a finite space that was not tried and whose base is free."""
        again, self._blocked = self._blocked, deque()
        while len(self._blocked) < _CELLS:
            params = again.popleft() if again else next(self._cells, None)
            if params is None:
                break
            base = base_of(self._space, params)
            if self._memory.knows(params) or self._memory.failures[base] >= _FAILURES:
                continue
            if self._base_is_free(base):
                self._blocked += again
                return self._open(params)
            self._blocked.append(params)
        self._blocked += again
        self._idle = True
        # Nothing is left, and nothing will be: every configuration has been tried. One that runs may yet be repeated.
        repeated = self._recipe.search.repeats == "seed" and self._recipe.search.sampler != "grid"
        running = repeated and self._memory.running
        self._closed = not (self._blocked or self._unfinished or self._waiting or running)
        return None

    def _replicate(self, draw: Draw) -> Entry | None:
        """Another seed of a finished configuration that is suggested again, where the recipe wants that."""
        earlier = self._memory.finished.get(self._memory.key(draw.params))
        if self._recipe.search.repeats != "seed" or earlier is None:
            return None
        # Parameters that only seem to differ are the same configuration: it goes by those that it began with.
        params, seed = earlier.params, self._memory.next_seed(draw.params)
        return self._open(params, seed=seed) if self._base_is_free(base_of(self._space, params, seed)) else None

    def _answer(self, draw: Draw) -> Entry | None:
        """A suggestion that repeats a finished configuration, where no other turned up: it has that one's result."""
        earlier = self._memory.finished.get(self._memory.key(draw.params))
        if self._recipe.search.repeats != "answer" or earlier is None or self._answers == _ANSWERS:
            return None
        self._answers += 1
        return self._open(draw.params, notes=draw.notes, answers=earlier.number)

    def _unseen(self, fixed: Params) -> Params | None:
        """A configuration with the base's parameters `fixed` that was not tried."""
        if not self._space.is_finite(without=fixed):
            return self._random_unknown(fixed)
        cells = islice(self._space.cells(fixed), _CELLS)
        return next((params for params in cells if not self._memory.knows(params)), None)

    def _random_unknown(self, fixed: Params) -> Params | None:
        """A configuration with `fixed` that was not tried and whose base is free, at random."""
        defaults = self._space.defaults()
        for drawn in random_draws(self._space, self._recipe.search.seed + self._memory.run, _DRAWS):
            params = self._space.only_active(defaults | drawn | fixed)
            base = base_of(self._space, params)
            failing = self._memory.failures[base] >= _FAILURES
            if self._fits(params) and not self._memory.knows(params) and self._base_is_free(base) and not failing:
                return params
        return None

    def _fitting(self) -> Iterator[Draw]:
        """At most `_DRAWS` suggestions that fit: the sampler's, and random bases where it has too few."""
        drawn = (self._sampler.draw({}, attempt) for attempt in range(TRIES))
        completed = (self._sampler.draw(base, attempt) for attempt, base in enumerate(self._random_bases()))
        return islice(chain((draw for draw in drawn if self._fits(draw.params)), completed), _DRAWS)

    def _random_bases(self) -> Iterator[Params]:
        """The bases' parameters of random draws that fit: always the same ones."""
        paths = self._space.base_paths()
        for params in filter(self._fits, random_draws(self._space, self._recipe.search.seed, TRIES)):
            yield {path: params[path] for path in paths if path in params}

    def _open(
        self,
        params: Params,
        enqueued: int | None = None,
        seed: int | None = None,
        notes: dict[str, Any] | None = None,
        answers: int | None = None,
    ) -> Entry:
        entry = self._ledger.open(params, self._space, enqueued, seed, notes, answers)
        self._sampler.opened(running_trial(params, self._space, {}, notes))
        self._count(entry)
        if answers is not None:
            return entry
        self._answers = 0
        return self._started(entry)

    def _remember(self, entry: Entry) -> None:
        """Take over a trial of an earlier session."""
        self._count(entry)
        if entry.state == "running":
            self._unfinished.append(entry)
            return
        self._memory.learn(entry)
        if entry.result.get("base_key"):
            self._memory.standing.add(self._memory.base(entry))

    def _count(self, entry: Entry) -> None:
        self._memory.add(entry)
        if entry.enqueued is not None:
            self._waiting.pop((entry.enqueued, self._memory.seed(entry)), None)

    def _started(self, entry: Entry) -> Entry:
        base = self._memory.base(entry)
        if base not in self._memory.standing:
            self._training[base] = entry.number
        return entry

    def _base_is_free(self, base: str) -> bool:
        return base not in self._training

    def _release(self, number: int, failed: bool = False) -> None:
        for base, trainer in list(self._training.items()):
            if trainer == number:
                del self._training[base]
                self._memory.failures[base] += failed
