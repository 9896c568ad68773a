"""The hidden folder in which a data set is made: locked while somebody works in it, removed once it is in its place."""

import errno
import fcntl
import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from senet.errors import InputError

_KEY = "[0-9a-f]{16}"


class Workspace:
    """The folder `.NAME-KEY` beside the data set's place NAME.

    Work that was killed stays there; whoever comes with the same key goes on with it. The lock is the kernel's, so it
    ends with its process.
    """

    def __init__(self, target: Path, key: str, lock: IO[str]) -> None:
        self.target, self.folder = target, _folder(target, key)
        self._lock = lock

    @classmethod
    def claim(cls, target: Path, key: str, wait: bool = False) -> Self:
        """Lock the workspace of `key`, 16 hex digits, for `target`.

        Raises:
            InputError: another process is at it, and `wait` is false.
        """
        lock = _locked(_folder(target, key), wait)
        if lock is None:
            raise InputError(f"{target}: the same is being prepared right now, by another command; wait for it")
        return cls(target, key, lock)

    def publish(self, made: Path, replace: bool) -> None:
        """Move the finished folder `made` to the target's place.

        Raises:
            InputError: a data set of other content has got there first.
            OSError: the disk does not take it; what was there before is there again.
        """
        old = self.folder / "old"
        if replace and self.target.exists():
            shutil.rmtree(old, ignore_errors=True)
            self.target.rename(old)
        try:
            os.rename(made, self.target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                if old.exists() and not self.target.exists():
                    old.rename(self.target)
                raise
            # Somebody else finished the same data set first: theirs is as good.
            if _fingerprint(self.target) != _fingerprint(made):
                raise InputError(f"{self.target}: a data set of this name has just been made by another command; "
                                 "choose another name or pass --replace") from None  # fmt: skip
        self._remove_stale()

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Leave the folder to whoever comes next."""
        self._lock.close()

    def _remove_stale(self) -> None:
        """Remove what killed commands for the same target have left; it is of no use any more."""
        name = re.compile(re.escape(f".{self.target.name}-") + _KEY)
        for path in self.target.parent.iterdir():
            if name.fullmatch(path.name) and path != self.folder and (lock := _locked(path, wait=False)):
                shutil.rmtree(path, ignore_errors=True)
                lock.close()


def refuse_existing(target: Path, replace: bool) -> None:
    """Raise InputError where a data set is at `target` and is not to be replaced."""
    if target.exists() and not replace:
        raise InputError(f"{target}: a data set of this name exists; choose another name or pass --replace")


def _folder(target: Path, key: str) -> Path:
    return target.with_name(f".{target.name}-{key}")


def _locked(folder: Path, wait: bool) -> IO[str] | None:
    """The open lock of `folder`, which is made if need be; None where somebody else holds it."""
    while True:
        # It may be removed while it is found to exist.
        with suppress(FileExistsError):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            file = (folder / "lock").open("a")
        except FileNotFoundError:
            continue  # The folder was removed since.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Who held the lock before may have removed the folder.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / "lock")):
                return file
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            pass
        file.close()


def _fingerprint(folder: Path) -> str:
    try:
        return str(json.loads((folder / "manifest.json").read_text("utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return str(folder)
