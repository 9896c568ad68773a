"""Prepared data sets: whole or not there, split fairly, refused when damaged."""

import json
import threading
from pathlib import Path

import pytest

from senet.data.breeds import BreedsSpec, prepare_breeds
from senet.data.catalogue import check_fits, describe_dataset, description, obtain_dataset
from senet.data.store import Dataset, open_dataset, writing
from senet.errors import InputError
from tests.conftest import TINY

SMALL = BreedsSpec(
    breeds=3, mixes=1, train_per_breed=2, validation_per_breed=1, test_per_breed=1,
    train_per_mix=2, validation_per_mix=1, test_per_mix=1, size=16,
)  # fmt: skip


def test_nothing_is_left_of_a_failed_preparation(tmp_path: Path) -> None:
    def prepare_half() -> None:
        with writing(tmp_path / "x") as writer:
            writer.create_images("base", 5, 16)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        prepare_half()
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    prepare_breeds(tmp_path / "x", SMALL)
    with pytest.raises(InputError, match="exists"):
        prepare_breeds(tmp_path / "x", SMALL)
    before = open_dataset(tmp_path / "x").fingerprint
    prepare_breeds(tmp_path / "x", BreedsSpec(**{**SMALL.__dict__, "seed": 9}), replace=True)
    assert open_dataset(tmp_path / "x").fingerprint != before


def test_two_that_prepare_the_same_data_set_at_once(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def prepare() -> None:
        try:
            prepare_breeds(tmp_path / "x", SMALL)
        except InputError as error:
            errors.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("exists" in str(error) for error in errors)
    assert open_dataset(tmp_path / "x").base.images.shape == (12, 16, 16, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("damage", ["manifest", "missing", "short", "format"])
def test_a_damaged_data_set_is_refused(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "x"
    prepare_breeds(folder, SMALL)
    if damage == "manifest":
        (folder / "manifest.json").write_text("{")
    elif damage == "missing":
        (folder / "base.labels.npy").unlink()
    elif damage == "short":
        path = folder / "streaming.images.npy"
        path.write_bytes(path.read_bytes()[:200])
    else:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 0}))
    with pytest.raises(InputError, match="prepare"):
        open_dataset(folder)


def test_the_embedded_data_set_is_drawn_when_it_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("senet.data.catalogue.BreedsSpec", lambda: TINY)
    described = describe_dataset(tmp_path, "breeds")
    assert list(tmp_path.iterdir()) == []
    dataset = obtain_dataset(tmp_path, "breeds")
    assert (described.classes, described.size) == (dataset.classes, dataset.size)
    assert described.counts == dataset.manifest["counts"] == describe_dataset(tmp_path, "breeds").counts
    with pytest.raises(InputError, match=r"no data set `pets` in .*; there are: breeds"):
        obtain_dataset(tmp_path, "pets")


def test_the_default_breeds_are_many_enough() -> None:
    counts = BreedsSpec().counts()
    assert all(counts[which][split] >= 1000 for which in counts for split in ("validation", "test"))


def test_top_k_must_suit_the_data(trial_config, tiny: Dataset) -> None:  # type: ignore[no-untyped-def]
    check_fits(trial_config(), description(tiny), "f")
    for k in (1, 6):
        with pytest.raises(InputError, match=r"f: `objective.top_k`: must be from 2 .* to 5 .*, but got"):
            check_fits(trial_config(objective={"top_k": k}), description(tiny), "f")
