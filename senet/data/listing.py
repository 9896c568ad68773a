"""The pictures of a set before any is read: found in folders or named by a CSV file, each with its labels."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from senet.data.aliases import Labels
from senet.data.pictures import printable
from senet.data.sources import File, Folder, Source
from senet.errors import InputError

FOLDERS_DEEP = 2
MAX_UNREADABLE_PERCENT = 5


@dataclass
class Listing:
    """The files of one set, in the order of their names."""

    what: str
    """what a group of labels is called: class or combination"""
    path: Path
    """the folder, archive or CSV file, for messages"""
    source: Source
    """what the files are read from"""
    files: list[File] = field(default_factory=list)
    """after decoding, those that were kept"""
    groups: set[tuple[str, ...]] = field(default_factory=set)
    """every set of labels, also of an empty folder"""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """path and reason of what is no readable picture"""
    dropped: list[tuple[str, str]] = field(default_factory=list)
    """path and reason of what the policy leaves out"""
    padded: int = 0
    """how many of the files get borders"""

    def skip(self, name: str, reason: str) -> None:
        """Note a file that is left out."""
        self.skipped.append((self.source.shown(name), reason))


def list_classes(path: Path) -> Listing:
    """One folder a class, or InputError."""
    source = Folder(path)
    listing = Listing("class", path, source)
    for folder in _label_folders(listing, "the base pictures, one folder a class"):
        check_class_name(folder.name, printable(folder))
        _add_folder(listing, source, folder, (folder.name,))
    check_classes(listing)
    return listing


def check_class_name(name: str, where: str) -> None:
    """Raise InputError where combinations of labels could not be told apart."""
    if "+" in name or ";" in name or not name.isprintable():
        raise InputError(f"{where}: the name of a class must be plain text without `+` and `;`")


def check_classes(listing: Listing) -> None:
    """Raise InputError where there are fewer than two."""
    if len(listing.groups) < 2:
        raise InputError(f"{printable(listing.path)}: {len(listing.groups)} class folders, but at least two are needed")


def list_combinations(path: Path, labels: Labels, classes: list[str]) -> Listing:
    """One folder `A+B` a combination, or a CSV file of `file,labels`, or InputError."""
    if os.path.isfile(path):
        return _list_csv(path, labels)
    source = Folder(path)
    listing = Listing("combination", path, source)
    for folder in _label_folders(listing, "the streaming pictures, one folder `A+B` a combination, or be a CSV file"):
        _add_folder(listing, source, folder, labels.parse(folder.name, "+", printable(folder)))
    if not listing.groups:
        raise InputError(f"{printable(path)}: no folders; one a combination is needed, say `{'+'.join(classes[:2])}`")
    return listing


def no_combinations(path: Path) -> Listing:
    """The empty streaming set of a data set that has none."""
    return Listing("combination", path, Folder(path))


def _label_folders(listing: Listing, what: str) -> Iterator[Path]:
    """The folders right below the root; files beside them belong to no label."""
    if not os.path.isdir(listing.path):
        raise InputError(f"{printable(listing.path)}: no such folder; it should hold {what}")
    for path in _entries(listing.path):
        if os.path.isdir(path):
            yield path
        else:
            listing.skip(path.name, "lies beside the folders, so it has no label")


def _add_folder(listing: Listing, source: Folder, folder: Path, labels: tuple[str, ...], depth: int = 1) -> None:
    """List the files of one class or combination."""
    listing.groups.add(labels)
    for path in _entries(folder):
        name = path.relative_to(source.path).as_posix()
        if os.path.isdir(path) and depth == FOLDERS_DEEP:
            raise InputError(f"{printable(path)}: too deep; pictures lie in a label's folder or one folder below")
        if os.path.isdir(path):
            _add_folder(listing, source, path, labels, depth + 1)
        elif path.is_symlink() and not _inside(path, source.path):
            listing.skip(name, "link out of the folder")
        elif not os.path.isfile(path):
            listing.skip(name, "broken link, or no regular file")
        else:
            listing.files.append(source.file(name, labels))


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


def _list_csv(path: Path, labels: Labels) -> Listing:
    source = Folder(path.parent)
    listing = Listing("combination", path, source)
    first_line: dict[str, int] = {}
    for line, file, text in _csv_rows(path):
        where = f"{printable(path)}:{line}"
        name, real = _csv_file(path.parent, file, where)
        if real in first_line:
            raise InputError(f"{where}: file `{printable(file)}` is listed twice, first in line {first_line[real]}")
        first_line[real] = line
        listing.files.append(source.file(name, labels.parse(text, ";", where)))
    if not listing.files:
        raise InputError(f"{printable(path)}: no pictures are listed; a line `file,labels` for each is needed")
    listing.files.sort(key=lambda file: file.name.split("/"))  # as the same files come from folders
    listing.groups = {file.labels for file in listing.files}
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


def check_listings(bases: Listing, streams: Listing, least: int) -> None:
    """Raise InputError where too much was skipped, a class or combination has fewer than `least` pictures, or there are
    no more classes than labels of one picture: whatever is guessed is then right.

    What the policy drops is readable.
    """
    most = max((len(labels) for labels in streams.groups), default=1)
    if len(bases.groups) <= most:
        raise InputError(
            f"{printable(bases.path)}: {len(bases.groups)} class folders, but at least {most + 1} are needed where a "
            f"picture has {most} labels"
        )
    skipped, dropped = bases.skipped + streams.skipped, bases.dropped + streams.dropped
    total = len(skipped) + len(dropped) + len(bases.files) + len(streams.files)
    first = "; skipped: " + ", ".join(f"{name} ({reason})" for name, reason in skipped[:3]) if skipped else ""
    if len(skipped) * 100 > total * MAX_UNREADABLE_PERCENT:
        paths = ", ".join(dict.fromkeys([printable(bases.path), printable(streams.path)]))
        raise InputError(
            f"{paths}: {len(skipped)} of {total} files are no readable pictures, but at most "
            f"{MAX_UNREADABLE_PERCENT} % may be{first}"
        )
    for part in (bases, streams):
        counts = Counter(file.labels for file in part.files)
        for group in sorted(part.groups):
            if counts[group] < least:
                left = (
                    "; left out by the policy: " + ", ".join(f"{n} ({why})" for n, why in dropped[:3])
                    if dropped
                    else ""
                )
                raise InputError(
                    f"{printable(part.path)}: {part.what} `{'+'.join(group)}` has {counts[group]} readable pictures, "
                    f"but at least {least} are needed{first}{left}"
                )
