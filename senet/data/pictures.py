"""Image files to square arrays: upright, on white, RGB, fitted to one size by a named policy, in bounded memory.

crop     the shorter side scaled to the size, the centre cut out
squash   both sides scaled to the size
pad      the longer side scaled to the size, black borders around the centre
thesis   the thesis' rule, see `thesis_rule`
"""

import importlib
import io
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Transpose
from PIL.TiffImagePlugin import BITSPERSAMPLE

from senet.data.store import Policy

THESIS_SIDE, THESIS_LEAST = 300, 250

MAX_FILE_BYTES = 48 * 2**20
"""larger files are skipped: a batch of decoders shall not fill the memory"""
_DECODING_BYTES = 640 * 2**20
_READING_BYTES = 2 * MAX_FILE_BYTES

# What photographs come in. Others are left out: Pillow would hand an EPS file to Ghostscript, which runs programs.
_FORMATS = {
    "JPEG": "Jpeg",
    "MPO": "Mpo",
    "PNG": "Png",
    "WEBP": "WebP",
    "GIF": "Gif",
    "BMP": "Bmp",
    "TIFF": "Tiff",
    "PPM": "Ppm",
    "JPEG2000": "Jpeg2K",
    "AVIF": "Avif",
}
"""the name of Pillow's plugin for each"""
# Most that decoding and converting takes for each pixel, measured; JPEG and others see `_decoding_bytes`.
_BYTES_PER_PIXEL = {"WEBP": 12, "AVIF": 14, "JPEG2000": 24}
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_STRIP = 256


class Unreadable(Exception):
    """A file is no picture that can be decoded; the message is the reason, on one line."""


class Dropped(Exception):
    """The policy leaves a picture out; the message is the reason."""


@dataclass(frozen=True)
class Picture:
    """One decoded picture."""

    pixels: npt.NDArray[np.uint8]
    """(size, size, 3)"""
    padded: bool
    """whether it has borders"""


class Decoder:
    """Decodes pictures, in as many threads as call it, with at most about 0.8 GB in all."""

    def __init__(self, size: int, policy: Policy) -> None:
        for plugin in _FORMATS.values():
            with suppress(ModuleNotFoundError):  # Pillow reads AVIF from 11.3 on.
                importlib.import_module(f"PIL.{plugin}ImagePlugin")
        self._size, self._policy = size, policy
        self._formats = [name for name in _FORMATS if name in Image.OPEN]
        self._files, self._pictures = _Budget(_READING_BYTES), _Budget(_DECODING_BYTES)

    @contextmanager
    def reading(self, size: int) -> Iterator[None]:
        """Room for the bytes of a file, which some decoders copy. Raises Unreadable where there is none."""
        if size > MAX_FILE_BYTES:
            raise Unreadable(f"a file of {size / 2**20:.0f} MiB; at most {MAX_FILE_BYTES // 2**20} MiB are read")
        with self._files.taken(2 * size):
            yield

    def decode(self, content: bytes, drop: bool = True) -> Picture:
        """Decode the bytes of a file.

        Args:
            drop: whether the policy may leave the picture out; if not, a small one is scaled up.

        Raises:
            Unreadable: it is no picture, broken, or too large.
            Dropped: the policy leaves it out.
        """
        try:
            with Image.open(io.BytesIO(content), formats=self._formats) as image:
                if drop and self._policy == "thesis" and (reason := thesis_rule(*image.size)):
                    raise Dropped(reason)
                needed = _decoding_bytes(image)
                if needed > _DECODING_BYTES:
                    raise Unreadable(f"{image.width} × {image.height} pixels exceed the memory for one picture")
                with self._pictures.taken(needed):
                    return self._decode(image)
        except (Unreadable, Dropped):
            raise
        except UnidentifiedImageError:
            raise Unreadable("no picture") from None
        except Exception as error:  # noqa: BLE001 Pillow's decoders raise nearly anything on a broken file.
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreadable(printable(reason)) from None

    def _decode(self, image: Image.Image) -> Picture:
        image.load()
        upright = None
        with suppress(Exception):  # EXIF is written broken in every way; the picture itself is fine.
            upright = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        square, padded = _fit(_plain(image), self._size, self._policy)
        # A policy does the same whichever way a picture is turned, and it is far cheaper to turn once it is small.
        return Picture(np.asarray(square if upright is None else square.transpose(upright)), padded)


def decode_pictures(paths: Sequence[Path], images: npt.NDArray[np.uint8], policy: Policy) -> list[str]:
    """Decode each file into its row of `images`, uint8 (N, size, size, 3); none is dropped.

    Returns:
        What was wrong with each file, or "".
    """
    decoder = Decoder(images.shape[1], policy)
    with decoding_threads() as (pool, _):
        return list(pool.map(_decode_into, repeat(decoder), images, paths))


