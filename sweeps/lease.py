"""A lease on a folder: of many processes, on one machine or several that share a disk, one works there at a time.

A lease is a file `lease-N.json` that was created exclusively, which local disks and mounted shares do atomically; the
highest N holds. Its holder writes to it every few seconds. One that was not written to for a while, or whose process
is known to have died, is taken over by creating N + 1: of many contenders exactly one succeeds. Times are those of the
file system, never a machine's own clock: whoever judges a lease writes a file himself, and compares the two.

A holder that was merely stopped goes on working when it wakes up; so it asks `held` before anything it does counts.
"""

import json
import os
import re
import socket
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from types import TracebackType


@dataclass(frozen=True)
class Timing:
    """How leases are kept."""

    expiry_seconds: float = 60.0
    """a lease that was not renewed for so long may be taken over"""
    beat_seconds: float = 5.0
    """it is renewed so often"""
    poll_seconds: float = 2.0
    """who waits for it looks so often"""


DEFAULT = Timing()
CLOCK = ".clock"


class BaseHeld(Exception):
    """Somebody else trains the base now: whoever needs it does better to come back than to wait."""

    def __init__(self, key: str, holder: str) -> None:
        super().__init__(f"base {key} is being trained by {holder}")
        self.key, self.holder = key, holder


class LeaseHeld(Exception):
    """Somebody else holds the lease, and is alive."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by {holder}")
        self.holder = holder


class LeaseLost(Exception):
    """The lease was taken over: what its former holder does no longer counts."""


class Lease:
    """The right to work in a folder, from `take_lease`; renewed in the background within its `with` block."""

    def __init__(self, folder: Path, number: int, token: str, timing: Timing) -> None:
        self._folder, self._number, self._token = folder, number, token
        self._path = _path(folder, number)
        self._ended = Event()
        self._thread = Thread(target=self._keep, args=(timing.beat_seconds,), name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self.held():
            self._path.unlink(missing_ok=True)

    def held(self) -> bool:
        """Whether nobody has taken it over."""
        return _read(self._path)[0].get("token") == self._token and _numbers(self._folder)[-1:] == [self._number]

    def _keep(self, beat_seconds: float) -> None:
        while not self._ended.wait(beat_seconds):
            try:
                self._renew()
            except OSError:
                # The disk may be back for the next beat; if not, the lease expires, which is what `held` tells.
                continue

    def _renew(self) -> None:
        """Write the last byte again. Data, not a time, is written: a share's server then dates it by its own clock."""
        with self._path.open("r+b") as file:
            text = file.read()
            if json.loads(text).get("token") == self._token:
                file.seek(len(text) - 1)
                file.write(text[-1:])
                file.flush()
                os.fsync(file.fileno())


def take_lease(folder: Path, holder: str, timing: Timing) -> Lease:
    """The lease on `folder`, which is made where it is missing.

    Args:
        holder: who takes it, for people.

    Raises:
        LeaseHeld: somebody else has it.
    """
    token = uuid.uuid4().hex
    about = {"holder": holder, "host": socket.gethostname(), **_this_process(), "token": token}
    while True:
        # It may be removed while it is found to exist.
        with suppress(FileExistsError):
            folder.mkdir(parents=True, exist_ok=True)
        older = _numbers(folder)
        other = _holder(folder, older, timing)
        if other is not None:
            raise LeaseHeld(other)
        # One more than what was judged: if somebody has come since, the creation fails.
        number = max(older, default=0) + 1
        try:
            file = os.open(_path(folder, number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except (FileExistsError, FileNotFoundError):
            # Somebody was faster, or has just removed the folder.
            continue
        with os.fdopen(file, "wb") as written:
            written.write(json.dumps(about).encode() + b"\n")
            written.flush()
            os.fsync(written.fileno())
        lease = Lease(folder, number, token, timing)
        if not lease.held():
            _path(folder, number).unlink(missing_ok=True)
            continue
        for old in older:
            _path(folder, old).unlink(missing_ok=True)
        return lease


def lease_holder(folder: Path, timing: Timing) -> str | None:
    """Who holds the lease on `folder` and is alive; None: nobody, it can be taken."""
    return _holder(folder, _numbers(folder), timing)


def file_system_time(folder: Path) -> float:
    """Now, in seconds, by the clock that dates the files of `folder`."""
    # One file for all who ask: a killed one leaves no more of them.
    with (folder / CLOCK).open("wb") as file:
        file.write(b"\n")
        file.flush()
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_mtime


def _holder(folder: Path, numbers: list[int], timing: Timing) -> str | None:
    """Who holds the last of the leases `numbers` and is alive."""
    if not numbers:
        return None
    about, written = _read(_path(folder, numbers[-1]))
    if written is None or _has_died(about):
        return None
    try:
        expired = file_system_time(folder) - written > timing.expiry_seconds
    except FileNotFoundError:
        # The folder was removed.
        return None
    if expired:
        return None
    return f"{about['holder']}, process {about['pid']} on {about['host']}" if about else "somebody who has just come"


def _path(folder: Path, number: int) -> Path:
    return folder / f"lease-{number:04d}.json"


def _numbers(folder: Path) -> list[int]:
    """Of the leases in a folder, ascending."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(found[1]) for name in names if (found := re.fullmatch(r"lease-(\d+)\.json", name)))


def _read(path: Path) -> tuple[dict[str, str], float | None]:
    """What a lease says, empty while it is being written, and when it was last renewed, None if it is gone."""
    try:
        # Opened anew each time: a share's client then asks the server, and does not answer from what it remembers.
        with path.open("rb") as file:
            written, text = os.fstat(file.fileno()).st_mtime, file.read()
    except OSError:
        return {}, None
    try:
        return json.loads(text), written
    except ValueError:
        return {}, written


def _this_process() -> dict[str, str]:
    """What tells this process from all others on this machine, also from later ones of the same number."""
    pid = str(os.getpid())
    return {"pid": pid, "machine": _machine(), "started": _started(pid) or ""}


def _has_died(about: dict[str, str]) -> bool:
    """Whether a lease's process is known to be dead: it ran on this machine, and runs no more."""
    here = about and about["machine"] == _machine() != ""
    return bool(here) and _started(about["pid"]) != about["started"]


def _machine() -> str:
    """This boot of this machine and its process numbers, which a container may have for itself; empty if not told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: str) -> str | None:
    """When a process was started, in ticks since the boot; None if it does not run (proc(5))."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]
