"""Data sets by URL: copied once, checked, found again; and stores that are damaged."""

import json
import os
import shutil
import sys
import threading
import zlib
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from senet.cli import main
from senet.data.breeds import prepare_breeds
from senet.data.catalogue import dataset_folder, describe_dataset, obtain_dataset, own_copy_of
from senet.data.folder import import_folders
from senet.data.remote import fetch_dataset
from senet.data.store import open_dataset
from senet.errors import InputError
from sweeps.cli import main as sweeps
from tests.conftest import TINY, TINY_TRIAL, refusal
from tests.senet.photo_folders import Folders, paint


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of a data set on another machine, as it were."""
    prepare_breeds(tmp_path / "bucket" / "pets", TINY)
    return f"file://{tmp_path}/bucket/pets"


def test_a_data_set_by_url_is_copied_once(url: str, tmp_path: Path, home: Path) -> None:
    described = describe_dataset(home, url)
    assert not home.exists(), "a description copies nothing"
    dataset = obtain_dataset(home, url)
    assert dataset.name == url
    assert (described.classes, described.counts, described.labels) == (dataset.classes, dataset.manifest["counts"], 2)
    shutil.rmtree(tmp_path / "bucket")
    assert obtain_dataset(home, url).fingerprint == dataset.fingerprint
    assert obtain_dataset(home, f"{url}/").fingerprint == dataset.fingerprint
    assert describe_dataset(home, url) == described
    assert [path.name[:5] for path in (home / "datasets").iterdir()] == ["pets-"]


def test_the_cache_can_be_elsewhere_and_all_who_wait_get_one_copy(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPS_CACHE", str(tmp_path / "cache"))
    folder, found = dataset_folder(tmp_path / "home", url), list[str]()
    assert folder.parent == tmp_path / "cache"
    threads = [
        threading.Thread(target=lambda: found.append(obtain_dataset(tmp_path / "home", url).fingerprint))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_each_machine_keeps_its_own_copy_of_what_lies_on_a_share(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("senet.mounts.mounts", lambda: f"1 1 0:1 / {home} rw - nfs4 server:/x rw")
    monkeypatch.setenv("SWEEPS_CACHE", str(tmp_path / "cache"))
    prepare_breeds(home / "datasets" / "pets", TINY)
    describe_dataset(home, "pets")
    assert not (tmp_path / "cache").exists(), "a description copies nothing"
    dataset = obtain_dataset(home, "pets")
    copy = tmp_path / "cache" / f"pets-{dataset.manifest['checksum'][:16]}"
    assert (dataset.name, list((tmp_path / "cache").iterdir())) == ("pets", [copy])
    assert str(getattr(dataset.base.images, "filename", "")) == str(copy / "base.images.npy")
    assert obtain_dataset(home, "pets").fingerprint == dataset.fingerprint

    flip(copy / "base.images.npy", 5000)
    os.utime(copy / "base.images.npy")
    with pytest.raises(InputError, match=r"this machine's copy of pets: delete it and call again"):
        obtain_dataset(home, "pets")
    shutil.rmtree(copy)
    flip(home / "datasets" / "pets" / "base.images.npy", 5000)
    with pytest.raises(InputError, match=r"damaged .*: prepare it again: senet data breeds pets"):
        obtain_dataset(home, "pets")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_copy_is_made_anew_where_the_manifest_alone_is_another(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("senet.mounts.mounts", lambda: f"1 1 0:1 / {home} rw - nfs4 server:/x rw")
    monkeypatch.setenv("SWEEPS_CACHE", str(tmp_path / "cache"))
    folders, found = Folders(tmp_path), []
    for picture in [*folders.base.rglob("*.png"), *folders.stream.rglob("*.png")]:
        paint(picture, seed=zlib.crc32(str(picture).encode()), shape=(24, 24))
    for policy in ("crop", "squash"):
        import_folders(
            home / "datasets" / "pets", folders.base, folders.stream, size=16, policy=policy, replace=True
        )  # fmt: skip
        found.append(obtain_dataset(home, "pets"))
    assert found[0].fingerprint == found[1].fingerprint, "all pictures are square"
    assert [dataset.manifest["source"]["policy"] for dataset in found] == ["crop", "squash"]


def test_no_copy_is_made_where_the_cache_is_on_a_share_itself(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("senet.mounts.mounts", lambda: f"1 1 0:1 / {tmp_path} rw - nfs4 server:/x rw")
    monkeypatch.setenv("SWEEPS_CACHE", str(tmp_path / "cache"))
    folder = home / "datasets" / "pets"
    prepare_breeds(folder, TINY)
    dataset = obtain_dataset(home, "pets")
    assert str(getattr(dataset.base.images, "filename", "")) == str(folder / "base.images.npy")
    assert not (tmp_path / "cache").exists()
    assert own_copy_of(home, "pets") == f"pets-{dataset.manifest['checksum'][:16]}", (
        "the doctor asks every machine for it"
    )


def test_a_data_set_is_put_to_an_address_once(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_breeds(home / "datasets" / "pets", TINY)
    url = f"file://{tmp_path}/bucket/pets"
    # What a call that was killed has left.
    (tmp_path / "bucket" / "pets").mkdir(parents=True)
    (tmp_path / "bucket" / "pets" / "base.images.npy").write_bytes(b"half")
    assert main(["data", "copy", "pets", url]) == 0
    assert f"copied to {url}; in a recipe: data: {url}" in capsys.readouterr().out
    assert obtain_dataset(tmp_path / "elsewhere", url).fingerprint == obtain_dataset(home, "pets").fingerprint
    assert main(["data", "copy", "pets", url]) == 0
    assert f"is there already: {url}" in capsys.readouterr().out

    prepare_breeds(home / "datasets" / "others", replace(TINY, seed=1))
    assert "another data set is there" in refusal(main, capsys, "data", "copy", "others", url).err
    assert "must be the name of a prepared data set" in refusal(main, capsys, "data", "copy", url, url).err
    assert "must be a name, or a URL" in refusal(main, capsys, "data", "copy", "pets", "ftp://host/pets").err
    assert "no such data set" in refusal(main, capsys, "data", "copy", "none", url).err
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(main, capsys, "data", "copy", "pets", f"file://{tmp_path}/file/pets").err
    flip(home / "datasets" / "pets" / "base.split.npy", 129)
    damaged = refusal(main, capsys, "data", "copy", "pets", f"{url}-2").err
    assert "damaged" in damaged
    assert not (tmp_path / "bucket" / "pets-2" / "manifest.json").exists()


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_what_an_address_lacks_is_put_there_again(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    prepare_breeds(home / "datasets" / "pets", TINY)
    there, url = tmp_path / "bucket" / "pets", f"file://{tmp_path}/bucket/pets"
    assert main(["data", "copy", "pets", url]) == 0
    images = there / "base.images.npy"
    untouched = images.stat().st_mtime_ns
    if damage == "missing":
        (there / "streaming.split.npy").unlink()
    else:
        (there / "streaming.split.npy").write_bytes(b"half")
    capsys.readouterr()
    assert main(["data", "copy", "pets", url]) == 0
    assert f"copied to {url}" in capsys.readouterr().out
    assert images.stat().st_mtime_ns == untouched, "what is whole stays"
    assert obtain_dataset(tmp_path / "elsewhere", url).kind == open_dataset(home / "datasets" / "pets").kind
    assert main(["data", "copy", "pets", url]) == 0
    assert "is there already" in capsys.readouterr().out
    # Machines that have copied it do not look again.
    change_manifest(home / "datasets" / "pets", kind="several objects")
    assert "another data set is there" in refusal(main, capsys, "data", "copy", "pets", url).err


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("ftp://host/pets", "must be a name, or a URL such as s3://bucket/folder (file, s3, gs)"),
        ("s3://", "must be a name, or a URL"),
        ("file:///nowhere/pets", "file:///nowhere/pets: there is no data set; a folder that holds manifest.json"),
        ("s3::file:///x", "must be a name, or a URL"),
    ],
)
def test_a_url_without_a_data_set_is_refused(
    url: str, part: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(TINY_TRIAL | {"data": url}))
    assert part in refusal(main, capsys, "train", str(config)).err
    recipe = tmp_path / "r.yaml"
    space = {"streaming.learning_rate": {"log": [0.001, 0.1]}}
    recipe.write_text(yaml.safe_dump({"data": url, "objective": {"top_k": 2}, "space": space}))
    assert part in refusal(sweeps, capsys, "run", str(recipe)).err


def test_a_scheme_whose_package_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    # It may be in use already in this process.
    monkeypatch.delitem(import_module("fsspec.registry")._registry, "s3", raising=False)
    with pytest.raises(InputError, match=r"s3:// needs the package s3fs: pip install s3fs"):
        obtain_dataset(home, "s3://bucket/pets")


@pytest.mark.parametrize("damage", ["bytes", "missing", "manifest", "other file"])
def test_a_damaged_one_is_not_taken(url: str, tmp_path: Path, home: Path, damage: str) -> None:
    source = tmp_path / "bucket" / "pets"
    if damage == "bytes":
        flip(source / "base.images.npy", 5000)
    elif damage == "missing":
        (source / "streaming.split.npy").unlink()
    elif damage == "manifest":
        flip(source / "manifest.json", 300)
    else:
        manifest = json.loads((source / "manifest.json").read_text())
        change_manifest(source, checksums=manifest["checksums"] | {"../../escaped": "0"})
    with pytest.raises(InputError, match=r"damaged|is not what its manifest says|names other files"):
        fetch_dataset(url, dataset_folder(home, url))
    assert list((home / "datasets").iterdir()) == []


def change_manifest(folder: Path, **values: object) -> None:
    """Change values of a manifest, and its checksum with them."""
    from senet.data.integrity import _digest

    manifest = json.loads((folder / "manifest.json").read_text()) | values
    del manifest["checksum"]
    (folder / "manifest.json").write_text(json.dumps(manifest | {"checksum": _digest(manifest)}))


def flip(path: Path, at: int) -> None:
    """Change one byte, and leave length and time as they are."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# Checksums of local data sets


