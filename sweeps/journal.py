"""Optuna's journal file, as a ledger on a mounted share."""

import os
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock


def open_journal(path: Path) -> JournalStorage:
    """The storage in the journal at `path`, which is made where there is none.

    Its lock is a file that is created exclusively, which NFS 3, SMB and the parallel file systems do atomically;
    Optuna's default, a symbolic link, is for NFS 2, and SMB has none.
    """
    return JournalStorage(_WholeLines(str(path), lock_obj=JournalFileOpenLock(str(path))))


class _WholeLines(JournalFileBackend):
    """A journal whose last line may have been cut off by a kill or a full disk.

    Optuna passes over such a line when it reads, but would write the next one onto its end, and both were lost. Since
    the driver alone writes, what is cut off is nobody's work in progress.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        _cut_torn_line(Path(self._file_path))
        super().append_logs(logs)


def _cut_torn_line(path: Path) -> None:
    """Shorten a file to the end of its last whole line."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if file.read(1) in (b"", b"\n"):
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        os.fsync(file.fileno())
