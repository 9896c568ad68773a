"""Stanford Dogs as it is published, in small: the archive, the folder, the lists, and what is refused."""

import io
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from senet.cli import main
from senet.data.sources import Archive
from senet.data.stanford_dogs import import_stanford_dogs
from senet.data.store import PARTS, SPLITS, open_dataset
from senet.errors import InputError
from tests.conftest import refusal
from tests.senet.photo_folders import names_of, paint

BREEDS = (
    "n02085620-Chihuahua",
    "n02099601-golden_retriever",
    "n02105855-Shetland_sheepdog",
    "n02113799-standard_poodle",
)
PHOTOS = 10


class Dogs:
    """`Images/` with ten photos a breed, some of them odd, images.tar and lists.tar."""

    def __init__(self, root: Path) -> None:
        self.root, self.images, self.tar, self.lists = root, root / "Images", root / "images.tar", root / "lists.tar"
        for k, breed in enumerate(BREEDS):
            for i in range(PHOTOS):
                paint(self.images / breed / f"{breed[:9]}_{i}.jpg", seed=100 * k + i, shape=(40, 48))
        odd = [sorted((self.images / breed).iterdir())[0] for breed in BREEDS]
        Image.open(odd[0]).save(odd[0], "PNG")  # a PNG file of the name .jpg
        Image.open(odd[1]).convert("RGBA").save(odd[1], "PNG")
        Image.open(odd[2]).convert("L").save(odd[2], "JPEG")
        Image.open(odd[3]).convert("CMYK").save(odd[3], "JPEG")
        (self.images / BREEDS[0] / ".DS_Store").write_bytes(b"x")
        self.pack()
        names = [path.relative_to(self.images).as_posix() for path in sorted(self.images.glob("*/n*"))]
        self.test = [name for i, name in enumerate(names) if i % PHOTOS >= 7]
        self.pack_lists([name for name in names if name not in self.test], self.test)

    def pack(self, change: Callable[[tarfile.TarFile], object] = lambda archive: None) -> None:
        with tarfile.open(self.tar, "w") as archive:
            archive.add(self.images, "Images")
            change(archive)

    def pack_lists(self, train: list[str], test: list[str]) -> None:
        with tarfile.open(self.lists, "w") as archive:
            for what, names in (("train", train), ("test", test), ("file", train + test)):
                cells = np.empty((len(names), 1), object)
                cells[:, 0] = names
                file = io.BytesIO()
                savemat(file, {"file_list": cells, "labels": np.ones((len(names), 1))}, do_compression=what == "train")
                add(archive, f"{what}_list.mat", file.getvalue())


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(content), kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
    archive.addfile(member, io.BytesIO(content))


def pack_list(dogs: Dogs, content: bytes) -> None:
    with tarfile.open(dogs.lists, "w") as archive:
        for name in ("train_list.mat", "test_list.mat"):
            add(archive, name, content)


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(what: int, name: bytes, dimensions: tuple[int, int], values: bytes) -> bytes:
    flags, shape = struct.pack("<II", what, 0), struct.pack("<ii", *dimensions)
    return element(14, element(6, flags) + element(5, shape) + element(1, name) + values)


def cells(values: bytes) -> bytes:
    """`file_list`, a cell array of one cell."""
    return matrix(1, b"file_list", (1, 1), values)


def nested(depth: int) -> bytes:
    """Cells in cells."""
    values = b""
    for _ in range(depth):
        values = matrix(1, b"", (1, 1), values)
    return cells(values)


def claiming() -> bytes:
    """A string that claims 30 million characters and has none."""
    return matrix(4, b"", (1, 30_000_000), element(16, b""))


