"""Importing image folders: what is taken, what is skipped, what is refused."""

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from senet.data.folder import import_folders
from senet.data.importing import ImportReport
from senet.data.store import SPLITS, ImageSet, open_dataset
from senet.errors import InputError
from tests.senet.photo_folders import CLASSES, COMBINATIONS, SIZE, Folders, image_of, names_of, paint

# What is taken


def test_folders_and_csv_give_the_same_data_set(folders: Folders) -> None:
    report = folders.run()
    assert report == ImportReport(27, 15, 3, 3)
    assert report.lines() == ["base: 27 pictures of 3 classes", "streaming: 15 pictures of 3 combinations"]
    assert folders.run(folders.csv, target="table") == report

    one, two = open_dataset(folders.target), open_dataset(folders.target.with_name("table"))
    assert one.fingerprint == two.fingerprint
    assert one.classes == CLASSES
    assert one.kind == "one object of mixed kind"
    assert one.base.images.shape == (27, SIZE, SIZE, 3)
    assert one.base.images.dtype == np.uint8


def test_each_picture_has_its_labels_and_its_file(folders: Folders) -> None:
    folders.run()
    dataset = open_dataset(folders.target)
    assert names_of(folders.target, "base") == [f"{name}/{i}.png" for name in CLASSES for i in range(9)]
    for name, labels in zip(names_of(folders.target, "streaming"), dataset.streaming.labels, strict=True):
        assert {CLASSES[i] for i in np.flatnonzero(labels)} == set(name.split("/")[0].split("+"))
    square = Image.open(folders.base / "hat" / "3.png").resize((SIZE, SIZE), Image.Resampling.LANCZOS, (3, 0, 27, 24))
    assert np.array_equal(image_of(folders.target, "hat/3.png"), np.asarray(square))


def test_the_manifest_tells_the_source(folders: Folders) -> None:
    (folders.base / "hat" / "notes.txt").write_text("not a picture")
    folders.run(seed=3)
    assert json.loads((folders.target / "manifest.json").read_text())["source"] == {
        "importer": "folders",
        "base": str(folders.base),
        "stream": str(folders.stream),
        "size": SIZE,
        "seed": 3,
        "policy": "crop",
        "aliases": {},
        "command": f"senet data import small --base {folders.base} --stream {folders.stream} --size 16 --seed 3 "
        "--policy crop --split default",
        "skipped": {str(folders.base / "hat" / "notes.txt"): "no picture"},
        "dropped": {},
        "padded": 0,
        "exact_duplicates": 0,
        "near_duplicates": 0,
        "unused": 0,
    }


def test_the_order_of_labels_in_a_name_does_not_matter(folders: Folders) -> None:
    (folders.stream / "pants+shirt").mkdir()
    (folders.stream / "shirt+pants" / "0.png").rename(folders.stream / "pants+shirt" / "0.png")
    assert folders.run().combinations == 3


def test_hidden_files_are_ignored_and_one_folder_below_is_read(folders: Folders) -> None:
    (folders.base / ".cache").mkdir()
    (folders.base / "hat" / ".DS_Store").write_bytes(b"x")
    paint(folders.base / "hat" / "more" / "x.png", seed=1)
    report = folders.run()
    assert (report.base_pictures, report.skipped) == (28, ())
    assert "hat/more/x.png" in names_of(folders.target, "base")


def test_a_csv_may_have_a_byte_order_mark_blank_lines_and_other_columns(folders: Folders) -> None:
    rows = [[f"x{i}", "hat; shirt", f"outfits/hat+shirt/{i}.png"] for i in range(5)]
    folders.write_csv([*rows, []], header=("note", "labels", "file"), encoding="utf-8-sig")
    assert folders.run(folders.csv).combinations == 1


def test_a_second_import_needs_replace(folders: Folders) -> None:
    folders.run()
    before = open_dataset(folders.target).fingerprint
    with pytest.raises(InputError, match="exists"):
        folders.run(seed=1)
    import_folders(folders.target, folders.base, folders.stream, size=SIZE, seed=1, replace=True)
    assert open_dataset(folders.target).fingerprint != before


