"""Finished sweeps of made-up results, without any training."""

from pathlib import Path
from typing import Any

from sweeps.config import validate_recipe
from sweeps.ledger import open_ledger
from sweeps.sweep import Sweep, create_sweep

# The width tells configurations apart.
RECIPE: dict[str, Any] = {
    "data": "breeds",
    "objective": {"top_k": 3},
    "space": {"model.width": {"int": [1, 16]}},
    "enqueue": [{"model.width": 1}],
}


def result(original: float, streaming: float, weight: float = 0.7) -> dict[str, Any]:
    """What a complete trial leaves."""
    metrics = {
        "base_topk": 0.9,
        "original_topk": original,
        "streaming_topk": streaming,
        "retention": original / 0.9,
        "joint": weight * original + (1 - weight) * streaming,
    }
    return {
        "state": "complete", "metrics": metrics, "seconds": 2.0, "base_key": "k", "base_reused": False, "history": []
    }  # fmt: skip


FAILED = {"state": "failed", "error": "error: x", "seconds": 1.0}


def made_up(home: Path, trials: list[tuple[int, int, dict[str, Any] | None]], name: str = "s", **changes: Any) -> Sweep:
    """A sweep with these trials: width, seed and result; None: it still runs."""
    recipe = validate_recipe(RECIPE | {"search": {"trials": len(trials)}} | changes, "r")
    space = recipe.parsed_space("r")
    sweep = create_sweep(home, name, name, recipe, "data")
    ledger = open_ledger(sweep, create=True)
    widths = [configuration["model.width"] for configuration in recipe.enqueue]
    for width, seed, left in trials:
        enqueued = widths.index(width) if width in widths else None
        entry = ledger.open({"model.width": width}, space, enqueued=enqueued, seed=seed)
        if left is not None:
            ledger.finish(entry.number, left)
    return sweep
