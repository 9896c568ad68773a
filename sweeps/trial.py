"""One trial in a Ray worker: base phase, streaming phase, result. Here, and only here, Ray Tune and senet meet."""

import json
import time
import traceback
from pathlib import Path
from typing import Any

from ray import tune

from senet.config import TrialConfig
from senet.data.catalogue import obtain_dataset
from senet.errors import NonFiniteError
from senet.files import write_atomically

METRICS = (
    "base_top1",
    "base_topk",
    "base_streaming_topk",
    "original_top1",
    "original_topk",
    "streaming_top1",
    "streaming_topk",
    "streaming_map",
    "streaming_exact_match",
    "retention",
    "retention_top1",
    "forgetting",
    "backward_transfer",
    "stage_forgetting",
    "base_gap",
    "streaming_gap",
    "joint",
)


def run_trial(assignment: dict[str, Any]) -> None:
    """Run the assigned trial and leave its result in its folder.

    A trial that fails says so in its result and ends in peace: Ray would only run it again. If the process dies, Ray
    starts the trial anew, and it goes on from the last epoch.
    """
    folder = Path(assignment["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "result.json").exists():
        # The process died after its last word was written and before it was said.
        tune.report({"phase": "end"})
        return
    start = time.monotonic()
    result: dict[str, Any] = {"state": "failed", "history": []}
    try:
        _both_phases(assignment, folder, result)
    except Exception as error:  # noqa: BLE001 Whatever it is, it is this trial's result.
        (folder / "error.txt").write_text(traceback.format_exc())
        kind = "non-finite" if isinstance(error, NonFiniteError) else "error"
        reason = str(error).partition("\n")[0]
        result["error"] = f"{kind}: {reason}" if kind == "non-finite" else f"{kind}: {type(error).__name__}: {reason}"
    result["seconds"] = time.monotonic() - start
    write_atomically(folder / "result.json", json.dumps(result).encode())
    tune.report({"phase": "end"})


def _both_phases(assignment: dict[str, Any], folder: Path, result: dict[str, Any]) -> None:
    """Fill `result` as it comes: a trial that fails while streaming still has its base."""
    # torch is for the worker: the driver, which only names this function, does without it.
    from senet.device import make_runtime
    from senet.initial import normalised_for
    from senet.phases import stream
    from senet.protocols import for_protocol
    from sweeps.bases import BaseStore

    home = Path(assignment["home"])
    config = TrialConfig.model_validate(assignment["config"])
    dataset = for_protocol(config, normalised_for(config, obtain_dataset(home, config.data)))
    # Without a GPU share Ray hides no GPU: the share decides, not what can be seen.
    runtime = make_runtime("cuda" if assignment["gpu"] else "cpu", config.precision)

    def on_epoch(report: dict[str, Any]) -> None:
        write_atomically(folder / "progress.json", json.dumps(report).encode())
        tune.report(report)

    bases = BaseStore(home / "bases")
    key, base, reused = bases.obtain(config, dataset, runtime, on_epoch, assignment["trainer"], wait=True)
    ready = {"base_key": key, "base_reused": reused, "seconds_saved": base.seconds if reused else 0.0}
    result |= ready | {"history": base.history, "environment": runtime.identity()}
    on_epoch({**base.history[-1], **ready, "phase": "ready"})
    if config.streaming.ewc:
        base = bases.with_importance(key, base, config, dataset, runtime)
    streamed = stream(config, base, dataset, runtime, on_epoch, folder / "streaming.pt")
    (folder / "streaming.pt").unlink(missing_ok=True)
    last = base.history[-1] | streamed.history[-1]
    result |= {
        "state": "complete",
        "metrics": {name: last[name] for name in METRICS if name in last},
        "history": base.history + streamed.history,
        "error": None,
    }
