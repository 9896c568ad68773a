"""What trials come to together: configurations over their seeds, and where one of them stands among the others."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from senet.config import fingerprint
from sweeps.space import is_reference

Trial = dict[str, Any]
"""a trial as `sweep_status` describes it"""


class Spread(NamedTuple):
    """Mean, standard deviation (None of a single value) and number of values."""

    mean: float
    sd: float | None
    n: int


def spread(values: list[float]) -> Spread | None:
    """Of some values; None of none."""
    if not values:
        return None
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Complete trials that differ in their seed alone."""

    trials: tuple[Trial, ...]
    """by number; one for each seed, since the same seed gives the same numbers"""
    enqueued: bool
    """whether it is one of the recipe's `enqueue`, of which the best is the baseline"""

    @property
    def first(self) -> Trial:
        """The trial that stands for all where one must."""
        return self.trials[0]

    @property
    def key(self) -> str:
        """What tells it from other configurations."""
        return configuration_key(self.first["params"])

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that all of its trials have."""
        return [name for name in self.first["metrics"] if all(name in trial["metrics"] for trial in self.trials)]

    def over_seeds(self, metric: str) -> Spread:
        """A metric over the seeds."""
        found = spread([trial["metrics"][metric] for trial in self.trials])
        assert found is not None
        return found

    def mean(self, metric: str) -> float:
        """A metric's mean over the seeds."""
        return self.over_seeds(metric).mean

    def described(self) -> Trial:
        """Its first trial, with `n`, `joint_mean` and `joint_sd` of all."""
        joint = self.over_seeds("joint")
        return self.first | {"n": joint.n, "joint_mean": joint.mean, "joint_sd": joint.sd}


def configuration_key(params: dict[str, Any]) -> str:
    """What tells a configuration from others, whatever the order of its parameters."""
    return fingerprint(params)


def configurations(trials: Sequence[Trial]) -> list[Configuration]:
    """All configurations that have a complete trial, by mean joint, best first; of two alike the earlier one.

    Those that see the old images again while streaming are references, no competitors.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial["state"] == "complete" and not is_reference(trial["params"]):
            groups.setdefault(configuration_key(trial["params"]), []).append(trial)
    found = []
    for group in groups.values():
        by_seed: dict[int, Trial] = {}
        for trial in group:
            by_seed.setdefault(trial["seed"], trial)
        enqueued = any(trial["enqueued"] for trial in group)
        found.append(Configuration(trials=tuple(by_seed.values()), enqueued=enqueued))
    return sorted(found, key=lambda one: (-one.mean("joint"), one.first["number"]))


def weights_of_first_place(pick: Configuration, among: Sequence[Configuration]) -> tuple[float, float] | None:
    """The least and the greatest weight w of the original accuracy with which no other has a higher joint than `pick`.

    joint = w · original + (1 − w) · streaming is linear in w, so that this is one interval; None where it is empty.
    """
    low, high = 0.0, 1.0
    for other in among:
        original, streaming = (pick.mean(metric) - other.mean(metric) for metric in ("original_topk", "streaming_topk"))
        # Not behind where streaming + w · slope >= 0.
        slope = original - streaming
        if slope > 0:
            low = max(low, -streaming / slope)
        elif slope < 0:
            high = min(high, streaming / -slope)
        elif streaming < 0:
            return None
    return (low, high) if low <= high else None


def front(among: Sequence[Configuration]) -> list[Configuration]:
    """The Pareto front of original against streaming accuracy, from the best streaming to the best original."""
    by_streaming = sorted(among, key=lambda one: (-one.mean("streaming_topk"), -one.mean("original_topk")))
    found: list[Configuration] = []
    for one in by_streaming:
        if not found or one.mean("original_topk") > found[-1].mean("original_topk"):
            found.append(one)
    return found


def knee(among: Sequence[Configuration]) -> Configuration:
    """The point of the front that lies farthest beyond the line between its ends; of two alike the higher joint.

    Which one it is does not depend on the scale of either accuracy.
    """
    edge = front(among)
    points = [(one.mean("streaming_topk"), one.mean("original_topk")) for one in edge]
    (x0, y0), (x1, y1) = points[0], points[-1]
    # Twice the area of the triangle over the line: as good as the distance, since the line is the same for all.
    beyond = [(x - x0) * (y1 - y0) - (y - y0) * (x1 - x0) for x, y in points]
    ranked = sorted(zip(beyond, edge, strict=True), key=lambda one: (-one[0], -one[1].mean("joint")))
    return ranked[0][1]
