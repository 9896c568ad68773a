"""The folder of a collection: its files, and the choices of the person who looked through them.

OUT/mixes/A+B/NAME.ext      pictures that are kept, as `senet data import --stream OUT/mixes` takes them
OUT/rejected/A+B/NAME.ext   pictures that somebody unticked
OUT/manifest.jsonl          what became of every address
OUT/contact-sheet.html      to look through, tick, and save as
OUT/choices.json            {"A+B/NAME.ext": true, …}
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from senet.data.collect.manifest import Manifest, Record, State
from senet.errors import InputError
from senet.files import write_atomically


class Folder:
    """A collection on disk. Make it in `locked`, so that no other call writes there."""

    def __init__(self, path: Path) -> None:
        self.mixes, self.rejected = path / "mixes", path / "rejected"
        self.sheet, self.choices = path / "contact-sheet.html", path / "choices.json"
        self.manifest = Manifest(path / "manifest.jsonl")

    def place(self, record: Record) -> Path:
        """Where the picture of a record belongs."""
        return (self.rejected if record.state is State.REJECTED else self.mixes) / str(record.file)

    def add(self, record: Record, content: bytes) -> None:
        """Add a picture. A kill in between leaves a record without a file, which the next call fetches again."""
        self.manifest.put(record)
        write_atomically(self.place(record), content)

    def missing(self, record: Record) -> bool:
        """Whether a picture that should be kept has no file."""
        return record.state is State.KEPT and not self.place(record).exists()

    def tidy(self) -> None:
        """Put every file where its record says, and remove what a kill left half-written."""
        for root in (self.mixes, self.rejected):
            for litter in root.glob("*/.[0-9a-f]*-*"):
                litter.unlink()
        for record in self.manifest:
            if record.got:
                place = self.place(record)
                elsewhere = (self.mixes if record.state is State.REJECTED else self.rejected) / str(record.file)
                if elsewhere.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(elsewhere, place)
                    with suppress(OSError):  # It may hold others.
                        elsewhere.parent.rmdir()

    def apply(self, choices: Path | None) -> None:
        """Keep what is ticked and reject what is not.

        Args:
            choices: a file that the contact sheet saved; not given: the one in this folder, if there is one. It is
                copied here, so that a later call does not go back to older choices. What the one here says of a picture
                that is gone waits until it is back.

        Raises:
            InputError: the file is wrong, or the one given is of another collection.
        """
        source = choices or self.choices
        if choices is not None or source.exists():
            ticked = _read_choices(source)
            pictures = {record.file: record for record in self.manifest if record.got}
            unknown = [name for name in ticked if name not in pictures]
            if choices is not None and unknown:
                raise InputError(f"{source}: `{unknown[0]}` is no picture of this collection")
            write_atomically(self.choices, json.dumps(ticked, indent=1, ensure_ascii=False).encode())
            for name, keep in ticked.items():
                state = State.KEPT if keep else State.REJECTED
                if name in pictures and pictures[name].state is not state:
                    self.manifest.put(pictures[name].model_copy(update={"state": state}))
        self.tidy()


@contextmanager
def locked(path: Path) -> Iterator[Folder]:
    """The collection in a folder, which is made where there is none; for this process alone.

    Raises:
        InputError: another call works there; its manifest is damaged; it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("w")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{path}: another call is collecting there; wait for it, or name another --output"
            ) from None
        yield Folder(path)


def _read_choices(path: Path) -> dict[str, bool]:
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not JSON; save it anew with the button on the contact sheet") from None
    if not isinstance(values, dict) or not all(isinstance(value, bool) for value in values.values()):
        raise InputError(f'{path}: must be {{"A+B/NAME.jpg": true, …}}, as the contact sheet saves it')
    return values
