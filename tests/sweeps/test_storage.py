"""Where a ledger lies: mounts as they are told, URLs as they may be written, journals that were cut off."""

import errno
import fcntl
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

import senet.mounts
from senet.errors import InputError
from senet.home import copy_of
from senet.mounts import kind_of_share
from sweeps.cli import main
from sweeps.config import validate_recipe
from sweeps.journal import open_journal
from sweeps.storage import check_bucket, database_lock, storage_file, tracking_uri
from sweeps.sweep import Sweep, create_sweep
from tests.conftest import merged, refusal
from tests.sweeps.postgres import PASSWORD, Postgres
from tests.sweeps.test_search import RECIPE

MOUNTS = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 27 0:40 / /home rw,relatime shared:5 master:2 - nfs4 server:/home rw,vers=4.2,addr=10.0.0.1
31 30 8:17 / /home/ada/scratch rw - xfs /dev/sdb1 rw
32 27 0:41 / /mnt/with\040space rw - cifs //server/share rw
33 27 0:42 / /mnt/remote rw - fuse.sshfs host:/data rw,user_id=0
34 27 0:43 / /mnt/root rw - fuse.fuse-overlayfs fuse-overlayfs rw
35 27 0:44 / /lustre rw - lustre 10.0.0.2@tcp:/fs rw
36 27 0:45 / /twice rw - ext4 /dev/vdb rw
37 36 0:46 / /twice rw - ceph 10.0.0.3:/ rw
38 27 0:47 / /gpfs rw - gpfs gpfs rw
39 27 0:48 / /smb rw - smb3 //server/other rw
40 27 0:49 / /tmp rw - tmpfs tmpfs rw
41 27 0:50 / /disk rw - fuseblk /dev/sdc1 rw
"""


@pytest.mark.parametrize(
    ("folder", "share"),
    [
        ("/local/sweeps", None),
        ("/home", "nfs4"),
        ("/home/ada/sweeps/x", "nfs4"),
        ("/home/ada/scratch/x", None),
        ("/homes/ada", None),
        ("/mnt/with space/x", "cifs"),
        ("/mnt/remote/x", "fuse.sshfs"),
        ("/mnt/root/x", None),
        ("/lustre/x", "lustre"),
        ("/twice/x", "ceph"),
        ("/gpfs/x", "gpfs"),
        ("/smb/x", "smb3"),
        ("/tmp/x", None),
        ("/disk/x", None),
    ],
)
def test_a_share_is_told_from_a_local_disk(folder: str, share: str | None) -> None:
    assert kind_of_share(Path(folder), MOUNTS) == share
    assert kind_of_share(Path(folder), "") is None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://ada:secret@host/sweeps", "holds a password"),
        ("postgresql://ada@host/sweeps?password=secret", "holds a password"),
        ("postgresql://ada@host/sweeps?sslpassword=secret", "holds a password"),
        ("postgresql://ada:secret@host:99999/sweeps", "is no URL"),
        ("mysql://ada:secret@host/sweeps", "holds a password"),
        ("ada_1:secret@host/sweeps", "must be postgresql://user@host/database"),
        ("postgresql://[secret/x", "is no URL"),
        ("postgresql://ada@host", "names no database"),
        ("postgresql://ada@host:x/sweeps", "is no URL"),
        ("sqlite:///ledger.db", "must be postgresql://user@host/database, or nothing: sqlite on a local disk"),
        ("journal", "must be postgresql://"),
        ("", "must be postgresql://"),
    ],
)
def test_a_storage_that_cannot_be(url: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        validate_recipe(merged(RECIPE, {"search": {"storage": url}}), "r")
    text = str(raised.value)
    assert text.startswith("r: `search.storage`: ")
    assert message in text
    assert "secret" not in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "url", ["postgresql://ada@host/sweeps", "postgresql://host:5433/x?sslmode=require", "postgresql:///x?host=/run/pg"]
)
def test_a_storage_that_can_be(url: str) -> None:
    assert validate_recipe(merged(RECIPE, {"search": {"storage": url}}), "r").search.storage == url


def test_a_password_is_refused_before_anything_is_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = "search.storage=postgresql://ada:secret@host/sweeps"
    said = refusal(main, capsys, "run", "quickstart", "--set", storage)
    assert "holds a password" in said.err
    assert "PGPASSWORD" in said.err
    assert "secret" not in said.err + said.out
    assert not home.exists()


def test_what_is_there_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage_file(tmp_path) == tmp_path / "ledger.db"
    monkeypatch.setattr(senet.mounts, "mounts", lambda: f"1 1 0:1 / {tmp_path} rw - nfs4 server:/x rw\n")
    assert storage_file(tmp_path) == tmp_path / "ledger.journal"
    (tmp_path / "ledger.db").touch()
    with pytest.raises(InputError, match=r"ledger\.db: is a sqlite ledger on a mounted share \(nfs4\), .* move the"):
        storage_file(tmp_path)
    # A sweep that was copied from a share is read, and goes on, where it is.
    (tmp_path / "ledger.db").rename(tmp_path / "ledger.journal")
    monkeypatch.undo()
    assert storage_file(tmp_path) == tmp_path / "ledger.journal"


@pytest.mark.parametrize("torn", [b'{"op_code":0,"work', b"{", b'{"op_code":99}', b"\x00\x00"])
def test_a_line_that_was_cut_off_takes_no_other_with_it(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "ledger.journal"
    storage = open_journal(path)
    study = storage.create_new_study([], "s")
    storage.create_new_trial(study)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    again = open_journal(path)
    assert len(again.get_all_trials(study)) == 1
    assert path.read_bytes() == whole + torn, "who only reads changes nothing"
    again.create_new_trial(study)
    assert [json.loads(line)["op_code"] for line in path.read_bytes().splitlines()] == [0, 4, 4]
    assert len(open_journal(path).get_all_trials(study)) == 2


def test_a_journal_cut_off_in_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.journal"
    path.write_bytes(b'{"op')
    assert open_journal(path).create_new_study([], "s") == 0
    assert path.read_bytes().count(b"\n") == 1


def nfs_lock(file: int, kind: int) -> None:
    """What NFS 4 makes of flock: a lock of a file's bytes, shared for who may read, exclusive for who may write."""
    access = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
    if access == (os.O_WRONLY if kind & fcntl.LOCK_SH else os.O_RDONLY):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    fcntl.lockf(file, kind)