def test_a_refused_replacement_leaves_the_old_data_set(folders: Folders) -> None:
    folders.run()
    before = open_dataset(folders.target).fingerprint
    (folders.base / "hat" / "x.jpg").write_bytes(b"")
    (folders.base / "hat" / "y.jpg").write_bytes(b"")
    (folders.base / "hat" / "z.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="3 of 45 files"):
        import_folders(folders.target, folders.base, folders.stream, size=SIZE, replace=True)
    assert open_dataset(folders.target).fingerprint == before


# Splits and repetition


def strata(part: ImageSet, split: int) -> set[bytes]:
    return {labels.tobytes() for labels in part.labels[part.split == split]}


def test_every_class_and_combination_is_in_each_split(folders: Folders) -> None:
    folders.run()
    dataset = open_dataset(folders.target)
    for split in range(len(SPLITS)):
        assert len(strata(dataset.base, split)) == len(CLASSES)
        assert len(strata(dataset.streaming, split)) == len(COMBINATIONS)


def test_runs_repeat_whatever_the_threads_and_differ_by_seed(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.run()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)), raising=False)
    folders.run(target="again")
    folders.run(target="other", seed=1)
    first, again, other = (open_dataset(folders.target.with_name(name)) for name in ("small", "again", "other"))
    assert first.fingerprint == again.fingerprint
    assert np.array_equal(first.base.images, other.base.images)
    assert not np.array_equal(first.base.split, other.base.split)


# Pixels


@pytest.mark.parametrize(("width", "height"), [(160, 40), (40, 160), (41, 160), (40, 40), (20, 4000)])
def test_the_centre_square_is_kept(folders: Folders, width: int, height: int) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    # The square is green, and what lies outside it red.
    pixels[..., 0] = 255
    pixels[top : top + side, left : left + side] = (0, 200, 0)
    Image.fromarray(pixels).save(folders.base / "hat" / "x.png")
    folders.run()
    # The outermost pixels may take a little of their neighbours.
    inner = image_of(folders.target, "hat/x.png")[2:-2, 2:-2]
    assert np.abs(inner.astype(int) - (0, 200, 0)).max() <= 3


