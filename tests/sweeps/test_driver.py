"""What the driver makes of ends and reports, without Ray: honest states, one retry rule a class, limits."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.booking import booked
from sweeps.pruning import Verdict
from sweeps.trial import failure, spoils_process
from tests.sweeps.session import Session

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow


def test_what_a_trial_failed_of() -> None:
    assert failure(ValueError("x\ny")) == "error: ValueError: x"
    assert failure(MemoryError("no room")) == "out of memory: no room"
    assert failure(RuntimeError("CUDA out of memory. Tried")) == "out of memory: CUDA out of memory. Tried"
    assert failure(RuntimeError("DefaultCPUAllocator: can't allocate memory: x")).startswith("out of memory: ")
    assert failure(RuntimeError("GET was unable to find an engine to execute this")).startswith("out of memory: ")
    assert failure(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when")).startswith("out of memory: ")
    unready = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")
    assert failure(unready).startswith("out of memory: ")
    assert spoils_process(unready), "a library that could not begin once does not try again"
    illegal = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert failure(illegal).startswith("error: RuntimeError: CUDA error")
    assert spoils_process(illegal)
    assert spoils_process(RuntimeError("GET was unable to find an engine to execute this")), "or it may be"
    assert not spoils_process(RuntimeError("CUDA out of memory. Tried"))
    assert not spoils_process(ValueError("x"))


def test_a_trial_that_has_ended_without_a_result_is_started_again(
    session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    s = session({"trials": 1})
    s.begin()
    assert not s.driver.reported("t0", {"phase": "end"})
    assert s.driver.reported("t0", {"phase": "end"}), "Ray may start it once more"
    assert not s.driver.done()
    later = time.monotonic() + 10
    monkeypatch.setattr("sweeps.driver.time.monotonic", lambda: later)
    again = s.driver.next_assignment("t1")
    assert again is not None
    assert again["number"] == 0


def test_a_sweep_at_its_limit_can_still_be_paused(session: Callable[..., Session]) -> None:
    s = session({"trials": 4, "budget": {"target": 0.4}})
    first, second = s.begin(), s.begin()
    s.complete(first, 0.5, "t0")
    assert s.driver.next_assignment("x") is None
    assert str(s.driver.ending).startswith("ended")
    s.driver.reported("t1", {"phase": "blocked", "reason": "cannot write: x"})
    s.driver.ended("t1", died=False)
    assert s.driver.done(), f"trial {second['number']} goes on when the sweep is resumed"
    assert s.driver.ending == "paused: trial 1 cannot write: x; mend that"


def test_a_bug_is_not_tried_again(session: Callable[..., Session]) -> None:
    s = session()
    s.end(s.begin(), state="failed", error="error: ValueError: x")
    assert [entry.state for entry in s.ledger.entries()] == ["failed"]
    assert s.begin()["number"] == 1


def test_epochs_that_are_told_again_count_once(session: Callable[..., Session]) -> None:
    s = session({"trials": 1})
    s.begin()
    epoch = {"phase": "base", "epoch": 1, "epochs": 3, "base_topk": 0.5, "spent_base": 7.0}
    for _ in range(2):
        s.driver.reported("t0", epoch)
    s.driver.reported("t0", epoch | {"epoch": 2, "spent_base": 9.0})
    s.driver.reported("t0", epoch | {"spent_base": 7.5})
    s.driver._given_up["t0"] = Verdict(2, "stopped", None)
    s.driver.ended("t0", died=False)
    left = s.sweep.result(0)
    assert left is not None
    assert [(report["epoch"], report["spent_base"]) for report in left["history"]] == [(1, 7.5), (2, 9.0)]


def test_a_trial_whose_process_died_goes_on_after_a_while(
    session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    s, now = session({"trials": 1}), 1000.0
    monkeypatch.setattr("sweeps.driver.time.monotonic", lambda: now)
    epoch = {"phase": "base", "epoch": 1, "epochs": 2, "base_topk": 0.5, "spent_base": 7.0}

    def begun_again(trial: str, after: float) -> None:
        nonlocal now
        assert not s.driver.done()
        now += after - 0.1
        assert s.driver.next_assignment(trial) is None, "a lost machine may not be known to be lost yet"
        now += 0.1
        again = s.driver.next_assignment(trial)
        assert again is not None
        assert again["number"] == 0

    s.begin()
    assert not s.driver.done(), "it may have to be started again"
    s.driver.ended("t0", died=True)
    begun_again("t1", 5)
    s.driver.ended("t1", died=True)
    begun_again("t2", 20)
    s.driver.reported("t2", epoch)
    s.driver.ended("t2", died=True)
    begun_again("t3", 5)
    for trial, after in [("t3", 20), ("t4", 60)]:
        # It goes on from there, tells it again, and is no step further.
        s.driver.reported(trial, epoch)
        s.driver.ended(trial, died=True)
        begun_again(f"t{int(trial[1]) + 1}", after)
    assert [entry.state for entry in s.ledger.entries()] == ["running"]
    s.driver.ended("t5", died=True)
    (entry,) = s.ledger.entries()
    assert (entry.state, entry.result["error"]) == ("failed", "lost: the trial's process died 4 times")
    left = s.sweep.result(0)
    assert left is not None
    assert (left["state"], left["error"]) == (entry.state, entry.result["error"])
    assert booked([entry])["lost"] == {"base": 7.0}
    assert s.driver.done()


def test_a_trial_whose_process_died_is_brought_to_its_end_though_the_budget_is_used(
    session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    s = session({"trials": 4, "budget": {"target": 0.4}})
    s.begin()
    second = s.begin()
    s.driver.ended("t0", died=True)
    s.complete(second, 0.5, "t1")
    later = time.monotonic() + 10
    monkeypatch.setattr("sweeps.driver.time.monotonic", lambda: later)
    assert not s.driver.done()
    again = s.driver.next_assignment("t2")
    assert again is not None
    assert again["number"] == 0
    s.complete(again, 0.3, "t2")
    assert s.driver.done()
    assert [entry.state for entry in s.ledger.entries()] == ["complete"] * 2


def test_an_interrupted_trial_stays_open(session: Callable[..., Session]) -> None:
    s = session()
    s.begin()
    s.driver.interrupt()
    assert [entry.state for entry in s.ledger.entries()] == ["running"]


def test_trials_that_fail_alike_pause_the_sweep(session: Callable[..., Session]) -> None:
    s = session({"trials": 8, "alike_failures": 3})
    for number in range(3):
        assert not s.driver.done()
        s.end(s.begin(), state="failed", error=f"error: RuntimeError: no device {number}")
    assert s.driver.ending == "paused: the last 3 trials failed alike: error: RuntimeError: no device 2"
    assert s.driver.next_assignment("x") is None
    assert s.driver.done()


def test_failures_of_several_kinds_do_not(session: Callable[..., Session]) -> None:
    s = session({"trials": 8, "alike_failures": 2})
    s.end(s.begin(), state="failed", error="error: A")
    s.end(s.begin(), state="failed", error="non-finite: b")
    s.complete(s.begin(), 0.5)
    s.end(s.begin(), state="failed", error="error: A")
    assert s.driver.ending is None


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"target": 0.6}, "ended: the joint value 0.6 is reached"),
        ({"device_hours": 0.001}, "ended: 0.001 device-hours are used"),
        ({"hours": 1e-9}, "ended: 1e-09 hours have passed"),
    ],
)
def test_at_a_limit_no_trial_is_begun(session: Callable[..., Session], budget: dict[str, float], reason: str) -> None:
    s = session({"budget": budget})
    if "hours" not in budget:
        first = s.begin()
        s.complete(first, 0.65, stage_seconds={"base": 3.0, "streaming": 2.0})
    assert s.driver.next_assignment("x") is None
    assert s.driver.done()
    assert str(s.driver.ending).startswith(reason)


def test_a_base_that_is_outranked_is_given_up(session: Callable[..., Session]) -> None:
    s = session({"trials": 8, "pruning": {"rungs": [1], "reduction_factor": 2}})
    report = {"phase": "base", "epochs": 3, "epoch": 1, "base_topk": 0.5, "rung": 1, "spent_base": 1.5}
    given = [s.begin(), s.begin()]
    assert [assignment["rungs"] for assignment in given] == [[(1, 1)]] * 2
    assert given[0]["probe"]["epochs"] == 1
    probe = {"probe_original_topk": 0.6, "probe_streaming_topk": 0.1}
    assert s.driver.reported("t0", report | probe | {"probe_joint": 0.9}), "given ones are never given up"
    assert not s.driver.reported("t1", report | probe | {"probe_joint": 0.2})
    s.driver.ended("t1", died=False)
    entry = s.ledger.entries()[1]
    assert (entry.state, entry.result["stage"], entry.result["step"]) == ("pruned", "base", 1)
    assert entry.result["stage_seconds"] == {"base": 1.5}
    assert s.ledger.trials()[1].intermediate_values == {1: 0.2}
    assert json.loads((Path(given[1]["folder"]) / "result.json").read_text())["state"] == "pruned"
    assert "pruned, probe after base epoch 1: joint 20.0, place 2 of 2" in s.said.getvalue()


def test_a_pause_is_heard(session: Callable[..., Session]) -> None:
    s = session()
    assert s.driver.asked() is None
    s.sweep.ask("pause")
    assert s.driver.asked() == "pause"


def test_a_trial_that_cannot_write_pauses_the_sweep_and_stays_to_be_done(session: Callable[..., Session]) -> None:
    here = session({"trials": 4})
    here.begin()
    blocked = {"phase": "blocked", "reason": "cannot write: No space left on device: /home/bases"}
    assert here.driver.reported(here.id, blocked)
    here.driver.ended(here.id, died=False)
    assert here.driver.next_assignment("next") is None
    assert here.driver.done()
    assert here.driver.ending == "paused: trial 0 cannot write: No space left on device: /home/bases; mend that"
    assert [entry.state for entry in here.ledger.entries()] == ["running"], "it goes on when the sweep is resumed"


def test_a_trial_that_gives_way_comes_back_however_late_that_is_heard(
    session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    s = session()
    first = s.begin()
    s.driver.reported("t0", {"phase": "held"})
    late = time.monotonic() + 60
    monkeypatch.setattr("sweeps.driver.time.monotonic", lambda: late)
    assert s.begin()["number"] == 1, "others are begun meanwhile"
    s.driver.ended("t0", died=False)
    again = s.driver.next_assignment("t2")
    assert again is not None
    assert again["number"] == first["number"]
