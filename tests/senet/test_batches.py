"""Batches: what augmentation does to which pixels, and that it depends on the seed alone."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from senet.config import AugmentConfig, TrialConfig
from senet.data.batches import Batches
from senet.data.store import Dataset
from senet.device import Runtime
from senet.loop import Loop, Task
from senet.losses import margin
from senet.models import build_model

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


@pytest.mark.parametrize("batch_size", [20, 19, 500])
def test_the_parts_of_a_batch_are_the_batch(tiny: Dataset, batch_size: int) -> None:
    batches = Batches.of_split(tiny, tiny.base, "train", CPU)
    augment = AugmentConfig(colour=0.3)
    whole = list(batches.training(batch_size, augment, seed=5))
    parts = [list(batches.training(batch_size, augment, 5, Runtime(CPU, False, rank, 3).part)) for rank in range(3)]
    for (images, labels), *shares in zip(whole, *parts, strict=True):
        assert max(len(share) for share, _ in shares) - min(len(share) for share, _ in shares) <= 1
        assert torch.equal(torch.cat([share for share, _ in shares]), images)
        assert torch.equal(torch.cat([share for _, share in shares]), labels)


def recoloured(image: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Pixels (H, W, 3), one change after the other, as they are defined."""

    def blend(one: np.ndarray, other: np.ndarray, factor: float) -> np.ndarray:
        return factor * one + (1 - factor) * other

    def grey(pixels: np.ndarray) -> np.ndarray:
        return (pixels @ [0.299, 0.587, 0.114])[..., None]

    brighter = brightness * image.astype(np.float64)
    contrasted = blend(brighter, grey(brighter).mean(), contrast)
    return np.clip(blend(contrasted, grey(contrasted), saturation), 0, 255)


def pixels_of(dataset: Dataset, images: Tensor) -> np.ndarray:
    """Normalised images (B, 3, H, W) back to pixels (B, H, W, 3), not rounded."""
    mean, std = (torch.tensor(value).double() for value in (dataset.mean, dataset.std))
    return ((images.permute(0, 2, 3, 1).double() * std + mean) * 255).numpy()


def test_colour_changes_brightness_contrast_and_saturation_of_every_image(tiny: Dataset) -> None:
    batches = Batches.of_split(tiny, tiny.base, "train", CPU)
    plain, coloured = (AugmentConfig(shift=0.1, colour=colour) for colour in (0.0, 0.5))
    before = pixels_of(tiny, torch.cat([images for images, _ in batches.training(20, plain, 3)]))
    after = pixels_of(tiny, torch.cat([images for images, _ in batches.training(20, coloured, 3)]))
    # The factors that the seed gives: drawn after order, shifts and flips, which are those of the plain epoch.
    generator = torch.Generator().manual_seed(3)
    torch.randperm(120, generator=generator)
    torch.randint(-2, 3, (120, 2), generator=generator)
    torch.rand(120, generator=generator)
    factors = (0.5 + torch.rand(120, 3, generator=generator)).tolist()
    wanted = np.stack([recoloured(image, *three) for image, three in zip(before, factors, strict=True)])
    np.testing.assert_allclose(after, wanted, atol=0.01)
    assert (np.abs(after - before).max(axis=(1, 2, 3)) > 2).all()


def test_a_grey_image_stays_grey_and_black_stays_black(tiny: Dataset) -> None:
    pixels = np.zeros((4, 24, 24, 3), np.uint8)
    pixels[1::2] = np.arange(24, dtype=np.uint8)[:, None] * 10
    batches = Batches(tiny, pixels, np.eye(4, dtype=np.bool_), CPU)
    for images, labels in batches.training(4, AugmentConfig(colour=0.9), 0):
        for image, number in zip(pixels_of(tiny, images), labels.int().argmax(dim=1).tolist(), strict=True):
            np.testing.assert_allclose(image, image.mean(axis=2, keepdims=True).repeat(3, axis=2), atol=1e-3)
            assert (number % 2 == 1) == (image.max() > 1)


@pytest.mark.parametrize(("side", "asked", "together"), [(24, 500, 250), (96, 500, 250), (300, 500, 25), (300, 9, 9)])
def test_of_large_images_fewer_are_evaluated_together(tiny: Dataset, side: int, asked: int, together: int) -> None:
    count = together + 1
    batches = Batches(tiny, np.zeros((count, side, side, 3), np.uint8), np.zeros((count, 6), np.bool_), CPU)
    assert [len(images) for images in batches.evaluation(asked)] == [together, 1]


