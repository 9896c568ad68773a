"""Drawn breeds: the pictures, their labels, and what stays the same when the request changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from senet.data.breeds import BreedsSpec, prepare_breeds
from senet.data.store import SPLITS, Dataset, open_dataset
from senet.errors import InputError

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

SMALL = BreedsSpec(
    breeds=6,
    mixes=4,
    train_per_breed=8,
    validation_per_breed=3,
    test_per_breed=2,
    train_per_mix=7,
    validation_per_mix=2,
    test_per_mix=1,
    size=24,
    seed=3,
    difficulty=0.5,
)
GOLDEN = "a01d3fe8302a0f4f"


def draw(folder: Path, spec: BreedsSpec) -> Dataset:
    prepare_breeds(folder, spec, replace=True)
    return open_dataset(folder)


def means(images: npt.NDArray[np.uint8], groups: int) -> npt.NDArray[np.float64]:
    """(groups, pixels): the mean picture of each of `groups` equal runs of `images`."""
    return np.asarray(images.reshape(groups, len(images) // groups, -1).mean(axis=1), np.float64)


def distances(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(len(a), len(b)) root mean square differences of pictures."""
    return np.asarray(np.sqrt(np.square(a[:, None] - b[None]).mean(axis=2)), np.float64)


def test_same_spec_gives_the_same_pictures_everywhere(tmp_path: Path) -> None:
    # The fingerprint covers every byte: on another machine it must be this one too.
    assert draw(tmp_path / "a", SMALL).fingerprint == GOLDEN
    assert draw(tmp_path / "b", SMALL).fingerprint == GOLDEN
    assert draw(tmp_path / "c", replace(SMALL, seed=4)).fingerprint != GOLDEN


def test_shapes_labels_and_splits(tmp_path: Path) -> None:
    data = draw(tmp_path / "a", SMALL)
    assert (data.size, data.kind, len(set(data.classes))) == (24, "one object of mixed kind", 6)
    assert data.manifest["counts"] == {
        "base": {"train": 48, "validation": 18, "test": 12},
        "streaming": {"train": 28, "validation": 8, "test": 4},
    }
    assert data.base.images.shape == (78, 24, 24, 3)
    assert data.streaming.images.shape == (40, 24, 24, 3)

    for split, (per_breed, per_mix) in enumerate(((8, 7), (3, 2), (2, 1))):
        base = data.base.labels[data.base.split == split]
        assert (base.sum(axis=1) == 1).all()
        assert (base.sum(axis=0) == per_breed).all()
        streaming = data.streaming.labels[data.streaming.split == split]
        assert (streaming.sum(axis=1) == 2).all()
        assert (np.unique(streaming, axis=0, return_counts=True)[1] == [per_mix] * 4).all()


def test_source_tells_the_spec_and_the_parents(tmp_path: Path) -> None:
    data = draw(tmp_path / "a", SMALL)
    source = data.manifest["source"]
    assert (source["generator"], source["seed"], source["difficulty"]) == ("breeds", 3, 0.5)
    first_of_mixes = data.streaming.labels[data.streaming.indices("train")][::7]
    parents = ["+".join(data.classes[i] for i in np.flatnonzero(row)) for row in first_of_mixes]
    assert source["mix_names"] == parents


@pytest.mark.parametrize(("breeds", "mixes"), [(24, 8), (24, 12), (5, 10), (6, 9), (3, 3)])
def test_parents_are_distinct_pairs_spread_over_the_breeds(tmp_path: Path, breeds: int, mixes: int) -> None:
    few = {f"{split}_per_{kind}": 2 for split in SPLITS for kind in ("breed", "mix")}
    data = draw(tmp_path / "a", BreedsSpec(breeds=breeds, mixes=mixes, size=16, **few))
    pairs = np.unique(data.streaming.labels, axis=0)
    assert len(pairs) == mixes
    assert np.ptp(pairs.sum(axis=0)) <= 1


def test_many_breeds_have_distinct_names(tmp_path: Path) -> None:
    few = {f"{split}_per_{kind}": 2 for split in SPLITS for kind in ("breed", "mix")}
    classes = draw(tmp_path / "a", BreedsSpec(breeds=31, mixes=1, size=16, **few)).classes
    assert len(set(classes)) == 31
    assert classes[-1] == "breed-31"


def test_a_picture_does_not_depend_on_how_many_are_asked_for(tmp_path: Path) -> None:
    few = replace(SMALL, size=17, test_per_breed=1)
    many = replace(few, breeds=7, mixes=5, train_per_breed=70, validation_per_breed=40, train_per_mix=35)
    a, b = draw(tmp_path / "a", few), draw(tmp_path / "b", many)
    for breed in range(few.breeds):
        for split in SPLITS:
            one, other = (
                part.images[(part.split == SPLITS.index(split)) & part.labels[:, breed]] for part in (a.base, b.base)
            )
            np.testing.assert_array_equal(one, other[: len(one)])


