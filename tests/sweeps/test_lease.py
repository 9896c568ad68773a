"""Leases: of many that want one, one has it; nobody keeps it who is gone; who has lost it knows."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from sweeps.lease import DEFAULT, Lease, LeaseHeld, Timing, lease_holder, take_lease

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

QUICK = Timing(expiry_seconds=0.5, beat_seconds=0.05, poll_seconds=0.05)


def lease_file(folder: Path) -> Path:
    (file,) = folder.glob("lease-*.json")
    return file


def grow_old(folder: Path, seconds: float = 1.0) -> None:
    """Date the lease as if it had last been renewed so long ago."""
    now = lease_file(folder).stat().st_mtime
    os.utime(lease_file(folder), (now - seconds, now - seconds))


def test_it_is_held_until_it_is_given_back(tmp_path: Path) -> None:
    with take_lease(tmp_path / "x", "a", QUICK) as lease:
        assert lease.held()
        holder = lease_holder(tmp_path / "x", QUICK)
        assert holder is not None
        assert holder.startswith(f"a, process {os.getpid()} on ")
        with pytest.raises(LeaseHeld, match="held by a, process"):
            take_lease(tmp_path / "x", "b", QUICK)
    assert lease_holder(tmp_path / "x", QUICK) is None
    assert not list((tmp_path / "x").glob("lease-*"))
    with take_lease(tmp_path / "x", "b", QUICK) as lease:
        assert lease.held()


def test_who_works_keeps_it(tmp_path: Path) -> None:
    with take_lease(tmp_path, "a", QUICK) as lease:
        grow_old(tmp_path, 10.0)
        time.sleep(2 * QUICK.expiry_seconds)
        assert lease_holder(tmp_path, QUICK) is not None
        assert lease.held()


def test_one_that_is_not_renewed_is_lost_to_whoever_wants_it(tmp_path: Path) -> None:
    lost = take_lease(tmp_path, "a", QUICK)
    grow_old(tmp_path)
    assert lost.held(), "nobody wants it"
    with take_lease(tmp_path, "b", QUICK) as lease:
        assert not lost.held()
        # The former holder wakes up and leaves: that is not his lease any more.
        with lost:
            time.sleep(3 * QUICK.beat_seconds)
        assert lease.held()
    assert not list(tmp_path.glob("lease-*"))


def test_the_hosts_clock_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = take_lease(tmp_path, "a", QUICK)
    for hours in (-5, 5):
        monkeypatch.setattr(time, "time", lambda hours=hours: 1e9 + 3600 * hours)
        assert lease_holder(tmp_path, QUICK) is not None
    assert lease.held()


@pytest.mark.parametrize("before", ["nothing", "an old lease", "a lease that was never written"])
def test_of_many_exactly_one_takes_it(tmp_path: Path, before: str) -> None:
    for turn in range(20):
        folder = tmp_path / str(turn)
        if before == "an old lease":
            take_lease(folder, "old", DEFAULT)
            grow_old(folder, 100)
        elif before != "nothing":
            folder.mkdir()
            (folder / "lease-0007.json").write_bytes(b"")
            grow_old(folder, 100)
        start = Barrier(8)

        def contend(name: int, folder: Path = folder, start: Barrier = start) -> Lease | None:
            start.wait()
            try:
                # A busy disk may take longer for a write than a QUICK lease lasts.
                return take_lease(folder, str(name), DEFAULT)
            except LeaseHeld:
                return None

        with ThreadPoolExecutor(8) as pool:
            taken = [lease for lease in pool.map(contend, range(8)) if lease is not None]
        assert [lease.held() for lease in taken] == [True], turn
        assert lease_file(folder).name == {"nothing": "lease-0001.json", "an old lease": "lease-0002.json"}.get(
            before, "lease-0008.json"
        )


def test_a_dead_process_is_not_waited_for(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sweeps.lease import *; take_lease(Path(sys.argv[1]), 'a', DEFAULT)"
    )
    with subprocess.Popen([sys.executable, "-c", f"{code}; print(); input()", str(tmp_path)],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        assert lease_holder(tmp_path, Timing()) is not None
        process.kill()
        process.wait()
        assert lease_holder(tmp_path, Timing()) is None


def test_one_whose_folder_was_removed_is_lost(tmp_path: Path) -> None:
    with take_lease(tmp_path / "x", "a", QUICK) as lease:
        (tmp_path / "x").rename(tmp_path / "y")
        assert not lease.held()
