"""Prepared data sets: images decoded once into memory-mapped arrays, labels, splits, manifest.

A data set NAME is a folder `datasets/NAME/` with

    manifest.json                    classes, size, channel statistics, counts, split, source, checksums, fingerprint
    base.images.npy                  uint8 (N, H, W, 3)
    base.labels.npy                  bool (N, C)
    base.split.npy                   uint8 (N,): an index into PARTS, or UNUSED
    streaming.images.npy, …          the same for the multi-label images, of which there may be none

It appears whole or not at all: it is written beside its place and renamed.
"""

import io
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from senet.data.integrity import FORMAT, check_files, damaged, read_manifest, write_manifest
from senet.data.workspace import Workspace, refuse_existing
from senet.errors import InputError

SPLITS = ("train", "validation", "test")
PARTS = (*SPLITS, "validation and test")
"""what a picture can be for; the last is for both at once"""
UNUSED = 255
"""in the place of an index into PARTS: for nothing"""
Split = Literal["train", "validation", "test"]
SetName = Literal["base", "streaming"]
MultiLabelKind = Literal["one object of mixed kind", "several objects"]
Policy = Literal["crop", "squash", "pad", "thesis"]
"""how a picture becomes a square, see `senet.data.pictures`"""
POLICIES: tuple[Policy, ...] = get_args(Policy)

HEADER_BYTES = 128
"""length of an images file's header, whatever the number of images"""

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
    """(N,), an index into PARTS, or UNUSED"""

    def indices(self, split: Split) -> npt.NDArray[np.int64]:
        """Positions of the images of one split, ascending; images of `validation and test` are in both."""
        return np.flatnonzero(in_split(self.split, split))


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

    @property
    def policy(self) -> Policy:
        """How pictures were fitted to the size; `crop` where nothing was to be fitted."""
        policy: Policy = self.manifest["source"].get("policy", "crop")
        return policy

    @property
    def split_note(self) -> str:
        """What must be said with every accuracy on the test split, or ""."""
        return split_note(self.manifest)


def split_note(manifest: Mapping[str, Any]) -> str:
    """What must be said with every accuracy on the test split of a data set, or ""."""
    if manifest["split"]["name"] != "thesis":
        return ""
    return "test = validation: the split `thesis` selects and judges on the same 20 % of the pictures"


def in_split(part: npt.NDArray[np.uint8], split: str) -> npt.NDArray[np.bool_]:
    """Which of some indices into PARTS belong to a split."""
    found: npt.NDArray[np.bool_] = part == SPLITS.index(split)
    return found if split == "train" else found | (part == PARTS.index("validation and test"))


def check_name(name: str, what: str) -> str:
    """`name`, if it can be a folder's name. Raises InputError otherwise."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{what} `{name}` must be 1 to 64 letters, digits, `.`, `_` or `-`, and begin with a letter or a digit"
        )
    return name


class DatasetWriter:
    """A data set in the making, in a folder that nobody sees yet; made by `writing`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create_images(self, which: SetName, count: int, size: int) -> npt.NDArray[np.uint8]:
        """A writable memory map of shape (count, size, size, 3) for the images of one set."""
        path = self.folder / f"{which}.images.npy"
        check_room(path, count * size * size * 3)
        images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
        # A full disk is an error here; without the space it would kill the process at a later write.
        if hasattr(os, "posix_fallocate"):  # macOS has none.
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return images

    def write_labels(self, which: SetName, labels: npt.NDArray[np.bool_], split: npt.NDArray[np.uint8]) -> None:
        """Labels (N, C) and parts (N,) of one set."""
        np.save(self.folder / f"{which}.labels.npy", labels.astype(np.bool_))
        np.save(self.folder / f"{which}.split.npy", split.astype(np.uint8))

    def finish(
        self, classes: Sequence[str], kind: MultiLabelKind, source: Mapping[str, Any], split: Mapping[str, Any]
    ) -> None:
        """Write the manifest: after it the folder is a complete data set.

        Args:
            source: where the images come from; `command` is what makes the data set again.
            split: `name`, and what else tells how it was made.
        """
        parts = {which: np.load(self.folder / f"{which}.split.npy") for which in ("base", "streaming")}
        images = self.folder / "base.images.npy"
        mean, std = _channel_statistics(images, in_split(parts["base"], "train"))
        labels = np.load(self.folder / "streaming.labels.npy").sum(axis=1)
        counts: dict[str, dict[str, int]] = {
            which: {name: int(in_split(part, name).sum()) for name in SPLITS} for which, part in parts.items()
        }
        manifest = {
            "format": FORMAT,
            "classes": list(classes),
            "size": image_shape(images)[1],
            "kind": kind,
            "mean": mean,
            "std": std,
            "counts": counts,
            "images": {which: len(part) for which, part in parts.items()},
            "most_labels": int(labels.max(initial=0)),
            "split": dict(split),
            "source": dict(source),
        }
        write_manifest(self.folder, manifest)


