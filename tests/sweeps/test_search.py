"""The suggester's decisions, seen without Ray: order, sharing of bases, resuming."""

import math
from pathlib import Path
from typing import Any

import pytest

from sweeps.config import Recipe, validate_recipe
from sweeps.ledger import Entry, Ledger
from sweeps.memory import base_of
from sweeps.plan import expected_bases, fewest_bases
from sweeps.search import Suggester
from tests.conftest import merged

RECIPE: dict[str, Any] = {
    "data": "tiny",
    "search": {"trials": 14, "streams_per_base": 3, "seed": 1},
    "space": {
        "model.expansion": {"choice": [1, 2, 4]},
        "model.reduction": {"choice": [8, 16, 32, "sqrt", "c/log c"]},
        "streaming.learning_rate": {"log": [0.001, 0.1]},
    },
    "enqueue": [
        {"model.expansion": e, "model.reduction": r, "streaming.learning_rate": rate}
        for e, r in ((1, 16), (2, 32))
        for rate in (0.001, 0.01)
    ],
}


class Search:
    """A suggester with its ledger, and trials that run in no time."""

    def __init__(self, folder: Path, **search: Any) -> None:
        self.recipe: Recipe = validate_recipe(merged(RECIPE, {"search": search}), "r")
        self.space = self.recipe.parsed_space("r")
        self.ledger = Ledger(folder, "s", create=True)
        self.suggester = Suggester(self.recipe, self.space, self.ledger)

    def base(self, entry: Entry) -> str:
        return base_of(self.space, entry.params, entry.seed)

    def stands(self, entry: Entry) -> None:
        self.suggester.base_stands(entry)

    def end(self, entry: Entry, joint: float = 0.5) -> None:
        metrics = {"joint": joint - abs(entry.params["streaming.learning_rate"] - 0.02)}  # type: ignore[operator]
        self.close(entry, {"state": "complete", "base_key": self.base(entry), "metrics": metrics})

    def fail(self, entry: Entry) -> None:
        self.close(entry, {"state": "failed", "error": "error: x"})

    def close(self, entry: Entry, result: dict[str, Any]) -> None:
        self.ledger.finish(entry.number, result)
        self.suggester.ended(self.ledger.entry(entry.number))

    def run_all(self) -> list[Entry]:
        """One trial at a time to the end."""
        entries = []
        while (entry := self.suggester.next()) is not None:
            self.stands(entry)
            self.end(entry)
            entries.append(entry)
        return entries


@pytest.mark.slow
def test_order_of_a_whole_search(tmp_path: Path) -> None:
    search = Search(tmp_path)
    entries = search.run_all()
    assert search.suggester.done()
    assert [entry.number for entry in entries] == list(range(14))
    assert [entry.enqueued for entry in entries] == [0, 1, 2, 3] + [None] * 10
    bases = [search.base(entry) for entry in entries]
    # The two enqueued bases are filled up to three streams, then each new base gets three in a row.
    assert bases[:2] == bases[4:5] * 2
    assert bases[2:4] == bases[5:6] * 2
    rest = bases[6:]
    assert [len(set(rest[i : i + 3])) for i in range(0, 8, 3)] == [1, 1, 1]
    assert len(set(bases)) == 5 == expected_bases(search.recipe, search.space)
    # Streaming settings on the same base differ.
    assert len({entry.params["streaming.learning_rate"] for entry in entries}) >= 12


def test_a_configuration_waits_for_its_base(tmp_path: Path) -> None:
    search = Search(tmp_path)
    first, second = search.suggester.next(), search.suggester.next()
    assert first is not None
    assert second is not None
    assert (first.enqueued, second.enqueued) == (0, 2), "1 needs the base that 0 is training"
    third = search.suggester.next()
    assert third is not None
    assert third.enqueued is None, "the rest of the enqueued wait, so a new base is begun"
    assert search.base(third) not in (search.base(first), search.base(second))
    search.stands(first)
    fourth = search.suggester.next()
    assert fourth is not None
    assert fourth.enqueued == 1


