"""The images file of a set in the making, and what became of each picture file, so that killed work can go on.

Both only grow, a chunk of files at a time. A chunk's line in the journal holds the checksum of its pixels: whatever was
not written whole does not count.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from senet.data.store import HEADER_BYTES, images_header

State = Literal["kept", "padded", "dropped", "unreadable"]


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    state: State
    reason: str = ""
    """why it was not kept"""
    digest: str = ""
    """SHA-256 of the file, where it was kept"""

    @property
    def kept(self) -> bool:
        """Whether it is a picture of the data set."""
        return self.state in ("kept", "padded")


class Journal:
    """Appends pictures, (size, size, 3) each, to `FOLDER/SET.images.npy`, and outcomes to a journal."""

    def __init__(self, images: Path, journal: Path, size: int) -> None:
        """Open both, and take up what is there, up to the last chunk that is whole."""
        self.outcomes: list[Outcome] = []
        self._size = size
        self._rows = 0
        self._images = os.open(images, os.O_RDWR | os.O_CREAT, 0o644)
        self._journal = os.open(journal, os.O_RDWR | os.O_CREAT, 0o644)
        self._end = self._take_up(journal.read_bytes())
        os.ftruncate(self._journal, self._end)
        os.ftruncate(self._images, self._offset())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._images)
        os.close(self._journal)

    def add(self, outcomes: Sequence[Outcome], pixels: Sequence[npt.NDArray[np.uint8]]) -> None:
        """Append a chunk: what became of its files, and the pictures that were kept."""
        content = np.ascontiguousarray(np.stack(pixels)).data.cast("B") if pixels else memoryview(b"")
        files = [[one.state, one.reason, one.digest] for one in outcomes]
        line = json.dumps({"pixels": hashlib.sha256(content).hexdigest(), "files": files}).encode() + b"\n"
        _write(self._images, content, self._offset())
        _write(self._journal, memoryview(line), self._end)
        self._end += len(line)
        self._rows += len(pixels)
        self.outcomes += outcomes

    def finish(self) -> None:
        """Make the images file an array of all that was kept."""
        _write(self._images, memoryview(images_header(self._rows, self._size)), 0)

    def _offset(self) -> int:
        return HEADER_BYTES + self._rows * self._size**2 * 3

    def _take_up(self, lines: bytes) -> int:
        """Read a journal as far as it is true; returns how many of its bytes that is."""
        end = 0
        for line in lines.splitlines(keepends=True):
            try:
                chunk: dict[str, Any] = json.loads(line)
                outcomes = [Outcome(*file) for file in chunk["files"]]
                kept = sum(one.kept for one in outcomes)
                content = os.pread(self._images, kept * self._size**2 * 3, self._offset())
                whole = line.endswith(b"\n") and hashlib.sha256(content).hexdigest() == chunk["pixels"]
            except (ValueError, KeyError, TypeError):
                break
            if not whole:
                break
            self.outcomes += outcomes
            self._rows += kept
            end += len(line)
        return end


def _write(file: int, content: memoryview, offset: int) -> None:
    """Write all of `content`; a full disk raises OSError."""
    while content:
        written = os.pwrite(file, content, offset)
        content, offset = content[written:], offset + written
