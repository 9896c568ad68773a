"""Which of the thesis' statements hold on our data, as paired differences over seeds."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.stats import spearmanr
from scipy.stats import t as student

from sweeps.analysis import Spread, spread
from sweeps.thesis.results import Results

# Below this rank correlation base accuracy explains less than half of the variance of the joint ranks.
_GOOD_CORRELATION = 0.7

HOLDS, REVERSED, UNDECIDED = "holds", "reversed", "not decided"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement of the thesis, and what our trials say to it."""

    claim: str
    measure: str
    """what is measured, with its unit"""
    estimate: Spread | None
    """of the measure; None where there is nothing to measure it on"""
    low: float | None = None
    """end of the interval; None of fewer than two values"""
    high: float | None = None
    verdict: str
    note: str = ""


def interval(values: list[float]) -> tuple[float, float] | None:
    """95 % interval of the mean (Student's t); None of fewer than two values."""
    found = spread(values)
    if found is None or found.sd is None:
        return None
    half = float(student.ppf(0.975, found.n - 1)) * found.sd / math.sqrt(found.n)
    return found.mean - half, found.mean + half


def verdict(low: float | None, high: float | None, threshold: float = 0.0) -> str:
    """Whether all of an interval lies above the threshold (holds), below it (reversed), or neither."""
    if low is None or high is None or low <= threshold <= high:
        return UNDECIDED
    return HOLDS if low > threshold else REVERSED


def statements(results: Results, top_k: int) -> list[Statement]:
    """All of them."""

    def difference(claim: str, better: str, worse: str, metric: str, name: str, note: str = "") -> Statement:
        first, second = results[better], results[worse]
        measure = f"{name}, {first.row.label} − {second.row.label}, points"
        ours, theirs = first.percents(metric), second.percents(metric)
        values = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        low, high = interval(values) or (None, None)
        return Statement(
            claim=claim, measure=measure, estimate=spread(values), low=low, high=high,
            verdict=verdict(low, high), note=note,
        )  # fmt: skip

    base, original = f"base top-{top_k}", f"original top-{top_k} after streaming"
    pick = "senet18-2x-expand-32x-reduce"
    return [
        difference("SE blocks raise the base accuracy", "senet18", "resnet18", "base_topk", base),
        difference("SE blocks raise the joint accuracy", "senet18", "resnet18", "joint", "joint"),
        difference("margin loss beats soft margin (ResNet)", "resnet18", "resnet18-soft-margin", "base_topk", base),
        difference("margin loss beats soft margin (SENet)", "senet18", "senet18-soft-margin", "base_topk", base),
        difference(
            "2x expansion keeps more original accuracy", "senet18-2x-expand", "senet18", "original_topk", original
        ),
        difference(
            "32x reduction keeps more original accuracy", "senet18-32x-reduction", "senet18", "original_topk", original
        ),
        difference(
            "2x expansion with 32x reduction is the best balance", pick, "senet18", "joint", "joint",
            _rank(results, pick),
        ),
        *_streaming_against_retraining(results),
        _base_predicts_joint(results, top_k),
    ]  # fmt: skip


def compared(results: Results) -> list[str]:
    """Keys of the rows that stream, of tables 3 to 5, that have trials."""
    rows = [found for found in results.values() if 4 in found.row.tables and found.row.protocol == "streaming"]
    return [found.row.key for found in rows if found.trials]


def _rank(results: Results, key: str) -> str:
    """Where a row stands among those that stream."""
    means = {name: found.mean for name in compared(results) if (found := spread([*_joints(results, name).values()]))}
    if key not in means:
        return ""
    better = sum(mean > means[key] for mean in means.values())
    return f"its mean joint is number {better + 1} of the {len(means)} networks that stream"


def _joints(results: Results, key: str) -> dict[int, float]:
    return results[key].percents("joint")


def _streaming_against_retraining(results: Results) -> list[Statement]:
    """Seconds of retraining over those of streaming: of an epoch, and of all epochs of an update."""
    streamed, retrained = results["resnet18"], results["single-target-resnet18"]
    mean = {key: spread([*_joints(results, key).values()]) for key in ("resnet18", "single-target-resnet18")}
    accuracy = {key: "–" if value is None else f"{value.mean:.1f}" for key, value in mean.items()}
    note = (
        f"joint {accuracy['resnet18']} after streaming, {accuracy['single-target-resnet18']} after retraining; the "
        "interval is from the smallest to the largest ratio of two timed epochs"
    )

    def ratio(name: str, epochs: Callable[[str], int]) -> Statement:
        pairs = [
            a * epochs("single-target-resnet18") / (b * epochs("resnet18"))
            for a in retrained.update_seconds()
            for b in streamed.update_seconds()
        ]
        low, high = (min(pairs), max(pairs)) if pairs else (None, None)
        found = None
        if pairs:
            seconds = [sum(x.update_seconds()) / len(x.update_seconds()) for x in (retrained, streamed)]
            value = seconds[0] / seconds[1] * epochs("single-target-resnet18") / epochs("resnet18")
            found = Spread(value, None, len(pairs))
        return Statement(
            claim="streaming is faster than retraining", measure=f"{name}, retraining / streaming, ResNet-18",
            estimate=found, low=low, high=high, verdict=verdict(low, high, 1.0), note=note,
        )  # fmt: skip

    return [
        ratio("seconds of an epoch", lambda key: 1),
        ratio("seconds of all epochs of an update", lambda key: results[key].update_epochs()),
    ]


def _base_predicts_joint(results: Results, top_k: int) -> Statement:
    """Spearman's rank correlation between base and joint accuracy over the rows that stream, for every seed."""
    keys = compared(results)
    seeds = set.intersection(*(set(results[key].trials) for key in keys)) if keys else set()
    correlations = []
    for seed in sorted(seeds):
        base = [results[key].percents("base_topk")[seed] for key in keys]
        joint = [_joints(results, key)[seed] for key in keys]
        # Of ranks that are all alike there is no correlation.
        if len(set(base)) > 1 and len(set(joint)) > 1:
            correlations.append(float(spearmanr(base, joint).statistic))
    low, high = interval(correlations) or (None, None)
    against = verdict(low, high, _GOOD_CORRELATION)
    return Statement(
        claim="base accuracy predicts the joint result badly",
        measure=f"rank correlation of base top-{top_k} and joint over {len(keys)} networks that stream",
        estimate=spread(correlations),
        low=low,
        high=high,
        verdict={HOLDS: REVERSED, REVERSED: HOLDS}.get(against, UNDECIDED),
        note=f"badly: below {_GOOD_CORRELATION}",
    )
