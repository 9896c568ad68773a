"""Where the trials' time went: device-hours by stage and by what became of them."""

from collections import defaultdict
from collections.abc import Iterable

from sweeps.ledger import Entry

FATES = {"complete": "useful", "pruned": "pruned", "failed": "failed"}


def booked(entries: Iterable[Entry]) -> dict[str, dict[str, float]]:
    """Seconds by fate (useful, pruned, failed, lost, saved), then by stage (base, probe, streaming).

    `saved` is what reused bases would have taken; `lost` belongs to trials whose machine or process was lost.
    """
    found: dict[str, defaultdict[str, float]] = {
        fate: defaultdict(float) for fate in ("useful", "pruned", "failed", "lost", "saved")
    }
    for entry in entries:
        result = entry.result
        for attempt in [result, *result.get("attempts", [])]:
            fate = "lost" if str(attempt.get("error")).startswith("lost") else FATES.get(attempt.get("state", ""), "")
            for stage, seconds in attempt.get("stage_seconds", {}).items() if fate else ():
                found[fate][stage] += seconds
        found["saved"]["base"] += result.get("seconds_saved", 0.0) if entry.state != "answered" else 0.0
    return {fate: dict(stages) for fate, stages in found.items()}


def device_seconds(entries: Iterable[Entry]) -> float:
    """Seconds that trials have taken, whatever became of them."""
    book = booked(entries)
    return sum(sum(stages.values()) for fate, stages in book.items() if fate != "saved")