def _decode_into(decoder: Decoder, row: npt.NDArray[np.uint8], path: Path) -> str:
    try:
        size = path.stat().st_size
        with decoder.reading(size):
            row[:] = decoder.decode(path.read_bytes(), drop=False).pixels
    except Unreadable as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return ""


@contextmanager
def decoding_threads() -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """A thread for every core, and their number: Pillow decodes and scales outside the interpreter's lock."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        pool = ThreadPoolExecutor(count)
        try:
            yield pool, count
        finally:
            pool.shutdown(cancel_futures=True)


def thesis_rule(width: int, height: int) -> str:
    """Why the thesis drops a picture of this size, or "".

    "A side between 250 and 300 is padded to 300, a picture with a side under 250 is dropped"; whether before or after
    scaling it leaves open, as it does how a longer picture becomes square, and the colour of what is padded. Here the
    sides are those of the original, which keeps the most: scaled to 300 first, by the shorter side no picture would
    ever be padded, by the longer one every picture longer than 6:5 would be dropped. Where the shorter side is 250 to
    300 pixels nothing is scaled: the picture lies in the centre of a black square of 300, and what sticks out is cut
    off. A larger one is scaled, its aspect ratio kept, until the shorter side is 300, and the centre is cut out. The
    square is then scaled to the size that was asked for.
    """
    side = min(width, height)
    return f"{width} × {height} pixels: a side under {THESIS_LEAST}" if side < THESIS_LEAST else ""


def _fit(image: Image.Image, size: int, policy: Policy) -> tuple[Image.Image, bool]:
    """The picture as an RGB square, and whether it has borders."""
    width, height = image.size
    side = min(width, height)
    if policy == "squash":
        return _scaled(image, (size, size), (0, 0, width, height)), False
    if policy == "pad" and width != height:
        share = size / max(width, height)
        # Borders are equally wide on both sides, or a turned picture would lie a pixel elsewhere.
        inner = [max(2 - size % 2, size - 2 * round((size - side * share) / 2)) for side in image.size]
        return _centred(_scaled(image, (inner[0], inner[1]), (0, 0, width, height)), size), True
    if policy == "thesis" and THESIS_LEAST <= side < THESIS_SIDE:
        square = _centred(_scaled(image, image.size, (0, 0, width, height)), THESIS_SIDE)
        return _scaled(square, (size, size), (0, 0, THESIS_SIDE, THESIS_SIDE)), True
    left, top = (width - side) / 2, (height - side) / 2
    return _scaled(image, (size, size), (left, top, left + side, top + side)), False


def _scaled(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    """`box` of a picture, scaled to `size`, laid on white, RGB. Alpha is scaled first: that costs less memory."""
    small = image.resize(size, Image.Resampling.LANCZOS, box=box)
    if small.mode == "RGBA":
        small = Image.alpha_composite(Image.new("RGBA", size, "white"), small)
    return small.convert("RGB")


def _centred(image: Image.Image, side: int) -> Image.Image:
    """The picture in the centre of a black square; what sticks out is cut off."""
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _plain(image: Image.Image) -> Image.Image:
    """The picture in a mode that can be scaled: L, RGB or RGBA."""
    if image.mode.startswith(("I", "F")):
        return _high_bytes(image)
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _high_bytes(image: Image.Image) -> Image.Image:
    """12-bit and 16-bit grey as 8-bit grey, a strip at a time."""
    grey = Image.new("L", image.size)
    bits = 12 if getattr(image, "tag_v2", {}).get(BITSPERSAMPLE) == (12,) else 16
    for top in range(0, image.height, _STRIP):
        strip = np.asarray(image.crop((0, top, image.width, min(top + _STRIP, image.height))))
        if image.mode == "F" or strip.min() < 0 or strip.max() > 0xFFFF:
            raise Unreadable("pixels of more than 16 bits, whose white is unknown")
        grey.paste(Image.fromarray((strip >> bits - 8).astype(np.uint8)), (0, top))
    return grey


def _decoding_bytes(image: Image.Image) -> int:
    """Most memory that decoding and converting the picture takes."""
    each = _BYTES_PER_PIXEL.get(image.format or "", 8)
    if image.format in ("JPEG", "MPO"):
        # A progressive one is kept as coefficients until its last scan.
        each = (5 if image.mode in ("L", "RGB") else 8) + (6 if image.info.get("progressive") else 0)
    return image.width * image.height * each


class _Budget:
    """So many bytes that threads share; who wants more waits until it is there."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


def printable(text: str | Path) -> str:
    """A name on one line of plain UTF-8, whatever bytes the file system holds."""
    decoded = os.fsencode(text).decode("utf-8", "backslashreplace")
    if decoded.isprintable():
        return decoded
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in decoded)
