"""Image files to arrays: upright, on white, RGB, the centre square scaled to one size."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Transpose

POLICY = "shorter side, centre crop"

# What photographs come in. Others are left out: Pillow would hand an EPS file to Ghostscript, which runs programs.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_FILES_PER_THREAD = 64


def decode_pictures(paths: list[Path], images: npt.NDArray[np.uint8]) -> list[str]:
    """Decode each file as `import_folders` does into its row of `images`, uint8 (N, size, size, 3).

    Returns:
        What was wrong with each file, or "".
    """
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    # Pillow decodes and scales outside the interpreter's lock: threads are no slower than processes.
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    step = threads * _FILES_PER_THREAD
    problems: list[str] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for start in range(0, len(paths), step):
            batch = slice(start, start + step)
            problems += pool.map(_decode_into, images[batch], paths[batch], repeat(formats))
    return problems


def _decode_into(row: npt.NDArray[np.uint8], path: Path, formats: list[str]) -> str:
    try:
        row[:] = _decode(path, len(row), formats)
    except UnidentifiedImageError:
        return "no picture"
    except Exception as error:  # noqa: BLE001 Pillow's decoders raise nearly anything on a broken file.
        return printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)
    return ""


def _decode(path: Path, size: int, formats: list[str]) -> npt.NDArray[np.uint8]:
    """The upright centre square of a picture, (size, size, 3)."""
    with Image.open(path, formats=formats) as image:
        image.load()
        upright = None
        with suppress(Exception):  # EXIF is written broken in every way; the picture itself is fine.
            upright = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        rgb = _to_rgb(image)
    # The centre square is the same whichever way the picture is turned, and far cheaper to turn once it is small.
    side = min(rgb.size)
    left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
    square = rgb.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    return np.asarray(square if upright is None else square.transpose(upright))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        wide = np.asarray(image)
        if image.mode == "F" or wide.min() < 0 or wide.max() > 0xFFFF:
            raise ValueError("pixels of more than 16 bits, whose white is unknown")
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def printable(text: str | Path) -> str:
    """A name on one line of plain UTF-8, whatever bytes the file system holds."""
    decoded = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in decoded)
