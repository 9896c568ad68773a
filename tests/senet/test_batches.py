"""Batches: what augmentation does to which pixels, and that it depends on the seed alone."""

import numpy as np
import torch

from senet.config import AugmentConfig
from senet.data.batches import Batches
from senet.data.store import Dataset

CPU = torch.device("cpu")


def raw(dataset: Dataset, images: torch.Tensor) -> np.ndarray:
    """Normalised images (B, 3, H, W) back to uint8 (B, H, W, 3)."""
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (dataset.mean, dataset.std))
    pixels = (images * std + mean) * 255
    return pixels.round().permute(0, 2, 3, 1).to(torch.uint8).numpy()


def test_evaluation_gives_the_stored_images_normalised(tiny: Dataset) -> None:
    batches = Batches.of_split(tiny, tiny.base, "validation", CPU)
    images = torch.cat(list(batches.evaluation()))
    np.testing.assert_array_equal(raw(tiny, images), tiny.base.images[tiny.base.indices("validation")])
    np.testing.assert_array_equal(batches.labels.numpy(), tiny.base.labels[tiny.base.indices("validation")])
    train = torch.cat(list(Batches.of_split(tiny, tiny.base, "train", CPU).evaluation()))
    assert train.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert (train.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-2


def test_an_epoch_without_augmentation_is_a_permutation(tiny: Dataset) -> None:
    batches = Batches.of_split(tiny, tiny.base, "train", CPU)
    epoch = list(batches.training(20, AugmentConfig(shift=0, flip=False), seed=5))
    stored = tiny.base.images[tiny.base.indices("train")]
    images = np.concatenate([raw(tiny, images) for images, _ in epoch])
    assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in stored)
    assert [image.tobytes() for image in images] != [image.tobytes() for image in stored]
    by_image = {image.tobytes(): tuple(label) for image, label in zip(stored, batches.labels.tolist(), strict=True)}
    labels = [tuple(row) for _, part in epoch for row in part.tolist()]
    assert [by_image[image.tobytes()] for image in images] == labels


def test_augmentation_shifts_with_the_border_repeated_and_flips(tiny: Dataset) -> None:
    batches = Batches.of_split(tiny, tiny.base, "train", CPU)
    stored = tiny.base.images[tiny.base.indices("train")]
    side, reach = tiny.size, round(0.2 * tiny.size)
    variants: dict[bytes, tuple[int, int, bool]] = {}
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            rows = np.clip(np.arange(side) + dy, 0, side - 1)
            columns = np.clip(np.arange(side) + dx, 0, side - 1)
            for image in stored[:10]:
                moved = image[rows][:, columns]
                variants[moved.tobytes()] = (dy, dx, False)
                variants[np.ascontiguousarray(moved[:, ::-1]).tobytes()] = (dy, dx, True)
    seen = []
    for seed in range(12):
        for images, _ in batches.training(20, AugmentConfig(shift=0.2), seed=seed):
            seen += [variants[key] for image in raw(tiny, images) if (key := image.tobytes()) in variants]
    # Ten images in each of twelve epochs, all of them some variant; the moves spread over both directions and flips.
    assert len(seen) == 120
    assert {dy for dy, _, _ in seen} == {dx for _, dx, _ in seen} == set(range(-reach, reach + 1))
    assert 40 < sum(flip for _, _, flip in seen) < 80


def test_the_seed_decides(tiny: Dataset) -> None:
    batches = Batches.of_split(tiny, tiny.base, "train", CPU)

    def epoch(seed: int) -> torch.Tensor:
        return torch.cat([images for images, _ in batches.training(20, AugmentConfig(), seed)])

    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))


def test_steps_leave_out_an_incomplete_batch(tiny: Dataset) -> None:
    batches = Batches.of_split(tiny, tiny.base, "train", CPU)
    assert len(batches) == 120
    assert (batches.steps(50), batches.steps(500)) == (2, 1)
    sizes = [len(labels) for _, labels in batches.training(50, AugmentConfig(), 0)]
    assert sizes == [50, 50]
