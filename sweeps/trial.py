"""One trial in a Ray worker: base phase, streaming phase, result. Here, and only here, Ray Tune and senet meet."""

import errno
import json
import os
import shutil
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from senet.config import StreamingConfig, TrialConfig
from senet.data.catalogue import obtain_dataset
from senet.data.store import Dataset
from senet.errors import InputError, NonFiniteError, out_of_memory
from senet.files import write_atomically
from sweeps.lease import BaseHeld
from sweeps.shared import Shared, here
from sweeps.stages import Stages, stage_seconds
from sweeps.sweep import ATTEMPT, OF_AN_ATTEMPT, is_set_aside, look_again, remove_checkpoints

if TYPE_CHECKING:
    from senet.device import Runtime

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
    "forgetting_top1",
    "backward_transfer",
    "stage_forgetting",
    "base_gap",
    "streaming_gap",
    "joint",
)


# What is wrong with the disk or the bucket, and not with the trial.
_OF_THE_DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.EREMOTEIO),
)


def run_trial(assignment: dict[str, Any]) -> None:
    """Run the assigned trial and leave its result in its folder.

    A trial that fails says so in its result and ends in peace. If the process dies, the driver starts the trial anew,
    and it goes on from the last epoch. A trial that is given up leaves here by SystemExit, which the report raises; the
    driver then writes its result. One that cannot write, or has no data here, leaves no result: it goes on later.
    """
    try:
        home, folder = here(assignment["home"], assignment["bucket"], assignment["folder"])
        _run(assignment | {"home": home, "folder": folder})
    except BaseHeld:
        # It is started again later; meanwhile others may have this place.
        tune.report({"phase": "held"})
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        where = f"{error.strerror}: {error.filename or assignment['home']}"
        tune.report({"phase": "blocked", "reason": f"cannot write: {where}"})
    except InputError as error:
        tune.report({"phase": "blocked", "reason": f"cannot begin: {error}"})


def _run(assignment: dict[str, Any]) -> None:
    home, folder = assignment["home"], assignment["folder"]
    shared = Shared(home)
    if shared.url is not None:
        _own(folder, assignment["trainer"])
    folder.mkdir(parents=True, exist_ok=True)
    shared.fetch_folder(folder)
    look_again(folder)
    _forget_attempt(folder)
    if _read(folder / "result.json") is not None:
        # The process died after its last word was written and before it was said, or passed on.
        shared.pass_on_folder(folder)
        tune.report({"phase": "end"})
        return
    # What processes of this trial have spent that died.
    stages = Stages(stage_seconds(_read(folder / "progress.json") or {}))
    dataset = obtain_dataset(home, assignment["config"]["data"])
    result: dict[str, Any] = {"state": "failed", "history": []}
    spoilt = False
    try:
        _both_phases(assignment, dataset, shared, stages, result)
    except Exception as error:  # Whatever else it is, it is this trial's result.
        if isinstance(error, BaseHeld) or (isinstance(error, OSError) and error.errno in _OF_THE_DISK):
            raise
        (folder / "error.txt").write_text(traceback.format_exc(), "utf-8")
        result["error"], spoilt = failure(error), spoils_process(error)
    spent = stages.seconds()
    result |= {"seconds": sum(spent.values()), "stage_seconds": spent}
    write_atomically(folder / "result.json", json.dumps(result).encode())
    remove_checkpoints(shared, folder)
    shared.pass_on_folder(folder)
    tune.report({"phase": "end", "spoilt": spoilt})
    if spoilt:
        # The next trial would be given this process.
        os._exit(1)


def _own(folder: Path, trainer: str) -> None:
    """Make this machine's copy of a trial's folder that of `trainer`: of another sweep, of the same name and deleted
    elsewhere since, the copy is still here."""
    mark = folder / ".trainer"
    if mark.exists() and mark.read_text() != trainer:
        shutil.rmtree(folder)
    write_atomically(mark, trainer.encode())