def test_enqueued_configurations_keep_their_place_in_the_budget(tmp_path: Path) -> None:
    search = Search(tmp_path, trials=4)
    first, second = search.suggester.next(), search.suggester.next()
    assert first is not None
    assert second is not None
    assert search.suggester.next() is None
    assert not search.suggester.done()
    search.stands(first)
    search.stands(second)
    assert sorted(entry.enqueued for entry in search.run_all()) == [1, 3]  # type: ignore[type-var]


def test_sampled_streams_leave_waiting_configurations_their_place(tmp_path: Path) -> None:
    search = Search(tmp_path, trials=4)
    entries = [search.suggester.next() for _ in range(2)]
    assert [entry and entry.enqueued for entry in entries] == [0, 2]
    assert entries[1] is not None
    search.stands(entries[1])
    third = search.suggester.next()
    assert third is not None
    assert third.enqueued == 3
    assert search.suggester.next() is None, "1 still waits, though 2's base has room for a third stream"


@pytest.mark.slow
def test_replicates_are_tried_seed_by_seed(tmp_path: Path) -> None:
    search = Search(tmp_path, trials=16, replicates=3)
    entries = search.run_all()
    assert [(entry.seed, entry.enqueued) for entry in entries[:12]] == [(s, i) for s in (0, 1, 2) for i in range(4)]
    assert [entry.params for entry in entries[:4]] == [entry.params for entry in entries[8:12]]
    assert len({search.base(entry) for entry in entries[:12]}) == 6, "a seed has bases of its own"
    # What is sampled has the first seed, and goes on where the first seed's bases stand.
    assert [(entry.seed, entry.enqueued) for entry in entries[12:]] == [(0, None)] * 4
    assert [search.base(entry) for entry in entries[12:14]] == [search.base(entries[0]), search.base(entries[2])]
    assert len({search.base(entry) for entry in entries}) == 7 == expected_bases(search.recipe, search.space)


def test_replicates_go_on_with_their_seeds(tmp_path: Path) -> None:
    cut = Search(tmp_path, trials=12, replicates=3)
    for number in range(7):
        entry = cut.suggester.next()
        assert entry is not None
        cut.stands(entry)
        if number < 6:
            cut.end(entry)
    # Trial 6 was running when the driver died.
    entries = Search(tmp_path, trials=12, replicates=3).run_all()
    assert [(entry.number, entry.seed, entry.enqueued) for entry in entries] == [
        (6, 1, 2), (7, 1, 3), (8, 2, 0), (9, 2, 1), (10, 2, 2), (11, 2, 3),
    ]  # fmt: skip


def test_a_failed_base_is_tried_by_the_next(tmp_path: Path) -> None:
    search = Search(tmp_path)
    first = search.suggester.next()
    assert first is not None
    search.fail(first)
    second = search.suggester.next()
    assert second is not None
    assert second.enqueued == 1
    assert search.base(second) == search.base(first)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
@pytest.mark.slow
def test_a_resumed_search_goes_on_as_it_would_have(tmp_path: Path, sampler: str) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = Search(tmp_path / "whole", sampler=sampler).run_all()
    cut = Search(tmp_path / "cut", sampler=sampler)
    for _ in range(9):
        entry = cut.suggester.next()
        assert entry is not None
        cut.stands(entry)
        if entry.number < 8:
            cut.end(entry)
    # Trial 8 was running when the driver died.
    resumed = Search(tmp_path / "cut", sampler=sampler)
    entries = resumed.run_all()
    assert [entry.number for entry in entries] == [8, *range(9, 14)]
    assert [entry.params for entry in entries] == [entry.params for entry in whole[8:]]
    assert [entry.state for entry in resumed.ledger.entries()] == ["complete"] * 14


@pytest.mark.slow
def test_a_small_space_does_not_stop_the_search(tmp_path: Path) -> None:
    search = Search(tmp_path, trials=60, sampler="random")
    entries = search.run_all()
    assert len(entries) == 60
    assert len({search.base(entry) for entry in entries}) == 15


