"""What the driver makes of ends and reports, without Ray: honest states, one retry rule a class, limits."""

import io
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from senet.complexity import complexity
from senet.config import ModelConfig
from senet.data.catalogue import Description
from sweeps.booking import booked
from sweeps.config import validate_recipe
from sweeps.driver import Driver
from sweeps.ledger import Ledger
from sweeps.progress import PlainView, Tally
from sweeps.pruning import Verdict
from sweeps.run import reconcile
from sweeps.sweep import Sweep, create_sweep
from sweeps.tracking import SweepTracking
from sweeps.trial import failure, spoils_process
from tests.conftest import merged
from tests.sweeps.commands import RECIPE

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

DATA = Description("tiny", tuple("abcdef"), 24, {}, 2)


class Session:
    """A driver, and what Ray and the trials would tell it."""

    def __init__(self, home: Path, search: dict[str, Any], resources: dict[str, Any]) -> None:
        recipe = validate_recipe(merged(RECIPE, {"search": search, "resources": resources}), "r")
        self.sweep: Sweep = create_sweep(home, None, "s", recipe, "data")
        self.ledger = Ledger(self.sweep.folder, self.sweep.name, create=True)
        self.said = io.StringIO()
        self.drive()

    def drive(self) -> None:
        """Begin a session."""
        recipe = self.sweep.recipe()
        view = PlainView(Console(file=self.said, width=200), Tally(recipe.search.trials, []))
        self.tracking = tracking = SweepTracking(self.sweep.home, self.sweep.name, self.sweep.about()["id"])
        tracking.begin({})
        largest = {"cpu": 2.0, "gpu": 4.0}
        gpus = 1.0 if recipe.resources.by_size else math.inf
        self.driver = Driver(self.sweep, self.ledger, tracking, view, DATA, 8, largest, gpus)

    def begin(self) -> dict[str, Any]:
        assignment = self.driver.next_assignment(f"t{len(self.ledger.entries())}")
        assert assignment is not None
        self.id = f"t{len(self.ledger.entries()) - 1}"
        return assignment

    def end(self, assignment: dict[str, Any], trial_id: str | None = None, **result: Any) -> None:
        """The trial leaves its process with a result."""
        folder = Path(assignment["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps({"seconds": 1.0, "history": [], **result}))
        self.driver.ended(trial_id or self.id, died=False)

    def complete(self, assignment: dict[str, Any], joint: float, trial_id: str | None = None, **result: Any) -> None:
        metrics = {name: joint for name in ("joint", "original_topk", "streaming_topk", "base_topk")}
        self.end(assignment, trial_id, state="complete", metrics=metrics, base_key="k", base_reused=False, **result)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tracking database for all, since making one takes seconds."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def session(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Session]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lambda search=None, resources=None: Session(home, search or {}, resources or {})


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
