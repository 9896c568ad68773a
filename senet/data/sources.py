"""Where pictures are read from: folders, and tar archives, which are read where they lie and never unpacked."""

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from senet.data.pictures import MAX_FILE_BYTES, Unreadable, printable
from senet.errors import InputError

# tarfile reads a header's extension whole into memory, whatever length it claims.
_MAX_HEADER_BYTES = 2**16
_BLOCK = 512


@dataclass(frozen=True)
class File:
    """A file of a source, before it is read."""

    name: str
    """path in the source, parts separated by `/`"""
    labels: tuple[str, ...]
    """sorted"""
    size: int
    """bytes"""
    version: int
    """time of the last change, of the file or of the archive, nanoseconds: a changed file is another one"""


class Source(Protocol):
    """What files are read from, by several threads at once."""

    path: Path
    """for messages"""

    def read(self, file: File) -> bytes:
        """The content. Raises Unreadable."""

    def shown(self, name: str) -> str:
        """A file's name for people."""


class Folder:
    """Files below a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, file: File) -> bytes:
        """The content of a file. Raises Unreadable where it is gone or has grown."""
        try:
            with (self.path / file.name).open("rb") as opened:
                # A byte more than is expected tells whether it has grown.
                content = opened.read(file.size + 1)
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from None
        if len(content) != file.size:
            raise Unreadable("changed while it was read")
        return content

    def shown(self, name: str) -> str:
        """The path."""
        return printable(self.path / name)

    def file(self, name: str, labels: tuple[str, ...]) -> File:
        """The file `name` as it is now."""
        about = (self.path / name).stat()
        return File(name, labels, about.st_size, about.st_mtime_ns)


class Archive:
    """The regular files in an uncompressed tar archive, indexed once.

    Raises:
        InputError: it is no such archive, compressed, truncated or damaged; or it holds a link, a device, a path that
            is absolute or leads out, or one path twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, tuple[int, int]] = {}
        """place and length in bytes, by name, in the archive's order"""
        try:
            self._file = _Headers(path)
        except OSError as error:
            raise InputError(f"{printable(path)}: cannot be read ({error.strerror})") from None
        with _index(self._file, printable(path)) as archive:
            last = -1
            for member in archive:
                self._add(member, last)
                last = member.offset_data
            self._check_end(archive.offset)

    def read(self, file: File) -> bytes:
        """The content of a file; threads do not disturb each other. Raises Unreadable."""
        return self.content(file.name)

    def content(self, name: str) -> bytes:
        """The content of the file `name`. Raises Unreadable where the archive has become shorter."""
        start, length = self.files[name]
        if length > MAX_FILE_BYTES:
            raise Unreadable(f"a file of {length / 2**20:.0f} MiB")
        content = b""
        try:
            while len(content) < length:
                part = os.pread(self._file.fileno(), length - len(content), start + len(content))
                if not part:
                    raise Unreadable("changed while it was read")
                content = content + part if content else part
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from None
        return content

    def shown(self, name: str) -> str:
        """The archive's path and the member's."""
        return f"{printable(self.path)}:{printable(name)}"

    def file(self, name: str, labels: tuple[str, ...]) -> File:
        """The file `name`."""
        return File(name, labels, self.files[name][1], self._file.changed)

    def _add(self, member: tarfile.TarInfo, last: int) -> None:
        """Note a member, or refuse the archive."""
        where = f"{printable(self.path)}: `{printable(member.name)}`"
        parts = PurePosixPath(member.name).parts
        if member.size < 0 or member.offset_data <= last:
            raise InputError(f"{printable(self.path)}: damaged: sizes that cannot be; copy or download it again")
        if member.issym() or member.islnk():
            raise InputError(f"{where} is a link, which is not followed; pack the archive anew without links")
        if not (member.isreg() or member.isdir()) or member.issparse():
            raise InputError(f"{where} is no regular file; an archive of pictures holds files and folders alone")
        if member.name.startswith("/") or ".." in parts or "\0" in member.name:
            raise InputError(f"{where} leads out of the archive; paths must be relative and without `..`")
        if member.isdir():
            return
        name = "/".join(part for part in parts if part != ".")
        if name in self.files:
            raise InputError(f"{where} is in the archive twice")
        if member.offset_data + member.size > self._file.length:
            raise InputError(f"{where} is cut off: the archive is truncated; copy or download it again")
        self.files[name] = (member.offset_data, member.size)

    def _check_end(self, offset: int) -> None:
        """tarfile takes whatever it does not understand for the end."""
        if os.pread(self._file.fileno(), _BLOCK, offset) != bytes(_BLOCK):
            raise InputError(
                f"{printable(self.path)}: truncated or damaged at byte {offset}, after {len(self.files)} files; copy "
                f"or download it again"
            )


class _Headers(io.FileIO):
    """An archive from which only headers are read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        about = os.fstat(self.fileno())
        self.length, self.changed = about.st_size, about.st_mtime_ns

    def read(self, size: int | None = -1, /) -> bytes:
        """At most a header's length."""
        if size is None or not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size) or b""


@contextmanager
def _index(file: _Headers, shown: str) -> Iterator[tarfile.TarFile]:
    """The archive, to be iterated; all that tarfile may raise becomes one line."""
    if os.pread(file.fileno(), 6, 0).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        raise InputError(
            f"{shown}: is compressed, so that files cannot be found in it; unpack it to a plain .tar first"
        )
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            yield archive
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 A damaged header makes it raise nearly anything.
        reason = _first_line(error)
        raise InputError(
            f"{shown}: no tar archive, truncated or damaged ({reason}); copy or download it again"
        ) from None


def _first_line(error: Exception) -> str:
    return printable(str(error).partition("\n")[0] or type(error).__name__)