def mat(variables: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + variables


def inflating(length: int) -> bytes:
    """A file of a few kilobytes with a compressed string of so many characters."""
    content = zlib.compress(cells(matrix(4, b"", (1, length), element(16, bytes(length)))))
    return mat(struct.pack("<II", 15, len(content)) + content)


@pytest.fixture
def dogs(tmp_path: Path) -> Dogs:
    return Dogs(tmp_path)


def test_archive_and_folder_give_the_same_data_set(dogs: Dogs) -> None:
    options = {"size": 32, "policy": "crop"}
    for name, path in (("a", dogs.tar), ("b", dogs.root), ("c", dogs.images)):
        report = import_stanford_dogs(dogs.root / "sets" / name, path, **options)  # type: ignore[arg-type]
        assert (report.base_pictures, report.classes, report.skipped) == (4 * PHOTOS, 4, ())
        assert "streaming: none, so that only `protocol: single_label` can use it" in report.lines()
    found = [open_dataset(dogs.root / "sets" / name) for name in "abc"]
    assert len({dataset.fingerprint for dataset in found}) == 1
    assert found[0].classes == BREEDS
    assert found[0].streaming.images.shape == (0, 32, 32, 3)
    assert found[0].manifest["source"]["importer"] == "stanford_dogs"


def test_mixes_are_named_without_numbers(dogs: Dogs) -> None:
    for i in range(4):
        paint(dogs.root / "mixes" / "Golden Retriever+poodle" / f"{i}.png", seed=900 + i)
    arguments = (dogs.root / "x", dogs.tar)
    with pytest.raises(InputError, match="if it is n02113799-standard_poodle, say so with --alias poodle=CLASS"):
        import_stanford_dogs(*arguments, stream=dogs.root / "mixes", size=32, policy="crop")
    import_stanford_dogs(
        *arguments, stream=dogs.root / "mixes", size=32, policy="crop", aliases=["poodle=standard poodle"]
    )
    assert open_dataset(dogs.root / "x").streaming.labels[0].tolist() == [False, True, False, True]


def test_the_published_lists_are_the_official_split(dogs: Dogs) -> None:
    for name, path in (("a", dogs.tar), ("b", dogs.images)):
        import_stanford_dogs(dogs.root / name, path, lists=dogs.lists, size=32, policy="crop")
        dataset = open_dataset(dogs.root / name)
        names = [file.removeprefix("Images/") for file in names_of(dogs.root / name, "base")]
        assert sorted(names[i] for i in dataset.base.indices("test")) == sorted(dogs.test)
        assert dataset.manifest["split"]["name"] == "official"
        assert dataset.manifest["counts"]["base"] == {"train": 24, "validation": 4, "test": 12}
        assert set(np.unique(dataset.base.split)) == {PARTS.index(name) for name in SPLITS}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda dogs, train, test: dogs.pack_lists(train + test[:1], test), "is in both lists"),
        (lambda dogs, train, test: dogs.pack_lists(train[2:], test), "(and 1 more) is in neither list"),
        (lambda dogs, train, test: dogs.pack_lists([*train, "n1-x/y.jpg"], test), "is in a list, but not among"),
        (lambda dogs, train, test: dogs.pack_lists([*train, train[0]], test), "names a file twice"),
        (lambda dogs, train, test: dogs.lists.write_bytes(dogs.tar.read_bytes()), "no train_list.mat in it"),
        (lambda dogs, train, test: dogs.lists.write_bytes(b"no archive"), "no tar archive"),
        (lambda dogs, train, test: dogs.lists.unlink(), "cannot be read (No such file"),
        (lambda dogs, train, test: pack_list(dogs, bytes(5 * 2**20)), "a list of 5 MiB; at most 4 MiB are read"),
        (lambda dogs, train, test: pack_list(dogs, inflating(2**25)), "(inflates to more than 16 MiB)"),
        (lambda dogs, train, test: pack_list(dogs, mat(cells(claiming()))), "`` is in both lists"),
        (lambda dogs, train, test: pack_list(dogs, mat(nested(2_000))), "(not all of its cells are strings)"),
        (lambda dogs, train, test: pack_list(dogs, mat(nested(3))[:-9]), "(truncated)"),
        (lambda dogs, train, test: pack_list(dogs, mat(b"")), "(no such cell array)"),
        (lambda dogs, train, test: pack_list(dogs, bytes(500)), "(no MATLAB file of level 5)"),
    ],
)
def test_lists_that_do_not_fit_are_refused(dogs: Dogs, change: Callable[..., object], part: str) -> None:
    names = [path.relative_to(dogs.images).as_posix() for path in sorted(dogs.images.glob("*/n*"))]
    change(dogs, [name for name in names if name not in dogs.test], dogs.test)
    with pytest.raises(InputError) as caught:
        import_stanford_dogs(dogs.root / "x", dogs.tar, lists=dogs.lists, size=32, policy="crop")
    assert part in str(caught.value)
    assert not (dogs.root / "x").exists()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda archive: add(archive, "Images/n1-x/a.jpg", kind=tarfile.SYMTYPE), "is a link"),
        (lambda archive: add(archive, "Images/n1-x/a.jpg", kind=tarfile.LNKTYPE), "is a link"),
        (lambda archive: add(archive, "Images/n1-x/a.jpg", kind=tarfile.CHRTYPE), "is no regular file"),
        (lambda archive: add(archive, "Images/n1-x/a.jpg", kind=tarfile.FIFOTYPE), "is no regular file"),
        (lambda archive: add(archive, "../a.jpg"), "leads out of the archive"),
        (lambda archive: add(archive, "/tmp/a.jpg"), "leads out of the archive"),
        (lambda archive: add(archive, "Images/n1-x/../../../a.jpg"), "leads out of the archive"),
        (lambda archive: add(archive, f"Images/{BREEDS[0]}/{BREEDS[0][:9]}_1.jpg"), "is in the archive twice"),
        (lambda archive: add(archive, "Images/n1-x/a/b/c.jpg"), "too deep"),
        (lambda archive: add(archive, "Images/a+b/c.jpg"), "plain text without `+`"),
        (lambda archive: add(archive, "x" * 100_000), "a header of"),
    ],
)
def test_an_archive_that_holds_anything_else_is_refused(
    dogs: Dogs, change: Callable[[tarfile.TarFile], object], part: str
) -> None:
    dogs.pack(change)
    with pytest.raises(InputError) as caught:
        import_stanford_dogs(dogs.root / "x", dogs.tar, size=32, policy="crop")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (dogs.root / "x").exists()


