"""Data sets by name or URL: prepared ones, and the embedded one, which is drawn when it is first wanted."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senet.config import TrialConfig
from senet.data.breeds import BreedsSpec, prepare_breeds
from senet.data.integrity import MANIFEST
from senet.data.store import Dataset, check_name, open_dataset
from senet.errors import InputError
from senet.home import cache
from senet.mounts import share_of

EMBEDDED = "breeds"


def is_url(name: str) -> bool:
    """Whether `name` is an address, not a data set's name."""
    return "://" in name


def check_data(name: str, what: str = "data set") -> str:
    """`name`, if it can be the name or the URL of a data set. Raises InputError otherwise."""
    if not is_url(name):
        return check_name(name, what)

    from senet.data.remote import check_url

    return check_url(name, what)


def dataset_folder(home: Path, name: str) -> Path:
    """Where the data set `name`, or the copy of the one at a URL, lies or would lie.

    Raises:
        InputError: `name` cannot be that of a data set.
    """
    check_data(name)
    if not is_url(name):
        return home / "datasets" / name

    from senet.data.remote import cached_folder

    return cached_folder(home, name)


def obtain_dataset(home: Path, name: str) -> Dataset:
    """The data set `name`, as this machine reads it.

    `breeds` is drawn if it is not there yet; one by URL or on a mounted share is copied to this machine first.

    Raises:
        InputError: there is none of this name.
    """
    if is_url(name):
        folder = dataset_folder(home, name)
        if not (folder / MANIFEST).exists():
            from senet.data.remote import fetch_dataset

            fetch_dataset(name, folder)
    else:
        folder = _prepared(home, name)
        if share_of(folder) is None or share_of(cache()) is not None:
            return open_dataset(folder)

        from senet.data.remote import own_copy

        folder = own_copy(folder)
    try:
        return dataclasses.replace(open_dataset(folder), name=name)
    except InputError as error:
        raise InputError(f"{error} (this machine's copy of {name}: delete it and call again)") from None


def own_copy_of(home: Path, name: str) -> str | None:
    """The folder's name, in a machine's cache, of the copy of a data set that it makes for itself if the cache is on a
    disk of its own; None: it makes none.

    Raises:
        InputError: there is no such data set.
    """
    folder = dataset_folder(home, name)
    if is_url(name):
        return folder.name if folder.parent == cache() else None
    if share_of(folder) is None:
        return None

    from senet.data.remote import copy_name

    return copy_name(_prepared(home, name))


def _prepared(home: Path, name: str) -> Path:
    """The folder of a prepared data set; `breeds` is drawn if it is not there yet. Raises InputError."""
    folder = dataset_folder(home, name)
    if not (folder / MANIFEST).exists():
        if name != EMBEDDED:
            prepared = sorted(path.parent.name for path in prepared_manifests(home))
            raise InputError(
                f"data: no data set `{name}` in {folder.parent}; there are: {', '.join(sorted({EMBEDDED, *prepared}))}"
            )
        try:
            prepare_breeds(folder, BreedsSpec())
        except InputError:
            # Another command may have drawn it meanwhile.
            if not (folder / MANIFEST).exists():
                raise InputError(f"{folder}: holds no {MANIFEST}: delete the folder and call again") from None
    return folder


def prepared_manifests(home: Path) -> list[Path]:
    """The manifests of all data sets below `home`."""
    return sorted((home / "datasets").glob(f"[!.]*/{MANIFEST}"))


@dataclass(frozen=True)
class Description:
    """What is known of a data set without its images."""

    name: str
    classes: tuple[str, ...]
    size: int
    """side of the images, pixels"""
    counts: dict[str, dict[str, int]]
    """images by set (base, streaming) and split"""
    labels: int
    """most labels of one streaming image; 0 where there is none"""

    @property
    def image_bytes(self) -> int:
        """What its images take on a disk."""
        return sum(sum(parts.values()) for parts in self.counts.values()) * self.size**2 * 3


def describe_dataset(home: Path, name: str) -> Description:
    """Describe a data set, `breeds` before it is drawn and one by URL before it is copied.

    Raises:
        InputError: there is none.
    """
    there = (dataset_folder(home, name) / MANIFEST).exists()
    if is_url(name) and not there:
        from senet.data.remote import fetch_manifest

        return _described(name, fetch_manifest(name))
    if name == EMBEDDED and not there:
        spec = BreedsSpec()
        return Description(name, spec.classes(), spec.size, spec.counts(), 2)
    return description(obtain_dataset(home, name) if is_url(name) else open_dataset(_prepared(home, name)))


def description(dataset: Dataset) -> Description:
    """What is known of an opened data set."""
    return _described(dataset.name, dataset.manifest)


def _described(name: str, manifest: Mapping[str, Any]) -> Description:
    return Description(name, tuple(manifest["classes"]), manifest["size"], manifest["counts"], manifest["most_labels"])


def check_fits(config: TrialConfig, data: Description, source: str) -> None:
    """Raise InputError where config and data set do not go together."""
    k, classes = config.objective.top_k, len(data.classes)
    if not data.labels and config.protocol != "single_label":
        raise InputError(
            f"{source}: data set `{data.name}` has no streaming pictures, which `protocol: {config.protocol}` needs; "
            f"import it with --stream, or train with `protocol: single_label`"
        )
    for which, parts in data.counts.items():
        training = parts.get("train", 0)
        if training < 2 and (which == "base" or config.protocol != "single_label"):
            raise InputError(
                f"{source}: data set `{data.name}` has {training} {which} pictures to train on, but a step needs 2 or "
                f"more; import others"
            )
    least = max(1, data.labels)
    if not least <= k < classes:
        raise InputError(
            f"{source}: `objective.top_k`: must be from {least} (labels of one image) to {classes - 1} "
            f"(classes of `{data.name}` less one), but got {k}"
        )


def chance_topk(classes: int, labels: int, k: int) -> float:
    """Probability that k random distinct classes of `classes` contain all `labels` true ones."""
    return math.comb(classes - labels, k - labels) / math.comb(classes, k) if k >= labels else 0.0
