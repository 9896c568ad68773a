"""`sweeps doctor`: a real cluster that is well, one that is not, and the judgements one by one."""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest

import senet.mounts
from senet.data.catalogue import describe_dataset
from sweeps.cli import main
from sweeps.config import validate_recipe
from sweeps.doctor import checks, machine
from sweeps.doctor.cluster import Answers, Machine
from sweeps.doctor.corners import Corners
from sweeps.doctor.machine import open_doors, reachable
from tests.conftest import merged, refusal
from tests.sweeps.commands import RECIPE, Home
from tests.sweeps.raycluster import RayCluster, free_ports, ray_cluster


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def running() -> Iterator[RayCluster]:
    # Its head does not know SWEEPS_HOME: the driver says where everything lies.
    with ray_cluster(1, SWEEPS_HOME="") as running:
        running.join(1)
        yield running


@pytest.fixture(autouse=True)
def _token(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    if "running" in request.fixturenames:
        monkeypatch.setenv("RAY_AUTH_TOKEN", request.getfixturevalue("running").token)


def rows(output: str) -> dict[str, list[tuple[str, str]]]:
    """The table's rows: by check, whether it is well, and what was found."""
    found: dict[str, list[tuple[str, str]]] = {}
    check = ""
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if len(cells) == 4:
            check = cells[1] or check
            found.setdefault(check, []).append((cells[0], cells[3]))
    return found


# The order matters: the next one's machine stays.
@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_cluster_that_is_well(home: Home, running: RayCluster) -> None:
    out = home.call("sweeps", "doctor", str(home.recipe("small")), "--address", running.address)
    found = rows(out)
    assert list(found) == [
        "machines", "versions", "GPUs", "storage", "ledger", "tracking", "clocks", "doors", "data", "disk",
        "smallest network", "largest network",
    ]  # fmt: skip
    assert {state for states in found.values() for state, _ in states} == {"ok"}, out
    assert "0; 2 of 2 hold a trial" in out
    assert "all 2 machines" in out
    assert not list(home.folder.glob(".doctor-*")), "it tidies up"


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_cluster_that_is_not(
    home: Home, running: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine with another Optuna, with a GPU that torch does not see, and with a disk of its own.
    other = tmp_path / "optuna-0.0.1.dist-info" / "METADATA"
    other.parent.mkdir()
    other.write_text("Metadata-Version: 2.1\nName: optuna\nVersion: 0.0.1\n")
    own_disk = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {home.folder} && exec "$@"', "sh"]
    if subprocess.run([*own_disk, "true"], capture_output=True).returncode:
        own_disk = []
    running.join(1, "--num-gpus=1", before=own_disk, PYTHONPATH=str(tmp_path))
    monkeypatch.setitem(home.settings, "MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_ports(1)[0]}")
    wide = merged(RECIPE, {"space": {"model.width": {"choice": [8, 300000]}}}) | {"enqueue": []}
    process = home.start("sweeps", "doctor", str(home.recipe("wide", **wide)), "--address", running.address)
    out, error = process.communicate(timeout=500)
    assert process.returncode == 1, out + error
    found = {check: [said for state, said in states if state == "FAIL"] for check, states in rows(out).items() if check}
    assert any("optuna 0.0.1" in said for said in found["versions"])
    assert "Ray offers 1, torch sees 0" in found["GPUs"]
    assert len(found["storage"]) == (3 if own_disk else 0), out
    assert found["tracking"]
    assert found["disk"]
    assert found["largest network"]
    assert not found["smallest network"]
    advice = [line for line in out.splitlines() if line.startswith(("versions, ", "GPUs, ", "tracking, ", "disk, "))]
    assert len(advice) == 4
    greedy = home.start("sweeps", "doctor", "quickstart", "--set", "resources.gpu=3", "--address", running.address)
    out = greedy.communicate(timeout=500)[0]
    assert "a trial asks for CPU 1, GPU 3; the largest machine has CPU 1, GPU 1" in out


class _Open(BaseHTTPRequestHandler):
    """MLflow and Ray's dashboard, as they answer where nothing protects them."""

    answers: dict[str, dict[str, Any]] = {}  # noqa: RUF012 one for each server

    def do_GET(self) -> None:
        known = self.path in self.answers
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps(self.answers.get(self.path)).encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


def listening(*ports: int) -> str:
    """What /proc/net/tcp says of ports that listen on all interfaces."""
    return "".join(f"   0: 00000000:{port:04X} 00000000:0000 0A 00000000:00000000 0\n" for port in ports)


@pytest.mark.parametrize(
    ("page", "answer", "who"),
    [
        ("/api/version", {"ray_version": "2.60.0"}, "Ray's dashboard, which starts jobs,"),
        ("/api/2.0/mlflow/experiments/search?max_results=1", {"experiments": []}, "MLflow"),
        ("/api/version", {"something": "else"}, None),
        ("/", {"ray_version": "2.60.0"}, None),
    ],
)
def test_what_answers_to_anybody(page: str, answer: dict[str, Any], who: str | None) -> None:
    handler = type("Handler", (_Open,), {"answers": {page: answer}})
    server = HTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        found = open_doors(listening(server.server_port))
    finally:
        server.shutdown()
        server.server_close()
    assert found == ([] if who is None else [f"{who} at port {server.server_port}"])


@pytest.mark.parametrize("open_to_all", [True, False])
def test_a_head_without_a_token(open_to_all: bool) -> None:
    def alive(request: bytes, context: grpc.ServicerContext) -> bytes:
        if not open_to_all:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""

    method = grpc.unary_unary_rpc_method_handler(alive)
    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", {"CheckAlive": method})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        found = open_doors(listening(port))
    finally:
        server.stop(None)
    assert found == ([f"Ray's head at port {port}"] if open_to_all else [])


def test_what_others_reach() -> None:
    text = (
        "  sl  local_address rem_address   st\n"
        "   0: 0100007F:1F90 00000000:0000 0A 0\n"  # 127.0.0.1:8080
        "   1: 00000000:0050 00000000:0000 0A 0\n"  # 0.0.0.0:80
        "   2: 0A00000A:1770 00000000:0000 0A 0\n"  # 10.0.0.10:6000
        "   3: 0A00000A:1771 00000000:0000 01 0\n"  # a connection
        "   4: 00000000000000000000000000000000:18EB 0:0 0A 0\n"  # [::]:6379
        "   5: 00000000000000000000000001000000:18EC 0:0 0A 0\n"  # [::1]:6380
        "   6: 0000000000000000FFFF00000100007F:2711 0:0 0A 0\n"  # 127.0.0.1:10001 within IPv6
        "   7: 000080FE000000000000000001000000:18ED 0:0 0A 0\n"  # [fe80::1]:6381
    )
    assert reachable(text) == [("127.0.0.1", 80), ("10.0.0.10", 6000), ("127.0.0.1", 6379), ("fe80::1", 6381)]


def test_clocks_and_ledgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (well,) = checks.clocks({"a": 0.2, "b": -1.9, "c": None})
    assert (well.where, well.found, well.advice) == ("all 2 machines", "within 1.9 s", "")
    (late,) = checks.clocks({"a": 0.2, "b": -2.1})
    assert (late.where, late.found) == ("b", "-2.1 s from the driver's")
    assert late.advice

    assert checks.ledger(tmp_path, None)[0].advice == ""
    monkeypatch.setattr(senet.mounts, "mounts", lambda: f"1 0 0:1 / {tmp_path} rw - nfs4 server:/ rw")
    (shared,) = checks.ledger(tmp_path, None)
    assert (shared.found, shared.advice) == ("a journal file on a share (nfs4)", "")
    (unsafe,) = checks.tracking(tmp_path, 1)
    assert "sqlite on a mounted share (nfs4)" in unsafe.found
    assert "start a tracking server" in unsafe.advice


@pytest.mark.slow
def test_a_tracking_database_is_for_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "3 machines share" in checks.tracking(tmp_path, 3)[0].found
    assert checks.tracking(tmp_path, 1)[0].advice == ""


def test_the_disk_must_hold_what_is_planned() -> None:
    described = Answers({"a": {"exists": True, "free_bytes": 2e9}, "b": {"exists": False, "free_bytes": 1}})
    assert checks.disk(described, int(1e9), int(3e9))[0].advice == ""
    assert checks.disk(described, int(2.5e9), int(3e9))[0].advice


def test_every_machine_needs_room_for_its_own_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPS_CACHE", str(tmp_path / "cache"))
    here = machine.own_copy("pets-1")
    assert (here["exists"], here["place"]) == (False, str(tmp_path / "cache"))
    small = here | {"free_bytes": 2e9}
    (well,) = checks.copies(Answers({"a": small, "b": small | {"free_bytes": 3e9}}), int(1e9))
    assert (well.found, well.advice) == ("1.0 GB of data on a disk of each, or room for it", "")
    (full,) = checks.copies(Answers({"a": small, "b": small | {"free_bytes": 3e9}}), int(2.5e9))
    assert (full.where, full.found) == ("a", "2.0 GB free, 2.5 GB needed for its copy of the data")
    (tmp_path / "cache" / "pets-1").mkdir(parents=True)
    (tmp_path / "cache" / "pets-1" / "manifest.json").write_text("{}")
    (there,) = checks.copies(Answers({"a": machine.own_copy("pets-1") | {"free_bytes": 0}}), int(2.5e9))
    assert there.advice == "", "a copy that is there needs no room"
    far = small | {"mounts": f"1 0 0:1 / {tmp_path} rw - nfs4 server:/ rw"}
    (far_away,) = checks.copies(Answers({"a": far}), 1)
    assert "is on a mounted share (nfs4)" in far_away.found
    assert "SWEEPS_CACHE" in far_away.advice


@pytest.mark.parametrize(
    ("resources", "concurrency", "well"),
    [
        ({"gpu": 1}, 8, False),
        ({"gpu": 1}, 2, True),
        ({"gpu": 0.25}, 8, True),
        ({"gpu": 0.3}, 8, False),
        ({"gpu": [{"parameters": 9, "share": 0.25}]}, 8, True),
        ({"gpu": 0, "cpu": 4}, None, True),
    ],
)
def test_as_many_places_as_trials_are_to_run_at_a_time(
    resources: dict[str, Any], concurrency: int | None, well: bool
) -> None:
    two_gpus = Machine("a", "1", "10.0.0.1", {"CPU": 16.0, "GPU": 2.0})
    described = Answers({"a": {"gpus": 2, "torch": None}})
    recipe = merged(RECIPE, {"resources": resources, "search": {"concurrency": concurrency}})
    (found,) = checks.devices([two_gpus], described, validate_recipe(recipe, "test"))
    assert (found.advice == "") == well
    assert well or f"at a time, `search.concurrency` asks for {concurrency}" in found.found


@pytest.mark.slow
def test_the_corners_of_a_space(home: Home) -> None:
    space = {
        "model.width": {"choice": [8, 16, 12]},
        "base.batch_size": {"int": [10, 40]},
        "streaming.learning_rate": {"log": [0.001, 0.1]},
    }
    recipe = validate_recipe(RECIPE | {"space": space, "enqueue": []}, "test")
    data = describe_dataset(home.folder, "tiny")
    corners = Corners(recipe, data)
    smallest, largest = corners.smallest(), corners.largest()
    assert (smallest.model.width, largest.model.width) == (8, 16)
    assert (smallest.base.batch_size, largest.base.batch_size) == (20, 40), "streaming has 20 anyway"
    assert corners.disk_bytes(4) > corners.disk_bytes(2) > 0
    bounded = validate_recipe(RECIPE | {"space": space, "enqueue": [], "constraints": {"parameters": [0, 6e5]}}, "test")
    assert Corners(bounded, data).largest().model.width == 12


def test_a_wrong_recipe_is_told_before_ray_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such recipe" in refusal(main, capsys, "doctor", "nothing").err
