"""What the trials of a sweep so far say of configurations and bases: what the suggester decides by."""

import math
from collections import Counter, defaultdict
from itertools import chain
from statistics import median

from senet.config import fingerprint
from sweeps.gain import next_base
from sweeps.ledger import Entry
from sweeps.space import Params, Space, is_reference

# However large the gain of a further setting seems: few bases say little of how bases differ, so there are never more
# settings than so many times `streams_per_base` for each base on average.
MOST_STREAMS = 1.5


def base_of(space: Space, params: Params, seed: int | None = None) -> str:
    """What tells the base of a configuration from others, before data and machine are known."""
    return fingerprint(space.config(params, seed=seed).base_identity())


class Memory:
    """What the trials so far say of configurations and bases."""

    def __init__(self, space: Space, metrics: tuple[str, ...]) -> None:
        self._space, self._metrics = space, metrics
        self.run = 0
        """trials that were begun, without those that were answered from the ledger or taken over"""
        self.running: set[int] = set()
        self.bases: dict[str, Params] = {}
        """of the first seed, with their part of the parameters"""
        self.standing: set[str] = set()
        self.exhausted: set[str] = set()
        """bases whose streaming settings have all been tried"""
        self.failures: Counter[str] = Counter()
        self.finished: dict[str, Entry] = {}
        """the first complete trial of each configuration"""
        self.best = -math.inf
        """joint of the sweep's own trials, without those that were taken over"""
        self._streams: Counter[str] = Counter()
        self._last_seeds: dict[str, int] = {}
        self._of: dict[int, tuple[str, str]] = {}
        self._found: dict[str, list[list[float]]] = defaultdict(list)
        self._base_seconds: list[float] = []
        self._streaming_seconds: list[float] = []

    def add(self, entry: Entry) -> None:
        """A trial that was begun, in this session or an earlier one."""
        key, base = self.key(entry.params), base_of(self._space, entry.params, entry.seed)
        self._of[entry.number] = key, base
        self._last_seeds[key] = max(self.seed(entry), self._last_seeds.get(key, 0))
        if entry.answers is None:
            self.run += 1
            self.running.add(entry.number)
            self._streams[base] += 1
        if self.seed(entry) == self._space.seed:
            paths = self._space.base_paths()
            self.bases.setdefault(base, {path: entry.params[path] for path in paths if path in entry.params})

    def learn(self, entry: Entry) -> None:
        """A trial that has ended."""
        self.running.discard(entry.number)
        # What was answered from this ledger is known already.
        if entry.state != "complete" and not isinstance(entry.answers, str):
            return
        key, base = self._of[entry.number]
        self.finished.setdefault(key, entry)
        # What a reference comes to says nothing of what there is to win.
        if not is_reference(entry.params):
            self._found[base].append(entry.values(self._metrics))
            if entry.state == "complete":
                self.best = max(self.best, entry.joint)
        seconds = entry.result.get("stage_seconds", {})
        if "streaming" in seconds:
            self._streaming_seconds.append(seconds["streaming"])
        # To load a base that stands takes next to nothing.
        if "base" in seconds and entry.result.get("base_reused") is not True:
            self._base_seconds.append(seconds["base"])

    def base(self, entry: Entry) -> str:
        """What tells the base of a trial from others."""
        return self._of[entry.number][1]

    def seed(self, entry: Entry) -> int:
        """The seed of a trial."""
        return self._space.seed if entry.seed is None else entry.seed

    def key(self, params: Params) -> str:
        """What tells configurations from each other: those that only seem to differ have the same."""
        config = self._space.config(params)
        return fingerprint([config.base_identity(), config.protocol, config.streaming.model_dump(mode="json")])

    def knows(self, params: Params) -> bool:
        """Whether a configuration was begun."""
        return self.key(params) in self._last_seeds

    def next_seed(self, params: Params) -> int:
        """A seed that a configuration was not tried with."""
        return self._last_seeds[self.key(params)] + 1

    def next_to_stream_on(self, least: int, weights: list[float]) -> str | None:
        """The base that the next streaming setting belongs to; None: a new base.

        Args:
            least: settings that every base gets before gains are compared.
            weights: of the objectives. Of several, what each misses of its best value so far, on the scale of all its
                values, is weighted: the largest counts, and a twentieth of the sum (augmented Tchebycheff, Knowles
                2006). A weighted sum of the values would pass over what lies in a dent of the front.
        """
        open_bases = [base for base in self.bases if base in self.standing and base not in self.exhausted]
        for base in open_bases:
            if self._streams[base] < least:
                return base
        if sum(self._streams[base] for base in self.bases) >= MOST_STREAMS * least * len(self.bases):
            return None
        gained = self._gained(weights)
        enough = len(gained) > 1 and any(len(found) > 1 for found in gained.values())
        if not enough or not self._base_seconds or not self._streaming_seconds:
            return None
        return next_base(gained, open_bases, median(self._base_seconds), median(self._streaming_seconds))

    def _gained(self, weights: list[float]) -> dict[str, list[float]]:
        """What the trials on each base have come to, one number each."""
        found = {base: self._found[base] for base in self.bases if self._found[base]}
        if len(weights) == 1:
            return {base: [value for (value,) in trials] for base, trials in found.items()}
        columns = list(zip(*chain.from_iterable(found.values()), strict=True))
        best, spans = [max(c) for c in columns], [(max(c) - min(c)) or 1.0 for c in columns]

        def scalar(values: list[float]) -> float:
            missed: list[float] = [w * (b - v) / s for w, b, v, s in zip(weights, best, values, spans, strict=True)]
            return -max(missed) - 0.05 * sum(missed)

        return {base: [scalar(values) for values in trials] for base, trials in found.items()}
