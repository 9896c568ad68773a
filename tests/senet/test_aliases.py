"""Labels that people write, and the classes that they mean."""

from pathlib import Path

import pytest

from senet.data.aliases import Labels
from senet.data.store import open_dataset
from senet.errors import InputError
from tests.senet.photo_folders import Folders, paint

CLASSES = ["Pug", "n01-x", "n02085620-Chihuahua", "n02113624-toy_poodle", "n02113712-miniature_poodle",
           "n02113799-standard_poodle", "n99999998-big-dog", "n99999999-big_dog"]  # fmt: skip


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("Pug", "Pug"),
        ("chihuahua", "n02085620-Chihuahua"),
        ("Standard Poodle", "n02113799-standard_poodle"),
        ("toy-poodle", "n02113624-toy_poodle"),
        ("n02113799-standard_poodle", "n02113799-standard_poodle"),
        ("poodle", "n02113799-standard_poodle"),
        ("mini", "n02113712-miniature_poodle"),
    ],
)
def test_what_a_label_means(label: str, found: str) -> None:
    labels = Labels(CLASSES, ["poodle=n02113799-standard_poodle", "mini = miniature poodle"])
    assert labels.resolve(label, "f") == found


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("big dog", ["may be n99999998-big-dog or n99999999-big_dog", "--alias big dog=CLASS"]),
        ("poodle", ["if it is n02113624-toy_poodle or n02113712-miniature_poodle or", "--alias poodle=CLASS"]),
        ("pug", ["`pug` is none of the classes: Pug"]),
        ("x", ["`x` is none of the classes"]),
    ],
)
def test_a_label_that_means_nothing_or_too_much_is_refused(label: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Labels(CLASSES).resolve(label, "f.csv:3")
    assert str(caught.value).startswith("f.csv:3: label ")
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("aliases", "part"),
    [
        (["poodle"], "--alias poodle: must be LABEL=CLASS"),
        (["=Pug"], "must be LABEL=CLASS"),
        (["a+b=Pug"], "without `+` and `;`"),
        (["a=Beagle"], "`Beagle` is none of the classes"),
        (["Pug=Chihuahua"], "`Pug` is a class itself"),
        (["a=Pug", "a=Chihuahua"], "`a` is an alias of `Pug` already"),
    ],
)
def test_an_alias_that_says_nothing_is_refused(aliases: list[str], part: str) -> None:
    with pytest.raises(InputError) as caught:
        Labels(CLASSES, aliases)
    assert part in str(caught.value)


def test_aliases_serve_folders_and_csv_and_are_in_the_manifest(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    (folders.stream / "hat+shirt").rename(folders.stream / "cap+shirt")
    assert folders.run(aliases=["cap=hat"]).combinations == 3
    dataset = open_dataset(folders.target)
    assert dataset.manifest["source"]["aliases"] == {"cap": "hat"}
    assert dataset.streaming.labels[0].tolist() == [True, False, True]
    folders.write_csv([f"outfits/cap+shirt/{i}.png", "cap;shirt"] for i in range(5))
    assert folders.run(folders.csv, target="table", aliases=["cap=hat"]).combinations == 1
    paint(folders.stream / "cap+hat" / "x.png", seed=1)
    with pytest.raises(InputError, match="a label stands twice in `cap\\+hat`"):
        folders.run(target="twice", aliases=["cap=hat"])
