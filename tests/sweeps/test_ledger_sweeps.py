"""Whole sweeps whose ledger is a journal file on a share, or in PostgreSQL: killed, resumed, deleted."""

from contextlib import ExitStack
from pathlib import Path

import optuna
import psycopg
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweeps.storage import database_lock
from sweeps.sweep import Sweep
from tests.conftest import merged
from tests.sweeps.commands import RECIPE, Home, kill_everything, wait_for
from tests.sweeps.postgres import PASSWORD, Postgres
from tests.sweeps.raycluster import free_ports
from tests.sweeps.share import share
from tests.sweeps.trackingserver import tracking_server

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


class SharedHome(Home):
    """A home that is mounted, on a machine that keeps its own copies in `disk`, where the tracking is too."""

    def __init__(self, folder: Path, disk: Path) -> None:
        super().__init__(folder)
        self.tracking = disk / "server.db"
        self.settings = {"SWEEPS_CACHE": str(disk / "cache")}

    def study(self, name: str) -> optuna.Study:
        file = self.folder / "sweeps" / name / "ledger.journal"
        return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(file))))


class DatabaseHome(Home):
    """A home whose ledgers are in a database."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self.url = url.replace("postgresql://", "postgresql+psycopg://")

    def study(self, name: str) -> optuna.Study:
        return optuna.load_study(study_name=None, storage=self.url)


def killed_and_resumed(home: Home, **search: object) -> None:
    """Run a sweep of four trials that is killed after its first one."""
    recipe = merged(RECIPE, {"search": {"trials": 4, **search}})
    process = home.start("sweeps", "run", str(home.recipe("x", **recipe)))
    folder = home.folder / "sweeps" / "x"
    wait_for(lambda: list(folder.glob("trials/*/result.json")) or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    kill_everything(process)
    assert home.status("x")["state"] == "interrupted"
    home.call("sweeps", "resume", "x")
    home.assert_consistent("x", 4)
    assert home.status("x")["state"] == "finished"
    assert not (folder / "ledger.db").exists()


def test_on_a_share(tmp_path: Path) -> None:
    with share(tmp_path / "share") as folder:
        home = SharedHome(folder, tmp_path)
        refused = home.call("sweeps", "run", str(home.recipe("x")), code=2)
        assert "the tracking would be sqlite on a mounted share (fuse.bindfs)" in refused
        assert refused.count("\n") == 1
        assert not (folder / "sweeps").exists(), "nothing is written"
        with tracking_server(home.tracking, free_ports(1)[0]) as server:
            home.settings["MLFLOW_TRACKING_URI"] = server
            killed_and_resumed(home)
            # The trials read this machine's own copy of the data set.
            (copy,) = (tmp_path / "cache").iterdir()
            assert copy.name.startswith("tiny-")
            home.call("sweeps", "delete", "x", "--yes")
            assert not (folder / "sweeps" / "x").exists()


@pytest.mark.usefixtures("password")
def test_in_a_database(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.create("sweep")
    home = DatabaseHome(tmp_path, url)
    killed_and_resumed(home, storage=url)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"recipe.yaml", "mlflow.db"} <= {path.name for path in files}
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()], "the password is written nowhere"
    home.call("sweeps", "delete", "x", "--yes")
    assert optuna.get_all_study_names(home.url) == []


@pytest.mark.usefixtures("password")
def test_a_database_that_takes_no_more_ends_the_session_in_a_line(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.create("readonly")
    home = DatabaseHome(tmp_path, url)
    process = home.start(
        "sweeps", "run", str(home.recipe("x", **merged(RECIPE, {"search": {"trials": 4, "storage": url}})))
    )
    folder = tmp_path / "sweeps" / "x"
    wait_for(lambda: list(folder.glob("trials/*/result.json")) or process.poll() is not None)
    readonly = "ALTER DATABASE readonly SET default_transaction_read_only ="
    others = "FROM pg_stat_activity WHERE datname = 'readonly' AND pid <> pg_backend_pid()"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"{readonly} on")
        connection.execute(f"SELECT pg_terminate_backend(pid) {others}")
        out, error = process.communicate(timeout=240)
        assert process.returncode == 2, out + error
        assert "the ledger fails: " in error
        assert "Traceback" not in out + error
        connection.execute(f"{readonly} off")
    home.call("sweeps", "resume", "x")
    home.assert_consistent("x", 4)


@pytest.mark.usefixtures("password")
def test_a_database_that_is_not_there_is_said_before_anything_begins(tmp_path: Path, postgres: Postgres) -> None:
    home = Home(tmp_path)
    recipe = merged(RECIPE, {"search": {"storage": postgres.url("nowhere")}})
    error = home.call("sweeps", "run", str(home.recipe("x", **recipe)), code=2)
    assert 'database "nowhere" does not exist' in error
    assert error.count("\n") == 1
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.usefixtures("password")
def test_a_driver_whose_lock_another_has_taken_stops(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.create("taken")
    home = DatabaseHome(tmp_path, url)
    recipe = merged(RECIPE, {"config": {"base": {"epochs": 60}}, "search": {"storage": url}})
    process = home.start("sweeps", "run", str(home.recipe("x", **recipe)))
    sweep = Sweep(tmp_path, "x")
    try:
        wait_for(lambda: list(sweep.folder.glob("trials/*/progress.json")) or process.poll() is not None)
        with psycopg.connect(url) as connection, ExitStack() as other:
            for _ in range(20):
                # The driver may look, and take it again, in between.
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
                held = other.enter_context(database_lock(url, sweep.about()["id"], alone=True))
                if held():
                    break
            assert held()
            out, error = process.communicate(timeout=240)
            assert sweep.ending() is None, "all is left to whoever has the lock"
        assert process.returncode == 1, out + error
        assert "paused: the database dropped the sweep's lock, which cannot be had again; go on: sweeps resume x" in out
        assert home.status("x")["state"] == "interrupted"
    finally:
        kill_everything(process)