@pytest.mark.parametrize("name", ["base.images.npy", "streaming.labels.npy", "base.split.npy"])
def test_a_changed_byte_is_found_when_a_data_set_is_first_opened(
    home: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_breeds(home / "datasets" / "pets", TINY)
    flip(home / "datasets" / "pets" / name, 129)
    with pytest.raises(InputError) as caught:
        open_dataset(home / "datasets" / "pets")
    command = "prepare it again: senet data breeds pets --breeds 6 --mixes 3 --skip-mixes 0 --train-per-breed 20"
    assert f"the data set is damaged ({name} is not as it was written): {command}" in str(caught.value)
    assert str(caught.value).endswith(" --replace")
    assert str(caught.value) in refusal(main, capsys, "data", "verify", "pets").err


def test_a_data_set_is_verified_once_and_again_after_a_change(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / "datasets" / "pets"
    prepare_breeds(folder, TINY)
    checked: list[Path] = []
    from senet.data import integrity

    verify = integrity.verify_files
    monkeypatch.setattr(
        integrity, "verify_files", lambda folder, manifest: checked.append(folder) or verify(folder, manifest)
    )
    for _ in range(3):
        open_dataset(folder)
    assert checked == [folder]
    # A byte that changes behind the back of time and length is found by the command alone.
    flip(folder / "base.images.npy", 5000)
    open_dataset(folder)
    assert "base.images.npy is not as it was written" in refusal(main, capsys, "data", "verify", "pets").err
    os.utime(folder / "base.images.npy")
    with pytest.raises(InputError, match="damaged"):
        open_dataset(folder)
    flip(folder / "base.images.npy", 5000)
    open_dataset(folder)
    assert main(["data", "verify", "pets"]) == 0
    assert "all 6 files" in capsys.readouterr().out


def test_where_nothing_can_be_written_it_is_verified_each_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "datasets" / "pets"
    prepare_breeds(folder, TINY)

    def refuse(path: Path, content: bytes) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("senet.data.integrity.write_atomically", refuse)
    open_dataset(folder)
    flip(folder / "base.images.npy", 5000)
    with pytest.raises(InputError, match="damaged"):
        open_dataset(folder)


def test_an_edited_manifest_is_refused_and_does_not_hide_others(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pets", "more"):
        prepare_breeds(home / "datasets" / name, TINY)
    path = home / "datasets" / "pets" / "manifest.json"
    path.write_text(path.read_text().replace('"size": 24', '"size": 25', 1))
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "more: 6 classes, 24 px, base 240 images, streaming 120, one object of mixed kind, split drawn" in lines[0]
    assert "manifest.json is not as it was written" in lines[1]