@pytest.mark.parametrize("suffix", ["jpg", "tif", "webp", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected(folders: Folders, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.open(paint(folders.root / "x.png", seed=7, shape=(48, 64)))
    path = folders.base / "hat" / f"x.{suffix}"
    quality = {} if suffix in ("tif", "png") else {"quality": 100}
    picture.save(path, exif=exif, **quality)  # type: ignore[arg-type]
    folders.run()
    upright = ImageOps.fit(ImageOps.exif_transpose(picture_with(picture, exif)), (SIZE, SIZE), Image.Resampling.LANCZOS)
    difference = image_of(folders.target, f"hat/x.{suffix}").astype(int) - np.asarray(upright)
    assert np.abs(difference).max() <= (1 if suffix in ("tif", "png") else 12)


def picture_with(picture: Image.Image, exif: Image.Exif) -> Image.Image:
    copy = picture.copy()
    copy.getexif()[0x0112] = exif[0x0112]
    return copy


@pytest.mark.parametrize(
    "garbage", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_broken_exif_does_no_harm(folders: Folders, garbage: bytes) -> None:
    Image.open(folders.base / "hat" / "0.png").save(folders.base / "hat" / "x.jpg", exif=garbage)
    report = folders.run()
    assert (report.base_pictures, report.skipped) == (28, ())


def modes() -> dict[str, tuple[Image.Image, str, tuple[int, int, int]]]:
    """Name: picture, suffix, the colour that it must become."""
    shape = (20, 20)
    palette = Image.new("RGB", shape, (10, 200, 60)).quantize(4)
    see_through = Image.new("P", shape, 1)
    see_through.putpalette([0, 0, 0, 10, 20, 30])
    see_through.info["transparency"] = 1
    return {
        "CMYK": (Image.new("CMYK", shape, (0, 255, 255, 0)), "tif", (255, 0, 0)),
        "palette": (palette, "png", (10, 200, 60)),
        "transparent palette": (see_through, "gif", (255, 255, 255)),
        "alpha": (Image.new("RGBA", shape, (0, 0, 0, 51)), "png", (204, 204, 204)),
        "grey with alpha": (Image.new("LA", shape, (0, 0)), "png", (255, 255, 255)),
        "grey": (Image.new("L", shape, 77), "jpg", (77, 77, 77)),
        "black and white": (Image.new("1", shape, 1), "png", (255, 255, 255)),
        "16 bits": (Image.fromarray(np.full(shape, 0x4DFF, np.uint16)), "png", (77, 77, 77)),
        "16 bits, big-endian": (Image.fromarray(np.full(shape, 0x4DFF, ">u2")), "tif", (77, 77, 77)),
        "animation": (Image.new("RGB", shape, (0, 0, 255)), "gif", (0, 0, 255)),
    }


@pytest.mark.parametrize("mode", modes())
def test_every_mode_becomes_rgb(folders: Folders, mode: str) -> None:
    picture, suffix, colour = modes()[mode]
    picture.save(folders.base / "hat" / f"x.{suffix}")
    assert folders.run().skipped == ()
    assert np.abs(image_of(folders.target, f"hat/x.{suffix}").astype(int) - colour).max() <= 1


# Files that are skipped


def bomb(path: Path) -> None:
    """A PNG file of a few bytes whose header promises more pixels than Pillow takes without a warning."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 10_000, 9_500, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def cut(path: Path) -> None:
    Image.open(paint(path.with_suffix(".bmp"), seed=1, shape=(64, 64))).save(path, "JPEG")
    path.with_suffix(".bmp").unlink()
    path.write_bytes(path.read_bytes()[:-200])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (cut, "truncated"),
    "bomb": (bomb, "exceeds limit"),
    "empty": (lambda path: path.write_bytes(b""), "no picture"),
    "text": (lambda path: path.write_text("hello"), "no picture"),
    "PostScript": (lambda path: Image.new("RGB", (9, 9)).save(path, "EPS"), "no picture"),
    "floats": (lambda path: Image.new("F", (9, 9)).save(path, "TIFF"), "16 bits"),
    "pipe": (os.mkfifo, "no regular file"),
    "link to nothing": (lambda path: path.symlink_to("missing"), "broken link"),
    "link to itself": (lambda path: path.symlink_to(path.name), "broken link"),
    "link outside": (lambda path: path.symlink_to(paint(path.parents[2] / "out.png", seed=1)), "link out"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_skipped_by_name(folders: Folders, kind: str) -> None:
    make, reason = BROKEN[kind]
    folders.run(target="before")
    path = folders.base / "hat" / "5b.jpg"
    make(path)
    report = folders.run()
    ((name, why),) = report.skipped
    assert name == str(path)
    assert reason in why
    assert report.lines()[2:] == [
        "skipped: 1 files that are no readable pictures; the manifest names all",
        f"  {name}: {why}",
    ]
    # The pictures after it have moved up, with their labels.
    assert open_dataset(folders.target).fingerprint == open_dataset(folders.target.with_name("before")).fingerprint


def test_a_picture_needs_no_extension(folders: Folders) -> None:
    (folders.base / "hat" / "0.png").rename(folders.base / "hat" / "0.txt")
    assert folders.run().skipped == ()


def test_a_link_inside_is_followed(folders: Folders) -> None:
    (folders.base / "hat" / "x.png").symlink_to(folders.base / "shirt" / "1.png")
    assert folders.run().base_pictures == 28


def test_a_file_without_a_class_is_skipped_by_name(folders: Folders) -> None:
    paint(folders.base / "loose.png", seed=1)
    assert folders.run().skipped == ((str(folders.base / "loose.png"), "lies beside the folders, so it has no label"),)


def test_strange_names_stay_on_one_line(folders: Folders) -> None:
    paint(folders.base / "hat" / "a\nb.png", seed=1)
    paint(folders.root / "x.png", seed=2).rename(os.fsdecode(os.fsencode(folders.base / "hat") + b"/\xff.png"))
    folders.run()
    assert names_of(folders.target, "base")[9:11] == ["hat/a\\nb.png", "hat/\\xff.png"]


def test_over_five_percent_is_refused(folders: Folders) -> None:
    for i in range(3):
        (folders.base / "hat" / f"bad{i}.jpg").write_bytes(b"")
    folders.refused("3 of 45 files", "5 %", folders.base / "hat" / "bad0.jpg", "no picture")


def test_a_class_that_is_too_small_once_decoded_is_refused(folders: Folders) -> None:
    for i in range(3, 9):
        (folders.base / "hat" / f"{i}.png").unlink()
    (folders.base / "hat" / "2.png").write_bytes(b"")
    folders.refused(folders.base, "class `hat` has 2 readable pictures", "at least 3", "2.png")


# Folders that are refused


def test_a_small_combination_is_refused(folders: Folders) -> None:
    for i in range(3):
        (folders.stream / "hat+shirt" / f"{i}.png").unlink()
    folders.refused(folders.stream, "combination `hat+shirt` has 2 readable pictures", "at least 3")


def test_an_empty_class_is_refused(folders: Folders) -> None:
    (folders.base / "scarf").mkdir()
    folders.refused(folders.base, "class `scarf` has 0 readable pictures")


@pytest.mark.parametrize("name", ["scarf", "hat+scarf", "hat+Shirt"])
def test_an_unknown_label_is_refused(folders: Folders, name: str) -> None:
    paint(folders.stream / name / "x.png", seed=1)
    folders.refused(folders.stream / name, f"`{name.split('+')[-1]}`", "hat, pants, shirt")


def test_many_known_classes_are_shortened(folders: Folders) -> None:
    for i in range(20):
        paint(folders.base / f"k{i:02}" / "x.png", seed=i)
    (folders.stream / "zebra").mkdir()
    folders.refused("`zebra`", "hat, k00", "… (23 in all)")


@pytest.mark.parametrize(("name", "part"), [("hat+", "empty label"), ("hat+hat", "twice")])
def test_a_bad_combination_is_refused(folders: Folders, name: str, part: str) -> None:
    (folders.stream / name).mkdir()
    folders.refused(folders.stream / name, part, f"`{name}`")


@pytest.mark.parametrize("name", ["hat+shirt", "a;b", "a\nb"])
def test_a_class_name_that_cannot_be_told_apart_is_refused(folders: Folders, name: str) -> None:
    paint(folders.base / name / "x.png", seed=1)
    folders.refused(str(folders.base / name).replace("\n", "\\n"), "without `+` and `;`")


def test_base_pictures_are_not_streamed(folders: Folders) -> None:
    folders.refused(folders.base, "holds the base pictures", stream=folders.base)


def test_a_stream_of_single_labels_is_said_to_be_one(folders: Folders) -> None:
    for name in ("hat", "shirt"):
        (folders.stream / f"{name}+{'shirt' if name == 'hat' else 'pants'}").rename(folders.stream / name)
    line = folders.run().lines()[1]
    assert line == "streaming: 15 pictures of 3 combinations, none of which has several labels"


def test_missing_and_empty_folders_are_refused(folders: Folders) -> None:
    empty = folders.root / "empty"
    empty.mkdir()
    folders.refused(empty, "no folders", "`hat+pants`", stream=empty)
    folders.refused(folders.root / "nowhere", "no such folder", "CSV", stream=folders.root / "nowhere")
    folders.base = empty
    folders.refused(empty, "0 class folders", "at least two")
    paint(empty / "hat" / "x.png", seed=1)
    folders.refused(empty, "1 class folders", "at least two")
    for i in range(9):
        paint(empty / "hat" / f"{i}.png", seed=i)
        paint(empty / "shirt" / f"{i}.png", seed=10 + i)
    (folders.stream / "shirt+pants").rename(folders.root / "elsewhere")
    (folders.stream / "pants").rename(folders.root / "elsewhere too")
    folders.refused(empty, "2 class folders", "at least 3 are needed where a picture has 2 labels")
    folders.base = folders.root / "nowhere"
    folders.refused(folders.root / "nowhere", "no such folder", "one folder a class")


def test_folders_too_deep_and_linked_folders_are_refused(folders: Folders) -> None:
    deep = paint(folders.base / "hat" / "a" / "b" / "x.png", seed=1).parent
    folders.refused(deep, "too deep")
    deep.rename(folders.root / "b")
    deep.symlink_to(folders.root / "b")
    folders.refused(deep, "link to a folder")


@pytest.mark.parametrize("size", [15, 1025, 0, -1])
def test_a_size_out_of_range_is_refused(folders: Folders, size: int) -> None:
    folders.refused("`size`", "16 to 1024", f"got {size}", size=size)


def test_a_negative_seed_is_refused(folders: Folders) -> None:
    with pytest.raises(InputError, match="`seed` must be 0 or more, but got -1"):
        folders.run(seed=-1)
