"""Processes that want a base: forked from one that has torch already, so that they are there at once."""

import multiprocessing
import os
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from senet.config import parse_trial
from senet.data.store import open_dataset
from senet.device import make_runtime
from sweeps.bases import BaseStore
from sweeps.lease import Timing

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.sweeps.contenders"])


def start(
    store: Path, data: Path, trial: dict[str, Any], name: str, timing: Timing, epoch_seconds: float = 0.0
) -> BaseProcess:
    """A process that obtains the base of `trial`, waiting where another trains it; it notes its epochs."""
    process = _CONTEXT.Process(target=_obtain, args=(store, data, trial, name, timing, epoch_seconds), daemon=True)
    process.start()
    return process


def noted(store: Path) -> list[str]:
    """What the processes have done: `NAME EPOCH` for each epoch that one had behind it, `NAME done` at its end."""
    file = store / "notes"
    return file.read_text().splitlines() if file.exists() else []


def _obtain(store: Path, data: Path, trial: dict[str, Any], name: str, timing: Timing, epoch_seconds: float) -> None:
    def on_epoch(report: dict[str, Any]) -> None:
        _note(store, f"{name} {report['epoch']}")
        time.sleep(epoch_seconds)

    runtime = make_runtime("cpu", "fp32")
    bases = BaseStore(store, timing)
    bases.obtain(parse_trial(trial, "t"), open_dataset(data), runtime, on_epoch, name, wait=True)
    _note(store, f"{name} done")


def _note(store: Path, line: str) -> None:
    file = os.open(store / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)
