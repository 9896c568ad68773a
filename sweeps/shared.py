"""A home in a bucket (fsspec): every machine works on its own copy of what it needs, and passes on what others need.

A file in a bucket appears whole or not at all, and nothing is locked there. So what has one writer is simply passed on
(a trial's folder by the trial, a sweep's own files by its driver), and a base is whole when its `base.json` is there.
"""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from senet.errors import InputError
from senet.home import MARK, copy_of

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}


@contextmanager
def _reached() -> Iterator[None]:
    """Turn what a bucket's file system raises when it does not answer into an OSError, EREMOTEIO."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 Each file system raises errors of its own.
        raise OSError(errno.EREMOTEIO, str(error).partition("\n")[0] or type(error).__name__) from None


class Shared:
    """What the machines share below a home. Where that is a folder all see the same files, and nothing is done here."""

    def __init__(self, home: Path) -> None:
        self._home, self.url = home, bucket_of(home)
        self._files: Any = None
        self._passed_on: dict[Path, int] = {}
        if self.url is not None:
            self._files, self._root = _connected(self.url)

    def fetch(self, path: Path) -> bool:
        """Get a file from the bucket, whole; returns whether it is there now."""
        if self._files is None:
            return path.exists()
        # Nothing is left where there is nothing, no folder either.
        temporary = self._home / f".fetched-{uuid.uuid4().hex}"
        try:
            with _reached():
                self._files.get_file(self._key(path), str(temporary))
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, path)
            return True
        except FileNotFoundError:
            return False
        finally:
            temporary.unlink(missing_ok=True)

    def fetch_folder(self, folder: Path, last: str = "") -> None:
        """Get all files of a folder that are in the bucket, the one named `last` after the others."""
        if self._files is None:
            return
        root = PurePosixPath(self._key(folder))
        try:
            with _reached():
                names = [str(PurePosixPath(key).relative_to(root)) for key in self._files.find(str(root))]
        except FileNotFoundError:
            return
        for name in sorted(names, key=lambda name: name == last):
            self.fetch(folder / name)

    def listing(self, folder: Path) -> dict[str, tuple[int, float]]:
        """The files below a folder of the bucket: bytes and time of the last change (seconds since 1970), by name."""
        root = PurePosixPath(self._key(folder))
        try:
            with _reached():
                found = self._files.find(str(root), detail=True)
        except FileNotFoundError:
            return {}
        # Each file system names the time in its own way: s3fs, gcsfs.
        return {
            str(PurePosixPath(key).relative_to(root)): (
                about["size"],
                (about.get("LastModified") or about["mtime"]).timestamp(),
            )
            for key, about in found.items()
        }

    def read(self, path: Path) -> bytes | None:
        """What a file in the bucket holds; None where there is none."""
        try:
            with _reached():
                content: bytes = self._files.cat_file(self._key(path))
            return content
        except FileNotFoundError:
            return None

    def pass_on(self, *paths: Path) -> None:
        """Put files that have changed since into the bucket, in their order."""
        if self._files is None:
            return
        for path in paths:
            changed = path.stat().st_mtime_ns
            if self._passed_on.get(path) != changed:
                with _reached():
                    self._files.put_file(str(path), self._key(path))
                self._passed_on[path] = changed

    def pass_on_folder(self, folder: Path, last: str = "") -> None:
        """Put the files of a folder that have changed since into the bucket, the one named `last` after the others;
        hidden ones and folders stay here."""
        if self._files is not None and folder.is_dir():
            files = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
            self.pass_on(*sorted(files, key=lambda path: (path.name == last, path)))

    def remove(self, path: Path) -> None:
        """Remove a file or a folder from the bucket."""
        if self._files is None:
            return
        with _reached():
            if self._files.exists(self._key(path)):
                self._files.rm(self._key(path), recursive=True)

    def _key(self, path: Path) -> str:
        return f"{self._root}/{path.relative_to(self._home).as_posix()}"


def here(home: str, url: str | None, path: str) -> tuple[Path, Path]:
    """A home of another machine, and a path below it, as they are on this one.

    Args:
        url: of the bucket, if the home is one.
    """
    copy = Path(home) if url is None else copy_of(url)
    return copy, copy / Path(path).relative_to(home)


def bucket_of(home: Path) -> str | None:
    """The URL of the bucket that `home` is a copy of."""
    try:
        return (home / MARK).read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _connected(url: str) -> tuple[Any, str]:
    """The file system of a bucket, and the folder's key in it. Raises InputError where it cannot be used."""
    import fsspec

    scheme = url.partition("://")[0]
    try:
        # What other machines have put there meanwhile is to be seen.
        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        files.exists(root)
    except ImportError:
        package = _PACKAGES[scheme]
        raise InputError(f"SWEEPS_HOME: {scheme}:// needs the package {package}: pip install {package}") from None
    except Exception as error:  # noqa: BLE001 Each file system raises errors of its own.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"SWEEPS_HOME: {url}: cannot be used: {reason}") from None
    return files, str(root).rstrip("/")
