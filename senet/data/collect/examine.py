"""Whether what came is a picture that an import takes, and a hash by which near-duplicates are told."""

import hashlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from senet.data.pictures import decode_pictures

DISTANCE = 4
"""Bits, of 64, by which the hashes of near-duplicates differ at most. Among 404,550 pairs of different clothing photos
none is nearer than 6; a photo and itself at half the size, or as a JPEG of quality 50, differ by at most 4."""

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

_SIDE = 128


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
    """64-bit perceptual hash of the centre square, 16 hex digits"""


def examine(content: bytes) -> Picture:
    """What `content` is, decoded as an import decodes it. Raises Unfit."""
    square = np.empty((1, _SIDE, _SIDE, 3), np.uint8)
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        (problem,) = decode_pictures([Path(file.name)], square)
    if problem:
        raise Unfit(problem if problem == "no picture" else f"broken: {problem}")
    formats = [name for name in _SUFFIXES if name in Image.OPEN]
    with Image.open(io.BytesIO(content), formats=formats) as image:
        size, suffix = image.size, _SUFFIXES[image.format or ""]
    phash = str(imagehash.phash(Image.fromarray(square[0])))
    return Picture(hashlib.sha256(content).hexdigest(), size, suffix, phash)


def distance(phash: str, other: str) -> int:
    """Bits by which two hashes differ."""
    return (int(phash, 16) ^ int(other, 16)).bit_count()
