"""Prepared data sets: images decoded once into memory-mapped arrays, labels, splits, manifest.

A data set NAME is a folder `datasets/NAME/` with

    manifest.json                    classes, size, channel statistics, counts, source, fingerprint
    base.images.npy                  uint8 (N, H, W, 3)
    base.labels.npy                  bool (N, C)
    base.split.npy                   uint8 (N,): an index into SPLITS
    streaming.images.npy, …          the same for the multi-label images

It appears whole or not at all: it is written beside its place and renamed.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from senet.errors import InputError

SPLITS = ("train", "validation", "test")
Split = Literal["train", "validation", "test"]
SetName = Literal["base", "streaming"]
MultiLabelKind = Literal["one object of mixed kind", "several objects"]

FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class ImageSet:
    """The base or the streaming images of a data set."""

    images: npt.NDArray[np.uint8]
    """(N, H, W, 3), memory-mapped, read-only"""
    labels: npt.NDArray[np.bool_]
    """(N, C), multi-hot"""
    split: npt.NDArray[np.uint8]
    """(N,), an index into SPLITS"""

    def indices(self, split: Split) -> npt.NDArray[np.int64]:
        """Positions of the images of one split, ascending."""
        return np.flatnonzero(self.split == SPLITS.index(split))


@dataclass(frozen=True)
class Dataset:
    """A prepared data set."""

    name: str
    classes: tuple[str, ...]
    size: int
    """side of the square images, pixels"""
    mean: tuple[float, float, float]
    """of the base training images, per channel, on a scale from 0 to 1"""
    std: tuple[float, float, float]
    kind: MultiLabelKind
    fingerprint: str
    """16 hex digits, of classes, images, labels and splits"""
    manifest: dict[str, Any]
    base: ImageSet
    streaming: ImageSet


def check_name(name: str, what: str) -> str:
    """`name`, if it can be a folder's name. Raises InputError otherwise."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{what} `{name}` must be 1 to 64 letters, digits, `.`, `_` or `-`, and begin with a letter or a digit"
        )
    return name


def stratified_split(
    groups: Sequence[str], seed: int, validation: float = 0.2, test: float = 0.2
) -> npt.NDArray[np.uint8]:
    """Split every group alike: at least one image of each group in each split.

    Args:
        groups: (N,) the stratum of each image (its class, or its combination of classes).
        seed: of the shuffling.
        validation, test: fractions of each group.

    Raises:
        InputError: a group has fewer than three images.
    """
    rng = np.random.default_rng(seed)
    names = np.asarray(groups)
    split = np.zeros(len(names), np.uint8)
    for group in sorted(set(groups)):
        members = rng.permutation(np.flatnonzero(names == group))
        if len(members) < len(SPLITS):
            raise InputError(f"`{group}` has {len(members)} pictures, but at least {len(SPLITS)} are needed")
        n_validation = max(1, round(len(members) * validation))
        n_test = max(1, round(len(members) * test))
        if n_validation + n_test >= len(members):
            n_validation = n_test = 1
        split[members[:n_validation]] = SPLITS.index("validation")
        split[members[n_validation : n_validation + n_test]] = SPLITS.index("test")
    return split


