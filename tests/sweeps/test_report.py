"""The summary of a sweep, from a status that is made up."""

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from sweeps.report import print_leaderboard, summary
from sweeps.status import sweep_status
from tests.sweeps.made_up import made_up, result


def trial(number: int, **params: Any) -> dict[str, Any]:
    metrics = {"joint": 0.5, "original_topk": 0.6, "streaming_topk": 0.4}
    told = {"state": "complete", "seed": 0, "enqueued": False, "metrics": metrics, "gpu_memory": None}
    return {"number": number, "params": params, **told}


def test_trials_that_look_at_old_images_are_marked() -> None:
    status: dict[str, Any] = {
        "objective": {"chance": None, "images": None, "split": None, "mode": "joint", "original_weight": 0.7},
        "best": None,
        "baseline": None,
        "bases": {"trained": 1, "reused": 2, "seconds_saved": 3.0},
        "trials": [trial(0, **{"streaming.replay": 0}), trial(1)],
    }
    assert "references" not in summary(status)
    status["trials"] += [trial(2, **{"streaming.replay": "all"}), trial(3, **{"streaming.replay": 10})]
    marked = "references, no competitors, since they look at old images: trial 2, 3"
    assert marked in summary(status).splitlines()


def test_a_narrow_terminal_has_the_parameters_below_the_table(home: Path) -> None:
    status = sweep_status(made_up(home, [(1, 0, result(0.5, 0.4)), (2, 0, result(0.8, 0.6))]))
    said = {}
    for width in (80, 160):
        out = io.StringIO()
        print_leaderboard(Console(file=out, width=width), status)
        said[width] = out.getvalue()
    assert "parameters" in said[160]
    assert "parameters" not in said[80]
    assert "trial 1: width 2\ntrial 0: width 1\n" in said[80]
    for heading in ("baseline", "original", "streaming", "retention", "74.0"):
        assert heading in said[80], "nothing is cut"
