"""The live table and the plain lines, without a sweep."""

import io
from typing import Any

from rich.console import Console

from sweeps.ledger import Entry
from sweeps.progress import LiveView, PlainView, Tally, clock

METRICS = {"joint": 0.7, "original_topk": 0.8, "streaming_topk": 0.45, "base_topk": 0.9}


def entry(number: int, state: str = "running", **result: Any) -> Entry:
    return Entry(number, state, {}, None, None, result)


def finished(number: int) -> Entry:
    return entry(number, "complete", metrics=METRICS, base_reused=number > 0, seconds_saved=75.0 * number)


def test_a_pipe_gets_one_line_a_trial() -> None:
    out = io.StringIO()
    view = PlainView(Console(file=out, width=40), Tally(3, []))
    for number in range(2):
        view.started(entry(number))
        view.reported(number, {"phase": "base", "epoch": 1, "epochs": 2, "base_topk": 0.5})
    view.ended(finished(0))
    view.ended(entry(1, "failed", error="non-finite: x"))
    view.ended(finished(2))
    view.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert "base 90.0 (reused, 2:30 saved) [3/3 done" in lines[2]
    assert lines[0].startswith(
        "trial 0: joint 70.0, original 80.0, streaming 45.0, base 90.0 (trained) [1/3 done, 1 run"
    )
    assert lines[1].startswith(
        "trial 1: failed, non-finite: x [2/3 done, 0 running, 1 failed; bases: 1 trained, 0 reused"
    )


def test_a_terminal_shows_what_runs_now() -> None:
    out = io.StringIO()
    view = LiveView(Console(file=out, width=120, force_terminal=True), "s", Tally(5, [finished(0)]))
    view.started(entry(1))
    view.reported(1, {"phase": "base", "epoch": 3, "epochs": 6, "base_topk": 0.61})
    view.started(entry(2))
    view.reported(2, {"phase": "streaming", "epoch": 1, "epochs": 4, "original_topk": 0.5, "joint": 0.42})
    view.ended(finished(3))
    picture = Console(file=io.StringIO(), width=120, record=True)
    picture.print(view._render())
    view.close()
    rows = picture.export_text().splitlines()
    (first,) = [row for row in rows if "3/6" in row]
    assert "base" in first
    assert "61.0" in first
    (second,) = [row for row in rows if "1/4" in row]
    assert "streaming" in second
    assert "42.0" in second
    assert any("2/5 done, 2 running, 0 failed; bases: 1 trained, 1 reused" in row for row in rows)
    assert any("best so far: trial 3, joint 70.0" in row for row in rows)


def test_clock() -> None:
    assert [clock(x) for x in (0, 59.6, 61, 3600 + 125)] == ["0:00", "1:00", "1:01", "1:02:05"]
