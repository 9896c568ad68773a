"""From listed files to a data set: decoded by all cores in bounded memory, and resumed where it was killed.

Work is done in a hidden folder beside the data set, whose name is a hash of the request: of all options, and of name,
length and time of the last change of every file. The same command finds it again and goes on.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from senet.data.duplicates import Duplicates, find_duplicates
from senet.data.journal import Journal, Outcome
from senet.data.listing import Listing, check_listings
from senet.data.pictures import Decoder, Dropped, Unreadable, decoding_threads, printable
from senet.data.sources import File, Source
from senet.data.splits import SHARES, SplitName, least_pictures, split_pictures
from senet.data.store import (
    UNUSED,
    DatasetWriter,
    MultiLabelKind,
    Policy,
    SetName,
    check_room,
    command_line,
    image_chunks,
    split_note,
)
from senet.data.workspace import Workspace, refuse_existing
from senet.errors import InputError

MIN_SIZE, MAX_SIZE = 16, 1024

# Raised when the same request would give another data set: what was begun before is then not taken up.
_ALGORITHM = 4
_CHUNK_FILES, _CHUNK_BYTES = 64, 16 * 2**20
_TOGETHER = 8
_AHEAD_BYTES = 64 * 2**20
_SHOWN = 8


@dataclass(frozen=True)
class Request:
    """What is to be imported, and how."""

    base: Listing
    streaming: Listing
    classes: list[str]
    kind: MultiLabelKind
    size: int
    """side of the prepared pictures, pixels"""
    policy: Policy
    split: SplitName
    seed: int
    command: tuple[object, ...]
    """the command that imports the same"""
    source: dict[str, Any]
    """what else the manifest says of the source"""
    test: frozenset[str] = frozenset()
    """names of the base files that the `official` split tests on"""

    def sets(self) -> dict[SetName, Listing]:
        """Both listings, in the order of the data set."""
        return {"base": self.base, "streaming": self.streaming}

    def key(self) -> str:
        """16 hex digits that no other request has."""
        about = [_ALGORITHM, self.classes, self.kind, self.size, self.policy, self.split, self.seed, sorted(self.test)]
        about += [printable(command_line(*self.command)), self.source]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for listing in self.sets().values():
            for file in listing.files:
                digest.update(
                    repr((file.name, file.labels, file.size, file.version)).encode("utf-8", "surrogateescape")
                )
            digest.update(repr(listing.skipped).encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class ImportReport:
    """What an import took and what it left."""

    base_pictures: int
    streaming_pictures: int
    classes: int
    combinations: int
    """distinct sets of labels among the streaming pictures"""
    several: bool = True
    """whether one of them has more than one label"""
    skipped: tuple[tuple[str, str], ...] = ()
    """(path, reason) of every file that is no readable picture"""
    dropped: tuple[tuple[str, str], ...] = ()
    """(path, reason) of every picture that the policy leaves out"""
    padded: int = 0
    """pictures with borders"""
    exact_duplicates: int = 0
    """pictures whose file has the bytes of an earlier one"""
    near_duplicates: int = 0
    """further pictures that nearly are what another one is"""
    unused: int = 0
    """pictures in no split, since they duplicate one that is tested on"""
    conflicts: tuple[tuple[str, str], ...] = ()
    """(path, reason) of every picture that duplicates one of the same set with other labels"""
    note: str = ""
    """what must be said of the split"""
    duplicate_seconds: float = field(default=0.0, compare=False)
    """that the search for duplicates took"""

    def lines(self) -> list[str]:
        """A few plain lines for a terminal; the first files that were left out are named."""
        lines = [f"base: {self.base_pictures} pictures of {self.classes} classes"]
        if self.streaming_pictures:
            without = "" if self.several else ", none of which has several labels"
            lines.append(f"streaming: {self.streaming_pictures} pictures of {self.combinations} combinations{without}")
        else:
            lines.append("streaming: none, so that only `protocol: single_label` can use it")
        if self.padded:
            lines.append(f"padded: {self.padded} pictures got borders")
        lines += _named(self.dropped, "dropped: {} pictures that the policy leaves out; the manifest names all")
        lines += _named(self.skipped, "skipped: {} files that are no readable pictures; the manifest names all")
        if self.exact_duplicates or self.near_duplicates:
            lines.append(
                f"duplicates: {self.exact_duplicates} exact, {self.near_duplicates} near, each in the split of what it "
                f"duplicates; duplicates.txt names all (search: {self.duplicate_seconds:.1f} s)"
            )
        lines += _named(self.conflicts, "labels differ: {} of the duplicates; duplicates.txt names all")
        if self.unused:
            lines.append(f"unused: {self.unused} pictures that duplicate pictures of another split")
        return lines + ([self.note] if self.note else [])


def _named(files: tuple[tuple[str, str], ...], heading: str) -> list[str]:
    shown = [f"  {path}: {reason}" for path, reason in files[:_SHOWN]]
    return [heading.format(len(files)), *shown] if files else []


def check_options(size: int, seed: int) -> None:
    """Raise InputError where one is out of its range."""
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise InputError(f"`size` must be {MIN_SIZE} to {MAX_SIZE} pixels, but got {size}")
    if seed < 0:
        raise InputError(f"`seed` must be 0 or more, but got {seed}")


def run_import(target: Path, request: Request, replace: bool) -> ImportReport:
    """Make the data set `target`, or go on making it.

    Raises:
        InputError: the pictures are not as they must be, or `target` exists and is not to be replaced. Nothing is left.
    """
    refuse_existing(target, replace)
    # Before the long decoding, and again when it is known what can be read.
    check_listings(request.base, request.streaming, least_pictures(request.split))
    workspace = Workspace.claim(target, request.key())
    try:
        report = _made(workspace, request)
        workspace.publish(workspace.folder / "data", replace)
    except InputError:
        workspace.remove()
        raise
    except BaseException:
        # Killed, interrupted, or the disk is full: the same command goes on from here.
        workspace.release()
        raise
    workspace.remove()
    return report


def _made(workspace: Workspace, request: Request) -> ImportReport:
    """The data set, complete, in the workspace's `data`."""
    folder = workspace.folder / "data"
    folder.mkdir(exist_ok=True)
    digests: list[str] = []
    for which, listing in request.sets().items():
        images = folder / f"{which}.images.npy"
        with Journal(images, workspace.folder / f"{which}.journal", request.size) as journal:
            _decode_all(journal, images, listing, request)
        digests += _sort_out(listing, journal.outcomes)
        check_listings(request.base, request.streaming, least_pictures(request.split))
    chunks = chain.from_iterable(image_chunks(folder / f"{which}.images.npy") for which in request.sets())
    duplicates = find_duplicates(digests, chunks, len(request.base.files))
    return _finish(DatasetWriter(folder), request, duplicates, digests)


