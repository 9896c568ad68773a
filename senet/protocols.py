"""How a data set is seen by a trial: by the thesis' protocol, or by those that it compares itself with.

`streaming`        as it is.
`single_label`     as it is; the base phase alone is trained.
`label_splitting`  as it is; `training_part` streams every image once for each of its labels (thesis §2.3.1).
`single_target`    every combination of labels is a class of its own, and all training images are base images, on which
                   a network is trained from scratch (the retraining of thesis §6.4).
"""

import dataclasses
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from senet.config import TrialConfig, fingerprint
from senet.data.store import SPLITS, UNUSED, Dataset, ImageSet
from senet.errors import InputError

_Of = TypeVar("_Of", bound=np.generic)

WITHOUT_STREAMING = ("single_label", "single_target")


def for_protocol(config: TrialConfig, dataset: Dataset) -> Dataset:
    """`dataset` as the config's protocol sees it."""
    return _with_combinations_as_classes(dataset) if config.protocol == "single_target" else dataset


def streaming_epochs(config: TrialConfig) -> int:
    """Epochs of each stage of the streaming phase, 0 in the protocols that do not stream."""
    return 0 if config.protocol in WITHOUT_STREAMING else config.streaming.epochs


def combinations(images: ImageSet) -> list[tuple[int, ...]]:
    """The combinations of classes that occur, in the order of their class indices."""
    return [tuple(np.flatnonzero(row)) for row in _distinct(images.labels)]


def stages(images: ImageSet, count: int) -> list[npt.NDArray[np.int64]]:
    """Positions of the images of each of `count` streams; each has as many combinations of labels, give or take one.

    Raises:
        InputError: there are fewer combinations than streams.
    """
    distinct = _distinct(images.labels)
    if count > max(1, len(distinct)):
        raise InputError(
            f"`streaming.stages`: must be at most {len(distinct)} (combinations of labels in the data), but got {count}"
        )
    number = np.array([np.flatnonzero((distinct == row).all(axis=1))[0] for row in images.labels], np.int64)
    found = [np.flatnonzero(np.isin(number, part)) for part in np.array_split(np.arange(len(distinct)), count)]
    for i, positions in enumerate(found, start=1):
        training = int((images.split[positions] == SPLITS.index("train")).sum())
        if count > 1 and training < 2:
            raise InputError(
                f"`streaming.stages`: stage {i} of {count} has {training} pictures to train on, not 2 or more"
            )
    return found


def split_labels(
    images: npt.NDArray[_Of], labels: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[_Of], npt.NDArray[np.bool_]]:
    """Every image, or its position, once for each of its labels (N, C), with that label alone."""
    image, label = np.nonzero(labels)
    return images[image], np.eye(labels.shape[1], dtype=np.bool_)[label]


def _distinct(labels: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The distinct rows, those with the first classes first."""
    return np.unique(labels, axis=0)[::-1]


def _with_combinations_as_classes(dataset: Dataset) -> Dataset:
    base, streaming = dataset.base, dataset.streaming
    # An image with a single label belongs to that class.
    single = streaming.labels.sum(axis=1) == 1
    distinct = _distinct(streaming.labels[~single])
    names = tuple("+".join(dataset.classes[i] for i in np.flatnonzero(row)) for row in distinct)
    new = (streaming.labels[:, None, :] == distinct).all(axis=2)
    base_labels = np.pad(base.labels, ((0, 0), (0, len(distinct))))
    new_labels = np.concatenate([streaming.labels & single[:, None], new], axis=1)
    # Old and new images are trained on alike; the base's accuracy is that on the old ones.
    new_split = np.where(streaming.split == SPLITS.index("train"), streaming.split, UNUSED).astype(np.uint8)
    together = ImageSet(
        np.concatenate([base.images, streaming.images]),
        np.concatenate([base_labels, new_labels]),
        np.concatenate([base.split, new_split]),
    )
    return dataclasses.replace(
        dataset,
        classes=(*dataset.classes, *names),
        fingerprint=fingerprint([dataset.fingerprint, "single_target"]),
        base=together,
        streaming=ImageSet(streaming.images, new_labels, streaming.split),
    )
