"""Data sets by URL (fsspec): put there, copied to a machine once, checked, and found again.

A URL's content is taken to stay as it is: a data set that is made anew gets a new address.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from senet.data.integrity import (
    ARRAYS,
    MANIFEST,
    TEXTS,
    check_files,
    parse_manifest,
    read_manifest,
    verify_files,
)
from senet.data.workspace import Workspace
from senet.errors import InputError
from senet.home import cache
from senet.mounts import share_of

SCHEMES = ("file", "s3", "gs")
_CHUNK_BYTES = 8 * 2**20
_MOST_MANIFEST_BYTES = 64 * 2**20


def check_url(url: str, what: str) -> str:
    """`url`, if data sets can lie there. Raises InputError otherwise."""
    scheme, _, path = url.partition("://")
    if scheme not in SCHEMES or not path.strip("/") or "::" in url or not url.isprintable():
        raise InputError(f"{what} `{url}` must be a name, or a URL such as s3://bucket/folder ({', '.join(SCHEMES)})")
    if scheme == "file" and not path.startswith("/"):
        raise InputError(f"{what} `{url}`: a folder is named from the root: file:///folder")
    return url


def cached_folder(home: Path, url: str) -> Path:
    """Where the copy of `url` lies or would lie: in this machine's cache where `SWEEPS_CACHE` names it or `home` is a
    mounted share, else among `home`'s data sets."""
    own = bool(os.environ.get("SWEEPS_CACHE")) or share_of(home) is not None
    name = PurePosixPath(url.rstrip("/")).name
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).lstrip("._-")[:40]
    folder = cache() if own else home / "datasets"
    return folder / f"{plain or 'data'}-{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:12]}"


def own_copy(folder: Path) -> Path:
    """This machine's own copy, in its cache, of the data set `folder` on a mounted share; made once.

    Raises:
        InputError: it is damaged.
        OSError: the disk does not take it.
    """
    copy = cache() / copy_name(folder)
    if not (copy / MANIFEST).exists():
        try:
            fetch_dataset(f"file://{folder}", copy)
        except InputError:
            # Says how it is made again, if it is the one on the share that is damaged.
            verify_files(folder, read_manifest(folder))
            raise
    return copy


def copy_name(folder: Path) -> str:
    """What a machine's own copy of the data set `folder` is called: another content, or manifest, has another name."""
    # The fingerprint says nothing of the policy and the kind of labels, which the copy's manifest tells.
    return f"{folder.name}-{read_manifest(folder)['checksum'][:16]}"


def fetch_manifest(url: str) -> dict[str, Any]:
    """The manifest of the data set at `url`. Raises InputError where there is none."""
    return parse_manifest(_Remote(url).read(MANIFEST), url)


def fetch_dataset(url: str, folder: Path) -> None:
    """Copy the data set at `url` to `folder`, where it appears whole or not at all; nothing is done if it is there.

    Whoever else wants it on this machine waits until it is there.

    Raises:
        InputError: there is no data set at `url`, or it is damaged.
        OSError: the disk does not take it.
    """
    workspace = Workspace.claim(folder, hashlib.sha256(url.encode()).hexdigest()[:16], wait=True)
    try:
        if not (folder / MANIFEST).exists():
            made = workspace.folder / "data"
            made.mkdir(exist_ok=True)
            _copy(_Remote(url), made)
            # What is there without a manifest is of no use.
            workspace.publish(made, replace=True)
    finally:
        workspace.remove()


def send_dataset(folder: Path, url: str) -> bool:
    """Copy the data set `folder` to `url`, its manifest last; returns False where it is there already.

    Of one that is there in part what is missing or too short is copied.

    Raises:
        InputError: it is damaged, another one is there, or nothing can be written there.
    """
    manifest = read_manifest(folder)
    remote = _Remote(check_url(url, "the address"))
    begun = remote.size(MANIFEST) is not None
    # The manifest also tells of policy and kind of labels, and those who have a copy do not look again.
    if begun and fetch_manifest(url)["checksum"] != manifest["checksum"]:
        raise InputError(f"{url}: another data set is there, and is taken to stay as it is; choose another address")
    verify_files(folder, manifest)
    due = [
        name
        for name in sorted(manifest["checksums"])
        if not begun or remote.size(name) != (folder / name).stat().st_size
    ]
    due += [] if begun else [MANIFEST]
    for name in due:
        remote.write(name, folder / name)
    return bool(due)


def _copy(remote: "_Remote", folder: Path) -> None:
    content = remote.read(MANIFEST)
    manifest = parse_manifest(content, remote.url)
    names = set(manifest["checksums"])
    if not set(ARRAYS) <= names <= {*ARRAYS, *TEXTS}:
        raise InputError(
            f"{remote.url}: its manifest names other files than a data set has: {', '.join(sorted(names))}"
        )
    for name in sorted(names):
        remote.copy(name, folder / name)
    (folder / MANIFEST).write_bytes(content)
    try:
        check_files(folder, manifest)
    except InputError:
        raise InputError(
            f"{remote.url}: what was copied is not what its manifest says: delete it, and copy the data set there again"
        ) from None


class _Remote:
    """The folder at a URL; every error is one line."""

    def __init__(self, url: str) -> None:
        self.url = url
        scheme = url.partition("://")[0]
        try:
            self._files, self._path = fsspec.core.url_to_fs(url)
        except ImportError:
            package = {"s3": "s3fs", "gs": "gcsfs"}.get(scheme, "another package")
            raise InputError(f"{url}: {scheme}:// needs the package {package}: pip install {package}") from None
        except Exception as error:  # noqa: BLE001 Each file system raises errors of its own.
            raise self._failed(error) from None

    def read(self, name: str) -> bytes:
        """The content of a small file."""
        try:
            with self._files.open(f"{self._path}/{name}", "rb") as file:
                content: bytes = file.read(_MOST_MANIFEST_BYTES)
                return content
        except FileNotFoundError:
            raise InputError(f"{self.url}: there is no data set; a folder that holds {name} is needed") from None
        except Exception as error:  # noqa: BLE001 Each file system raises errors of its own.
            raise self._failed(error) from None

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        try:
            return int(self._files.info(f"{self._path}/{name}")["size"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # noqa: BLE001 Each file system raises errors of its own.
            raise self._failed(error) from None

    def write(self, name: str, source: Path) -> None:
        """Put a file there, whole or not at all where that is a bucket."""
        try:
            self._files.makedirs(self._path, exist_ok=True)
            self._files.put_file(str(source), f"{self._path}/{name}")
        except Exception as error:  # noqa: BLE001 Each file system raises errors of its own.
            raise self._failed(error, "written") from None

    def copy(self, name: str, target: Path) -> None:
        """Copy a file, a chunk at a time. Raises OSError where the disk here does not take it."""
        with target.open("wb") as copy:
            for chunk in self._chunks(name):
                copy.write(chunk)

    def _chunks(self, name: str) -> Iterator[bytes]:
        try:
            with self._files.open(f"{self._path}/{name}", "rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError:
            raise InputError(f"{self.url}: the data set is damaged: {name} is missing; copy it there again") from None
        except Exception as error:  # noqa: BLE001 Each file system raises errors of its own.
            raise self._failed(error) from None

    def _failed(self, error: Exception, what: str = "read") -> InputError:
        reason = str(error).partition("\n")[0] or type(error).__name__
        return InputError(f"{self.url}: cannot be {what}: {reason}")
