"""What a person sees while a sweep runs: a live table on a terminal, else one line per finished trial."""

import time
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweeps.ledger import Entry
from sweeps.space import is_reference

_RECENT = 6


class View(Protocol):
    """Somebody who is told how the sweep goes."""

    def started(self, entry: Entry) -> None:
        """A trial has begun."""

    def reported(self, number: int, report: dict[str, Any]) -> None:
        """A trial has finished an epoch, or has its base."""

    def ended(self, entry: Entry) -> None:
        """A trial has ended."""

    def close(self) -> None:
        """Nothing more comes."""


class Tally:
    """Counts and times of a sweep's session."""

    def __init__(self, planned: int, before: list[Entry]) -> None:
        self.planned = planned
        self.states = {"complete": 0, "pruned": 0, "failed": 0}
        self.trained = self.reused = self.answered = 0
        self._start = time.monotonic()
        for entry in before:
            if entry.state != "running":
                self.add(entry)
        self._before = self.done

    @property
    def done(self) -> int:
        """Trials that have ended."""
        return sum(self.states.values())

    def add(self, entry: Entry) -> None:
        """Count an ended trial."""
        if entry.state == "answered":
            self.answered += 1
            return
        self.states[entry.state] += 1
        self.trained += entry.result.get("base_reused") is False
        self.reused += entry.result.get("base_reused") is True

    def elapsed(self) -> float:
        """Seconds since this session began."""
        return time.monotonic() - self._start

    def remaining(self) -> float | None:
        """Seconds to go at this session's pace; None before its first trial has ended."""
        here = self.done - self._before
        return self.elapsed() / here * (self.planned - self.done) if here else None

    def _apart(self) -> str:
        """What not every sweep has."""
        numbers = {"pruned": self.states["pruned"], "answered": self.answered}
        return "".join(f"{number} {name}, " for name, number in numbers.items() if number)

    def line(self, running: int) -> str:
        """All of it in a line."""
        remaining = self.remaining()
        left = "" if remaining is None else f", about {clock(remaining)} to go"
        return (
            f"{self.done}/{self.planned} done, {running} running, {self._apart()}{self.states['failed']} failed; "
            f"bases: {self.trained} trained, {self.reused} reused; {clock(self.elapsed())} elapsed{left}"
        )


class PlainView:
    """One line per finished trial."""

    def __init__(self, console: Console, tally: Tally) -> None:
        self._console, self._tally = console, tally
        self._running: set[int] = set()

    def started(self, entry: Entry) -> None:
        self._running.add(entry.number)

    def reported(self, number: int, report: dict[str, Any]) -> None:
        pass

    def ended(self, entry: Entry) -> None:
        self._running.discard(entry.number)
        self._tally.add(entry)
        line = f"trial {entry.number}: {outcome(entry)} [{self._tally.line(len(self._running))}]"
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def close(self) -> None:
        pass


class LiveView:
    """A table that is drawn anew twice a second: running trials, the last ended ones, the best one, totals."""

    def __init__(self, console: Console, name: str, tally: Tally) -> None:
        self._name, self._tally = name, tally
        self._running: dict[int, dict[str, Any]] = {}
        self._ended: list[Entry] = []
        self._best: Entry | None = None
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=2, transient=True)
        self._live.start()

    def started(self, entry: Entry) -> None:
        self._running[entry.number] = {"phase": "starting"}

    def reported(self, number: int, report: dict[str, Any]) -> None:
        self._running[number] = self._running.get(number, {}) | report

    def ended(self, entry: Entry) -> None:
        self._running.pop(entry.number, None)
        self._tally.add(entry)
        self._ended = [*self._ended, entry][-_RECENT:]
        if entry.state != "complete" or is_reference(entry.params):
            return
        if self._best is None or entry.joint > self._best.joint:
            self._best = entry

    def close(self) -> None:
        self._live.stop()

    def _render(self) -> Group:
        table = Table(title=f"sweep {self._name}", title_justify="left", expand=False)
        for heading in ("trial", "state", "epoch", "base top-k", "original", "streaming", "joint"):
            table.add_column(heading, justify="left" if heading == "state" else "right")
        for entry in list(self._ended):
            table.add_row(str(entry.number), entry.state, "", *_cells(entry.result.get("metrics", {})), style="dim")
        for number, report in list(self._running.items()):
            epoch = f"{report['epoch']}/{report['epochs']}" if "epochs" in report else ""
            table.add_row(str(number), report["phase"], epoch, *_cells(report))
        lines = [Text(self._tally.line(len(self._running)))]
        if self._best is not None:
            lines.append(Text(f"best so far: trial {self._best.number}, {outcome(self._best)}"))
        return Group(table, *lines)


def outcome(entry: Entry) -> str:
    """How a trial ended, in a few words."""
    if entry.state not in ("complete", "answered"):
        return f"{entry.state}, {entry.result.get('error')}"
    metrics = entry.result["metrics"]
    if entry.state == "answered":
        return f"answered by trial {entry.answers}: joint {percent(metrics['joint'])}"
    saved = clock(entry.result.get("seconds_saved", 0.0))
    base = f"reused, {saved} saved" if entry.result["base_reused"] else "trained"
    return (
        f"joint {percent(metrics['joint'])}, original {percent(metrics['original_topk'])}, streaming "
        f"{percent(metrics['streaming_topk'])}, base {percent(metrics['base_topk'])} ({base})"
    )


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with one decimal."""
    return "" if fraction is None else f"{100 * fraction:.1f}"


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _cells(metrics: dict[str, Any]) -> list[str]:
    return [percent(metrics.get(name)) for name in ("base_topk", "original_topk", "streaming_topk", "joint")]
