"""The manifest of a collection, `manifest.jsonl`: one line a picture, what became of it and where it comes from."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt, ValidationError, model_validator

from senet.config import Config
from senet.data.collect.examine import SUFFIXES
from senet.data.collect.spec import labels_of
from senet.errors import InputError
from senet.files import write_atomically

_DIGITS_IN_NAME = 16


class State(StrEnum):
    """What became of an address."""

    KEPT = "kept"
    """its picture lies in the folder of its mix"""
    REJECTED = "rejected"
    """somebody unticked it; its picture lies apart"""
    DROPPED = "dropped"
    """there is no picture, or none that is wanted; never asked for again"""
    FAILED = "failed"
    """there was no answer; the next call asks again"""


class Record(Config):
    """A line of the manifest."""

    file: str | None = None
    """`A+B/NAME.ext`, of a picture that was got"""
    labels: Annotated[list[str], Field(min_length=1)]
    """of the mix"""
    url: str
    """where the file lies on the web"""
    page: str | None = None
    """web page about the picture"""
    licence: str | None = None
    """name of the licence, where the source says it"""
    author: str | None = None
    """plain text"""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """of the file"""
    size: Annotated[list[NonNegativeInt], Field(min_length=2, max_length=2)] | None = None
    """width and height, pixels"""
    phash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """perceptual hash, by which near-duplicates are told"""
    state: State
    """what became of it"""
    reason: str = ""
    """why it was dropped, or what failed"""
    through: str
    """the source it was found through"""

    @property
    def mix(self) -> str:
        """The mix that it was found for, `A+B`."""
        return "+".join(self.labels)

    @property
    def got(self) -> bool:
        """Whether there is a file, kept or rejected."""
        return self.state in (State.KEPT, State.REJECTED)

    @model_validator(mode="after")
    def _whole(self) -> "Record":
        labels_of(self.mix)
        if self.got and not (self.file and self.sha256 and self.size and self.phash):
            raise ValueError(f"a picture that is {self.state} needs `file`, `sha256`, `size` and `phash`")
        # The file is moved and shown: its name can only be the one that it was given.
        names = {file_name(self.mix, self.sha256, suffix) for suffix in SUFFIXES} if self.sha256 else set()
        if self.file is not None and self.file not in names:
            raise ValueError("`file` must be named after the labels and the first digits of sha256")
        return self


def file_name(mix: str, sha256: str, suffix: str) -> str:
    """`A+B/NAME.ext` of a picture."""
    return f"{mix}/{sha256[:_DIGITS_IN_NAME]}{suffix}"


class Manifest:
    """The records of a collection by mix and address; every change is on disk when it is made."""

    def __init__(self, path: Path) -> None:
        """Read the manifest at `path`, if there is one. Raises InputError where a line of it is wrong."""
        self._path = path
        self._records: dict[tuple[str, str], Record] = {}
        for record in _read(path):
            self._records[record.mix, record.url] = record
        if path.exists():
            self.tidy()

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def find(self, mix: str, url: str) -> Record | None:
        """What is known of an address that was found for a mix."""
        return self._records.get((mix, url))

    def put(self, record: Record) -> None:
        """Add a record, or another state of one, by a single write at the end of the file."""
        self._records[record.mix, record.url] = record
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab", buffering=0) as file:
            file.write(_line(record))

    def tidy(self) -> None:
        """Write one line a picture: earlier states, and a last line that a kill has torn, go."""
        write_atomically(self._path, b"".join(_line(record) for record in self))


def _read(path: Path) -> Iterator[Record]:
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    # What follows the last line end was torn by a kill.
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            yield Record.model_validate_json(line)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            raise InputError(
                f"{path}:{number}: {f'`{where}`: ' if where else ''}{message}; mend the line, or delete it and its "
                "picture is fetched again"
            ) from None


def _line(record: Record) -> bytes:
    return (record.model_dump_json() + "\n").encode()
