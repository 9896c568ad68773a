"""The quickstart as it is promised: its time, its memory, its bases, its winner."""

import json
import time
from pathlib import Path

import pytest

from senet.data.breeds import BreedsSpec, prepare_breeds
from tests.sweeps.commands import Home, descendants

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


def shared_memory_kib(pids: list[int]) -> int:
    """Proportional set size of some processes, in KiB."""
    total = 0
    for pid in pids:
        try:
            lines = (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def test_the_quickstart_keeps_its_promises(tmp_path: Path) -> None:
    home = Home(tmp_path)
    prepare_breeds(tmp_path / "datasets" / "breeds", BreedsSpec())
    start, peak = time.monotonic(), 0
    process = home.start("sweeps", "run", "quickstart")
    while process.poll() is None:
        peak = max(peak, shared_memory_kib(descendants(process.pid)))
        time.sleep(1)
    seconds = time.monotonic() - start
    out, error = process.communicate()
    assert process.returncode == 0, out + error
    assert seconds < 300
    assert peak < 6 * 2**20
    found = home.status("quickstart")
    home.assert_consistent("quickstart", len(found["trials"]))
    assert len(found["trials"]) >= 20
    assert found["bases"]["reused"] >= len(found["trials"]) / 2
    assert len({trial["base_key"] for trial in found["trials"]}) >= 4
    assert all(0.6 <= trial["metrics"]["base_topk"] <= 0.92 for trial in found["trials"])
    assert found["best"]["metrics"]["joint"] > found["baseline"]["metrics"]["joint"] + 0.02
    home.call("sweeps", "export", "quickstart", "-o", str(tmp_path / "best.yaml"))
    home.call("senet", "train", str(tmp_path / "best.yaml"))
    metrics = json.loads((tmp_path / "models" / "best" / "metrics.json").read_text())
    assert metrics["test"]["calibration_error"] < 0.1
    # Of winners it was from 0.03 to 0.1; with a calibration on centred logits, which it is here to rule out, 0.26.
    assert metrics["test"]["top1_calibration_error"] < 0.15
