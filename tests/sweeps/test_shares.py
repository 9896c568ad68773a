"""What share of a machine the driver gives a trial, first and after it ran out of memory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from senet.complexity import complexity
from senet.config import ModelConfig
from sweeps.booking import booked
from sweeps.run import reconcile
from tests.sweeps.session import DATA, Session

# They wait for a tracking database: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow


def test_a_larger_share_is_that_of_machines_which_join_later(session: Callable[..., Session]) -> None:
    s = session(resources={"cpu": 1, "gpu": 0.25})
    s.driver.largest = {"cpu": 0.0, "gpu": 0.0}
    s.end(s.begin(), state="failed", error="out of memory: x")
    assert s.ledger.entries()[0].state == "failed", "there is none larger"
    s.driver.largest = {"cpu": 1.0, "gpu": 1.0}
    s.end(s.begin(), state="failed", error="out of memory: x")
    again = s.driver.next_assignment("again")
    assert again is not None
    assert again["resources"] == {"cpu": 1, "gpu": 0.5}


def test_shares_are_sized_by_what_was_measured(session: Callable[..., Session]) -> None:
    s = session(search={"trials": 30}, resources={"cpu": 1, "gpu": "auto"})
    small = s.begin()
    assert small["resources"] == {"cpu": 1, "gpu": 1.0}, "nothing is known"
    assert s.driver.next_assignment("t1") is None, "the GPU is taken"
    s.complete(small, 0.5, "t0", gpu_memory={"bytes": 2**30, "fraction": 0.15})
    large = s.driver.next_assignment("t1")
    assert large is not None
    assert (large["config"]["model"]["expansion"], large["config"]["model"]["reduction"]) == (4, 4), (
        "all others have less"
    )
    assert large["resources"]["gpu"] == 1.0, "what is smaller says nothing of what is larger"
    s.complete(large, 0.5, "t1", gpu_memory={"bytes": 2**31, "fraction": 0.3})

    given: dict[str, dict[str, Any]] = {}
    while (assignment := s.driver.next_assignment(f"x{len(given)}")) is not None:
        given[f"x{len(given)}"] = assignment
    for assignment in given.values():
        model = assignment["config"]["model"]
        measured = (model["expansion"], model["reduction"]) == (1, 16)
        assert assignment["resources"]["gpu"] == (0.25 if measured else 0.5), "with some room, in halves of halves"
    shares = {trial: assignment["resources"]["gpu"] for trial, assignment in given.items()}
    assert len(shares) >= 2
    assert sum(shares.values()) <= 1

    cramped = given["x0"]
    s.end(cramped, "x0", state="failed", error="out of memory: CUDA out of memory")
    for trial in list(given)[1:]:
        s.end(given[trial], trial, state="failed", error="error: x")
    later = [s.driver.next_assignment(f"y{i}") for i in range(2)]
    again = {a["number"]: a["resources"]["gpu"] for a in later if a is not None}
    assert again[cramped["number"]] == 2 * shares["x0"]


def test_shares_by_the_size_of_the_network(session: Callable[..., Session]) -> None:
    rows = [{"parameters": 190_000, "share": 0.25}, {"parameters": 1_000_000, "share": 0.5}]
    s = session(search={"trials": 30}, resources={"cpu": 1, "gpu": rows})
    given: list[dict[str, Any]] = []
    for _ in range(12):
        while (assignment := s.driver.next_assignment(f"x{len(given)}")) is not None:
            given.append(assignment)
        running = {number: entry for number, entry in enumerate(s.ledger.entries()) if entry.state == "running"}
        assert sum(a["resources"]["gpu"] for a in given if a["number"] in running) <= 1
        first = next(i for i, a in enumerate(given) if a["number"] in running)
        s.complete(given[first], 0.5, f"x{first}")
    for assignment in given:
        network = complexity(ModelConfig.model_validate(assignment["config"]["model"]), len(DATA.classes), DATA.size)
        assert assignment["resources"]["gpu"] == (0.25 if network.parameters <= 190_000 else 0.5)
    assert {assignment["resources"]["gpu"] for assignment in given} == {0.25, 0.5}


def test_out_of_memory_is_tried_once_more_with_twice_the_share(session: Callable[..., Session]) -> None:
    s = session(resources={"cpu": 1, "gpu": 0.25})
    first = s.begin()
    assert first["resources"] == {"cpu": 1, "gpu": 0.25}
    s.end(first, state="failed", error="out of memory: x", stage_seconds={"base": 2.0})
    assert s.ledger.entries()[0].state == "running"
    # The driver is killed, and another one goes on.
    s.drive()
    again = s.driver.next_assignment("again")
    assert again is not None
    assert (again["number"], again["resources"]) == (0, {"cpu": 2, "gpu": 0.5})
    s.end(again, "again", state="failed", error="out of memory: x", stage_seconds={"base": 3.0})
    (entry,) = s.ledger.entries()
    assert entry.state == "failed"
    assert booked([entry])["failed"] == {"base": 5.0}, "both attempts are booked"


def test_the_second_try_is_not_lost_with_the_driver(session: Callable[..., Session]) -> None:
    memory = {"state": "failed", "error": "out of memory: x", "stage_seconds": {"base": 2.0}}
    s = session(resources={"cpu": 1, "gpu": 0.25})
    first = s.begin()
    folder = Path(first["folder"])
    folder.mkdir(parents=True)
    # It dies before it hears of the result.
    (folder / "result.json").write_text(json.dumps({"seconds": 2.0, "history": [], **memory}))
    s.drive()
    reconcile(s.sweep, s.ledger, s.tracking)
    again = s.driver.next_assignment("again")
    assert again is not None
    s.driver.ended("again", died=False)
    assert s.ledger.entries()[0].state == "running", "it is tried again"
    # It dies when the first attempt is written aside and not gone yet.
    (folder / "result.json").write_text(json.dumps({"seconds": 2.0, "history": [], **memory}))
    (folder / "progress.json").write_text("{}")
    s.drive()
    reconcile(s.sweep, s.ledger, s.tracking)
    assert [path.name for path in folder.iterdir()] == ["attempt-1.json"]
    second = s.driver.next_assignment("second")
    assert second is not None
    assert second["resources"] == {"cpu": 2, "gpu": 0.5}
    # And once more when the second attempt has its result.
    longer = memory | {"seconds": 3.0, "history": [], "stage_seconds": {"base": 3.0}}
    (folder / "result.json").write_text(json.dumps(longer))
    s.drive()
    reconcile(s.sweep, s.ledger, s.tracking)
    (entry,) = s.ledger.entries()
    assert entry.state == "failed"
    assert booked([entry])["failed"] == {"base": 5.0}, "both attempts are booked"


def test_no_second_try_has_more_than_a_whole_gpu(session: Callable[..., Session]) -> None:
    # Of more than one Ray gives whole ones alone.
    s = session(resources={"cpu": 1, "gpu": 0.75})
    s.end(s.begin(), state="failed", error="out of memory: x")
    again = s.driver.next_assignment("again")
    assert again is not None
    assert again["resources"] == {"cpu": 2, "gpu": 1.0}


def test_without_more_to_give_it_is_not_tried_again(session: Callable[..., Session]) -> None:
    s = session(resources={"cpu": 2, "gpu": 1})
    s.end(s.begin(), state="failed", error="out of memory: x")
    assert s.ledger.entries()[0].state == "failed"


def test_a_whole_gpu_that_is_too_small_is_not_tried_again_with_more_cores(session: Callable[..., Session]) -> None:
    s = session(resources={"cpu": 1, "gpu": 1})
    s.end(s.begin(), state="failed", error="out of memory: CUDA out of memory. Tried to allocate 1.00 GiB")
    assert s.ledger.entries()[0].state == "failed"
