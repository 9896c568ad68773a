"""CSV files of multi-label images that are refused."""

import pytest

from tests.senet.photo_folders import Folders


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (["outfits/hat+shirt/0.png", "hat;scarf"], ["`scarf`", "hat, pants, shirt"]),
        (["outfits/hat+shirt/0.png", "hat;"], ["empty label", "`hat;`"]),
        (["outfits/hat+shirt/0.png", ""], ["empty label"]),
        (["outfits/hat+shirt/0.png", "hat;hat"], ["twice", "`hat;hat`"]),
        (["outfits/hat+shirt/0.png"], ["2 cells"]),
        (["outfits/hat+shirt/0.png", "hat", "shirt"], ["2 cells"]),
        (["outfits/hat+shirt/1.png", "hat"], ["listed twice", "line 2", "1.png"]),
        (["./outfits//hat+shirt/1.png", "hat"], ["listed twice", "line 2"]),
        (["outfits/nothing.png", "hat"], ["no such file", "`outfits/nothing.png`"]),
        (["outfits", "hat"], ["no such file", "`outfits`"]),
        (["", "hat"], ["no such file"]),
        (["x" * 300, "hat"], ["no such file"]),
        (["a\0b", "hat"], ["inside the folder", "`a\\x00b`"]),
        (["/etc/hosts", "hat"], ["inside the folder", "`/etc/hosts`"]),
        (["../x.png", "hat"], ["inside the folder", "`../x.png`"]),
        (["outfits/link.png", "hat"], ["inside the folder", "`outfits/link.png`"]),
        (["outfits/" + "x" * 200_000, "hat"], ["not a row of CSV"]),
    ],
)
def test_a_bad_csv_row_is_refused_by_line(folders: Folders, row: list[str], parts: list[str]) -> None:
    (folders.stream / "link.png").symlink_to("/etc/hosts")
    rows = [[f"outfits/hat+shirt/{i}.png", "hat;shirt"] for i in (1, 2, 3)]
    folders.write_csv([*rows, row])
    folders.refused(f"{folders.csv}:5: ", *parts, stream=folders.csv)


@pytest.mark.parametrize("text", ["", "file\nx.png\n", "x.png,hat\n", "file;labels\nx.png;hat\n", "\n\n"])
def test_a_csv_without_its_header_is_refused(folders: Folders, text: str) -> None:
    folders.csv.write_text(text)
    folders.refused(
        f"{folders.csv}:1: ", "`file,labels`", f"`{text.splitlines()[0] if text else ''}`", stream=folders.csv
    )


def test_a_csv_that_is_not_utf_8_is_refused(folders: Folders) -> None:
    folders.csv.write_bytes("file,labels\noutfits/hät.png,hat\n".encode("latin-1"))
    folders.refused(f"{folders.csv}:2: ", "UTF-8", stream=folders.csv)


def test_a_csv_without_rows_is_refused(folders: Folders) -> None:
    folders.csv.write_text("file,labels\n")
    folders.refused(folders.csv, "no pictures are listed", stream=folders.csv)


def test_an_open_quote_is_refused(folders: Folders) -> None:
    folders.csv.write_text('file,labels\n"outfits/hat+shirt/0.png,hat\n')
    folders.refused(f"{folders.csv}:2: ", "not a row of CSV", stream=folders.csv)


def test_a_small_combination_of_a_csv_is_refused(folders: Folders) -> None:
    folders.write_csv([[f"outfits/hat+shirt/{i}.png", "shirt;hat"] for i in range(2)])
    folders.refused(folders.csv, "combination `hat+shirt` has 2 readable pictures", stream=folders.csv)
