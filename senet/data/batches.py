"""Batches by index: images stay uint8 where they lie, and are cut, flipped, recoloured and normalised in batches on the
device.

Shapes: B images a batch, H = W the side of the images, C classes.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from senet.config import AugmentConfig
from senet.data.source import Place, make_source
from senet.data.store import Dataset, ImageSet, Split

Training = Generator[tuple[Tensor, Tensor], None, None]

# Images of a batch that is evaluated: at most so many, and of large ones only so many pixels.
_EVALUATION_BATCH, _EVALUATION_PIXELS = 250, 250 * 96**2

# What red, green and blue add to the brightness that is seen (ITU-R BT.601).
_GREY = (0.299, 0.587, 0.114)


class Batches:
    """Images and labels, ready to be trained on or evaluated."""

    def __init__(
        self,
        dataset: Dataset,
        pixels: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.bool_],
        device: torch.device,
        positions: npt.NDArray[np.int64] | None = None,
        place: Place | None = None,
    ) -> None:
        """Images that are normalised as `dataset` is.

        Args:
            pixels: (M, H, W, 3), may be memory-mapped.
            labels: (N, C).
            positions: (N,) of the images in `pixels`; not given: all, in their order.
            place: where the pixels lie, on the device or on the host, whence they are fed to it; the batches are the
                same. Not given: on the device if they fit.
        """
        self.device, self._side = device, pixels.shape[1]
        positions = np.arange(len(pixels)) if positions is None else positions
        self._source = make_source(pixels, positions, device, place)
        self.labels = torch.from_numpy(labels).to(device)
        # On the scale of uint8 and for a whole line of pixels: one long subtraction and one division normalise it.
        self._mean = 255 * torch.tensor(dataset.mean, device=device).repeat(self._side)
        self._std = 255 * torch.tensor(dataset.std, device=device).repeat(self._side)

    @classmethod
    def of_split(
        cls, dataset: Dataset, images: ImageSet, split: Split, device: torch.device, place: Place | None = None
    ) -> Self:
        """One split of one image set; arguments as above."""
        indices = images.indices(split)
        return cls(dataset, images.images, images.labels[indices], device, indices, place)

    def __len__(self) -> int:
        return len(self.labels)

    def evaluated(self, batch_size: int = _EVALUATION_BATCH) -> int:
        """Images of a batch that is evaluated."""
        return max(1, min(batch_size, _EVALUATION_BATCH, int(_EVALUATION_PIXELS // self._side**2)))

    def steps(self, batch_size: int) -> int:
        """Training steps an epoch: whole batches, at least one."""
        return max(1, len(self) // batch_size)

    def training(
        self, batch_size: int, augment: AugmentConfig, seed: int, part: Callable[[int], slice] = slice
    ) -> Training:
        """One epoch in random order, augmented: pairs of images (B, 3, H, W) and labels (B, C).

        All random numbers are drawn on the host from `seed`, so they do not depend on the device. Whoever stops early
        closes it.

        Args:
            part: which of a batch's images are wanted, given how many it has; not given: all. The batches of all parts
                together are those that there are without parts.
        """
        generator = torch.Generator().manual_seed(seed)
        count, reach = len(self), round(augment.shift * self._side)
        order = torch.randperm(count, generator=generator)
        shifts = torch.randint(-reach, reach + 1, (count, 2), generator=generator)
        flips = torch.rand(count, generator=generator) < (0.5 if augment.flip else 0.0)
        # Last, so that without them the other numbers are the same.
        factors = 1 + augment.colour * (2 * torch.rand(count, 3, generator=generator) - 1)

        steps, size = self.steps(batch_size), min(batch_size, count)
        taken = torch.arange(steps * size).view(steps, size)[:, part(size)].flatten()
        own = len(taken) // steps
        drawn = (torch.split(each[taken].to(self.device), own) for each in (order, shifts, flips, factors))
        with closing(self._source.read(order[taken], own)) as batches:
            for (pixels, rows), chosen, shift, flip, factor in zip(batches, *drawn, strict=True):
                moved = self._moved(pixels, rows, shift, flip).float()
                if augment.colour:
                    moved = self._recoloured(moved, factor)
                yield self._normalised(moved), self.labels[chosen]

    def evaluation(
        self, batch_size: int = _EVALUATION_BATCH, part: slice = slice(None)
    ) -> Generator[Tensor, None, None]:
        """All images, or a part of them, in their order, unchanged: (B, 3, H, W), B at most `batch_size`, and less for
        large images; `evaluated` is B."""
        batch_size = self.evaluated(batch_size)
        with closing(self._source.read(torch.arange(len(self))[part], batch_size)) as batches:
            for pixels, rows in batches:
                yield self._normalised(pixels[rows].float())

    def _moved(self, pixels: Tensor, chosen: Tensor, shifts: Tensor, flips: Tensor) -> Tensor:
        """Pixels (B, H, W, 3) of the chosen images, each shifted and perhaps flipped, in a single gather."""
        side = self._side
        line = torch.arange(side, device=chosen.device)
        rows = (line + shifts[:, :1]).clamp(0, side - 1)
        columns = (line + shifts[:, 1:]).clamp(0, side - 1)
        columns = torch.where(flips[:, None], columns.flip(1), columns)
        flat = (chosen[:, None, None] * side + rows[:, :, None]) * side + columns[:, None, :]
        return pixels.view(-1, 3).index_select(0, flat.flatten()).view(*flat.shape, 3)

    def _normalised(self, pixels: Tensor) -> Tensor:
        """float (B, H, W, 3), changed in place → (B, 3, H, W), channels last in memory."""
        pixels.flatten(2).sub_(self._mean).div_(self._std)
        return pixels.permute(0, 3, 1, 2)

    def _recoloured(self, pixels: Tensor, factors: Tensor) -> Tensor:
        """float pixels (B, H, W, 3) from 0 to 255, in each image brightness, contrast and saturation times its factors.

        Brightness b multiplies; contrast c moves away from the image's mean grey, saturation s away from each pixel's
        own grey. One after the other they are linear: b·c·s · pixel + b·c·(1 − s) · its grey + b·(1 − c) · mean grey.

        Args:
            factors: (B, 3) of brightness, contrast and saturation.
        """
        brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(1)
        # As a matrix product it would be one dot product of three numbers for each pixel.
        red, green, blue = torch.split(pixels, 1, dim=3)
        grey = _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue
        scale = brightness * contrast
        same = scale * (1 - saturation) * grey + brightness * (1 - contrast) * grey.mean(dim=(1, 2, 3), keepdim=True)
        return pixels.mul_(scale * saturation).add_(same).clamp_(0, 255)
