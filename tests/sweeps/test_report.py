"""The summary of a sweep, from a status that is made up."""

from typing import Any

from sweeps.report import summary


def trial(number: int, **params: Any) -> dict[str, Any]:
    return {"number": number, "state": "complete", "params": params}


def test_trials_that_look_at_old_images_are_marked() -> None:
    status: dict[str, Any] = {
        "objective": {"chance": None, "images": None},
        "best": None,
        "baseline": None,
        "bases": {"trained": 1, "reused": 2, "seconds_saved": 3.0},
        "trials": [trial(0, **{"streaming.replay": 0}), trial(1)],
    }
    assert "references" not in summary(status)
    status["trials"] += [trial(2, **{"streaming.replay": "all"}), trial(3, **{"streaming.replay": 10})]
    marked = "references, no competitors, since they look at old images: trial 2, 3"
    assert marked in summary(status).splitlines()
