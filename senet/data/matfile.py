"""Strings in a MATLAB file of level 5, the published form of lists, read in little memory whatever the file claims.

`scipy.io.loadmat` inflates without a bound, takes claimed lengths for true, and recurses as deep as the file says.

A file is a header of 128 bytes, then elements: type and length, 4 bytes each, and the content. One of at most four
bytes may lie in the second half of its tag. A matrix holds further elements: flags, dimensions, name and values; the
values of a cell array are matrices again.
"""

import struct
import zlib
from collections.abc import Iterator
from itertools import islice

MAX_BYTES = 4 * 2**20
"""of a file that is read"""
_MAX_INFLATED_BYTES = 16 * 2**20

_HEADER_BYTES = 128
_ORDERS = {b"IM": "<", b"MI": ">"}
_MATRIX, _COMPRESSED = 14, 15
_CELLS, _CHARACTERS = 1, 4
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


def read_strings(content: bytes, name: str) -> list[str]:
    """The strings in the cell array of this name. Raises ValueError, in one line, where there is no such thing."""
    order = _ORDERS.get(content[_HEADER_BYTES - 2 : _HEADER_BYTES])
    if order is None:
        raise ValueError("no MATLAB file of level 5")
    for kind, matrix in _variables(memoryview(content)[_HEADER_BYTES:], order):
        what, found, values = _matrix(kind, matrix, order)
        if what == _CELLS and found == name.encode():
            return [_string(kind, value, order) for kind, value in values]
    raise ValueError("no such cell array")


def _variables(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """The elements of a file, inflated."""
    room = _MAX_INFLATED_BYTES
    for kind, content in _elements(data, order):
        if kind == _COMPRESSED:
            inflated = _inflated(content, room)
            room -= len(inflated)
            yield from islice(_elements(memoryview(inflated), order), 1)
        else:
            yield kind, content


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of one element after the other."""
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise ValueError("truncated")
        kind, length = struct.unpack_from(f"{order}II", data, at)
        start, end = at + 8, at + 8 + length
        if kind >> 16:
            kind, length = kind & 0xFFFF, kind >> 16
            start, end = at + 4, at + 4 + min(length, 4)
        if end > len(data):
            raise ValueError("truncated")
        yield kind, data[start:end]
        # All but compressed ones are filled up to a multiple of eight bytes.
        at = end if kind == _COMPRESSED else end + (at - end) % 8


def _matrix(kind: int, content: memoryview, order: str) -> tuple[int, bytes, Iterator[tuple[int, memoryview]]]:
    """Class, name and values of a matrix."""
    elements = _elements(content, order)
    head = [bytes(part) for _, part in islice(elements, 3)]
    if kind != _MATRIX or len(head) < 3 or len(head[0]) < 4:
        raise ValueError("no matrix")
    (flags,) = struct.unpack_from(f"{order}I", head[0])
    return flags & 0xFF, head[2], elements


def _string(kind: int, content: memoryview, order: str) -> str:
    what, _, values = _matrix(kind, content, order)
    found = list(islice(values, 1))
    if what != _CHARACTERS or not found or found[0][0] not in _ENCODINGS:
        raise ValueError("not all of its cells are strings")
    encoding = _ENCODINGS[found[0][0]]
    if encoding in ("utf-16", "utf-32"):
        encoding += "-le" if order == "<" else "-be"
    return str(found[0][1], encoding)


def _inflated(content: memoryview, room: int) -> bytes:
    """A compressed element, if it has at most `room` bytes."""
    inflater = zlib.decompressobj()
    try:
        found = inflater.decompress(content, room + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(found) > room:
        raise ValueError(f"inflates to more than {_MAX_INFLATED_BYTES // 2**20} MiB")
    if not inflater.eof:
        raise ValueError("truncated")
    return found
