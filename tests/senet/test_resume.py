"""Imports that are interrupted, run twice at once, or find another one's remains."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from senet.data import importing, journal
from senet.data.journal import Journal, Outcome
from senet.data.store import open_dataset
from senet.data.workspace import Workspace
from senet.errors import InputError
from tests.senet.photo_folders import Folders, paint


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    # Many chunks of few files.
    monkeypatch.setattr(importing, "_CHUNK_FILES", 4)
    return Folders(tmp_path)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def stop_after(monkeypatch: pytest.MonkeyPatch, calls: int, error: BaseException) -> list[int]:
    """Make the writing of chunks fail after so many; returns a list that grows by one a chunk."""
    written: list[int] = []
    add = Journal.add

    def stopping(self: Journal, *arguments: Any) -> None:
        if len(written) >= calls:
            raise error
        add(self, *arguments)
        written.append(len(arguments[0]))

    monkeypatch.setattr(journal.Journal, "add", stopping)
    return written


@pytest.mark.parametrize("chunks", [0, 1, 5, 8, 10])
def test_an_interrupted_import_goes_on_to_the_same_bytes(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    (folders.base / "hat" / "5b.jpg").write_bytes(b"broken")
    folders.run(target="small")
    whole = content(folders.target)
    folders.target.rename(folders.root / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, chunks, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            folders.run()
    assert not folders.target.exists()
    with monkeypatch.context() as patch:
        written = stop_after(patch, 99, KeyboardInterrupt())
        folders.run()
    assert sum(written) == 43 - min(4 * chunks, 28) - max(0, 4 * (chunks - 7)), "nothing is decoded twice"
    assert content(folders.target) == whole
    assert [path.name for path in folders.target.parent.iterdir()] == ["small"], "nothing hidden is left"


def test_what_was_not_written_whole_is_decoded_again(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.run()
    whole = content(folders.target)
    folders.target.rename(folders.root / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 5, OSError(28, "No space left on device"))
        with pytest.raises(OSError, match="No space"):
            folders.run()
    (hidden,) = folders.target.parent.iterdir()
    # A lost page of pixels in the third chunk, and a journal line that ends early.
    with (hidden / "data" / "base.images.npy").open("r+b") as file:
        file.seek(128 + 9 * 16 * 16 * 3)
        file.write(bytes(100))
    with (hidden / "base.journal").open("ab") as file:
        file.write(b'{"pixels": "')
    with monkeypatch.context() as patch:
        written = stop_after(patch, 99, KeyboardInterrupt())
        folders.run()
    assert sum(written) == 42 - 8
    assert content(folders.target) == whole


def test_a_changed_file_is_another_import(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            folders.run()
    (remains,) = folders.target.parent.iterdir()
    paint(folders.base / "hat" / "0.png", seed=999)
    folders.run()
    assert not remains.exists(), "remains of the same name are removed"
    folders.run(target="other")
    assert open_dataset(folders.target).fingerprint == open_dataset(folders.target.with_name("other")).fingerprint


def test_the_same_import_twice_at_once_is_refused(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    add, messages = Journal.add, []

    def meanwhile(self: Journal, *arguments: Any) -> None:
        if not messages:
            with pytest.raises(InputError) as caught:
                folders.run()
            messages.append(str(caught.value))
        add(self, *arguments)

    monkeypatch.setattr(journal.Journal, "add", meanwhile)
    folders.run()
    assert "the same is being prepared right now" in messages[0]


def test_of_two_imports_to_one_name_one_wins(folders: Folders) -> None:
    errors: list[str] = []
    barrier = threading.Barrier(3)

    def run(seed: int) -> None:
        barrier.wait()
        try:
            folders.run(seed=seed)
        except InputError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 2
    assert all("a data set of this name" in error for error in errors)
    seed = open_dataset(folders.target).manifest["split"]["seed"]
    folders.run(target="alone", seed=seed)
    assert open_dataset(folders.target).fingerprint == open_dataset(folders.target.with_name("alone")).fingerprint
    assert sorted(path.name for path in folders.target.parent.iterdir()) == ["alone", "small"]


@pytest.mark.parametrize("replace", [False, True])
def test_a_finished_data_set_that_cannot_be_moved_is_kept_for_the_next_call(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    if replace:
        folders.run(seed=1)
    before = sorted(path.name for path in folders.target.parent.iterdir()) if replace else []
    rename = os.rename

    def full(source: Path, target: Path) -> None:
        if Path(source).name == "data":
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(target))
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        for _ in range(2):
            with pytest.raises(OSError, match="quota"):
                folders.run(replace=replace)
    assert [path.name for path in folders.target.parent.iterdir() if not path.name.startswith(".")] == before
    assert not replace or open_dataset(folders.target).manifest["split"]["seed"] == 1
    with monkeypatch.context() as patch:
        written = stop_after(patch, 99, KeyboardInterrupt())
        folders.run(replace=replace)
    assert written == [], "nothing is decoded again"
    assert open_dataset(folders.target).manifest["split"]["seed"] == 0
    assert [path.name for path in folders.target.parent.iterdir()] == ["small"]


def test_remains_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    busy = Workspace.claim(tmp_path / "x", "a" * 16)
    Workspace.claim(tmp_path / "x", "b" * 16).release()
    Workspace.claim(tmp_path / "x-y", "c" * 16).release()
    workspace = Workspace.claim(tmp_path / "x", "d" * 16)
    workspace.publish(tmp_path / "made", replace=False)
    workspace.remove()
    assert sorted(os.listdir(tmp_path)) == [".x-" + "a" * 16, ".x-y-" + "c" * 16, "x"]
    busy.remove()


def test_a_journal_of_nothing_kept_is_an_empty_array(tmp_path: Path) -> None:
    with Journal(tmp_path / "x.npy", tmp_path / "j", 16) as written:
        written.add([Outcome("unreadable", "why")], [])
        written.finish()
    assert np.load(tmp_path / "x.npy").shape == (0, 16, 16, 3)