def _forget_attempt(folder: Path) -> None:
    """Remove what is left here of an attempt that was set aside: whoever did so may see this disk or not."""
    attempts = sorted(folder.glob(f"{ATTEMPT}*.json"))
    result, last = _read(folder / "result.json"), _read(attempts[-1]) if attempts else None
    if result is not None and last is not None and is_set_aside(result, last):
        for name in OF_AN_ATTEMPT:
            (folder / name).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """What a file holds; None where there is none, or it is not whole: the machine may have lost its power."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    except (FileNotFoundError, ValueError):
        return None


def failure(error: Exception) -> str:
    """What a trial failed of, in a line that begins with its class: non-finite, out of memory or error."""
    reason = str(error).partition("\n")[0]
    if isinstance(error, NonFiniteError):
        return f"non-finite: {reason}"
    return f"out of memory: {reason}" if out_of_memory(error) else f"error: {type(error).__name__}: {reason}"


def spoils_process(error: Exception) -> bool:
    """Whether the process can do nothing more on its GPU: each call after such an error fails of it again."""
    text = str(error)
    # A convolution that found no way does not say of what each one died, nor a library that could not begin.
    if "find an engine" in text or "NOT_INITIALIZED" in text:
        return True
    return text.startswith(("CUDA error", "CUDA driver error", "cuDNN error")) and not out_of_memory(error)


def _runtime(share: float, config: TrialConfig) -> "Runtime":
    """Where the trial computes, held to its share of a GPU."""
    from senet.device import make_runtime

    # Without a GPU share Ray hides no GPU: the share decides, not what can be seen.
    runtime = make_runtime("cuda" if share else "cpu", config.precision)
    runtime.hold_to(share)
    return runtime


def _say(folder: Path, shared: Shared, stages: Stages, report: dict[str, Any]) -> None:
    report = report | stages.report()
    write_atomically(folder / "progress.json", json.dumps(report).encode())
    shared.pass_on_folder(folder)
    tune.report(report)


def _both_phases(
    assignment: dict[str, Any], dataset: Dataset, shared: Shared, stages: Stages, result: dict[str, Any]
) -> None:
    """Fill `result` as it comes: a trial that fails while streaming still has its base."""
    # torch is for the worker: the driver, which only names this function, does without it.
    from senet.initial import normalised_for
    from senet.phases import stream
    from senet.protocols import for_protocol
    from sweeps.bases import BaseStore

    folder = assignment["folder"]
    config = TrialConfig.model_validate(assignment["config"])
    dataset = for_protocol(config, normalised_for(config, dataset))
    runtime = _runtime(assignment["resources"]["gpu"], config)
    bases = BaseStore(assignment["home"] / "bases")
    rungs = dict(assignment["rungs"])
    probed = config.model_copy(update={"streaming": StreamingConfig.model_validate(assignment["probe"])})
    trained: list[dict[str, Any]] = []
    result["history"] = trained

    say = partial(_say, folder, shared, stages)

    def on_base_epoch(report: dict[str, Any]) -> None:
        if report["epoch"] in rungs:
            with stages.of("probe"):
                probe = bases.probe(probed, dataset, runtime, report["epoch"])
            if probe is not None:
                report = report | {"rung": rungs[report["epoch"]], **probe}
        trained.append(report)
        say(report)

    key, base, reused = bases.obtain(config, dataset, runtime, on_base_epoch, assignment["trainer"])
    ready = {"base_key": key, "base_reused": reused, "seconds_saved": base.seconds if reused else 0.0}
    before = base.history if reused else trained or base.history
    result |= ready | {"history": list(before), "environment": runtime.identity()}
    say({**base.history[-1], **ready, "phase": "ready"})

    def on_streaming_epoch(report: dict[str, Any]) -> None:
        result["history"].append(report)
        say(report)

    with stages.of("streaming"):
        if config.streaming.ewc:
            base = bases.with_importance(key, base, config, dataset, runtime)
        streamed = stream(config, base, dataset, runtime, on_streaming_epoch, folder / "streaming.pt")
    last = base.history[-1] | streamed.history[-1]
    metrics = {name: last[name] for name in METRICS if name in last}
    result |= {"state": "complete", "metrics": metrics, "history": before + streamed.history, "error": None}
    # Of its own base a process that went on behind it has not seen what that needs.
    result["gpu_memory"] = runtime.peak_memory() if reused or trained else None
