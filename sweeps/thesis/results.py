"""What our trials have come to, row by row."""

from dataclasses import dataclass, field
from typing import Any

from senet.config import TrialConfig
from sweeps.ledger import Entry, Result
from sweeps.space import Space
from sweeps.thesis.rows import ROWS, Row


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """Our trials and times of a row."""

    row: Row
    config: TrialConfig
    """with the first seed"""
    trials: dict[int, Result] = field(default_factory=dict)
    """complete ones, by seed"""
    failures: dict[int, str] = field(default_factory=dict)
    """reasons of failed ones, by seed"""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """of the timed epochs, by phase"""

    def percents(self, metric: str) -> dict[int, float]:
        """A metric of validation in percent, by seed."""
        return {seed: 100 * trial["metrics"][metric] for seed, trial in sorted(self.trials.items())}

    def curves(self, metric: str) -> list[list[float]]:
        """A metric of the base phase in percent, by epoch, for every seed."""
        return [
            [100 * report[metric] for report in trial["history"] if report["phase"] == "base"]
            for _, trial in sorted(self.trials.items())
        ]

    def update_seconds(self) -> list[float]:
        """Seconds of the epochs that new images cost: streaming, or where there is none, training anew."""
        return self.seconds.get("streaming") or self.seconds.get("base", [])

    def update_epochs(self) -> int:
        """How many such epochs an update takes."""
        return self.config.streaming.epochs if self.seconds.get("streaming") else self.config.base.epochs


Results = dict[str, RowResult]


def gather(space: Space, entries: list[Entry], configs: dict[str, TrialConfig], timing: dict[str, Any]) -> Results:
    """The results by row, in the order of `ROWS`.

    Args:
        space: the recipe's.
        entries: the sweep's ledger.
        configs: of every row, with the first seed (`row_configs`).
        timing: what `time_epochs` returned, or nothing.
    """
    seconds = timing.get("seconds", {})
    found = {row.key: RowResult(row=row, config=configs[row.key], seconds=seconds.get(row.key, {})) for row in ROWS}
    for entry in entries:
        if entry.enqueued is None or entry.state == "running":
            continue
        row, seed = found[ROWS[entry.enqueued].key], space.seed if entry.seed is None else entry.seed
        if entry.state == "complete":
            row.trials[seed] = entry.result
        else:
            row.failures[seed] = str(entry.result.get("error"))
    return found