def test_a_damaged_archive_is_refused(dogs: Dogs) -> None:
    content, (start, length) = dogs.tar.read_bytes(), list(Archive(dogs.tar).files.values())[20]
    for change in (
        content[: start + length // 2],
        content[: start - 512],  # cut where a file ends: nothing but the missing end tells
        content[: start - 400],
        content[: start - 512] + b"\xff" * 512 + content[start:],
        b"",
        b"\x1f\x8b" + content[2:],
    ):
        dogs.tar.write_bytes(change)
        with pytest.raises(InputError, match=r"truncated|damaged|compressed") as caught:
            Archive(dogs.tar)
        assert "\n" not in str(caught.value)


def test_the_command(dogs: Dogs, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["data", "import-stanford-dogs"]
    assert main([*call, str(dogs.tar), "--policy", "pad", "--size", "24", "--lists", str(dogs.lists)]) == 0
    assert f"wrote {home / 'datasets' / 'stanford_dogs'}" in capsys.readouterr().out
    assert main(["data", "list"]) == 0
    assert "stanford_dogs: 4 classes, 24 px by pad, base 40 images, streaming 0, " in (line := capsys.readouterr().out)
    assert "split official" in line
    command = open_dataset(home / "datasets" / "stanford_dogs").manifest["source"]["command"]
    assert command == (
        f"senet data import-stanford-dogs {dogs.tar} --name stanford_dogs --lists {dogs.lists} --size 24 --seed 0 "
        "--policy pad"
    )
    assert main([*command.split()[1:], "--replace"]) == 0
    # All of these are small: the thesis would have dropped them.
    message = refusal(main, capsys, *call, str(dogs.tar), "--name", "x").err
    assert "has 0 readable pictures, but at least 3 are needed; left out by the policy: " in message
    assert "a side under 250" in message
    lists = ["--lists", str(dogs.lists), "--split", "thesis"]
    assert "give one of them" in refusal(main, capsys, *call, str(dogs.tar), *lists).err
    assert "no such file or folder" in refusal(main, capsys, *call, str(dogs.root / "none"), "--name", "x").err
