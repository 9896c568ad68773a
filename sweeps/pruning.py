"""When the training of a base is given up: where it fails to learn, or where its probe is not among the best.

A probe is a short streaming phase from a base in the making; probes of the same rung are ranked by joint or, where two
objectives are wanted, by non-dominated rank. Base accuracy itself ranks nothing: in the thesis' table 4
the winner is fifth of ten on it.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from sweeps.config import PruningConfig
from sweeps.ledger import Entry
from sweeps.pareto import ranks

# A median of fewer other bases says little.
_LEAST_OTHERS = 4


@dataclass(frozen=True)
class Verdict:
    """Why, and where, a base was given up."""

    step: int
    """base epoch"""
    reason: str
    probe: dict[str, float] | None
    """joint, original and streaming accuracy of the probe, if one decided"""

    def result(self) -> dict[str, Any]:
        """What a trial that was given up leaves."""
        return {"state": "pruned", "stage": "base", "step": self.step, "error": self.reason, "probe": self.probe}


class Pruner:
    """Judges every report of a base phase against those of other bases at the same epoch or rung."""

    def __init__(
        self,
        config: PruningConfig,
        earlier: list[Entry],
        base_of: Callable[[Entry], str],
        metrics: tuple[str, ...] = ("joint",),
        passed: Mapping[str, float] | None = None,
        first_seed: int | None = None,
    ) -> None:
        """
        Args:
            earlier: trials of earlier sessions.
            passed: the base epochs that bases in the making have passed in earlier sessions. A trial that goes on says
                them all again, and is not judged by what came in since.
            first_seed: of trials that are no further seed of a configuration; None: all are judged.
            base_of: tells the base of a trial from others. One that was given up and is wanted again goes on from where
                it was, and is judged from there on.
        """
        self._config, self._metrics, self._base_of = config, metrics, base_of
        self._passed, self._first_seed = passed or {}, first_seed
        self._topk: dict[int, dict[str, float]] = defaultdict(dict)
        self._probes: dict[int, dict[str, tuple[float, ...]]] = defaultdict(dict)
        for entry in earlier:
            if entry.answers is None and entry.result.get("base_reused") is not True:
                for report in entry.result.get("history", []):
                    self._note(base_of(entry), report)

    def judge(self, entry: Entry, report: dict[str, Any]) -> Verdict | None:
        """Whether the trial that reports is given up; None: it goes on.

        A configuration that was given is not, nor is a further seed of one that has finished: of the seeds of a
        configuration all count.
        """
        if report["phase"] != "base":
            return None
        base = self._base_of(entry)
        was_here = base in self._topk[report["epoch"]]
        self._note(base, report)
        further = self._first_seed is not None and entry.seed not in (None, self._first_seed)
        if was_here or report["epoch"] <= self._passed.get(base, 0) or entry.enqueued is not None or further:
            return None
        return self._fails_to_learn(base, report) or self._is_outranked(report)

    def _note(self, base: str, report: dict[str, Any]) -> None:
        if report["phase"] != "base":
            return
        self._topk[report["epoch"]][base] = report["base_topk"]
        if "rung" in report:
            self._probes[report["rung"]][base] = self._values(report)

    def _fails_to_learn(self, base: str, report: dict[str, Any]) -> Verdict | None:
        others = [value for other, value in self._topk[report["epoch"]].items() if other != base]
        if len(others) < _LEAST_OTHERS:
            return None
        middle, value = median(others), report["base_topk"]
        if value >= middle - self._config.margin:
            return None
        reason = f"fails to learn: base top-k {100 * value:.1f}, the median of {len(others)} others {100 * middle:.1f}"
        return Verdict(report["epoch"], f"{reason}, after base epoch {report['epoch']}", None)

    def _is_outranked(self, report: dict[str, Any]) -> Verdict | None:
        """Asynchronous successive halving (Li et al. 2020) on the probes of one rung."""
        if "rung" not in report:
            return None
        others = list(self._probes[report["rung"]].values())
        places = len(others) // self._config.reduction_factor
        own = self._values(report)
        better = _better(own, others)
        if not places or better < places:
            return None
        shown = ", ".join(
            f"{name.removesuffix('_topk')} {100 * value:.1f}" for name, value in zip(self._metrics, own, strict=True)
        )
        reason = f"probe after base epoch {report['epoch']}: {shown}, place {better + 1} of {len(others)}"
        probe = {name: report[f"probe_{name}"] for name in ("joint", "original_topk", "streaming_topk")}
        return Verdict(report["epoch"], reason, probe)

    def _values(self, report: dict[str, Any]) -> tuple[float, ...]:
        return tuple(report[f"probe_{name}"] for name in self._metrics)


def _better(own: tuple[float, ...], all_of_them: list[tuple[float, ...]]) -> int:
    """How many stand before `own`, itself one of them: by value, or by non-dominated rank."""
    if len(own) == 1:
        return sum(other > own for other in all_of_them)
    found = ranks([(first, second) for first, second in all_of_them])
    place = found[all_of_them.index(own)]
    return sum(rank < place for rank in found)


def rungs_of(config: PruningConfig, epochs: int, relative_cost: float) -> dict[int, int]:
    """The base epochs after which a network is probed, with the rung that each is.

    Args:
        epochs: of the base phase; a rung at its end or beyond would judge nothing.
        relative_cost: FLOPs of the network over those of the reference, if costs are to be equal, else 1.
    """
    placed = {max(1, round(rung / relative_cost)): rung for rung in config.rungs}
    return {epoch: rung for epoch, rung in placed.items() if epoch < epochs}
