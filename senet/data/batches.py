"""Batches by index: images stay uint8 where they lie, and are cut, flipped and normalised in batches on the device.

Shapes: B images a batch, H = W the side of the images, C classes.
"""

from collections.abc import Iterator
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from senet.config import AugmentConfig
from senet.data.store import Dataset, ImageSet, Split

_EVALUATION_BATCH = 250


class Batches:
    """Images and labels, ready to be trained on or evaluated."""

    def __init__(
        self, dataset: Dataset, pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.bool_], device: torch.device
    ) -> None:
        """`pixels` (N, H, W, 3) and `labels` (N, C), normalised as `dataset` is."""
        self.device = device
        # Images that take less than half of the device's free memory move there; else each batch does.
        place = device if _fits(pixels.nbytes, device) else torch.device("cpu")
        self._pixels = torch.from_numpy(pixels).to(place)
        self.labels = torch.from_numpy(labels).to(device)
        # Statistics on the scale of uint8: one subtraction and one division normalise a batch.
        self._mean = 255 * torch.tensor(dataset.mean, device=device).view(1, 3, 1, 1)
        self._std = 255 * torch.tensor(dataset.std, device=device).view(1, 3, 1, 1)

    @classmethod
    def of_split(cls, dataset: Dataset, images: ImageSet, split: Split, device: torch.device) -> Self:
        """One split of one image set."""
        indices = images.indices(split)
        return cls(dataset, images.images[indices], images.labels[indices], device)

    def __len__(self) -> int:
        return len(self.labels)

    def steps(self, batch_size: int) -> int:
        """Training steps an epoch: whole batches, at least one."""
        return max(1, len(self) // batch_size)

    def training(self, batch_size: int, augment: AugmentConfig, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order, augmented: pairs of images (B, 3, H, W) and labels (B, C).

        All random numbers are drawn on the host from `seed`, so they do not depend on the device.
        """
        generator = torch.Generator().manual_seed(seed)
        count, side = len(self), self._pixels.shape[1]
        reach = round(augment.shift * side)
        order = torch.randperm(count, generator=generator)
        shifts = torch.randint(-reach, reach + 1, (count, 2), generator=generator)
        flips = torch.rand(count, generator=generator) < (0.5 if augment.flip else 0.0)
        place = self._pixels.device
        order, shifts, flips = order.to(place), shifts.to(place), flips.to(place)
        for step in range(self.steps(batch_size)):
            rows = slice(step * batch_size, (step + 1) * batch_size)
            chosen = order[rows]
            yield self._normalised(self._moved(chosen, shifts[rows], flips[rows])), self.labels[chosen.to(self.device)]

    def evaluation(self, batch_size: int = _EVALUATION_BATCH) -> Iterator[Tensor]:
        """All images in their order, unchanged: (B, 3, H, W)."""
        for pixels in torch.split(self._pixels, batch_size):
            yield self._normalised(pixels)

    def _moved(self, chosen: Tensor, shifts: Tensor, flips: Tensor) -> Tensor:
        """Pixels (B, H, W, 3) of the chosen images, each shifted and perhaps flipped, in a single gather."""
        side = self._pixels.shape[1]
        line = torch.arange(side, device=chosen.device)
        rows = (line + shifts[:, :1]).clamp(0, side - 1)
        columns = (line + shifts[:, 1:]).clamp(0, side - 1)
        columns = torch.where(flips[:, None], columns.flip(1), columns)
        flat = (chosen[:, None, None] * side + rows[:, :, None]) * side + columns[:, None, :]
        return self._pixels.view(-1, 3).index_select(0, flat.flatten()).view(*flat.shape, 3)

    def _normalised(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) → float (B, 3, H, W), channels last in memory."""
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        return images.sub_(self._mean).div_(self._std)


def _fits(size: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return size < free // 2
