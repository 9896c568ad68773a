"""Data sets from image folders: one folder a class, one folder or one CSV line a combination of classes.

BASE/CLASS/x.jpg            one label a picture; BASE/CLASS/ANY/x.jpg as well
STREAM/A+B/x.jpg            one or more labels a picture, each a class of BASE
STREAM.csv                  or a table `file,labels` with lines such as `outfits/x.jpg,A;B`
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from senet.data.pictures import POLICY, decode_pictures, printable
from senet.data.store import SPLITS, DatasetWriter, MultiLabelKind, SetName, stratified_split, writing
from senet.errors import InputError

MIN_SIZE, MAX_SIZE = 16, 1024
MAX_UNREADABLE_PERCENT = 5

_FOLDERS_DEEP = 2
_ROWS = 32
_SHOWN = 8

_Labels = tuple[str, ...]


@dataclass(frozen=True)
class ImportReport:
    """What an import took and what it left."""

    base_pictures: int
    streaming_pictures: int
    classes: int
    combinations: int
    """distinct sets of labels among the streaming pictures"""
    skipped: tuple[tuple[str, str], ...]
    """(path, reason) of every file that is no readable picture"""

    def lines(self) -> list[str]:
        """A few plain lines for a terminal; the first skipped files are named."""
        lines = [
            f"base: {self.base_pictures} pictures of {self.classes} classes",
            f"streaming: {self.streaming_pictures} pictures of {self.combinations} combinations",
        ]
        if self.skipped:
            lines.append(f"skipped: {len(self.skipped)} files that are no readable pictures; the manifest names all")
            lines += [f"  {path}: {reason}" for path, reason in self.skipped[:_SHOWN]]
        return lines


@dataclass
class _Listing:
    """The files of one set, in the order of their names."""

    what: str
    """what a group of labels is called: class or combination"""
    source: Path
    """the folder or CSV file, for messages"""
    root: Path
    """the folder that the names are relative to"""
    files: list[tuple[str, _Labels]] = field(default_factory=list)
    """name and sorted labels of each; after decoding, of the readable ones"""
    groups: set[_Labels] = field(default_factory=set)
    """every set of labels, also of an empty folder"""
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def skip(self, name: str, problem: str) -> None:
        self.skipped.append((printable(self.root / name), problem))


def import_folders(
    target: Path,
    base: Path,
    stream: Path,
    *,
    size: int = 96,
    seed: int = 0,
    replace: bool = False,
    kind: MultiLabelKind = "one object of mixed kind",
) -> ImportReport:
    """Prepare a data set from image folders; it appears at `target` whole or not at all.

    Pictures are turned upright, laid on white, converted to RGB (16-bit grey by its high byte, colour profiles are not
    applied), their shorter side scaled to `size` and the centre cut out. Hidden files are ignored. What cannot be
    decoded, or is a link out of `base` or `stream`, is skipped by name. Memory holds one picture a thread. Beside the
    arrays, `base.files.txt` and `streaming.files.txt` name the file of each picture.

    Args:
        target: the folder of the data set.
        base: one folder a class; pictures lie in it or one folder below.
        stream: one folder `A+B` a combination, or a UTF-8 CSV file: `file` (relative to its folder), `labels` (`A;B`).
        size: side of the prepared pictures, 16 to 1024 pixels.
        seed: of the splits, 0 or more.
        replace: overwrite a data set at `target`.
        kind: what several labels mean.

    Raises:
        InputError: anything above is not so; a streaming label is no class; fewer than two classes; a class or a
            combination with fewer than three readable pictures; over 5 % of all files skipped; `target` exists.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise InputError(f"`size` must be {MIN_SIZE} to {MAX_SIZE} pixels, but got {size}")
    if seed < 0:
        raise InputError(f"`seed` must be 0 or more, but got {seed}")
    bases = _list_base(base)
    classes = sorted(label for (label,) in bases.groups)
    streams = _list_stream(stream, classes)
    # Before the long decoding, and again when it is known what can be read.
    _check(bases, streams)
    sets: dict[SetName, _Listing] = {"base": bases, "streaming": streams}
    with writing(target, replace) as writer:
        for which, part in sets.items():
            _write_images(writer, which, part, size)
            _check(bases, streams)
            _write_labels(writer, which, part, classes, seed)
        writer.finish(classes, kind, _manifest_source(bases, streams, size, seed))
    skipped = tuple(bases.skipped + streams.skipped)
    return ImportReport(len(bases.files), len(streams.files), len(classes), len(streams.groups), skipped)


