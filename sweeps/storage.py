"""Where a sweep's ledger lies: sqlite on a local disk, a journal file on a mounted share, or PostgreSQL; and where its
tracking does: sqlite on a local disk, or a server.

sqlite's locks are not to be trusted on a share; the journal's, a file that is created exclusively, are (NFS 3 and
later, SMB, and the parallel file systems).
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from senet.data.catalogue import EMBEDDED
from senet.errors import InputError
from senet.home import BUCKETS
from senet.mounts import share_of
from sweeps.shared import bucket_of

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from psycopg import Connection

SQLITE, JOURNAL = "ledger.db", "ledger.journal"

_SCHEME = "postgresql"
_NO_DRIVER = "`search.storage`: PostgreSQL needs the package psycopg: pip install 'senet-sweeps[postgres]'"
_CONNECT_SECONDS = 10
# A lock's connection is idle as long as the sweep runs: neither a firewall may forget it, nor an end that is gone be
# noticed after hours.
_KEEPALIVES = {"idle": 60, "interval": 10, "count": 3}
# So long a driver whose lock went with its connection waits for a database that is being started again.
_RESTART_SECONDS = 30.0
# So often, a second apart, an empty database is set up: of several drivers that find it empty, one is first.
_SETUPS = 5


def check_storage(url: str | None, source: str) -> None:
    """Raise InputError where `url` is no `search.storage`; what it says never shows a password."""
    if url is None:
        return
    where = f"{source}: `search.storage`"
    right = "postgresql://user@host/database, or nothing: sqlite on a local disk, a journal file on a mounted share"
    try:
        parts = urlsplit(url)
        secret = parts.password is not None or any("password" in key for key, _ in parse_qsl(parts.query, True))
        named = parts.port != 0 and bool(parts.path.strip("/"))
    except ValueError:
        raise InputError(f"{where}: is no URL; must be {right}") from None
    if secret:
        raise InputError(
            f"{where}: holds a password, which would be written down with the recipe: leave it out of the URL, and "
            f"give it as PGPASSWORD or in ~/.pgpass"
        )
    if parts.scheme != _SCHEME:
        got = f", but got {parts.scheme}:…" if parts.scheme else ""
        raise InputError(f"{where}: must be {right}{got}")
    if not named:
        raise InputError(f"{where}: names no database; must be {right}")


def check_bucket(url: str | None, storage: str | None, data: str) -> None:
    """Raise InputError where a sweep whose home is the bucket at `url` has its ledger or data on one machine.

    Args:
        storage: the recipe's `search.storage`.
        data: the recipe's data set, by name or URL.
    """
    if url is None:
        return
    where = f"SWEEPS_HOME is the bucket {url}"
    if storage is None:
        raise InputError(
            f"`search.storage`: {where}, where no ledger can lie: name a database, postgresql://user@host/database"
        )
    if not data.startswith(tuple(f"{scheme}://" for scheme in BUCKETS)) and data != EMBEDDED:
        name = data.rstrip("/").rpartition("/")[2]
        raise InputError(f"`data`: {where}, so every machine must find the data set in one: s3://bucket/{name}")


def is_server(uri: str) -> bool:
    """Whether a tracking is on a server."""
    return uri.startswith(("http://", "https://"))


def own_database(home: Path) -> str:
    """Of the tracking, where no other is named."""
    return f"sqlite:///{home / 'mlflow.db'}"


def tracking_uri(home: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else the database below `home`.

    Raises:
        InputError: it holds a password, is sqlite on a mounted share, or no server where `home` is a bucket.
    """
    uri, bucket = os.environ.get("MLFLOW_TRACKING_URI") or own_database(home), bucket_of(home)
    if bucket is not None and not is_server(uri):
        raise InputError(
            f"MLFLOW_TRACKING_URI: SWEEPS_HOME is the bucket {bucket}, where no tracking database can lie: name a "
            f"server, https://…"
        )
    try:
        secret = urlsplit(uri).password is not None
    except ValueError:
        raise InputError(
            f"MLFLOW_TRACKING_URI: {uri}: is no URL; must be https://… of a server, or a database"
        ) from None
    if secret:
        raise InputError(
            "MLFLOW_TRACKING_URI: holds a password, which would be seen in logs and lists of processes: give it as "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or to a database as PGPASSWORD"
        )
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:") and (share := share_of(file)) is not None:
        raise InputError(
            f"the tracking would be sqlite on a mounted share ({share}), {file}, where it is not safe: start a "
            f"tracking server (cluster/mlflow) and name it in MLFLOW_TRACKING_URI, or set SWEEPS_HOME to a folder on a "
            f"local disk"
        )
    return uri


