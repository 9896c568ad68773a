"""The summary of a sweep, from a status that is made up."""

from typing import Any

from sweeps.report import summary


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
