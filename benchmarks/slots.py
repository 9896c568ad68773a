"""How busy the slots of a sweep are, on real Ray.

    python benchmarks/slots.py [--trials 40] [--output benchmarks/results/slots.json]

It runs a sweep of the quickstart's recipe in a folder of its own, and reads the files that its trials leave. Useful and
pruned seconds, as the trials book them, are divided by slots × time, from the first trial's start to the last moment
with a trial waiting, which is when the last one began.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the sweep, print the share, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    slots = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "sweeps"), "run", "quickstart", "--name", "slots"]
        command += ["--set", f"search.trials={arguments.trials}", "--set", f"search.concurrency={slots}"]
        subprocess.run(command, check=True, env=os.environ | {"SWEEPS_HOME": folder})
        found = occupation(Path(folder) / "sweeps" / "slots" / "trials", slots)
    found |= {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{slots} cores, {platform.machine()}",
        "versions": {name: version(name) for name in ("ray", "torch")} | {"python": platform.python_version()},
    }
    print(json.dumps(found, indent=1))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


def occupation(folder: Path, slots: int) -> dict[str, Any]:
    """Share of slots × time in which trials did what counts, and what it is made of."""
    spans = []
    for path in sorted(folder.glob("*/result.json")):
        result = json.loads(path.read_text())
        end = path.stat().st_mtime
        spans.append((end - result["seconds"], end, result["state"] != "failed"))
    first, last = (pick(start for start, _, _ in spans) for pick in (min, max))
    booked = sum(max(0.0, min(end, last) - start) for start, end, counts in spans if counts)
    return {
        "trials": len(spans),
        "slots": slots,
        "seconds": round(last - first, 1),
        "busy_slot_seconds": round(booked, 1),
        "share": round(booked / (slots * (last - first)), 4),
    }


if __name__ == "__main__":
    main()