class DatasetWriter:
    """A data set in the making, in a folder that nobody sees yet; made by `writing`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create_images(self, which: SetName, count: int, size: int) -> npt.NDArray[np.uint8]:
        """A writable memory map of shape (count, size, size, 3) for the images of one set."""
        path = self.folder / f"{which}.images.npy"
        wanted, free = count * size * size * 3, shutil.disk_usage(self.folder).free
        if wanted > free:
            raise InputError(
                f"{self.folder.parent}: the {which} images need {wanted / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free"
            )
        images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
        # A full disk is an error here; without the space it would kill the process at a later write.
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return images

    def write_labels(self, which: SetName, labels: npt.NDArray[np.bool_], split: npt.NDArray[np.uint8]) -> None:
        """Labels (N, C) and splits (N,) of one set."""
        np.save(self.folder / f"{which}.labels.npy", labels.astype(np.bool_))
        np.save(self.folder / f"{which}.split.npy", split.astype(np.uint8))

    def finish(self, classes: Sequence[str], kind: MultiLabelKind, source: dict[str, Any]) -> None:
        """Write the manifest: after it the folder is a complete data set."""
        sets = {which: _load_set(self.folder, which) for which in ("base", "streaming")}
        base = sets["base"]
        mean, std = _channel_statistics(base.images, base.indices("train"))
        manifest = {
            "format": FORMAT,
            "classes": list(classes),
            "size": int(base.images.shape[1]),
            "kind": kind,
            "mean": mean,
            "std": std,
            "counts": {
                which: {split: int(np.sum(part.split == i)) for i, split in enumerate(SPLITS)}
                for which, part in sets.items()
            },
            "fingerprint": _content_fingerprint(classes, sets),
            "source": source,
        }
        (self.folder / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")


@contextmanager
def writing(target: Path, replace: bool = False) -> Iterator[DatasetWriter]:
    """Write a data set beside `target` and move it there at the end, or leave nothing.

    Raises:
        InputError: `target` exists and `replace` is false.
    """
    if target.exists() and not replace:
        raise InputError(f"{target}: a data set of this name exists; choose another name or pass --replace")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    folder.chmod(0o755)
    try:
        yield DatasetWriter(folder)
        if replace and target.exists():
            target.rename(folder.with_name(f"{folder.name}-old"))
        try:
            os.rename(folder, target)
        except OSError:
            # Somebody else finished the same data set first: theirs is as good.
            if not (target / "manifest.json").exists():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(folder.with_name(f"{folder.name}-old"), ignore_errors=True)


def open_dataset(folder: Path) -> Dataset:
    """Open a prepared data set; the images stay on disk until they are read.

    Raises:
        InputError: the folder is missing or holds no complete data set.
    """
    path = folder / "manifest.json"
    if not path.exists():
        raise InputError(f"{folder}: no such data set; prepare one with `senet data import` or `senet data breeds`")
    try:
        manifest = json.loads(path.read_text("utf-8"))
        if manifest["format"] != FORMAT:
            raise InputError(f"{path}: format {manifest['format']} is not {FORMAT}: prepare the data set again")
        return Dataset(
            name=folder.name,
            classes=tuple(manifest["classes"]),
            size=manifest["size"],
            mean=tuple(manifest["mean"]),
            std=tuple(manifest["std"]),
            kind=manifest["kind"],
            fingerprint=manifest["fingerprint"],
            manifest=manifest,
            base=_load_set(folder, "base"),
            streaming=_load_set(folder, "streaming"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: the data set is damaged ({error}): delete it and prepare it again") from None


def _load_set(folder: Path, which: str) -> ImageSet:
    return ImageSet(
        images=np.load(folder / f"{which}.images.npy", mmap_mode="r"),
        labels=np.load(folder / f"{which}.labels.npy"),
        split=np.load(folder / f"{which}.split.npy"),
    )


def _channel_statistics(
    images: npt.NDArray[np.uint8], indices: npt.NDArray[np.int64]
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of the chosen images, on a scale from 0 to 1."""
    total, squares = np.zeros(3), np.zeros(3)
    step = _images_a_chunk(images)
    for start in range(0, len(indices), step):
        chunk = images[indices[start : start + step]].reshape(-1, 3) / 255.0
        total += chunk.sum(axis=0)
        squares += np.square(chunk).sum(axis=0)
    pixels = len(indices) * images.shape[1] * images.shape[2]
    mean = total / pixels
    std = np.sqrt(np.maximum(squares / pixels - np.square(mean), 1e-6))
    return [round(float(x), 6) for x in mean], [round(float(x), 6) for x in std]


def _images_a_chunk(images: npt.NDArray[np.uint8]) -> int:
    """So many images that a chunk stays small, whatever their size."""
    return max(1, _CHUNK_BYTES // images[:1].nbytes)


def _content_fingerprint(classes: Sequence[str], sets: dict[str, ImageSet]) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT, list(classes)]).encode())
    for which in ("base", "streaming"):
        part = sets[which]
        digest.update(repr((which, part.images.shape)).encode())
        step = _images_a_chunk(part.images)
        for start in range(0, len(part.images), step):
            digest.update(part.images[start : start + step].tobytes())
        digest.update(np.packbits(part.labels).tobytes())
        digest.update(part.split.tobytes())
    return digest.hexdigest()[:16]