def storage_file(folder: Path) -> Path:
    """The file in a sweep's folder that its ledger is, or will be; what is there stays what it is.

    Raises:
        InputError: a sqlite ledger lies on a share.
    """
    share = share_of(folder)
    sqlite, journal = folder / SQLITE, folder / JOURNAL
    if share is not None and sqlite.exists():
        raise InputError(
            f"{sqlite}: is a sqlite ledger on a mounted share ({share}), where its locks do not hold: move the sweep's "
            f"folder to a local disk, or begin the sweep anew here, where its ledger will be a journal file"
        )
    return journal if share is not None or journal.exists() else sqlite


def open_file(path: Path) -> "BaseStorage":
    """The storage of a ledger that is a file; the file is made where there is none.

    Raises:
        OSError, ValueError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError: it is no ledger.
    """
    if path.name == JOURNAL:
        from sweeps.journal import open_journal

        return open_journal(path)

    from optuna.storages import RDBStorage

    return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})


def open_database(url: str) -> "BaseStorage":
    """The storage of ledgers in PostgreSQL; libpq takes the password from PGPASSWORD or ~/.pgpass.

    Raises:
        InputError: the package psycopg is missing, or the database cannot be used.
    """
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    options: dict[str, Any] = {"pool_pre_ping": True, "connect_args": {"connect_timeout": _CONNECT_SECONDS}}
    driver = url.replace(f"{_SCHEME}://", f"{_SCHEME}+psycopg://", 1)
    for patience in range(_SETUPS - 1, -1, -1):
        try:
            return RDBStorage(driver, engine_kwargs=options)
        except ImportError:
            raise InputError(_NO_DRIVER) from None
        except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
            if not patience or "already exists" not in str(error):
                raise InputError(f"`search.storage`: {url}: {reason_of(error)}") from None
            time.sleep(1)
    raise AssertionError


@contextmanager
def database_lock(url: str, name: str, alone: bool) -> Iterator[Callable[[], bool]]:
    """Try to hold the lock `name` of a database, alone or with others who would share it.

    It is one of PostgreSQL's advisory locks, which end with their holder's connection. Yields what tells whether it is
    held, and takes it again where the connection was lost and nobody else has it by then.

    Raises:
        InputError: the package psycopg is missing, or the database cannot be used.
    """
    with closing(_Lock(url, name, alone)) as lock:
        ours = lock.take()
        # Who only looks has no need of it later.
        yield lock.held if alone else lambda: ours


class _Lock:
    """What `database_lock` holds; see there."""

    def __init__(self, url: str, name: str, alone: bool) -> None:
        self._key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        self._function = "pg_try_advisory_lock" if alone else "pg_try_advisory_lock_shared"
        self._url, self._ours = url, False
        self._connection: Connection | None = None

    def close(self) -> None:
        """Let it go."""
        if self._connection is not None:
            self._connection.close()

    def take(self) -> bool:
        """Try to get it, on a new connection. Raises InputError."""
        try:
            import psycopg
        except ImportError:
            raise InputError(_NO_DRIVER) from None

        self.close()
        options: dict[str, Any] = {f"keepalives_{name}": value for name, value in _KEEPALIVES.items()}
        options |= {"connect_timeout": _CONNECT_SECONDS, "tcp_user_timeout": 60_000}
        try:
            self._connection = psycopg.connect(self._url, autocommit=True, **options)
            # The server too shall notice that we are gone, and let others have the lock.
            for name, value in _KEEPALIVES.items():
                self._connection.execute(f"SET tcp_keepalives_{name} = {value}")
            row = self._connection.execute(f"SELECT {self._function}(%s)", (self._key,)).fetchone()
        except psycopg.Error as error:
            raise InputError(f"`search.storage`: {self._url}: {reason_of(error)}") from None
        self._ours = row is not None and bool(row[0])
        return self._ours

    def held(self) -> bool:
        """Whether it is ours; where the connection was lost, after it was tried to get it back."""
        import psycopg

        assert self._connection is not None
        with suppress(psycopg.Error):
            self._connection.execute("SELECT 1")
            return self._ours
        self._ours, refused, until = False, 0, time.monotonic() + _RESTART_SECONDS
        # Somebody who only asks whether it is held has it for a moment.
        while not self._ours and refused < 10 and time.monotonic() < until:
            try:
                refused += not self.take()
                time.sleep(0 if self._ours else 0.1)
            except InputError:
                time.sleep(1)
        return self._ours


def reason_of(error: Exception) -> str:
    """What a storage complains about, in one line."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(getattr(cause, "orig", None) or cause).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