def _list_base(base: Path) -> _Listing:
    listing = _Listing("class", base, base)
    for folder in _label_folders(listing, "the base pictures, one folder a class"):
        # `+` and `;` separate labels in combinations.
        if "+" in folder.name or ";" in folder.name or not folder.name.isprintable():
            raise InputError(f"{printable(folder)}: the name of a class must be plain text without `+` and `;`")
        _add_folder(listing, folder, (folder.name,))
    if len(listing.groups) < 2:
        raise InputError(f"{printable(base)}: {len(listing.groups)} class folders, but at least two are needed")
    return listing


def _list_stream(stream: Path, classes: list[str]) -> _Listing:
    if os.path.isfile(stream):
        return _list_csv(stream, classes)
    listing = _Listing("combination", stream, stream)
    for folder in _label_folders(listing, "the streaming pictures, one folder `A+B` a combination, or be a CSV file"):
        _add_folder(listing, folder, _parse_labels(folder.name, "+", printable(folder), classes))
    if not listing.groups:
        raise InputError(f"{printable(stream)}: no folders; one a combination is needed, say `{'+'.join(classes[:2])}`")
    return listing


def _label_folders(listing: _Listing, what: str) -> Iterator[Path]:
    """The folders right below the root; files beside them belong to no label."""
    if not os.path.isdir(listing.root):
        raise InputError(f"{printable(listing.root)}: no such folder; it should hold {what}")
    for path in _entries(listing.root):
        if os.path.isdir(path):
            yield path
        else:
            listing.skip(path.name, "lies beside the folders, so it has no label")


def _add_folder(listing: _Listing, folder: Path, labels: _Labels, depth: int = 1) -> None:
    """List the files of one class or combination."""
    listing.groups.add(labels)
    for path in _entries(folder):
        name = path.relative_to(listing.root).as_posix()
        if os.path.isdir(path) and depth == _FOLDERS_DEEP:
            raise InputError(f"{printable(path)}: too deep; pictures lie in a label's folder or one folder below")
        if os.path.isdir(path):
            _add_folder(listing, path, labels, depth + 1)
        elif path.is_symlink() and not _inside(path, listing.root):
            listing.skip(name, "link out of the folder")
        elif not os.path.isfile(path):
            listing.skip(name, "broken link, or no regular file")
        else:
            listing.files.append((name, labels))


