"""Machines of the tests' own: each with its own network address, processes, host name and /tmp/ray, on a switch.

They are made of Linux namespaces (unshare, nsenter) and veth pairs (iproute2), and share the disk. Nothing outlives the
test process: a machine ends when its standard input is closed.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tests.sweeps.commands import descendants, kill_tree

_HOSTS = {"head": "10.77.0.1", "worker-1": "10.77.0.2", "worker-2": "10.77.0.3", "tracking": "10.77.0.4",
          "new-head": "10.77.0.5"}  # fmt: skip
_UNSHARE = ["unshare", "--fork", "--pid", "--mount", "--net", "--uts", "--mount-proc"]
# Its first process takes in orphans, as that of every machine does.
_BOOT = """
hostname "$1" && mount --bind "$2" /etc/hosts && mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray
ip link set lo up && echo ready && read -r
"""


class Machine(Protocol):
    """Where processes run."""

    address: str

    def enter(self, folder: Path) -> list[str]:
        """What a command begins with that shall run there."""

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
        """Start a command there."""

    def kill(self) -> None:
        """Kill all that runs there at once, as when the power fails."""


class Namespaces:
    """A switch, and the machines that are plugged into it."""

    ray_options: Sequence[str] = ("--port", "6379")
    """of the head"""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="sweeps-switch-"))
        self._hosts = self._folder / "hosts"
        self._hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in _HOSTS.items()))
        boot = "ip link add switch type bridge && ip link set switch up && echo ready && read -r"
        self._switch = _booted(["unshare", "--net", "bash", "-c", boot])
        self._machines: list[NamespaceMachine] = []

    def machine(self, name: str) -> "NamespaceMachine":
        """Boot the machine `name`."""
        keeper = _booted([*_UNSHARE, "bash", "-c", _BOOT, "boot", name, str(self._hosts)])
        machine = NamespaceMachine(keeper, _HOSTS[name], self._switch.pid, name)
        self._machines.append(machine)
        return machine

    def close(self) -> None:
        """End everything."""
        for machine in self._machines:
            machine.kill()
        self._switch.kill()
        self._switch.communicate()
        shutil.rmtree(self._folder)


class NamespaceMachine:
    """A machine with an address of its own."""

    def __init__(self, keeper: "subprocess.Popen[str]", address: str, switch: int, name: str) -> None:
        self.address, self._keeper, self._port = address, keeper, f"to-{name}"
        self._first = next(pid for pid in descendants(keeper.pid) if pid != keeper.pid)
        self._at_switch = ["nsenter", "--target", str(switch), "--net", "ip", "link"]
        here = ["nsenter", "--target", str(self._first), "--net", "ip"]
        peer = ["type", "veth", "peer", "name", "eth0", "netns", str(self._first)]
        _run(*self._at_switch, "add", self._port, *peer)
        _run(*self._at_switch, "set", self._port, "master", "switch", "up")
        _run(*here, "address", "add", f"{address}/24", "dev", "eth0")
        _run(*here, "link", "set", "eth0", "up")
        _run(*here, "route", "add", "default", "dev", "eth0")

    def enter(self, folder: Path) -> list[str]:
        target = ["--target", str(self._first), "--pid", "--mount", "--net", "--uts"]
        return ["nsenter", *target, "env", "--chdir", str(folder)]

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
        with log.open("ab") as file:
            whole = [*self.enter(log.parent), *command]
            return subprocess.Popen(whole, env=environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL)

    def plug(self, connected: bool) -> None:
        """Pull the cable, or put it in again."""
        _run(*self._at_switch, "set", self._port, "up" if connected else "down")

    def kill(self) -> None:
        if self._keeper.poll() is None:
            # With the first process all others go.
            os.kill(self._first, 9)
        self._keeper.communicate()


class OneNamespace:
    """No machines of their own, where namespaces cannot be made: all on this one, each with its processes."""

    def __init__(self) -> None:
        # Short: sockets have their names in it.
        self._folder = tempfile.mkdtemp(prefix="sweeps-", dir="/tmp")
        self.ray_options = ["--port", str(free_port()), "--temp-dir", self._folder]

    def machine(self, name: str) -> "SameMachine":
        """The machine `name`, as far as it is one."""
        return SameMachine()

    def close(self) -> None:
        """Remove what Ray has left."""
        shutil.rmtree(self._folder)


class SameMachine:
    """Processes on this machine that are killed together."""

    def __init__(self) -> None:
        # Ray replaces a loopback address by this one, and finds it so; nothing is sent.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("8.8.8.8", 80))
            self.address = str(probe.getsockname()[0])
        self._started: list[subprocess.Popen[bytes]] = []

    def enter(self, folder: Path) -> list[str]:
        return ["env", "--chdir", str(folder)]

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
        with log.open("ab") as file:
            process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=log.parent
            )
        self._started.append(process)
        return process

    def kill(self) -> None:
        for process in self._started:
            kill_tree(process.pid)
            process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def why_no_namespaces() -> str | None:
    """Why machines cannot be made here; None: they can."""
    if shutil.which("ip") is None:
        return "no iproute2 on this machine (Debian: apt-get install iproute2)"
    tried = subprocess.run(
        [*_UNSHARE, "ip", "link", "add", "left", "type", "veth", "peer", "name", "right"],
        capture_output=True,
        text=True,
    )
    return f"namespaces cannot be made here: {tried.stderr.strip()}" if tried.returncode else None


def _booted(command: list[str]) -> "subprocess.Popen[str]":
    """Start a first process, which ends with its standard input, and wait until it is ready."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        _, error = process.communicate()
        raise RuntimeError(f"no machine: {error}")
    return process


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
