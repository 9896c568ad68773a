"""Commands that look at, or speak to, a sweep that is driven elsewhere: `pause`, `stop`, `logs`."""

import json
import time
from argparse import Namespace
from typing import Any

from senet.errors import InputError
from senet.home import home
from sweeps.shared import Shared
from sweeps.sweep import Sweep, find_sweep

# A driver looks several times a second; a trial that is cut off ends with its epoch.
_PATIENCE_SECONDS = 60


def pause(arguments: Namespace) -> int:
    """Let running trials end, begin no further one."""
    sweep = _driven(arguments.name)
    sweep.ask("pause")
    print(f"sweep {sweep.name} begins no further trial; watch it: sweeps status {sweep.name}")
    return 0


def stop(arguments: Namespace) -> int:
    """Interrupt a sweep, as Ctrl-C does where it runs, and wait for its end."""
    sweep = _driven(arguments.name)
    sweep.ask("stop")
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while sweep.is_driven():
        if time.monotonic() > deadline:
            print(f"sweep {sweep.name} has been asked to stop, but still runs; watch it: sweeps status {sweep.name}")
            return 1
        time.sleep(0.2)
    print(f"stopped sweep {sweep.name}; go on: sweeps resume {sweep.name}")
    return 0


def _line(report: dict[str, Any]) -> str:
    """One epoch: where it is, and all its numbers."""
    epoch = f" epoch {report['epoch']}/{report['epochs']}" if "epoch" in report else ""
    values = {name: value for name, value in report.items() if name not in ("phase", "epoch", "epochs")}
    numbers = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    ]
    return f"{report.get('phase')}{epoch}: {', '.join(numbers)}"


def logs(arguments: Namespace) -> int:
    """Print a trial's epochs and, if it failed, why."""
    sweep = find_sweep(home(), arguments.name)
    folder = sweep.trial_folder(arguments.trial)
    Shared(sweep.home).fetch_folder(folder)
    if not folder.is_dir():
        raise InputError(
            f"sweep `{sweep.name}` has no trial {arguments.trial} that has run (one that was answered or taken over "
            f"has no epochs of its own); see: sweeps status {sweep.name}"
        )
    result = sweep.result(arguments.trial)
    progress = sweep.progress(arguments.trial)
    for report in result.get("history", []) if result is not None else [progress] if progress is not None else []:
        print(_line(report))
    for path in sorted(folder.glob("attempt-*.json")):
        print(f"{path.name}: {json.loads(path.read_text()).get('error')}")
    if result is None:
        print(f"trial {arguments.trial}: running, or interrupted; its last report is above")
        return 0
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in result.get("metrics", {}).items())
    print(f"trial {arguments.trial}: {result['state']}, {result.get('error') or metrics}")
    # One that was tried again keeps what its first attempt failed of.
    if result["state"] == "failed" and (folder / "error.txt").exists():
        print((folder / "error.txt").read_text("utf-8"), end="")
    return 0


def _driven(name: str) -> Sweep:
    sweep = find_sweep(home(), name)
    if not sweep.is_driven():
        raise InputError(f"sweep `{name}` is not running; see: sweeps status {name}")
    return sweep