def _entries(folder: Path) -> list[Path]:
    """Everything in a folder that is not hidden, by name."""
    try:
        paths = [folder / name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    except OSError as error:
        raise InputError(f"{printable(folder)}: cannot be listed ({error.strerror})") from None
    for path in paths:
        # It could lead in circles, or count pictures twice.
        if path.is_symlink() and os.path.isdir(path):
            raise InputError(f"{printable(path)}: a link to a folder is not followed; put the folder itself there")
    return paths


def _inside(path: Path, root: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def _list_csv(path: Path, classes: list[str]) -> _Listing:
    listing = _Listing("combination", path, path.parent)
    first_line: dict[str, int] = {}
    for line, file, text in _csv_rows(path):
        where = f"{printable(path)}:{line}"
        name, real = _csv_file(path.parent, file, where)
        if real in first_line:
            raise InputError(f"{where}: file `{printable(file)}` is listed twice, first in line {first_line[real]}")
        first_line[real] = line
        listing.files.append((name, _parse_labels(text, ";", where, classes)))
    if not listing.files:
        raise InputError(f"{printable(path)}: no pictures are listed; a line `file,labels` for each is needed")
    listing.files.sort(key=lambda file: file[0].split("/"))  # as the same files come from folders
    listing.groups = {labels for _, labels in listing.files}
    return listing


def _csv_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, file, labels) of each row of the table."""
    shown = printable(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")  # Spreadsheets write a byte-order mark.
    except OSError as error:
        raise InputError(f"{shown}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{shown}:{line}: not UTF-8 text; save the CSV file as UTF-8") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    line = 0  # the last one that was read well
    try:
        header = reader.fieldnames or []
        if not {"file", "labels"} <= set(header):
            raise InputError(f"{shown}:1: the header must be `file,labels`, but is `{printable(','.join(header))}`")
        line = reader.line_num
        for row in reader:
            # The reader marks missing and surplus cells with None.
            if None in row or None in row.values():
                raise InputError(f"{shown}:{reader.line_num}: a row must have {len(header)} cells, as the header has")
            yield reader.line_num, row["file"], row["labels"]
            line = reader.line_num
    except csv.Error as error:
        raise InputError(f"{shown}:{line + 1}: not a row of CSV ({error})") from None


def _csv_file(root: Path, value: str, where: str) -> tuple[str, str]:
    """The file's plain name below `root` and its place after links are followed."""
    relative = PurePosixPath(value)
    if relative.is_absolute() or ".." in relative.parts or "\0" in value or not _inside(root / relative, root):
        raise InputError(f"{where}: file `{printable(value)}` must be a path inside the folder of the CSV file")
    if not os.path.isfile(root / relative):
        raise InputError(f"{where}: no such file `{printable(value)}` in {printable(root)}")
    return relative.as_posix(), os.path.realpath(root / relative)


def _parse_labels(text: str, separator: str, where: str, classes: list[str]) -> _Labels:
    """The labels of `text`, sorted. Raises InputError for an empty, repeated or unknown one."""
    labels = sorted(label.strip() for label in text.split(separator))
    for label in labels:
        if not label:
            raise InputError(f"{where}: empty label in `{printable(text)}`; labels are separated by `{separator}`")
        if label not in classes:
            known = ", ".join(classes[:_SHOWN]) + (f", … ({len(classes)} in all)" if len(classes) > _SHOWN else "")
            raise InputError(f"{where}: label `{printable(label)}` is none of the classes: {known}")
    if len(set(labels)) < len(labels):
        raise InputError(f"{where}: a label stands twice in `{printable(text)}`")
    return tuple(labels)


def _check(bases: _Listing, streams: _Listing) -> None:
    """Raises InputError where too much was skipped, or a class or combination is too small to be split."""
    skipped = bases.skipped + streams.skipped
    total = len(skipped) + len(bases.files) + len(streams.files)
    first = "; skipped: " + ", ".join(f"{name} ({reason})" for name, reason in skipped[:3]) if skipped else ""
    if len(skipped) * 100 > total * MAX_UNREADABLE_PERCENT:
        raise InputError(
            f"{printable(bases.source)}, {printable(streams.source)}: {len(skipped)} of {total} files are no readable "
            f"pictures, but at most {MAX_UNREADABLE_PERCENT} % may be{first}"
        )
    for part in (bases, streams):
        counts = Counter(labels for _, labels in part.files)
        for group in sorted(part.groups):
            if counts[group] < len(SPLITS):
                raise InputError(
                    f"{printable(part.source)}: {part.what} `{'+'.join(group)}` has {counts[group]} readable pictures, "
                    f"but at least {len(SPLITS)} are needed{first}"
                )


def _write_images(writer: DatasetWriter, which: SetName, listing: _Listing, size: int) -> None:
    """Decode all files into the set's array; afterwards both hold the readable ones only."""
    images = writer.create_images(which, len(listing.files), size)
    problems = decode_pictures([listing.root / name for name, _ in listing.files], images)
    for (name, _), problem in zip(listing.files, problems, strict=True):
        if problem:
            listing.skip(name, problem)
    kept = np.flatnonzero([not problem for problem in problems])
    listing.files = [listing.files[i] for i in kept]

    if len(kept) < len(images):
        # The old map outlives its name: rows are copied a few at a time, so memory stays bounded.
        (writer.folder / f"{which}.images.npy").unlink()
        compact = writer.create_images(which, len(kept), size)
        for start in range(0, len(kept), _ROWS):
            compact[start : start + _ROWS] = images[kept[start : start + _ROWS]]


def _write_labels(writer: DatasetWriter, which: SetName, listing: _Listing, classes: list[str], seed: int) -> None:
    """Labels, splits and the file of each picture."""
    hot = {group: [name in group for name in classes] for group in listing.groups}
    labels = np.array([hot[group] for _, group in listing.files], np.bool_)
    split = stratified_split(["+".join(group) for _, group in listing.files], seed)
    writer.write_labels(which, labels, split)
    lines = "".join(f"{printable(name)}\n" for name, _ in listing.files)
    (writer.folder / f"{which}.files.txt").write_text(lines, encoding="utf-8")


def _manifest_source(bases: _Listing, streams: _Listing, size: int, seed: int) -> dict[str, Any]:
    return {
        "importer": "folders",
        "base": printable(bases.source.absolute()),
        "stream": printable(streams.source.absolute()),
        "size": size,
        "seed": seed,
        "policy": POLICY,
        "skipped": [name for name, _ in bases.skipped + streams.skipped],
    }
