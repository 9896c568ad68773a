"""The time of a trial by stage: base, probe, streaming."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_PREFIX = "spent_"


class Stages:
    """Seconds that a trial spends in each stage: base, probe, streaming."""

    def __init__(self, earlier: Mapping[str, float]) -> None:
        self._seconds = dict(earlier)
        self._stage, self._since = "base", time.monotonic()

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """What happens within belongs to `stage`, and not to the one around it."""
        outer = self._stage
        self._turn_to(stage)
        try:
            yield
        finally:
            self._turn_to(outer)

    def seconds(self) -> dict[str, float]:
        """By stage, until now."""
        self._turn_to(self._stage)
        return dict(self._seconds)

    def report(self) -> dict[str, float]:
        """The same as a trial's report tells it."""
        return {f"{_PREFIX}{stage}": seconds for stage, seconds in self.seconds().items()}

    def _turn_to(self, stage: str) -> None:
        now = time.monotonic()
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now


def stage_seconds(report: Mapping[str, Any]) -> dict[str, float]:
    """The seconds by stage that a trial's last report tells of."""
    return {key.removeprefix(_PREFIX): value for key, value in report.items() if key.startswith(_PREFIX)}
