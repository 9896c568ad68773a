"""A PostgreSQL cluster of the tests' own: loopback only, with a password, gone when they end."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "only-for-tests"


class Postgres:
    """A running cluster, whose superuser `sweeps` has the password PASSWORD."""

    def __init__(self, programs: Path, port: int, enter: Sequence[str] = ()) -> None:
        self._programs, self.port, self._enter = programs, port, enter

    def url(self, database: str, user: str = "sweeps") -> str:
        """Of a database, as a recipe has it."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Make an empty database; returns its URL."""
        command = [self._programs / "createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "sweeps", database]
        subprocess.run([*self._enter, *command], check=True, env=os.environ | {"PGPASSWORD": PASSWORD})
        return self.url(database)


def installed() -> Path | None:
    """Where the programs of the newest PostgreSQL on this machine are."""
    found = [Path(initdb).parent for initdb in [shutil.which("initdb")] if initdb]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[-1] if found else None


@contextmanager
def cluster(programs: Path, enter: Sequence[str] = ()) -> Iterator[Postgres]:
    """A new cluster for as long as it is needed.

    Args:
        enter: what a command begins with that shall run elsewhere than here, in another network.
    """
    # PostgreSQL refuses root, and its own user may not enter a folder of pytest's.
    folder = Path(tempfile.mkdtemp(prefix="sweeps-postgres-", dir="/tmp"))
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres")
    secret, data = folder / "password", folder / "data"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(*command: str) -> None:
        subprocess.run(
            [*enter, *user, *command], check=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    control = [str(programs / "pg_ctl"), "-D", str(data), "-w"]
    try:
        call(str(programs / "initdb"), "-D", str(data), "-U", "sweeps", "-A", "scram-sha-256", "--pwfile", str(secret))
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        call(*control, "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield Postgres(programs, port, enter)
        finally:
            call(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
