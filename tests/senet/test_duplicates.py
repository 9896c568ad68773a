"""Equal and nearly equal pictures: found, named, never in two splits."""

import io
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from senet.data.duplicates import MOST_BITS, find_duplicates
from senet.data.store import open_dataset
from tests.senet.photo_folders import Folders, names_of, paint


def picture(seed: int, side: int = 96) -> Image.Image:
    """Smooth blobs and some grain: no two seeds look alike."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


def saved(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def test_pictures_saved_anew_are_found_and_others_are_not() -> None:
    originals = [picture(seed) for seed in range(40)]
    changed = [
        saved(originals[0], 40),
        originals[1].resize((48, 48)).resize((96, 96)),
        ImageEnhance.Brightness(originals[2]).enhance(1.1),
        originals[3].convert("L").convert("RGB"),
    ]
    pixels = np.stack([np.asarray(image) for image in originals + changed])
    found = find_duplicates([str(i) for i in range(44)], [pixels[:30], pixels[30:]], 40)
    assert [members.tolist() for members in found.members()] == [[i, 40 + i] for i in range(4)]
    assert (found.exact, found.near) == (0, 4)


def test_a_chain_is_one_group_and_bytes_count_without_pixels() -> None:
    pixels = np.stack([np.asarray(picture(seed)) for seed in range(4)])
    found = find_duplicates(["a", "b", "a", "c"], [pixels[[0, 1, 1, 3]]], 2)
    # The third file has the bytes of the first (say, decoded otherwise) and the pixels of the second.
    assert found.groups.tolist() == [0, 0, 0, 3]
    # Without it the first two are strangers, and so they are among base pictures that it does not belong to.
    assert found.base_groups.tolist() == [0, 1]
    assert (found.exact, found.near) == (1, 1)


def test_pictures_without_contrast_are_no_duplicates() -> None:
    pixels = np.stack([np.full((32, 32, 3), shade, np.uint8) for shade in (0, 90, 255)])
    assert find_duplicates(["a", "b", "c"], [pixels], 3).groups.tolist() == [0, 1, 2]
    assert find_duplicates([], [], 0).groups.tolist() == []


@pytest.mark.slow
@pytest.mark.parametrize("alike", [False, True])
def test_twenty_thousand_are_compared_in_seconds(monkeypatch: pytest.MonkeyPatch, alike: bool) -> None:
    rng = np.random.default_rng(0)
    hashes = rng.random((20_000, 256)) < 0.5
    if alike:
        # Nearly all pairs are near: their list alone would take gigabytes.
        hashes[1:] = hashes[0]
        hashes[np.arange(20_000), rng.integers(0, 256, 20_000)] ^= True
    else:
        hashes[7] = hashes[19_999]
        hashes[7, :MOST_BITS] ^= True
        hashes[8] = hashes[19_998]
        hashes[8, : MOST_BITS + 1] ^= True
    monkeypatch.setattr("senet.data.duplicates._hashes", lambda chunks: np.packbits(hashes, axis=1))
    tracemalloc.start()
    start = time.perf_counter()
    found = find_duplicates([str(i) for i in range(20_000)], [], 20_000)
    assert time.perf_counter() - start < 60
    # Of the two hundred million pairs only a block is held at a time.
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    tracemalloc.stop()
    groups = [members.tolist() for members in found.members()]
    assert groups == ([list(range(20_000))] if alike else [[7, 19_999]])


def test_duplicates_of_an_import_are_named_and_share_a_split(folders: Folders) -> None:
    original = folders.base / "hat" / "0.png"
    picture(900).save(original)
    (folders.base / "shirt" / "copy.png").write_bytes(original.read_bytes())
    Image.open(original).save(folders.stream / "pants" / "near.jpg", quality=95)
    report = folders.run(size=48)
    assert (report.exact_duplicates, report.near_duplicates) == (1, 1)
    assert "duplicates: 1 exact, 1 near, each in the split of what it duplicates" in report.lines()[2]
    copy = folders.base / "shirt" / "copy.png"
    assert report.conflicts == ((str(copy), f"is nearly {original}, or equal"),)
    assert "labels differ: 1 of the duplicates; duplicates.txt names all" in report.lines()
    named = (folders.target / "duplicates.txt").read_text().split("\n\n")[0].splitlines()
    assert named == [
        str(original),
        str(copy),
        str(folders.stream / "pants" / "near.jpg"),
    ]
    dataset = open_dataset(folders.target)
    base, streaming = names_of(folders.target, "base"), names_of(folders.target, "streaming")
    parts = {int(dataset.base.split[base.index(name)]) for name in ("hat/0.png", "shirt/copy.png")}
    assert parts == {int(dataset.streaming.split[streaming.index("pants/near.jpg")])}
    assert dataset.manifest["source"]["near_duplicates"] == 1


def test_a_class_of_copies_is_refused(folders: Folders) -> None:
    for i in range(9):
        paint(folders.base / "hat" / f"{i}.png", seed=0)
    folders.refused("base `hat`: 9 pictures, 1 without counting duplicates, which stay together: none is left for")
