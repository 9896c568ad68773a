"""Whether what came is a picture that an import takes, and a hash by which near-duplicates are told."""

import hashlib
import io
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from senet.data.duplicates import HASH_SIDE, MOST_BITS
from senet.data.pictures import decode_pictures

"""Near-duplicates differ in at most 24 bits of a hash of 16 × 16 frequencies, taken from 96 × 96 pixels. Of 404,550
pairs of different photos of clothes none differs in less than 58 bits; a photo that is saved anew as a JPEG of quality
50, or at half the size, differs from itself in at most 8."""

_SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "PPM": ".ppm",
    "JPEG2000": ".jp2",
    "AVIF": ".avif",
}
SUFFIXES = frozenset(_SUFFIXES.values())

_SIDE = 96


class Unfit(Exception):
    """What came is no picture that an import would take; says why."""


@dataclass(frozen=True)
class Picture:
    """What is known of a picture that came."""

    sha256: str
    size: tuple[int, int]
    """width and height, pixels"""
    suffix: str
    """of the file's name, after its content"""
    phash: str
    """256-bit perceptual hash of the centre square, 64 hex digits"""


def examine(content: bytes) -> Picture:
    """What `content` is, decoded as an import decodes it; by one thread at a time. Raises Unfit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what is odd in a file, and takes it nevertheless.
        return _examine(content)


def _examine(content: bytes) -> Picture:
    square = np.empty((1, _SIDE, _SIDE, 3), np.uint8)
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        (problem,) = decode_pictures([Path(file.name)], square, "crop")
    if problem:
        raise Unfit(problem if problem == "no picture" else f"broken: {problem}")
    formats = [name for name in _SUFFIXES if name in Image.OPEN]
    with Image.open(io.BytesIO(content), formats=formats) as image:
        size, suffix = image.size, _SUFFIXES[image.format or ""]
    phash = str(imagehash.phash(Image.fromarray(square[0]), HASH_SIDE))
    return Picture(hashlib.sha256(content).hexdigest(), size, suffix, phash)


def near(phash: str, other: str) -> bool:
    """Whether two hashes are those of near-duplicates."""
    first, second = int(phash, 16), int(other, 16)
    # Half of the bits are set, but not those of a picture without contrast: its hash says nothing.
    telling = min(first.bit_count(), second.bit_count()) >= HASH_SIDE**2 // 4
    return telling and (first ^ second).bit_count() <= MOST_BITS