def test_who_drives_is_known_on_nfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.sweep.fcntl.flock", nfs_lock)
    sweep = create_sweep(tmp_path, None, "x", validate_recipe(RECIPE, "r"), "data")
    assert not sweep.is_driven()
    with sweep.driving():
        pass
    assert not sweep.is_driven()


def test_a_share_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = create_sweep(tmp_path, None, "x", validate_recipe(RECIPE, "r"), "data")

    def none(file: int, kind: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr("sweeps.sweep.fcntl.flock", none)
    with pytest.raises(InputError, match=r"driver\.lock: cannot be locked: Operation not supported; SWEEPS_HOME must"):
        sweep.is_driven()


@contextmanager
def as_another_user(folder: Path) -> Iterator[None]:
    """As one who may read `folder` and write nothing in it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_another_users_sweep_can_be_looked_at() -> None:
    # A folder of pytest's may not be entered by others.
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        Path(home).chmod(0o755)
        sweep = create_sweep(Path(home), None, "x", validate_recipe(RECIPE, "r"), "data")
        with sweep.driving(), as_another_user(sweep.folder):
            assert sweep.is_driven()
        with as_another_user(sweep.folder):
            assert not sweep.is_driven()
            with pytest.raises(PermissionError), sweep.driving():
                pass


@pytest.mark.slow
@pytest.mark.usefixtures("password")
class TestTheLockInADatabase:
    """Of two machines, whose folders have locks of their own, one drives a sweep."""

    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return postgres.create(f"lock_{uuid.uuid4().hex}")

    @pytest.fixture
    def machines(self, url: str, tmp_path: Path) -> tuple[Sweep, Sweep]:
        recipe = validate_recipe(merged(RECIPE, {"search": {"storage": url}}), "r")
        here = create_sweep(tmp_path / "here", None, "x", recipe, "data")
        shutil.copytree(tmp_path / "here", tmp_path / "there")
        return here, Sweep(tmp_path / "there", "x")

    @staticmethod
    def end_connections(url: str) -> int:
        """End all connections to a database but this one, as its restart does."""
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND "
        with psycopg.connect(url) as connection:
            return len(
                connection.execute(f"{others} backend_type = 'client backend' AND pid <> pg_backend_pid()").fetchall()
            )

    def test_it_is_taken_again_where_its_connection_is_lost(self, url: str, machines: tuple[Sweep, Sweep]) -> None:
        here, there = machines
        with here.driving() as held:
            assert held()
            assert self.end_connections(url) == 1
            assert held()
            assert there.is_driven()
            with pytest.raises(InputError, match="is running already"), there.driving():
                pass
            assert held()
        assert not there.is_driven()

    def test_it_is_not_taken_from_another(self, url: str, machines: tuple[Sweep, Sweep]) -> None:
        here, there = machines
        with here.driving() as held:
            self.end_connections(url)
            with there.driving():
                assert not held()
            assert not held(), "who has lost it stops"

    def test_who_may_not_lock_is_told_so_in_a_line(self, url: str, postgres: Postgres) -> None:
        user, function = f"u_{uuid.uuid4().hex}", "pg_try_advisory_lock(bigint)"
        with psycopg.connect(url) as connection:
            connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'")
            connection.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
        theirs = postgres.url(url.rpartition("/")[2], user)
        said = f"`search.storage`: {theirs}: permission denied for function pg_try_advisory_lock$"
        with pytest.raises(InputError, match=said), database_lock(theirs, "x", alone=True):
            pass


@pytest.mark.parametrize(
    ("storage", "data", "message"),
    [
        (None, "s3://b/d", "`search.storage`: SWEEPS_HOME is the bucket s3://b/h, where no ledger can lie"),
        ("postgresql://h/d", "pets", "`data`: .* must find the data set in one: s3://bucket/pets"),
        ("postgresql://h/d", "file:///x/pets", "`data`: .* must find the data set in one: s3://bucket/pets"),
    ],
)
def test_what_cannot_be_kept_in_a_bucket(storage: str | None, data: str, message: str) -> None:
    check_bucket(None, storage, data)
    check_bucket("s3://b/h", "postgresql://h/d", "breeds")
    with pytest.raises(InputError, match=message):
        check_bucket("s3://b/h", storage, data)


def test_the_tracking_of_a_bucket_is_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPS_CACHE", str(tmp_path))
    home = copy_of("s3://b/h")
    for uri in (None, f"sqlite:///{tmp_path}/x.db"):
        if uri is not None:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(InputError, match="MLFLOW_TRACKING_URI: SWEEPS_HOME is the bucket s3://b/h, where no track"):
            tracking_uri(home)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example.org")
    assert tracking_uri(home) == "https://tracking.example.org"


@pytest.mark.parametrize("place", ["s3://", "s3:///", "ftp://host/x", "s3://a::b", "http://host/x"])
def test_a_home_that_cannot_be(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWEEPS_HOME", place)
    monkeypatch.setenv("SWEEPS_CACHE", str(tmp_path / "cache"))
    said = refusal(main, capsys, "status", "x").err
    assert "SWEEPS_HOME: must be a folder, s3://bucket/folder or gs://bucket/folder" in said
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["a?b", "100%25", "{x}"])
def test_a_home_that_no_url_can_hold(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWEEPS_HOME", str(tmp_path / name))
    said = refusal(main, capsys, "status", "x").err
    assert f"SWEEPS_HOME: {tmp_path / name}: must be a path without ? % {{ }}" in said
    assert not (tmp_path / name).exists()
