"""Where the pixels of a split lie while it is trained on, and how a batch of them reaches the device.

Shapes: N images of the split, B images a batch, H = W the side of the images.
"""

import warnings
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Place = Literal["device", "host"]

Pixels = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]

_Arriving = tuple[Tensor, torch.cuda.Event | None]

# So many batches are read before they are needed.
_AHEAD = 3

_UPLOAD_BYTES = 64 * 2**20


class Resident:
    """All images lie on the device. On a CPU that is where they are: memory-mapped ones stay in the page cache, which
    all processes share."""

    def __init__(self, pixels: Pixels, positions: Positions, device: torch.device) -> None:
        """`pixels` (M, H, W, 3), of which those at `positions` (N,) are the split."""
        if device.type == "cpu":
            self._pixels, self._rows = _as_tensor(pixels), torch.from_numpy(positions)
        else:
            self._pixels = _uploaded(pixels, positions, device)
            self._rows = torch.arange(len(positions), device=device)

    def read(self, order: Tensor, batch_size: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        """For every batch of `order` pixels (…, H, W, 3) and the rows (B,) in them where its images lie, in order."""
        for rows in torch.split(self._rows[order.to(self._rows.device)], batch_size):
            yield self._pixels, rows


class Fed:
    """The images stay on the host. A thread gathers a few batches ahead of the training into pinned memory, from which
    a stream of its own copies them to the device."""

    def __init__(self, pixels: Pixels, positions: Positions, device: torch.device) -> None:
        """`pixels` (M, H, W, 3), of which those at `positions` (N,) are the split."""
        self._pixels, self._positions, self._device = pixels, positions, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def read(self, order: Tensor, batch_size: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        """For every batch of `order` its pixels (B, H, W, 3) and the rows (B,) in them where its images lie, in order.

        Whoever stops early closes it, which ends the thread. What fails in the thread is raised here.
        """
        reader = ThreadPoolExecutor(1, "read-images")
        waiting: deque[Future[_Arriving]] = deque()
        try:
            for part in torch.split(order, batch_size):
                waiting.append(reader.submit(self._fetch, part))
                if len(waiting) > _AHEAD:
                    yield self._arrived(waiting.popleft())
            while waiting:
                yield self._arrived(waiting.popleft())
        finally:
            reader.shutdown(cancel_futures=True)

    def _fetch(self, part: Tensor) -> _Arriving:
        """Pixels on their way to the device; in the reader's thread."""
        batch = torch.empty(
            (len(part), *self._pixels.shape[1:]), dtype=torch.uint8, pin_memory=self._stream is not None
        )
        # With "clip" NumPy writes into the buffer itself; no position is out of range.
        np.take(self._pixels, self._positions[part.numpy()], axis=0, out=batch.numpy(), mode="clip")
        if self._stream is None:
            return batch, None
        with torch.cuda.stream(self._stream):
            # The allocator of pinned memory knows of the copy, and hands the buffer out again only after it.
            return batch.to(self._device, non_blocking=True), self._stream.record_event()

    def _arrived(self, arriving: Future[_Arriving]) -> tuple[Tensor, Tensor]:
        """The next batch, before whose arrival the device does nothing that is asked of it from here on."""
        pixels, event = arriving.result()
        if event is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(event)
            pixels.record_stream(current)
        return pixels, torch.arange(len(pixels), device=self._device)


def make_source(
    pixels: Pixels, positions: Positions, device: torch.device, place: Place | None = None
) -> Resident | Fed:
    """Images on the device if they take less than a fifth of its free memory, else fed to it.

    A phase holds three splits at once, which together leave half of it to the network.

    Args:
        pixels: (M, H, W, 3), may be memory-mapped.
        positions: (N,) of the split's images in them.
        place: where they lie, whatever the memory.
    """
    if place is None:
        place = "device" if _fits(len(positions) * pixels[:1].nbytes, device) else "host"
    return Resident(pixels, positions, device) if place == "device" else Fed(pixels, positions, device)


def _fits(size: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, total = torch.cuda.mem_get_info(device)
    # A process may be held to a share of the memory.
    own = torch.cuda.get_per_process_memory_fraction(device.index) * total - torch.cuda.memory_allocated(device)
    return size < min(free, own) // 5


def _as_tensor(pixels: Pixels) -> Tensor:
    """The same memory as a tensor, which is only read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(pixels)


def _uploaded(pixels: Pixels, positions: Positions, device: torch.device) -> Tensor:
    """The images at `positions` on the device, (N, H, W, 3), without a copy of all of them on the host."""
    there = torch.empty((len(positions), *pixels.shape[1:]), dtype=torch.uint8, device=device)
    step = max(1, _UPLOAD_BYTES // max(1, pixels[:1].nbytes))
    for start in range(0, len(positions), step):
        part = pixels[positions[start : start + step]]
        there[start : start + step].copy_(torch.from_numpy(part))
    return there