@pytest.mark.slow
def test_tpe_finds_the_better_half(tmp_path: Path) -> None:
    def mean_distance(sampler: str) -> float:
        folder = tmp_path / sampler
        folder.mkdir()
        entries = Search(folder, trials=60, sampler=sampler).run_all()[20:]
        return sum(abs(e.params["streaming.learning_rate"] - 0.02) for e in entries) / len(entries)  # type: ignore[operator]

    assert mean_distance("tpe") < 0.8 * mean_distance("random")


def test_waiting_for_a_base_costs_nothing(tmp_path: Path) -> None:
    space = {"model.expansion": {"choice": [1, 2]}, "streaming.learning_rate": {"log": [0.001, 0.1]}}
    search = Search(tmp_path, trials=20)
    search.recipe = validate_recipe(RECIPE | {"space": space, "enqueue": []}, "r")
    search.space = search.recipe.parsed_space("r")
    search.suggester = Suggester(search.recipe, search.space, search.ledger)
    first, second = search.suggester.next(), search.suggester.next()
    assert first is not None
    assert second is not None
    assert [search.suggester.next() for _ in range(50)] == [None] * 50
    assert not search.suggester.done()
    search.stands(first)
    third = search.suggester.next()
    assert third is not None
    assert search.base(third) == search.base(first)


@pytest.mark.slow
def test_a_base_that_always_fails_gets_two_trials(tmp_path: Path) -> None:
    search = Search(tmp_path, trials=30)
    bad = None
    while (entry := search.suggester.next()) is not None:
        bad = bad or search.base(entry)
        if search.base(entry) == bad:
            search.fail(entry)
        else:
            search.stands(entry)
            search.end(entry)
    # The two enqueued ones are always tried; the search itself gives it no more.
    assert [search.base(entry) for entry in search.ledger.entries()].count(str(bad)) == 2


def test_what_a_base_costs_is_learned_from_trials_that_trained_one(tmp_path: Path) -> None:
    found = Search(tmp_path, trials=40, streams_per_base=3, sampler="random")
    entries: list[Entry] = []
    trained: set[str] = set()
    for _ in range(12):
        entry = found.suggester.next()
        assert entry is not None
        base = found.base(entry)
        found.stands(entry)
        seconds = {"base": 0.1 if base in trained else 500.0, "streaming": 1.0}
        # The first base is by far the better one, and its settings differ.
        best = base == found.base((entries or [entry])[0])
        metrics = {"joint": (0.7 if best else 0.4) + 0.01 * (entry.number % 3)}
        result = {"state": "complete", "base_key": base, "base_reused": base in trained, "metrics": metrics}
        found.close(entry, result | {"stage_seconds": seconds})
        trained.add(base)
        entries.append(entry)
    # A further base would cost as much as 500 settings; three for each are tried, then only settings.
    assert len(trained) == 3


@pytest.mark.slow
def test_a_finite_space_is_covered_however_large_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # More configurations than are looked at while their bases are being trained.
    monkeypatch.setattr("sweeps.search._CELLS", 4)
    rates = {"streaming.learning_rate": {"choice": [0.001, 0.01, 0.1]}}
    monkeypatch.setitem(RECIPE, "space", RECIPE["space"] | rates)
    search = Search(tmp_path, trials=100, sampler="grid")
    entries = search.run_all()
    assert search.suggester.done()
    assert len({str(entry.params) for entry in entries}) == len(entries) == 45


def test_a_reference_reaches_no_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPE, "space", RECIPE["space"] | {"streaming.replay": {"choice": [0, "all"]}})
    monkeypatch.setitem(RECIPE, "enqueue", [RECIPE["enqueue"][0] | {"streaming.replay": "all"}])
    search = Search(tmp_path)
    entry = search.suggester.next()
    assert entry is not None
    assert entry.params["streaming.replay"] == "all"
    search.end(entry, 0.9)
    assert search.suggester.best() == -math.inf


