"""Stanford Dogs as it is published (Khosla et al. 2011): 20,580 photos of 120 breeds, one label each.

images.tar      Images/n02085620-Chihuahua/n02085620_10074.jpg, …; read where it lies, or the folder that it unpacks to
lists.tar       train_list.mat and test_list.mat: 100 photos of each breed to train on, 8,580 to test on
"""

from collections.abc import Sequence
from pathlib import Path

from senet.data.aliases import Labels
from senet.data.folder import option_words
from senet.data.importing import ImportReport, Request, check_options, run_import
from senet.data.listing import (
    Listing,
    check_class_name,
    check_classes,
    list_classes,
    list_combinations,
    no_combinations,
)
from senet.data.matfile import MAX_BYTES, read_strings
from senet.data.pictures import Unreadable, printable
from senet.data.sources import Archive
from senet.data.splits import SplitName
from senet.data.store import MultiLabelKind, Policy
from senet.errors import InputError

_TRAIN, _TEST = "train_list.mat", "test_list.mat"


def import_stanford_dogs(
    target: Path,
    path: Path,
    *,
    stream: Path | None = None,
    lists: Path | None = None,
    size: int = 300,
    seed: int = 0,
    replace: bool = False,
    kind: MultiLabelKind = "one object of mixed kind",
    policy: Policy = "thesis",
    split: SplitName = "default",
    aliases: Sequence[str] = (),
) -> ImportReport:
    """Prepare Stanford Dogs; it appears at `target` whole or not at all.

    Size and policy are those of the thesis unless others are given. Classes keep their published names; labels of
    `stream` may leave out the number: `Chihuahua` (`senet.data.aliases`). All else is as in `senet.data.folder`.

    Args:
        path: images.tar, or a folder that holds `Images` or is it.
        stream: the multi-label pictures, as in `import_folders`; without them the streaming set is empty.
        lists: lists.tar; with it the split is `official`: tested is on the published test list, validated on a seeded,
            stratified fifth of the training list.
        split: `default` or `thesis`, where there are no `lists`.

    Raises:
        InputError: as `import_folders`; `path` is none of these; `lists` does not fit to it.
    """
    check_options(size, seed)
    bases = _list_archive(path) if path.is_file() else _list_folder(path)
    classes = sorted(label for (label,) in bases.groups)
    labels = Labels(classes, aliases)
    streams = no_combinations(path) if stream is None else list_combinations(stream, labels, classes)
    test: frozenset[str] = frozenset()
    if lists is not None:
        split, test = "official", _official_test(lists, bases)
    command: list[object] = ["senet", "data", "import-stanford-dogs", path.absolute(), "--name", target.name]
    command += ["--stream", stream.absolute()] if stream else []
    command += ["--lists", lists.absolute()] if lists else []
    command += option_words(size, seed, policy, split, kind, aliases)
    given = {"base": path, "stream": stream, "lists": lists}
    places = {name: printable(place.absolute()) if place else None for name, place in given.items()}
    source = {"importer": "stanford_dogs", **places, "aliases": labels.given}
    request = Request(
        base=bases, streaming=streams, classes=classes, kind=kind, size=size, policy=policy, split=split, seed=seed,
        command=tuple(command), source=source, test=test,
    )  # fmt: skip
    return run_import(target, request, replace)


def _list_folder(path: Path) -> Listing:
    if not path.exists():
        raise InputError(f"{printable(path)}: no such file or folder; it should be images.tar, or hold `Images`")
    return list_classes(path / "Images" if (path / "Images").is_dir() else path)


def _list_archive(path: Path) -> Listing:
    archive = Archive(path)
    listing = Listing("class", path, archive)
    for name in sorted(archive.files, key=lambda name: name.split("/")):
        inner = name.removeprefix("Images/").split("/")
        if any(part.startswith(".") for part in inner):
            continue
        if len(inner) == 1:
            listing.skip(name, "lies beside the folders, so it has no label")
            continue
        if len(inner) > 2:
            raise InputError(f"{archive.shown(name)}: too deep; pictures lie in Images/BREED/")
        check_class_name(inner[0], archive.shown(name))
        listing.groups.add((inner[0],))
        listing.files.append(archive.file(name, (inner[0],)))
    check_classes(listing)
    return listing


def _official_test(path: Path, bases: Listing) -> frozenset[str]:
    """Names of the base files that are tested on. Raises InputError where the lists do not name each file once."""
    archive = Archive(path)
    train, test = (_read_list(archive, name) for name in (_TRAIN, _TEST))
    # In the archive names begin with `Images/`, in the lists they do not.
    names = {file.name.removeprefix("Images/"): file.name for file in bases.files}
    for what, wrong in (
        ("is in both lists", train & test),
        ("is in neither list", names.keys() - train - test),
        ("is in a list, but not among the pictures", (train | test) - names.keys()),
    ):
        if wrong:
            shown = f"`{printable(min(wrong))}`" + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "")
            raise InputError(
                f"{printable(path)}: {shown} {what}; {printable(bases.path)} needs the lists of its release"
            )
    return frozenset(names[name] for name in test)


def _read_list(archive: Archive, name: str) -> set[str]:
    """The file names in one of the published lists."""
    found = [member for member in archive.files if member.split("/")[-1] == name]
    if len(found) != 1:
        raise InputError(f"{printable(archive.path)}: no {name} in it; it should be lists.tar, as published")
    where = archive.shown(found[0])
    if (length := archive.files[found[0]][1]) > MAX_BYTES:
        raise InputError(f"{where}: a list of {length / 2**20:.0f} MiB; at most {MAX_BYTES // 2**20} MiB are read")
    try:
        names = read_strings(archive.content(found[0]), "file_list")
    except Unreadable as error:
        raise InputError(f"{where}: {error}") from None
    except ValueError as error:
        raise InputError(f"{where}: holds no `file_list` ({error}); it should be as published") from None
    if not names or len(set(names)) < len(names):
        raise InputError(f"{where}: is empty or names a file twice; it should be as published")
    return set(names)
