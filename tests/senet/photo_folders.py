"""Image folders as people have them, made of small painted pictures."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from senet.data.folder import import_folders
from senet.data.importing import ImportReport
from senet.data.store import open_dataset
from senet.errors import InputError

CLASSES = ("hat", "pants", "shirt")
COMBINATIONS = ("hat+shirt", "shirt+pants", "pants")
SIZE = 16


def paint(path: Path, seed: int, shape: tuple[int, int] = (24, 30)) -> Path:
    """Save a smooth coloured picture of `shape` (height, width) that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC).save(path)
    return path


class Folders:
    """Base and streaming folders, the CSV file that lists the same, and where the data set goes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.base, self.stream, self.csv = root / "photos", root / "outfits", root / "outfits.csv"
        self.target = root / "datasets" / "small"
        names = [(self.base / name, 9) for name in CLASSES] + [(self.stream / name, 5) for name in COMBINATIONS]
        for k, (folder, count) in enumerate(names):
            for i in range(count):
                paint(folder / f"{i}.png", seed=100 * k + i)
        self.write_csv(
            [f"outfits/{name}/{i}.png", name.replace("+", ";")] for name in COMBINATIONS for i in reversed(range(5))
        )

    def write_csv(
        self, rows: Iterable[Iterable[str]], header: Iterable[str] = ("file", "labels"), encoding: str = "utf-8"
    ) -> None:
        with self.csv.open("w", encoding=encoding, newline="") as file:
            csv.writer(file).writerows([header, *rows])

    def run(self, stream: Path | None = None, target: str = "small", size: int = SIZE, **options: Any) -> ImportReport:
        return import_folders(self.target.with_name(target), self.base, stream or self.stream, size=size, **options)

    def refused(self, *parts: object, stream: Path | None = None, size: int = SIZE, **options: Any) -> None:
        """The import fails with one line that holds all `parts`, and leaves nothing."""
        with pytest.raises(InputError) as caught:
            self.run(stream, size=size, **options)
        message = str(caught.value)
        assert "\n" not in message
        for part in parts:
            assert str(part) in message
        assert not self.target.exists()
        assert not self.target.parent.exists() or not list(self.target.parent.iterdir())


def names_of(target: Path, which: str) -> list[str]:
    return (target / f"{which}.files.txt").read_text(encoding="utf-8").splitlines()


def image_of(target: Path, name: str) -> npt.NDArray[np.uint8]:
    return np.asarray(open_dataset(target).base.images[names_of(target, "base").index(name)])