RATES = {"streaming.learning_rate": {"choice": [0.001, 0.01]}}
WIDTHS: dict[str, Any] = {"model.width": {"int": [8, 64]}}
CONTINUOUS = {"streaming.learning_rate": {"log": [0.001, 0.1]}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "search", "bases"),
    [
        (WIDTHS, {"trials": 20}, 20),
        (WIDTHS, {"trials": 30, "sampler": "grid"}, 30),
        (WIDTHS | RATES, {"trials": 20}, 10),
        (CONTINUOUS, {"trials": 20}, 1),
        ({"model.width": {"choice": [8, 16]}} | CONTINUOUS, {"trials": 10}, 2),
        ({"model.width": {"choice": [8, 16]}} | RATES, {"trials": 3, "sampler": "grid"}, 2),
    ],
    ids=["bases", "grid of bases", "few settings", "settings", "two bases", "grid"],
)
def test_a_dry_run_knows_what_the_space_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: dict[str, Any], search: dict[str, Any], bases: int
) -> None:
    monkeypatch.setitem(RECIPE, "space", space)
    monkeypatch.setitem(RECIPE, "enqueue", [])
    found = Search(tmp_path, **search)
    while (entry := found.suggester.next()) is not None:
        found.stands(entry)
        found.close(entry, {"state": "complete", "base_key": found.base(entry), "metrics": {"joint": 0.5}})
    assert len({found.base(entry) for entry in found.ledger.entries()}) == bases
    assert fewest_bases(found.recipe, found.space) == expected_bases(found.recipe, found.space) == bases


@pytest.mark.slow
def test_a_dry_run_counts_what_is_begun_before_a_base_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPE, "enqueue", RECIPE["enqueue"][:1])
    found = Search(tmp_path, trials=14, sampler="random")
    begun = [found.suggester.next() for _ in range(10)]
    assert len({found.base(entry) for entry in begun if entry is not None}) == 10
    assert expected_bases(found.recipe, found.space, slots=10) == 10
    assert expected_bases(found.recipe, found.space) == 5


@pytest.mark.slow
def test_a_reference_leads_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bases(joint_of_references: float, folder: str) -> list[str]:
        monkeypatch.setitem(RECIPE, "space", RECIPE["space"] | {"streaming.replay": {"choice": [0, "all"]}})
        (tmp_path / folder).mkdir()
        search, found = Search(tmp_path / folder, trials=40), []
        while len(found) < 11 and (entry := search.suggester.next()) is not None:
            # Resumed after every trial: what a session learned is what it finds.
            if len(found) % 2:
                search = Search(tmp_path / folder, trials=40)
                entry = search.suggester.next()
                assert entry is not None
            search.stands(entry)
            seconds = {"stage_seconds": {"base": 3.0, "streaming": 1.0}}
            joint = joint_of_references if entry.params.get("streaming.replay") else 0.4 + 0.01 * (entry.number % 7)
            base = search.base(entry)
            result = {"state": "complete", "base_key": base, "base_reused": base in found, "metrics": {"joint": joint}}
            search.close(entry, result | seconds)
            found.append(base)
        return [str(entry.params) for entry in search.ledger.entries()]

    assert bases(0.1, "low") == bases(0.9, "high")


@pytest.mark.slow
def test_protocols_with_the_same_base_are_different_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"protocol": {"choice": ["single_label", "label_splitting"]}, "model.expansion": {"choice": [1, 2]}}
    monkeypatch.setitem(RECIPE, "space", space | {"streaming.learning_rate": {"choice": [0.001, 0.01, 0.1]}})
    monkeypatch.setitem(RECIPE, "enqueue", [])
    search = Search(tmp_path, trials=12, sampler="grid")
    entries = search.run_all()
    assert len(entries) == 12
    assert len({search.base(entry) for entry in entries}) == 2


def test_what_was_taken_over_reaches_no_target(tmp_path: Path) -> None:
    first = Search(tmp_path)
    params = dict(RECIPE["enqueue"][0])
    taken = first.ledger.open(params, first.space, seed=0, answers="other/3")
    first.ledger.finish(taken.number, {"state": "answered", "metrics": {"joint": 0.9}})
    search = Search(tmp_path)
    assert search.suggester.best() == -math.inf
    entry = search.suggester.next()
    assert entry is not None
    search.end(entry, 0.6)
    assert search.suggester.best() == search.ledger.entry(entry.number).joint
