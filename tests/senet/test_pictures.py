"""How a picture becomes a square, and how much memory that may take."""

import io
import struct
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from senet.data.pictures import Decoder, Dropped, Unreadable, decode_pictures
from senet.data.store import POLICIES, Policy, open_dataset
from tests.senet.photo_folders import Folders, paint

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

RED, GREEN = (200, 0, 0), (0, 200, 0)


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def halves(width: int, height: int) -> Image.Image:
    """Left red, right green."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height))
    return image


def square(width: int, height: int, policy: Policy, size: int) -> npt.NDArray[np.int64]:
    return Decoder(size, policy).decode(encoded(halves(width, height))).pixels.astype(np.int64)


def test_a_pillow_without_avif_reads_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
    monkeypatch.delitem(Image.OPEN, "AVIF")
    decoder = Decoder(16, "crop")
    assert decoder.decode(encoded(halves(32, 32))).pixels.shape == (16, 16, 3)
    with pytest.raises(Unreadable, match="no picture"):
        decoder.decode(encoded(halves(32, 32), "AVIF"))


def black_rows(pixels: npt.NDArray[np.int64]) -> int:
    return int((pixels.max(axis=(1, 2)) < 30).sum())


def black_columns(pixels: npt.NDArray[np.int64]) -> int:
    return int((pixels.max(axis=(0, 2)) < 30).sum())


@pytest.mark.parametrize(
    ("policy", "width", "height", "size", "rows", "columns"),
    [
        ("crop", 400, 300, 100, 0, 0),
        ("squash", 400, 100, 100, 0, 0),
        ("pad", 400, 300, 100, 24, 0),
        ("pad", 300, 400, 100, 0, 24),
        ("pad", 4000, 2, 100, 98, 0),
        ("pad", 50, 50, 100, 0, 0),
        ("thesis", 300, 300, 300, 0, 0),
        ("thesis", 1000, 400, 300, 0, 0),
        ("thesis", 250, 299, 300, 1, 50),
        ("thesis", 280, 700, 300, 0, 20),
        ("thesis", 700, 260, 150, 20, 0),
    ],
)
def test_borders(policy: Policy, width: int, height: int, size: int, rows: int, columns: int) -> None:
    pixels = square(width, height, policy, size)
    assert pixels.shape == (size, size, 3)
    assert (black_rows(pixels), black_columns(pixels)) == (rows, columns)
    # The middle of the picture is the middle of the square.
    inner = pixels[size // 2]
    assert np.abs(inner[size // 2 - 4] - RED).max() < 12
    assert np.abs(inner[size // 2 + 4] - GREEN).max() < 12
    assert Decoder(size, policy).decode(encoded(halves(width, height))).padded == bool(rows or columns)


@pytest.mark.parametrize(("width", "height", "kept"), [(249, 900, False), (900, 249, False), (250, 250, True)])
def test_the_thesis_drops_what_has_a_side_under_250(width: int, height: int, kept: bool) -> None:
    decoder, content = Decoder(300, "thesis"), encoded(halves(width, height))
    if kept:
        assert decoder.decode(content).padded
    else:
        with pytest.raises(Dropped, match=f"{width} × {height} pixels: a side under 250"):
            decoder.decode(content)
        # A model must say something about a small picture too.
        assert decoder.decode(content, drop=False).pixels.shape == (300, 300, 3)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_every_policy_respects_orientation(policy: Policy, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}[orientation]
    image = Image.open(paint(tmp_path / "x.png", seed=3, shape=(280, 420)))
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    found, wanted = (
        Decoder(64, policy).decode(file.getvalue()),
        Decoder(64, policy).decode(encoded(image.transpose(turned))),
    )
    assert np.abs(found.pixels.astype(int) - wanted.pixels.astype(int)).max() <= 4


@pytest.mark.parametrize(("form", "side"), [("TIFF", 9800), ("JPEG2000", 5700)])
def test_what_would_take_too_much_memory_is_not_decoded(form: str, side: int) -> None:
    image = Image.new("L", (side, side))
    with pytest.raises(Unreadable, match="exceed"):
        Decoder(32, "crop").decode(encoded(image, form))


@pytest.mark.parametrize("bits", [12, 16])
def test_the_white_of_deep_grey_is_white(bits: int) -> None:
    side, white = 8, 2**bits - 1
    packed = int("1" * bits * side * side, 2).to_bytes(bits * side * side // 8, "big")
    tags = [
        (256, side),
        (257, side),
        (258, bits),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, side),
        (279, len(packed)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    content = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory
    with Image.open(io.BytesIO(content)) as image:
        assert image.getpixel((0, 0)) == white
    assert np.all(Decoder(side, "crop").decode(content).pixels == 255)


def test_large_pictures_wait_for_each_other() -> None:
    content = encoded(Image.new("L", (8000, 6000), 7))
    decoder, found = Decoder(16, "crop"), list[int]()
    threads = [
        threading.Thread(target=lambda: found.append(int(decoder.decode(content).pixels[3, 3, 0]))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [7] * 2


def test_files_are_predicted_as_they_were_imported(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.run(policy="pad")
    assert open_dataset(folders.target).policy == "pad"
    row = np.empty((1, 16, 16, 3), np.uint8)
    assert decode_pictures([folders.base / "hat" / "0.png"], row, "pad") == [""]
    assert np.array_equal(row[0], open_dataset(folders.target).base.images[0])


def test_the_report_counts_what_a_policy_does(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    for path in sorted(folders.root.rglob("*.png")):
        Image.open(path).resize((320, 310)).save(path, "JPEG")
    paint(folders.base / "hat" / "a.png", seed=900, shape=(260, 400))
    for i in range(10):
        # More than 5 % may be dropped: they are no broken files.
        paint(folders.base / "hat" / f"b{i}.png", seed=901 + i, shape=(200, 400))
    report = folders.run(policy="thesis", size=32)
    assert (report.base_pictures, report.padded, len(report.dropped), report.skipped) == (28, 1, 10, ())
    lines = report.lines()
    assert "padded: 1 pictures got borders" in lines
    assert "dropped: 10 pictures that the policy leaves out; the manifest names all" in lines
    assert f"  {folders.base / 'hat' / 'b0.png'}: 400 × 200 pixels: a side under 250" in lines
    source = open_dataset(folders.target).manifest["source"]
    assert (source["policy"], source["padded"], len(source["dropped"])) == ("thesis", 1, 10)
