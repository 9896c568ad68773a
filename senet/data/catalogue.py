"""Data sets by name: prepared ones, and the embedded one, which is drawn when it is first wanted."""

import math
from dataclasses import dataclass
from pathlib import Path

from senet.config import TrialConfig
from senet.data.breeds import BreedsSpec, prepare_breeds
from senet.data.store import Dataset, check_name, open_dataset
from senet.errors import InputError

EMBEDDED = "breeds"


def dataset_folder(home: Path, name: str) -> Path:
    """Where the data set `name` lies or would lie. Raises InputError where `name` cannot be a folder's name."""
    return home / "datasets" / check_name(name, "data set")


def obtain_dataset(home: Path, name: str) -> Dataset:
    """The data set `name` below `home`; `breeds` is drawn if it is not there yet.

    Raises:
        InputError: there is none of this name.
    """
    folder = dataset_folder(home, name)
    if not (folder / "manifest.json").exists():
        if name != EMBEDDED:
            prepared = sorted(path.parent.name for path in (home / "datasets").glob("*/manifest.json"))
            raise InputError(
                f"data: no data set `{name}` in {folder.parent}; there are: {', '.join(sorted({EMBEDDED, *prepared}))}"
            )
        prepare_breeds(folder, BreedsSpec())
    return open_dataset(folder)


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
    """most labels of one streaming image"""


def describe_dataset(home: Path, name: str) -> Description:
    """Describe the data set `name`, also `breeds` before it is drawn. Raises InputError where there is none."""
    folder = dataset_folder(home, name)
    if name == EMBEDDED and not (folder / "manifest.json").exists():
        spec = BreedsSpec()
        return Description(name, spec.classes(), spec.size, spec.counts(), 2)
    return description(obtain_dataset(home, name))


def description(dataset: Dataset) -> Description:
    """What is known of an opened data set."""
    labels = int(dataset.streaming.labels.sum(axis=1).max())
    return Description(dataset.name, dataset.classes, dataset.size, dataset.manifest["counts"], labels)


def check_fits(config: TrialConfig, data: Description, source: str) -> None:
    """Raise InputError where config and data set do not go together."""
    k, classes = config.objective.top_k, len(data.classes)
    if not data.labels <= k < classes:
        raise InputError(
            f"{source}: `objective.top_k`: must be from {data.labels} (labels of one image) to {classes - 1} "
            f"(classes of `{data.name}` less one), but got {k}"
        )


def chance_topk(classes: int, labels: int, k: int) -> float:
    """Probability that k random distinct classes of `classes` contain all `labels` true ones."""
    return math.comb(classes - labels, k - labels) / math.comb(classes, k) if k >= labels else 0.0
