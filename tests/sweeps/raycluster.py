"""Ray clusters of the tests' own, with a token and a dashboard: several of Ray's machines on this one."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.sweeps.commands import kill_everything, wait_for

# Where others compute, a machine may take longer to come up than Ray waits, which is half a minute.
ATTEMPTS = 3


class RayCluster:
    """A running cluster; its machines are processes that `ray start --block` keeps."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._machines: list[subprocess.Popen[str]] = []
        self.token = secrets.token_hex(32)
        self.port, self.dashboard_port, *self._ports = free_ports(4)
        self.environment = environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    @property
    def address(self) -> str:
        """Where a driver joins."""
        return f"127.0.0.1:{self.port}"

    @property
    def dashboard(self) -> str:
        """Where jobs are submitted."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    def start_head(self, cpus: int) -> None:
        """Start the first machine, and wait until it takes jobs."""
        self._start(
            "--head", f"--port={self.port}", f"--dashboard-port={self.dashboard_port}", f"--temp-dir={self._folder}",
            f"--dashboard-agent-listen-port={self._ports[0]}", f"--ray-client-server-port={self._ports[1]}",
            f"--num-cpus={cpus}",
        )  # fmt: skip
        wait_for(lambda: _listens(self.dashboard_port) and _listens(self._ports[0]))

    def join(self, cpus: int, *options: str, before: list[str] | None = None, **environment: str) -> None:
        """Start a further machine; `before` is a command that starts the command it is given."""
        self._start(f"--address={self.address}", f"--num-cpus={cpus}", *options, before=before, **environment)

    def stop(self) -> None:
        """Kill all machines."""
        for machine in reversed(self._machines):
            kill_everything(machine)

    def _start(self, *options: str, before: list[str] | None = None, **environment: str) -> None:
        ray = str(Path(sys.executable).parent / "ray")
        command = [*(before or []), ray, "start", "--block", "--object-store-memory=80000000", *options]
        # The head runs `python` for a job: that of this environment.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = os.environ | self.environment | {"PATH": path, "RAY_USAGE_STATS_ENABLED": "0"} | environment
        file = self._folder / f"machine-{len(self._machines)}.log"
        for _ in range(ATTEMPTS):
            with file.open("w") as log:
                machine = subprocess.Popen(
                    command, stdout=log, stderr=log, text=True, env=variables, start_new_session=True
                )
            self._machines.append(machine)
            if came_up(machine, file):
                return
        raise AssertionError(file.read_text())


def came_up(machine: subprocess.Popen[str], log: Path) -> bool:
    """Wait for what `ray start --block` says, or for its end; returns whether it runs."""
    wait_for(lambda: machine.poll() is not None or "Ray runtime started." in log.read_text(), 300)
    return machine.poll() is None


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def ray_cluster(cpus: int, **environment: str) -> Iterator[RayCluster]:
    """A cluster of one machine, with as many cores as told; others may join."""
    # Ray's sockets want a short path.
    folder = Path(tempfile.mkdtemp(prefix="sweeps-ray-", dir="/tmp"))
    running = RayCluster(folder, environment)
    try:
        running.start_head(cpus)
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)
