"""One contract for the ledger on all its storages, and what is particular to each."""

import dataclasses
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

import senet.mounts
from senet.errors import InputError
from sweeps.config import Recipe, validate_recipe
from sweeps.ledger import Entry, Ledger, NoLedgerError, delete_ledger, entries_of, open_ledger
from sweeps.space import Params
from sweeps.sweep import create_sweep
from tests.conftest import merged
from tests.sweeps.postgres import PASSWORD, Postgres
from tests.sweeps.test_search import RECIPE

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

SPACE = validate_recipe(RECIPE, "r").parsed_space("r")
PARAMS: Params = {"model.expansion": 2, "model.reduction": "sqrt", "streaming.learning_rate": 0.01}


def complete(joint: float) -> dict[str, Any]:
    return {"state": "complete", "metrics": {"joint": joint}, "history": [{"epoch": 1, "base_topk": 0.5}]}


@dataclasses.dataclass
class Place:
    """Where a ledger lies, to open it again and again."""

    folder: Path
    url: str | None = None

    def open(self, create: bool = False) -> Ledger:
        return Ledger(self.folder, "s", create, self.url)

    def storage(self) -> BaseStorage | str:
        """As Optuna opens it, without our code."""
        if self.url is not None:
            return self.url.replace("postgresql://", "postgresql+psycopg://")
        journal = self.folder / "ledger.journal"
        if journal.exists():
            return JournalStorage(JournalFileBackend(str(journal)))
        return f"sqlite:///{self.folder / 'ledger.db'}"