def test_images_are_not_copied_into_the_process(tiny: Dataset) -> None:
    # What the page cache holds is seen through the batches: a change of the array changes the next epoch.
    pixels = np.array(tiny.base.images)
    batches = Batches(tiny, pixels, tiny.base.labels, CPU)
    pixels[:] = 0
    images = torch.cat(list(batches.evaluation()))
    assert pixels_of(tiny, images).max() < 1e-3


class Failing(np.ndarray):
    """Pixels on a disk that fails."""

    def take(self, *_: Any, **__: Any) -> Any:
        raise OSError("the disk is gone")


class TestPlace:
    """Images that are fed from the host give what images on the device give, and the thread ends with the epoch."""

    @pytest.mark.parametrize("augment", [AugmentConfig(), AugmentConfig(shift=0.3, flip=False, colour=0.4)])
    @pytest.mark.parametrize("batch_size", [1, 7, 20, 500])
    def test_batches_are_the_same_to_the_bit(self, tiny: Dataset, augment: AugmentConfig, batch_size: int) -> None:
        here, fed = (Batches.of_split(tiny, tiny.base, "train", CPU, place) for place in ("device", "host"))
        pairs = list(zip(here.training(batch_size, augment, 4), fed.training(batch_size, augment, 4), strict=True))
        assert len(pairs) == here.steps(batch_size)
        for (images, labels), (fed_images, fed_labels) in pairs:
            assert torch.equal(images, fed_images)
            assert images.stride() == fed_images.stride()
            assert torch.equal(labels, fed_labels)
        for images, fed_images in zip(here.evaluation(batch_size), fed.evaluation(batch_size), strict=True):
            assert torch.equal(images, fed_images)

    @pytest.mark.slow
    def test_training_is_the_same_to_the_bit(self, tiny: Dataset, trial_config: Any) -> None:
        config: TrialConfig = trial_config(augment={"colour": 0.3})

        def state(place: Any) -> dict[str, Tensor]:
            torch.manual_seed(0)
            task = Task(
                phase="base",
                model=build_model(config.model, len(tiny.classes)),
                train=Batches.of_split(tiny, tiny.base, "train", CPU, place),
                criterion=lambda images, logits, labels: margin(logits, labels),
                evaluate=lambda: {"base_topk": torch.tensor(0.0), "base_loss": torch.tensor(0.0)},
                epochs=config.base.epochs,
            )
            return dict(Loop(config, Runtime(CPU, bf16=False), task, lambda report: None, None).run("test").state)

        here, fed = state("device"), state("host")
        assert all(torch.equal(here[name], fed[name]) for name in here)

    @staticmethod
    def readers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("read-images")]

    @pytest.mark.parametrize("taken", [0, 1, 3, 6])
    def test_the_thread_ends_when_nobody_listens(self, tiny: Dataset, taken: int) -> None:
        batches = Batches.of_split(tiny, tiny.base, "train", CPU, "host")
        epoch = batches.training(20, AugmentConfig(), 0)
        for _ in range(taken):
            next(epoch)
        assert len(self.readers()) == (taken > 0)
        epoch.close()
        assert not self.readers()

    def test_the_thread_ends_when_the_training_fails(self, tiny: Dataset, trial_config: Any) -> None:
        def fails(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
            assert self.readers()
            raise RuntimeError("no loss")

        config = trial_config()
        model = build_model(config.model, len(tiny.classes))
        train = Batches.of_split(tiny, tiny.base, "train", CPU, "host")
        task = Task(phase="base", model=model, train=train, criterion=fails, evaluate=dict, epochs=3)
        with pytest.raises(RuntimeError, match="no loss") as caught:
            Loop(config, Runtime(CPU, bf16=False), task, lambda report: None, None).run("test")
        # The traceback is still held.
        assert caught.tb is not None
        assert not self.readers()

    def test_what_fails_in_the_thread_is_raised(self, tiny: Dataset) -> None:
        pixels = np.array(tiny.base.images).view(Failing)
        batches = Batches(tiny, pixels, tiny.base.labels, CPU, place="host")
        with pytest.raises(OSError, match="the disk is gone"):
            next(batches.training(20, AugmentConfig(), 0))
        assert not self.readers()
