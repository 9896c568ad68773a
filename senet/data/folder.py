"""Data sets from image folders: one folder a class, one folder or one CSV line a combination of classes.

BASE/CLASS/x.jpg            one label a picture; BASE/CLASS/ANY/x.jpg as well
STREAM/A+B/x.jpg            one or more labels a picture, each a class of BASE or an alias of one
STREAM.csv                  or a table `file,labels` with lines such as `outfits/x.jpg,A;B`

Pictures are turned upright, laid on white, converted to RGB (16-bit grey by its high byte, colour profiles are not
applied) and fitted to a size by a policy (`senet.data.pictures`). Hidden files are ignored. What cannot be decoded, or
is a link out of BASE or STREAM, is skipped by name. Beside the arrays, `base.files.txt` and `streaming.files.txt` name
the file of each picture, and `duplicates.txt` the groups of equal or nearly equal ones (`senet.data.duplicates`), which
are never in different splits (`senet.data.splits`).
"""

from collections.abc import Sequence
from pathlib import Path

from senet.data.aliases import Labels
from senet.data.importing import ImportReport, Request, check_options, run_import
from senet.data.listing import list_classes, list_combinations
from senet.data.pictures import printable
from senet.data.splits import SplitName
from senet.data.store import MultiLabelKind, Policy
from senet.errors import InputError


def import_folders(
    target: Path,
    base: Path,
    stream: Path,
    *,
    size: int = 96,
    seed: int = 0,
    replace: bool = False,
    kind: MultiLabelKind = "one object of mixed kind",
    policy: Policy = "crop",
    split: SplitName = "default",
    aliases: Sequence[str] = (),
) -> ImportReport:
    """Prepare a data set from image folders; it appears at `target` whole or not at all.

    An import that was killed is taken up by the next one with the same arguments and files.

    Args:
        target: the folder of the data set.
        base: one folder a class; pictures lie in it or one folder below.
        stream: one folder `A+B` a combination, or a UTF-8 CSV file: `file` (relative to its folder), `labels` (`A;B`).
        size: side of the prepared pictures, 16 to 1024 pixels.
        seed: of the splits, 0 or more.
        replace: overwrite a data set at `target`.
        kind: what several labels mean.
        policy: how pictures become squares.
        split: `default` or `thesis`.
        aliases: other names of classes in `stream`, each `LABEL=CLASS`.

    Raises:
        InputError: anything above is not so; a streaming label is no class; fewer than two classes; a class or a
            combination with fewer readable pictures than there are splits; over 5 % of all files skipped; `target`
            exists; `base` and `stream` are one folder.
    """
    check_options(size, seed)
    if base.resolve() == stream.resolve():
        raise InputError(f"{stream}: holds the base pictures; what is streamed lies in a folder or CSV of its own")
    bases = list_classes(base)
    classes = sorted(label for (label,) in bases.groups)
    labels = Labels(classes, aliases)
    streams = list_combinations(stream, labels, classes)
    command: list[object] = ["senet", "data", "import", target.name, "--base", base.absolute()]
    command += ["--stream", stream.absolute(), *option_words(size, seed, policy, split, kind, aliases)]
    places = {"base": printable(base.absolute()), "stream": printable(stream.absolute())}
    source = {"importer": "folders", **places, "aliases": labels.given}
    request = Request(
        base=bases, streaming=streams, classes=classes, kind=kind, size=size, policy=policy, split=split, seed=seed,
        command=tuple(command), source=source,
    )  # fmt: skip
    return run_import(target, request, replace)


def option_words(
    size: int, seed: int, policy: Policy, split: SplitName, kind: MultiLabelKind, aliases: Sequence[str]
) -> list[object]:
    """The options that every import has, as words of a command."""
    words: list[object] = ["--size", size, "--seed", seed, "--policy", policy]
    words += ["--split", split] if split != "official" else []
    words += ["--several-objects"] if kind == "several objects" else []
    return words + [word for alias in aliases for word in ("--alias", alias)]
