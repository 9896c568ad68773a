"""Splits: every class in each part, duplicates never apart, the same from the same seed."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from senet.data.splits import SplitName, least_pictures, split_pictures
from senet.data.store import PARTS, UNUSED, SetName
from senet.errors import InputError


def split_of(
    base: list[str], streaming: list[str], groups: list[int] | None = None, name: SplitName = "default", seed: int = 0,
    test: list[bool] | None = None, digests: list[str] | None = None, base_groups: list[int] | None = None,
) -> npt.NDArray[np.uint8]:  # fmt: skip
    """Parts of the base pictures, then the streaming ones."""
    together = np.arange(len(base) + len(streaming)) if groups is None else np.array(groups)
    given_test = None if test is None else np.array(test)
    digests = [f"{i} {stratum}" for i, stratum in enumerate(base + streaming)] if digests is None else digests
    alone = together[: len(base)] if base_groups is None else np.array(base_groups)
    strata: dict[SetName, list[str]] = {"base": base, "streaming": streaming}
    found = split_pictures(name, strata, together, alone, digests, seed, given_test)
    return np.concatenate([found["base"], found["streaming"]])


def test_shares_of_every_stratum() -> None:
    base, streaming = ["a"] * 50 + ["b"] * 10 + ["c"] * 3, ["a+b"] * 20
    for seed in range(3):
        split = split_of(base, streaming, seed=seed)
        names = np.array(base + streaming)
        counts = {name: np.bincount(split[names == name], minlength=4).tolist() for name in np.unique(names)}
        assert counts == {"a": [30, 10, 10, 0], "b": [6, 2, 2, 0], "c": [1, 1, 1, 0], "a+b": [12, 4, 4, 0]}
    np.testing.assert_array_equal(split, split_of(base, streaming, seed=2))
    assert (split != split_of(base, streaming, seed=1)).any()


def test_the_split_of_the_thesis_validates_and_tests_on_the_same() -> None:
    split = split_of(["a"] * 20 + ["b"] * 2, ["a+b"] * 10, name="thesis")
    assert np.bincount(split[:20], minlength=4).tolist() == [16, 0, 0, 4]
    assert np.bincount(split[20:22], minlength=4).tolist() == [1, 0, 0, 1]
    assert np.bincount(split[22:], minlength=4).tolist() == [8, 0, 0, 2]
    assert (least_pictures("thesis"), least_pictures("default")) == (2, 3)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_duplicates_stay_together_and_every_part_is_filled(data: st.DataObject) -> None:
    strata = [f"s{i}" for i in range(data.draw(st.integers(1, 3)))]
    base = [name for name in strata for _ in range(data.draw(st.integers(9, 40)))]
    streaming = ["s0+s1"] * data.draw(st.integers(9, 20))
    count = len(base) + len(streaming)
    # Pairs and triples, within and between sets; enough pictures of every stratum stay single.
    groups = list(range(count))
    for a, b in data.draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=3)):
        groups[b] = groups[a]
    split = split_of(base, streaming, groups, seed=data.draw(st.integers(0, 3)))
    names = np.array(base + streaming)
    for name in np.unique(names):
        assert set(split[names == name]) == {0, 1, 2}
    order = np.argsort(groups, kind="stable")
    for a, b in pairwise(order):
        assert groups[a] != groups[b] or split[a] == split[b]


def test_duplicates_do_not_shift_the_shares() -> None:
    groups = [0] * 10 + [1] * 4 + list(range(2, 38))
    counts = np.bincount(split_of(["a"] * 50, [], groups), minlength=3)
    assert counts.tolist() == [30, 10, 10]


def test_a_class_of_duplicates_alone_is_refused() -> None:
    with pytest.raises(InputError, match=r"base `b`: 6 pictures, 1 without counting .*: none is left for valid"):
        split_of(["a"] * 5 + ["b"] * 6, [], [0, 1, 2, 3, 4] + [5] * 6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=3, max_size=12))
def test_a_class_of_three_different_pictures_is_enough(sizes: list[int]) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes).tolist()
    split = split_of(["a"] * len(groups), ["b"] * len(groups), [*groups, *(1000 + group for group in groups)])
    assert set(split[: len(groups)]) == set(split[len(groups) :]) == {0, 1, 2}


def test_base_pictures_do_not_move_when_streaming_ones_duplicate_them() -> None:
    base, streaming = ["a"] * 100, ["a+b"] * 40
    undisturbed = split_of(base, streaming)
    disturbed = split_of(base, streaming, [*range(100), *range(20), *range(120, 140)])
    np.testing.assert_array_equal(disturbed[:100], undisturbed[:100])
    np.testing.assert_array_equal(disturbed[100:120], undisturbed[:20])
    assert np.bincount(disturbed[100:]).tolist() == [24, 8, 8]


@pytest.mark.parametrize("name", ["default", "thesis"])
def test_a_streaming_picture_that_is_nearly_two_base_pictures_moves_neither(name: SplitName) -> None:
    base, streaming = ["a"] * 20, ["a+b"] * 20
    undisturbed = split_of(base, streaming, name=name)
    where: dict[int, set[int]] = {}
    for i in range(20):
        for j in range(i):
            groups = [*range(20), *range(20, 40)]
            groups[i] = groups[39] = groups[j]
            split = split_of(base, streaming, groups, name=name, base_groups=[*range(20)])
            np.testing.assert_array_equal(split[:20], undisturbed[:20])
            same = split[i] == split[j]
            assert split[39] == (split[i] if same else UNUSED)
            assert UNUSED not in split[:39]
            where.setdefault(int(same), set()).add(int(split[39]))
    assert UNUSED in where[0]
    assert len(where[1]) > 1


def test_the_official_split_keeps_the_test_list_and_no_duplicate_of_it_trains() -> None:
    base, streaming = ["a"] * 40, ["a+b"] * 10
    test = [False] * 30 + [True] * 10 + [False] * 10
    groups = list(range(50))
    groups[0] = groups[30]  # a training picture that is a test picture
    groups[45] = groups[31]  # a streaming picture that is one
    split = split_of(base, streaming, groups, "official", test=test)
    assert set(split[30:40]) == {PARTS.index("test")}
    assert (split[0], split[45]) == (UNUSED, PARTS.index("test"))
    assert np.bincount(split[1:30], minlength=3).tolist() == [23, 6, 0]


@pytest.mark.parametrize("groups", [[*range(5)] * 2, [*range(10)]], ids=["duplicates", "all of them"])
def test_a_class_that_is_only_tested_on_is_refused(groups: list[int]) -> None:
    base, more = ["b"] * 10, ["a"] * 20
    test = [len(set(groups)) == 10] * 5 + [True] * 5 + [True, *[False] * 19]
    with pytest.raises(InputError, match=r"base `b`: 10 pictures, .*, 10 are on the test list or duplicate one"):
        split_of(base + more, [], [*groups, *range(10, 30)], "official", test=test)


def test_a_picture_is_in_the_same_part_of_another_data_set() -> None:
    # A model is streamed a data set that has some of its classes again: what it was trained on stays training data.
    classes = ["a", "b", "c", "d"]
    base = [name for name in classes for _ in range(10)]
    digests = [f"picture {i}" for i in range(43)]
    whole = split_of(base, ["a+b"] * 3, digests=digests)
    some = split_of(base[20:], ["c+d"] * 4, digests=[*digests[20:40], "w", "x", "y", "z"])
    np.testing.assert_array_equal(whole[20:40], some[:20])
