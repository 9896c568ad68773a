"""A tracking server for a team, from the files of cluster/mlflow, and a Ray cluster with a token beside it."""

import csv
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.cluster.machines import Machine, Namespaces, OneNamespace, free_port
from tests.sweeps.commands import Home, kill_tree, wait_for
from tests.sweeps.postgres import PASSWORD, cluster, installed

PAGE = Path(__file__).parents[2] / "cluster" / "mlflow"
BIN = Path(sys.executable).parent
_READY_SECONDS = 240
# A password in the shell that starts Ray, where none should be.
LEFT_BEHIND = "left-in-a-shell"
# What MLflow holds of a sweep, asked where the driver runs.
_RUNS = """
import json, sys
from mlflow.tracking import MlflowClient
client = MlflowClient()
experiments = [experiment.experiment_id for experiment in client.search_experiments()]
runs = client.search_runs(experiments, f"tags.sweep = '{sys.argv[1]}'")
print(json.dumps([[run.info.run_id, run.info.status, run.data.tags, run.data.metrics] for run in runs]))
"""


def plain_environment(folder: Path) -> dict[str, str]:
    """What a process finds on a machine where nobody has logged in; its home is `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(folder), "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8",
            "MLFLOW_DISABLE_TELEMETRY": "true"}  # fmt: skip


class Tracking:
    """The server of cluster/mlflow on a machine of its own, with a database that only that machine reaches."""

    def __init__(self, machine: Machine, folder: Path, port: int, database_port: int) -> None:
        self.machine, self.folder, self.port = machine, folder, port
        self.url = f"http://{machine.address}:{port}"
        self.passwords = {name: secrets.token_urlsafe(18) for name in ("admin", "ada", "eve")}
        vault = folder / "secrets"
        vault.mkdir(mode=0o700)
        for name, text in (("admin_password", self.passwords["admin"]), ("database_password", PASSWORD),
                           ("session_key", secrets.token_hex(32))):  # fmt: skip
            (vault / name).write_text(text)
        self._environment = plain_environment(folder / "home") | {
            "SECRETS": str(vault),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(database_port),
            "PGUSER": "sweeps",
            "ARTIFACTS": str(folder / "artifacts"),
            "ALLOWED_HOSTS": f"{machine.address}:{port},tracking",
            "LISTEN": machine.address,
            "PORT": str(port),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        log = self.folder / "server.log"
        self._process = self.machine.start([str(PAGE / "serve.sh")], self._environment, log)
        deadline = time.monotonic() + _READY_SECONDS
        while self.status("/health") != 200:
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)

    def start_proxy(self) -> Path:
        """Start the TLS proxy, which has certificates of its own; returns its authority's."""
        authority = self.folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        settings = {"TRACKING_HOST": "tracking", "TLS": "internal", "UPSTREAM": f"{self.machine.address}:{self.port}"}
        command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(PAGE / "Caddyfile")]
        environment = self._environment | settings | {"XDG_DATA_HOME": str(self.folder)}
        self.machine.start(command, environment, self.folder / "caddy.log")
        wait_for(authority.exists, _READY_SECONDS)
        return authority

    def stop(self) -> None:
        """Kill the server; its database goes on."""
        assert self._process is not None
        kill_tree(self._process.pid)
        self._process.wait()

    def status(self, path: str, *options: str) -> int:
        """The code that the server answers with; 0: it does not answer."""
        command = ["curl", "--silent", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}"]
        return int(self.call(*command, *options, f"{self.url}{path}"))

    def call(self, *command: str) -> str:
        """What a command on the server's machine prints."""
        whole = [*self.machine.enter(self.folder), *command]
        return subprocess.run(whole, env=self._environment, capture_output=True, text=True).stdout

    def users(self, action: str, name: str) -> None:
        """Let the administrator add a user or grant him the team's sweeps."""
        login = {"MLFLOW_TRACKING_URI": self.url} | self.login("admin")
        subprocess.run(
            [*self.machine.enter(self.folder), str(BIN / "python"), str(PAGE / "users.py"), action, name],
            env=self._environment | login, input=self.passwords[name] + "\n", text=True, check=True,
        )  # fmt: skip

    def login(self, name: str) -> dict[str, str]:
        """The environment of somebody who has logged in."""
        return {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": self.passwords[name]}


@contextmanager
def tracking_server(lan: Namespaces | OneNamespace, folder: Path) -> Iterator[Tracking]:
    """The server, with the users `ada`, who may write, and `eve`, who may not."""
    programs = installed()
    assert programs is not None
    machine = lan.machine("tracking")
    try:
        with cluster(programs, machine.enter(Path("/"))) as database:
            database.create("mlflow")
            tracking = Tracking(machine, folder, free_port(), database.port)
            tracking.start()
            for name in ("ada", "eve"):
                tracking.users("add", name)
            yield tracking
    finally:
        machine.kill()


class RayCluster:
    """A head and workers of one core each, which know the token; the driver runs on the head and logs in as ada."""

    def __init__(self, lan: Namespaces | OneNamespace, tracking: Tracking, folder: Path) -> None:
        self._lan, self.tracking, self.folder = lan, tracking, folder
        self.token = secrets.token_hex(32)
        (folder / "token").write_text(self.token)
        (folder / "token").chmod(0o600)
        self.machines: dict[str, Machine] = {}
        self.head = "head"
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self, name: str) -> dict[str, str]:
        """What Ray finds on a machine."""
        return plain_environment(self.folder / name) | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            # Ray's client server forks with gRPC's threads about it; gRPC's own care for that kills one child in
            # thirteen on a busy machine (ray-project/ray#63202). It goes on to another program, and needs none.
            "GRPC_ENABLE_FORK_SUPPORT": "0",
            "SWEEPS_HOME": str(self.folder / "shared"),
            "MLFLOW_TRACKING_PASSWORD": LEFT_BEHIND,
        }

    @property
    def address(self) -> str:
        """Where the head is."""
        return f"{self.machines[self.head].address}:{self._lan.ray_options[1]}"

    def start_head(self, name: str = "head", *options: str) -> None:
        """Boot a machine and begin a cluster on it."""
        self.head, self.machines[name] = name, self._lan.machine(name)
        self._start(name, "--head", *self._lan.ray_options, *(options or ["--include-dashboard", "false"]))

    def start_worker(self, name: str) -> None:
        """Boot a machine, or end what Ray runs on one, and let it join."""
        if name in self.machines:
            kill_tree(self._nodes[name].pid)
        else:
            self.machines[name] = self._lan.machine(name)
        self._start(name, "--address", self.address)

    def close(self) -> None:
        """End all machines."""
        for machine in self.machines.values():
            machine.kill()

    def _start(self, name: str, *options: str) -> None:
        if not self._tried(name, *options):
            # Ray gives a node half a minute to come up, which on a busy machine is too little.
            self.machines[name].kill()
            self.machines[name] = self._lan.machine(name)
            assert self._tried(name, *options), (self.folder / f"{name}.log").read_text()

    def _tried(self, name: str, *options: str) -> bool:
        machine, log = self.machines[name], self.folder / f"{name}.log"
        command = [str(BIN / "ray"), "start", *options, "--node-ip-address", machine.address, "--num-cpus", "1"]
        command += ["--object-store-memory", str(80 * 2**20), "--disable-usage-stats", "--block"]
        log.unlink(missing_ok=True)
        self._nodes[name] = process = machine.start(command, self.environment(name), log)
        wait_for(lambda: "Ray runtime started" in log.read_text() or process.poll() is not None, _READY_SECONDS)
        return process.poll() is None