def _decode_all(journal: Journal, images: Path, listing: Listing, request: Request) -> None:
    """Append all files of a set to its journal that are not there yet."""
    each = request.size**2 * 3
    files = listing.files[len(journal.outcomes) :]
    check_room(images, len(files) * each)
    outcomes: list[Outcome] = []
    pixels: list[npt.NDArray[np.uint8]] = []
    decoder = Decoder(request.size, request.policy)
    for outcome, picture in _decoded(decoder, listing.source, files, _AHEAD_BYTES // each):
        outcomes.append(outcome)
        pixels += [] if picture is None else [picture]
        if len(outcomes) == max(1, min(_CHUNK_FILES, _CHUNK_BYTES // each)):
            journal.add(outcomes, pixels)
            outcomes, pixels = [], []
    if outcomes:
        journal.add(outcomes, pixels)
    journal.finish()


_Decoded = tuple[Outcome, npt.NDArray[np.uint8] | None]


def _decoded(decoder: Decoder, source: Source, files: list[File], ahead: int) -> Iterator[_Decoded]:
    """What becomes of each file, in their order; threads are at most `ahead` files ahead of who asks."""
    with decoding_threads() as (pool, threads):
        # Threads that take several files at a time wait less for each other.
        each = max(1, min(_TOGETHER, ahead // (4 * threads)))
        rest = iter([files[start : start + each] for start in range(0, len(files), each)])
        waiting: deque[Future[list[_Decoded]]] = deque()
        for some in islice(rest, min(ahead, 4 * threads)):
            waiting.append(pool.submit(_decode_some, decoder, source, some))
        while waiting:
            yield from waiting.popleft().result()
            for some in islice(rest, 1):
                waiting.append(pool.submit(_decode_some, decoder, source, some))


def _decode_some(decoder: Decoder, source: Source, files: list[File]) -> list[_Decoded]:
    return [_decode(decoder, source, file) for file in files]


def _decode(decoder: Decoder, source: Source, file: File) -> _Decoded:
    try:
        with decoder.reading(file.size):
            content = source.read(file)
            picture = decoder.decode(content)
    except Unreadable as error:
        return Outcome("unreadable", str(error)), None
    except Dropped as error:
        return Outcome("dropped", str(error)), None
    return Outcome("padded" if picture.padded else "kept", "", hashlib.sha256(content).hexdigest()), picture.pixels


def _sort_out(listing: Listing, outcomes: list[Outcome]) -> list[str]:
    """Leave in the listing what was kept; returns the digests of that."""
    pairs = list(zip(listing.files, outcomes, strict=True))
    for file, outcome in pairs:
        if outcome.state == "unreadable":
            listing.skip(file.name, outcome.reason)
        elif outcome.state == "dropped":
            listing.dropped.append((listing.source.shown(file.name), outcome.reason))
        listing.padded += outcome.state == "padded"
    listing.files = [file for file, outcome in pairs if outcome.kept]
    return [outcome.digest for _, outcome in pairs if outcome.kept]


def _finish(writer: DatasetWriter, request: Request, duplicates: Duplicates, digests: list[str]) -> ImportReport:
    """Labels, splits, texts and the manifest."""
    splits = _split(request, duplicates, digests)
    for which, listing in request.sets().items():
        hot = {group: [name in group for name in request.classes] for group in listing.groups}
        labels = np.array([hot[file.labels] for file in listing.files], np.bool_).reshape(-1, len(request.classes))
        writer.write_labels(which, labels, splits[which])
        _write_lines(writer.folder / f"{which}.files.txt", [printable(file.name) for file in listing.files])
    shown = [listing.source.shown(file.name) for listing in request.sets().values() for file in listing.files]
    groups = [[*(shown[i] for i in members), ""] for members in duplicates.members()]
    _write_lines(writer.folder / "duplicates.txt", list(chain.from_iterable(groups)))
    split = {"name": request.split, "seed": request.seed, "shares": SHARES[request.split]}
    report = ImportReport(
        base_pictures=len(request.base.files),
        streaming_pictures=len(request.streaming.files),
        classes=len(request.classes),
        combinations=len(request.streaming.groups),
        several=any(len(labels) > 1 for labels in request.streaming.groups),
        skipped=tuple(request.base.skipped + request.streaming.skipped),
        dropped=tuple(request.base.dropped + request.streaming.dropped),
        padded=request.base.padded + request.streaming.padded,
        exact_duplicates=duplicates.exact,
        near_duplicates=duplicates.near,
        conflicts=tuple(_conflicts(request, duplicates)),
        unused=int(sum((part == UNUSED).sum() for part in splits.values())),
        note=split_note({"split": split}),
        duplicate_seconds=duplicates.seconds,
    )
    writer.finish(request.classes, request.kind, _manifest_source(request, report), split)
    return report


def _conflicts(request: Request, duplicates: Duplicates) -> Iterator[tuple[str, str]]:
    """The pictures of each set that duplicate one of the same set with other labels, and what they duplicate."""
    places = [(which, file, listing) for which, listing in request.sets().items() for file in listing.files]
    for members in duplicates.members():
        first: dict[SetName, tuple[File, str]] = {}
        for which, file, listing in (places[i] for i in members):
            name = listing.source.shown(file.name)
            earlier, shown = first.setdefault(which, (file, name))
            if earlier.labels != file.labels:
                yield name, f"is nearly {shown}, or equal"


def _split(request: Request, duplicates: Duplicates, digests: list[str]) -> dict[SetName, npt.NDArray[np.uint8]]:
    sets = request.sets()
    strata = {which: ["+".join(file.labels) for file in listing.files] for which, listing in sets.items()}
    test = None
    if request.split == "official":
        given = [file.name in request.test for file in request.base.files]
        test = np.array(given + [False] * len(request.streaming.files))
    return split_pictures(request.split, strata, duplicates.groups, duplicates.base_groups, digests, request.seed, test)


def _manifest_source(request: Request, report: ImportReport) -> dict[str, Any]:
    return {
        **request.source,
        "command": printable(command_line(*request.command)),
        "size": request.size,
        "seed": request.seed,
        "policy": request.policy,
        "padded": report.padded,
        "dropped": dict(report.dropped),
        "skipped": dict(report.skipped),
        "exact_duplicates": report.exact_duplicates,
        "near_duplicates": report.near_duplicates,
        "unused": report.unused,
    }


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