def test_the_mixes_after_those_of_another_data_set(tmp_path: Path) -> None:
    whole, rest = replace(SMALL, mixes=5), replace(SMALL, mixes=2, skip_mixes=3)
    a, b = draw(tmp_path / "a", whole), draw(tmp_path / "b", rest)
    assert b.manifest["source"]["mix_names"] == a.manifest["source"]["mix_names"][3:]
    np.testing.assert_array_equal(a.base.images, b.base.images)
    later = (a.streaming.labels[:, None] == np.unique(b.streaming.labels, axis=0)).all(axis=2).any(axis=1)
    np.testing.assert_array_equal(a.streaming.images[later], b.streaming.images)
    with pytest.raises(InputError, match="`skip_mixes` must be 0 to "):
        replace(rest, skip_mixes=300)


def test_splits_share_no_picture(tmp_path: Path) -> None:
    images = draw(tmp_path / "a", SMALL).base.images
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_pictures_are_nearest_to_their_own_breed(tmp_path: Path) -> None:
    data = draw(tmp_path / "a", BreedsSpec(breeds=12, mixes=1, train_per_mix=2, difficulty=0.4, size=24))
    train, held_out = data.base.indices("train"), data.base.indices("validation")
    pictures = means(data.base.images[held_out], len(held_out))
    nearest = distances(pictures, means(data.base.images[train], 12)).argmin(axis=1)
    # By chance it would be one in twelve.
    assert (nearest == data.base.labels[held_out].argmax(axis=1)).mean() > 0.7


def test_mixes_lie_between_their_parents(tmp_path: Path) -> None:
    spec = BreedsSpec(breeds=12, mixes=20, difficulty=0.3, size=24, seed=1)
    data = draw(tmp_path / "a", spec)
    breeds = means(data.base.images[data.base.indices("train")], 12)
    mixes = means(data.streaming.images[data.streaming.indices("train")], 20)
    parents = np.array([np.flatnonzero(row) for row in data.streaming.labels[:: spec.train_per_mix][:20]])

    # Along the line from one parent to the other, half the genes of each put a mix midway on average.
    first, line = breeds[parents[:, 0]], breeds[parents[:, 1]] - breeds[parents[:, 0]]
    position = ((mixes - first) * line).sum(axis=1) / np.square(line).sum(axis=1)
    assert ((position > -0.25) & (position < 1.25)).all()
    assert 0.35 < position.mean() < 0.65

    # And parents are nearer than strangers; parents drawn by lot would be as far.
    to_breeds = distances(mixes, breeds)
    to_parents = np.take_along_axis(to_breeds, parents, axis=1)
    to_strangers = (to_breeds.sum(axis=1) - to_parents.sum(axis=1)) / 10
    assert (to_parents.mean(axis=1) / to_strangers).mean() < 0.85


@pytest.mark.parametrize("pair", [(0.0, 0.5), (0.5, 1.0), (1.0, 2.0)])
def test_difficulty_varies_the_pictures_of_a_breed(tmp_path: Path, pair: tuple[float, float]) -> None:
    spreads = []
    for difficulty in pair:
        data = draw(tmp_path / "a", replace(SMALL, difficulty=difficulty))
        train = data.base.images[data.base.indices("train")].reshape(6, 8, -1)
        spreads.append(train.std(axis=1).mean())
    assert spreads[1] > 1.2 * spreads[0]


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("breeds", 2, "3 to 200"),
        ("breeds", 201, "3 to 200"),
        ("mixes", 0, "1 to 276"),
        ("mixes", 277, "1 to 276"),
        ("train_per_breed", 1, "at least 2"),
        ("validation_per_breed", 0, "at least 1"),
        ("test_per_breed", 0, "at least 1"),
        ("train_per_mix", 1, "at least 2"),
        ("validation_per_mix", 0, "at least 1"),
        ("test_per_mix", -1, "at least 1"),
        ("size", 15, "16 to 512"),
        ("size", 513, "16 to 512"),
        ("seed", -1, "at least 0"),
        ("difficulty", -0.1, "0 to 10"),
        ("difficulty", 1e300, "0 to 10"),
        ("difficulty", float("nan"), "0 to 10"),
    ],
)
def test_wrong_options_are_named(option: str, value: float, wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        BreedsSpec(**{option: value})  # type: ignore[arg-type]
    assert str(caught.value) == f"`{option}` must be {wanted}, but got {value}"


def test_an_existing_data_set_is_kept(tmp_path: Path) -> None:
    before = draw(tmp_path / "a", SMALL).fingerprint
    with pytest.raises(InputError, match="a data set of this name exists"):
        prepare_breeds(tmp_path / "a", replace(SMALL, seed=9))
    assert open_dataset(tmp_path / "a").fingerprint == before