class ClusterHome(Home):
    """The shared folder, and the commands on the head."""

    def __init__(self, ray: RayCluster) -> None:
        super().__init__(ray.folder / "shared")
        self.ray = ray
        self.secrets = ray.tracking.login("ada")
        self._started: list[subprocess.Popen[str]] = []

    def start(self, command: str, *arguments: str) -> "subprocess.Popen[str]":
        self._started.append(super().start(command, *arguments))
        return self._started[-1]

    def close(self) -> None:
        """End what still runs."""
        for process in self._started:
            kill_tree(process.pid)

    def environment(self) -> dict[str, str]:
        server = {"MLFLOW_TRACKING_URI": self.ray.tracking.url, "COLUMNS": "160"}
        return self.ray.environment(self.ray.head) | server | self.secrets

    def program(self, command: str) -> list[str]:
        # The PATH there begins with this Python's programs.
        return [*self.ray.machines[self.ray.head].enter(self.folder), command]

    def runs(self, name: str) -> tuple[list[Any], list[Any]]:
        found = [
            SimpleNamespace(
                info=SimpleNamespace(run_id=run_id, status=status), data=SimpleNamespace(tags=tags, metrics=metrics)
            )
            for run_id, status, tags, metrics in json.loads(self.call("python", "-c", _RUNS, name))
        ]
        nested = [run for run in found if "mlflow.parentRunId" in run.data.tags]
        return [run for run in found if run not in nested], nested

    def assert_right(self, name: str, trials: int, untracked: bool = False) -> None:
        """Every trial once, in ledger, tracking and files; and the leaderboard is theirs, best first."""
        self.assert_consistent(name, trials, untracked)
        folder = self.folder / "sweeps" / name
        results = [json.loads(path.read_text()) for path in sorted(folder.glob("trials/*/result.json"))]
        joints = {number: result["metrics"]["joint"] for number, result in enumerate(results)}
        assert len(joints) == trials
        rows = [(float(row["joint"]), int(row["trial"])) for row in csv.DictReader((folder / "leaderboard.csv").open())]
        assert [joint for joint, _ in rows] == sorted(joints.values(), reverse=True)
        assert {trial: joint for joint, trial in rows} == joints
        assert self.status(name)["best"]["number"] == rows[0][1]
        # On whichever machines a base and what was streamed on it ran: of equal settings equal numbers come.
        keys = {result["base_key"]: result["metrics"]["base_topk"] for result in results}
        assert all(keys[result["base_key"]] == result["metrics"]["base_topk"] for result in results)

    def ended(self, name: str) -> dict[str, float]:
        """Result files of a sweep with the times of their writing."""
        return {str(path): path.stat().st_mtime for path in self.folder.glob(f"sweeps/{name}/trials/*/result.json")}
