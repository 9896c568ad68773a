"""Imports of mutated files, and imports that are killed: one line or the right data set, and nothing anywhere else."""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from senet.cli import main as senet
from senet.data.breeds import prepare_breeds
from senet.data.pictures import Decoder, Unreadable
from senet.data.store import POLICIES, open_dataset
from tests.conftest import TINY
from tests.senet.photo_folders import Folders, paint
from tests.senet.test_stanford_dogs import Dogs
from tests.soak.test_fuzz import mutated

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

FORMATS = (("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("GIF", "P"), ("BMP", "RGB"),
           ("TIFF", "L"), ("WEBP", "RGB"), ("PPM", "RGB"), ("JPEG2000", "RGB"), ("AVIF", "RGB"))  # fmt: skip


def picture(dice: random.Random) -> bytes:
    """A picture in one of several formats and modes."""
    form, mode = dice.choice(FORMATS)
    coarse = np.asarray([dice.randrange(256) for _ in range(16 * 16 * 3)], np.uint8).reshape(16, 16, 3)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((50, 40)).convert(mode).save(file, form)
    return file.getvalue()


def listing(root: Path, *without: Path) -> dict[str, bytes]:
    """Every file below `root` but those in some folders, with a hash of its content."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).digest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(path.is_relative_to(folder) for folder in without)
    }


class Target:
    """Calls the command, and holds it to its promises."""

    def __init__(self, root: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.home, self.capsys = root, home, capsys
        self.taken = self.refused = 0

    def call(self, *arguments: object) -> bool:
        """Whether the input was taken; if not, one line says why, and nothing is left."""
        before = listing(self.root, self.home)
        code = senet([str(argument) for argument in arguments])
        error = self.capsys.readouterr().err
        assert listing(self.root, self.home) == before, "something was written outside of the target"
        datasets = self.home / "datasets"
        left = [path.name for path in datasets.iterdir()] if datasets.exists() else []
        assert (code, left) in [(0, ["x"]), (2, [])]
        if code == 0:
            open_dataset(datasets / "x")
            shutil.rmtree(datasets / "x")
            self.taken += 1
        else:
            assert error.count("\n") == 1, error
            self.refused += 1
        return code == 0


@pytest.fixture
def target(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> Target:
    return Target(tmp_path, home, capsys)


@pytest.mark.parametrize("policy", POLICIES)
def test_mutated_pictures(policy: str) -> None:
    dice, decoder = random.Random(policy), Decoder(32, policy)  # type: ignore[arg-type]
    reasons: list[str] = []
    for _ in range(1500):
        try:
            assert decoder.decode(mutated(picture(dice), dice), drop=False).pixels.shape == (32, 32, 3)
        except Unreadable as error:
            reasons.append(str(error))
    assert 100 < len(reasons) < 1300
    assert all(reason.isprintable() and reason for reason in reasons)


@pytest.mark.parametrize("seed", range(12))
def test_imports_of_mutated_pictures(target: Target, seed: int) -> None:
    dice = random.Random(seed)
    for name in ("base/a", "base/b", "base/c", "stream/a+b"):
        folder = target.root / name
        folder.mkdir(parents=True)
        for i in range(60):
            # In half of the rounds few enough are broken for the import to go on.
            broken, content = dice.random() < (0.5 if seed % 2 else 0.02), picture(dice)
            (folder / f"{i}.jpg").write_bytes(mutated(content, dice) if broken else content)
    taken = target.call("data", "import", "x", "--base", target.root / "base", "--stream", target.root / "stream")
    assert taken or seed % 2


def test_mutated_tables(target: Target) -> None:
    folders = Folders(target.root)
    text = folders.csv.read_bytes()
    dice = random.Random(0)
    for i in range(1500):
        # Bytes that change nearly always break it; a line less often does not.
        lines = text.splitlines(keepends=True)
        del lines[dice.randrange(len(lines))]
        folders.csv.write_bytes(mutated(text, dice) if i % 10 else b"".join(lines))
        target.call("data", "import", "x", "--base", folders.base, "--stream", folders.csv, "--size", "16")
    assert target.refused > 500
    assert target.taken > 50


def test_mutated_archives(target: Target) -> None:
    dogs = Dogs(target.root)
    content = dogs.tar.read_bytes()
    with tarfile.open(dogs.tar) as archive:
        headers = [member.offset for member in archive]
    dice = random.Random(0)
    for i in range(1500):
        if i % 3:
            # A field of one of the headers.
            data, start = bytearray(content), dice.choice(headers)
            for _ in range(dice.randint(1, 4)):
                data[start + dice.randrange(512)] = dice.choice([0, 0x30, 0x37, 0x80, 0xFF, dice.randrange(256)])
            if dice.random() < 0.8:
                header = data[start : start + 148] + b" " * 8 + data[start + 156 : start + 512]
                data[start + 148 : start + 156] = b"%06o\0 " % sum(header)
            dogs.tar.write_bytes(data)
        else:
            dogs.tar.write_bytes(mutated(content, dice))
        options = ("--name", "x", "--size", "16", "--policy", "crop")
        target.call("data", "import-stanford-dogs", dogs.tar, *options)
    assert target.refused > 300
    assert target.taken > 100


def test_mutated_lists(target: Target) -> None:
    dogs = Dogs(target.root)
    content, dice = dogs.lists.read_bytes(), random.Random(0)
    for _ in range(400):
        dogs.lists.write_bytes(mutated(content, dice))
        options = ("--name", "x", "--size", "16", "--policy", "crop", "--lists", dogs.lists)
        target.call("data", "import-stanford-dogs", dogs.tar, *options)
    assert target.refused > 100


def test_mutated_manifests(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_breeds(home / "datasets" / "x", TINY)
    path, dice = home / "datasets" / "x" / "manifest.json", random.Random(0)
    content = path.read_bytes()
    for _ in range(1500):
        changed = mutated(content, dice)
        path.write_bytes(changed)
        code = senet(["data", "verify", "x"])
        error = capsys.readouterr().err
        # What is still the same, such as more spaces between the values, is no damage.
        same = code == 0 and json.loads(changed) == json.loads(content)
        assert same or (code == 2 and error.count("\n") == 1), error
        assert senet(["data", "list"]) == 0


def test_an_import_killed_at_any_moment_is_the_same_in_the_end(tmp_path: Path) -> None:
    for k, name in enumerate(("base/a", "base/b", "base/c", "stream/a+b", "stream/c")):
        for i in range(120):
            paint(tmp_path / name / f"{i}.jpg", seed=1000 * k + i, shape=(300, 400))
    (tmp_path / "base" / "a" / "5b.jpg").write_bytes(b"broken")

    def start(home: str) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).parent / "senet"), "data", "import", "x", "--size", "128", "--base",
                   str(tmp_path / "base"), "--stream", str(tmp_path / "stream")]  # fmt: skip
        environment = os.environ | {"SWEEPS_HOME": str(tmp_path / home), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def finish(process: subprocess.Popen[bytes]) -> None:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error

    def progress(home: str) -> int:
        """Bytes of both journals, which grow with every 64 files."""
        files = [*(tmp_path / home / "datasets").glob(".x-*/*.journal")]
        return sum(path.stat().st_size for path in files)

    finish(start("whole"))
    wanted = {path.name: path.read_bytes() for path in (tmp_path / "whole" / "datasets" / "x").iterdir()}

    dice, resumed = random.Random(0), 0
    for round_ in range(20):
        home, bytes_ = f"home{round_}", dice.randrange(1, 50_000) if round_ % 4 else 0
        process = start(home)
        # From before the first file to after the last one.
        while bytes_ and progress(home) < bytes_ and process.poll() is None:
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.3 if bytes_ else 3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        folder = tmp_path / home / "datasets"
        resumed += progress(home) > 0
        done = (folder / "x").exists()
        if not done:
            finish(start(home))
        assert {path.name: path.read_bytes() for path in (folder / "x").iterdir()} == wanted
        # Killed between its last two steps, it is done, and leaves a hidden folder to the next import of the name.
        assert done or os.listdir(folder) == ["x"]
        shutil.rmtree(tmp_path / home)
    assert resumed >= 8