def on_a_share(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `folder` count as mounted."""
    monkeypatch.setattr(senet.mounts, "mounts", lambda: f"1 1 0:1 / {folder} rw - nfs4 server:/x rw\n")


@pytest.fixture(params=["sqlite", "journal", pytest.param("postgresql", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "journal":
        on_a_share(tmp_path, monkeypatch)
    if request.param != "postgresql":
        return Place(tmp_path)
    request.getfixturevalue("password")
    database = f"d{abs(hash(request.node.name)):x}"
    return Place(tmp_path, request.getfixturevalue("postgres").create(database))


class TestContract:
    """What holds wherever a ledger lies."""

    def test_a_trial_from_beginning_to_end(self, place: Place) -> None:
        ledger = place.open(create=True)
        first = ledger.open(PARAMS, SPACE, enqueued=3)
        assert first == Entry(0, "running", PARAMS, 3, None, {}, SPACE.seed)
        assert ledger.open(PARAMS, SPACE, seed=7) == Entry(1, "running", PARAMS, None, None, {}, 7)
        ledger.set_run(0, "r0")
        ledger.finish(0, complete(0.25))
        ended = dataclasses.replace(first, state="complete", run_id="r0", result=complete(0.25))
        assert ledger.entry(0) == ended
        assert ledger.entry(0).joint == 0.25
        assert [entry.state for entry in ledger.entries()] == ["complete", "running"]

    def test_who_opens_it_again_sees_the_same(self, place: Place) -> None:
        ledger = place.open(create=True)
        for result in (complete(0.1), {"state": "failed", "error": "error: x"}, {"state": "pruned", "step": 2}, None):
            number = ledger.open(PARAMS, SPACE, enqueued=1).number
            ledger.set_run(number, f"r{number}")
            if result is not None:
                ledger.finish(number, result)
        for again in (place.open(), place.open(create=True)):
            assert again.entries() == ledger.entries()
            assert [trial.state for trial in again.trials()] == [trial.state for trial in ledger.trials()]
        assert [entry.state for entry in ledger.entries()] == ["complete", "failed", "pruned", "running"]

    def test_optuna_reads_it(self, place: Place) -> None:
        ledger = place.open(create=True)
        for joint in (0.1, 0.3, 0.2):
            ledger.finish(ledger.open(PARAMS, SPACE).number, complete(joint))
        study = optuna.load_study(study_name="s", storage=place.storage())
        assert (study.best_trial.number, study.best_value) == (1, 0.3)
        assert study.best_trial.params == PARAMS
        assert study.direction.name == "MAXIMIZE"
        assert all(trial.datetime_start and trial.datetime_complete for trial in study.trials)

    def test_a_closed_trial_stays_as_it_is(self, place: Place) -> None:
        ledger = place.open(create=True)
        ledger.open(PARAMS, SPACE)
        ledger.finish(0, complete(0.5))
        ledger.finish(0, {"state": "failed", "error": "error: late"})
        assert ledger.entry(0).result == place.open().entry(0).result == complete(0.5)

    @pytest.mark.parametrize("result", [complete(0.5), {"state": "failed", "error": "error: x"}])
    def test_killed_between_the_two_writes_of_an_end(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, result: dict[str, Any]
    ) -> None:
        ledger = place.open(create=True)
        ledger.open(PARAMS, SPACE)
        with monkeypatch.context() as patch:
            for storage in (RDBStorage, JournalStorage):
                patch.setattr(storage, "set_trial_state_values", dies)
            with pytest.raises(KeyboardInterrupt):
                ledger.finish(0, result)
        assert place.open().entry(0).state == "running", "who only reads repairs nothing"
        for again in (place.open(create=True), place.open()):
            assert (again.entry(0).state, again.entry(0).result) == (result["state"], result)
            assert len(again.entries()) == 1

    @pytest.mark.parametrize("came_through", [False, True])
    def test_a_write_that_fails_is_said_and_leaves_it_right(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, came_through: bool
    ) -> None:
        ledger = place.open(create=True)
        ledger.open(PARAMS, SPACE)
        with monkeypatch.context() as patch:
            for storage in (RDBStorage, JournalStorage):
                patch.setattr(storage, "create_new_trial", failing(storage.create_new_trial, came_through))
            with pytest.raises(InputError, match="the ledger fails: the disk is full"):
                ledger.open(PARAMS, SPACE)
        assert len(ledger.entries()) == 1 + came_through
        assert ledger.open(PARAMS, SPACE).number == 1 + came_through
        assert ledger.entries() == place.open().entries()

    def test_one_that_is_not_there(self, place: Place) -> None:
        with pytest.raises(NoLedgerError):
            place.open()
        assert not list(place.folder.iterdir())


def test_who_looks_at_a_ledger_in_the_making_harms_nobody(tmp_path: Path) -> None:
    ends, seen = threading.Event(), set[str]()

    def look() -> None:
        while not ends.is_set():
            for i in range(6):
                try:
                    Ledger(tmp_path / str(i), "x")
                    seen.add("a ledger")
                except InputError as error:
                    seen.add(type(error).__name__)

    with ThreadPoolExecutor() as pool:
        onlooker = pool.submit(look)
        try:
            for i in range(6):
                (tmp_path / str(i)).mkdir()
                (tmp_path / str(i) / ".ledger.db-left").touch()
                Ledger(tmp_path / str(i), "x", create=True)
        finally:
            ends.set()
        onlooker.result()
    assert seen <= {"a ledger", "NoLedgerError"}
    assert not list(tmp_path.glob("*/.*"))


def dies(*_: object) -> None:
    raise KeyboardInterrupt


def failing(write: Callable[..., Any], first: bool) -> Callable[..., Any]:
    """A write that fails, or that comes through `first` and only then fails."""

    def fail(*arguments: object) -> None:
        if first:
            write(*arguments)
        raise StorageInternalError("the disk is full")

    return fail


@pytest.mark.parametrize("content", [b"no journal\nat all\n", b'{"op_code": 0}\nx\n', b"[]\n", b'{"op_code": 77}\n'])
def test_a_damaged_journal_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    on_a_share(tmp_path, monkeypatch)
    (tmp_path / "ledger.journal").write_bytes(content)
    with pytest.raises(InputError, match=r"ledger\.journal: is no ledger of the sweep `s`"):
        Ledger(tmp_path, "s")


def drive(folder: Path, shared: bool, told: Path) -> None:
    """A driver that opens and finishes trials until it is killed, and says which it has finished."""
    if shared:
        senet.mounts.mounts = lambda: f"1 1 0:1 / {folder} rw - nfs4 server:/x rw\n"
    ledger = Ledger(folder, "s", create=True)
    for entry in ledger.entries():
        if entry.state == "running":
            finish(ledger, entry.number, told)
    while True:
        finish(ledger, ledger.open(PARAMS, SPACE).number, told)


def finish(ledger: Ledger, number: int, told: Path) -> None:
    ledger.set_run(number, f"r{number}")
    ledger.finish(number, complete(number / 1e6))
    with told.open("a") as file:
        file.write(f"{number}\n")


@pytest.mark.soak
@pytest.mark.parametrize("shared", [False, True], ids=["sqlite", "journal"])
def test_a_driver_that_is_killed_again_and_again_loses_nothing(
    tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, told, dice = tmp_path / "sweep", tmp_path / "told", random.Random(0)
    folder.mkdir()
    told.touch()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.sweeps.test_ledger"])
    count = 0
    for _ in range(8):
        process = context.Process(target=drive, args=(folder, shared, told))
        process.start()
        deadline = time.monotonic() + 60
        while len(told.read_text().splitlines()) < count + 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.2))
        assert process.pid is not None
        assert process.is_alive()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        # A lock that the dead driver has left would be waited for, for half a minute.
        (folder / "ledger.journal.lock").unlink(missing_ok=True)
        count = len(told.read_text().splitlines())
    if shared:
        on_a_share(folder, monkeypatch)
    entries = Ledger(folder, "s", create=True).entries()
    assert [entry.number for entry in entries] == list(range(len(entries)))
    assert [entry.state for entry in entries[:-1]] == ["complete"] * (len(entries) - 1)
    assert [entry.result for entry in entries[:-1]] == [complete(number / 1e6) for number in range(len(entries) - 1)]
    numbers = [int(line) for line in told.read_text().splitlines()]
    assert numbers == sorted(set(numbers)), "none was finished twice"
    assert {entry.number for entry in entries if entry.state == "complete"} >= set(numbers)


@pytest.mark.slow
@pytest.mark.usefixtures("password")
class TestPostgres:
    """What is particular to a database that many share."""

    def test_sweeps_of_the_same_name_stay_apart(self, postgres: Postgres, tmp_path: Path) -> None:
        url = postgres.create("apart")
        recipe: Recipe = validate_recipe(merged(RECIPE, {"search": {"storage": url}}), "r")
        one, other = (create_sweep(tmp_path / home, "s", "s", recipe, "d") for home in ("one", "other"))
        assert entries_of(one) == []
        open_ledger(one, create=True).open(PARAMS, SPACE)
        assert (len(entries_of(one)), len(entries_of(other))) == (1, 0)
        assert not list(one.folder.glob("ledger*"))
        open_ledger(other, create=True)
        delete_ledger(one)
        assert entries_of(one) == []
        assert [study.study_name for study in optuna.get_all_study_summaries(Place(tmp_path, url).storage())] == [
            f"s-{other.about()['id']}"
        ]

    def test_what_is_wrong_is_said_in_a_line(
        self, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = postgres.url("nowhere")
        nobody = url.rpartition(":")[0] + ":1/x"
        for wrong, password, message in (
            (url, PASSWORD, 'database "nowhere" does not exist'),
            (url, "wrong", "password authentication failed"),
            (nobody, PASSWORD, "Connection refused"),
        ):
            monkeypatch.setenv("PGPASSWORD", password)
            with pytest.raises(InputError) as raised:
                Ledger(tmp_path, "s", create=True, url=wrong)
            text = str(raised.value)
            assert text.startswith(f"`search.storage`: {wrong}: ")
            assert message in text
            assert "\n" not in text
            assert password not in text.replace(message, "")

    @pytest.mark.soak
    def test_several_drivers_find_it_empty(self, postgres: Postgres, tmp_path: Path) -> None:
        url = postgres.create("empty")
        context = multiprocessing.get_context("forkserver")
        processes = [context.Process(target=begin, args=(tmp_path, f"s{i}", url)) for i in range(6)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * 6
        assert [len(Ledger(tmp_path, f"s{i}", url=url).entries()) for i in range(6)] == [1] * 6


def begin(folder: Path, name: str, url: str) -> None:
    os.environ["PGPASSWORD"] = PASSWORD
    Ledger(folder, name, create=True, url=url).open(PARAMS, SPACE)