@contextmanager
def writing(target: Path, replace: bool = False) -> Iterator[DatasetWriter]:
    """Write a data set beside `target` and move it there at the end, or leave nothing.

    Raises:
        InputError: `target` exists and `replace` is false.
    """
    refuse_existing(target, replace)
    workspace = Workspace.claim(target, secrets.token_hex(8))
    made = workspace.folder / "data"
    made.mkdir()
    try:
        yield DatasetWriter(made)
        workspace.publish(made, replace)
    finally:
        workspace.remove()


def open_dataset(folder: Path) -> Dataset:
    """Open a prepared data set; the images stay on disk until they are read.

    Its files are compared with their checksums once on every machine, and again when they have changed.

    Raises:
        InputError: the folder is missing or holds no complete, undamaged data set.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    try:
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
        raise damaged(folder, str(error), manifest) from None


def _load_set(folder: Path, which: str) -> ImageSet:
    return ImageSet(
        images=np.load(folder / f"{which}.images.npy", mmap_mode="r"),
        labels=np.load(folder / f"{which}.labels.npy"),
        split=np.load(folder / f"{which}.split.npy"),
    )


def images_header(count: int, size: int) -> bytes:
    """How a file of `count` images begins; its length does not depend on them, so it can be written last."""
    buffer = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    np.lib.format.write_array_header_1_0(buffer, about)
    assert buffer.tell() == HEADER_BYTES
    return buffer.getvalue()


def image_shape(path: Path) -> tuple[int, ...]:
    """The shape of an images file."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        return np.lib.format.read_array_header_1_0(file)[0]


def image_chunks(path: Path) -> Iterator[npt.NDArray[np.uint8]]:
    """The images of a file in their order, (n, H, W, 3) each; read, not mapped, so that memory stays bounded."""
    count, *shape = image_shape(path)
    each = int(np.prod(shape))
    step = max(1, _CHUNK_BYTES // each)
    with path.open("rb") as file:
        file.seek(HEADER_BYTES)
        for start in range(0, count, step):
            rows = min(step, count - start)
            yield np.fromfile(file, np.uint8, rows * each).reshape(rows, *shape)


def check_room(path: Path, needed: int) -> None:
    """Raise InputError where the disk has not `needed` bytes for the file `path`."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise InputError(f"{path.name} needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free in {path.parent}")


def command_line(*words: object) -> str:
    """A command as it would be typed."""
    return shlex.join(map(str, words))


def _channel_statistics(path: Path, chosen: npt.NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of the chosen images, on a scale from 0 to 1."""
    from PIL import Image

    histogram, start = np.zeros((3, 256), np.int64), 0
    for chunk in image_chunks(path):
        kept = chunk[chosen[start : start + len(chunk)]]
        start += len(chunk)
        if len(kept):
            histogram += np.reshape(Image.fromarray(kept.reshape(-1, kept.shape[2], 3)).histogram(), (3, 256))
    # Counts are exact, so the sum does not depend on how the images are cut into chunks.
    values = np.arange(256) / 255
    share = histogram / histogram.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt(np.maximum(share @ np.square(values) - np.square(mean), 1e-6))
    return [round(float(x), 6) for x in mean], [round(float(x), 6) for x in std]
