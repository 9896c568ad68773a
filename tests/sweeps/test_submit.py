"""Sweeps on a cluster that is elsewhere, submitted with the real command to a real Ray with a token."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from sweeps.cli import main
from tests.conftest import merged, refusal
from tests.sweeps.commands import RECIPE, Home, wait_for
from tests.sweeps.raycluster import RayCluster, free_ports, ray_cluster
from tests.sweeps.test_networks import NETWORK

SLOW = merged(RECIPE, {"config": {"base": {"epochs": 120}}, "search": {"trials": 3}})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The storage of the cluster."""
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def running(home: Home) -> Iterator[RayCluster]:
    with ray_cluster(2, SWEEPS_HOME=str(home.folder)) as running:
        yield running


@pytest.fixture
def laptop(tmp_path: Path, running: RayCluster, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A machine that has nothing of the cluster but its token."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", running.token)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    # Ray's own variable must not lead anywhere else.
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    return Home(tmp_path / "laptop")


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_submitted_sweep_goes_on_alone_and_is_stopped_and_resumed(
    home: Home, laptop: Home, running: RayCluster
) -> None:
    there = ("--address", running.dashboard)
    out = laptop.call("sweeps", "submit", str(laptop.recipe("recipe", **SLOW)), "--name", "away", *there)
    assert "submitted sweep away as job raysubmit_" in out
    megabytes = float(out.partition(", ")[2].split(" MB")[0])
    assert 0.1 < megabytes < 3, "the code, and neither mlruns nor .venv"
    assert f"follow it: sweeps follow away --address {running.dashboard}" in out
    wait_for(lambda: list((home.folder / "sweeps" / "away").glob("trials/*/progress.json")))
    assert "away: running" in laptop.call("sweeps", "status", "away", *there)
    taken = laptop.call("sweeps", "submit", str(laptop.folder / "recipe.yaml"), "--name", "away", *there, code=2)
    assert taken.startswith("sweeps: --name away: a sweep of this name exists")
    assert taken.count("\n") == 1, taken

    assert "stopped sweep away; go on: sweeps resume away" in laptop.call("sweeps", "stop", "away", *there)
    assert home.status("away")["state"] == "interrupted"
    assert "sweep away: 2 at a time" in laptop.call("sweeps", "resume", "away", *there)
    assert "best: trial" in laptop.call("sweeps", "follow", "away", *there)
    home.assert_consistent("away", 3)
    assert not (laptop.folder / "sweeps").exists()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_network_of_the_users_own_goes_with_it(home: Home, laptop: Home, running: RayCluster) -> None:
    (laptop.folder / "mine.py").write_text(NETWORK)
    recipe = laptop.recipe(
        "own",
        config=RECIPE["config"] | {"model": {"name": "mine:build"}},
        space={"streaming.l2_sp": {"log": [0.001, 0.1]}},
        enqueue=[],
        search={"trials": 2},
    )
    out = laptop.call("sweeps", "submit", str(recipe), "--follow", "--address", running.dashboard)
    assert "next: sweeps ui · sweeps confirm own" in out
    assert [trial["state"] for trial in home.status("own")["trials"]] == ["complete"] * 2
    there = ("--address", running.dashboard)
    laptop.call("sweeps", "extend", "own", "--trials", "1", *there)
    laptop.call("sweeps", "follow", "own", *there)
    assert [trial["state"] for trial in home.status("own")["trials"]] == ["complete"] * 3
    (laptop.folder / "mine.py").unlink()
    said = laptop.call("sweeps", "extend", "own", "--trials", "1", *there, code=2)
    assert "has networks of mine.py: call this in the directory that holds it" in said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whoever_has_no_token_is_refused(laptop: Home, running: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = str(laptop.recipe("recipe"))
    for token in ("", "0" * 64):
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        monkeypatch.setenv("HOME", str(laptop.folder))
        said = laptop.call("sweeps", "submit", recipe, "--address", running.dashboard, code=2)
        assert "the cluster wants its token, and this one is none or another" in said
        assert said.count("\n") == 1, said


class _Anything(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:6379", "must be the address of the cluster's dashboard, such as http://127.0.0.1:8265"),
        ("http://", "must be the address of the cluster's dashboard"),
        ("http://127.0.0.1:port", "must be the address of the cluster's dashboard"),
        ("http://me:secret@127.0.0.1:8265", "must be the address of the cluster's dashboard"),
        ("http://127.0.0.1:{closed}", "nobody answers there: Connection refused"),
        ("http://127.0.0.1:{other}", "is not the dashboard of a Ray cluster"),
    ],
)
def test_what_is_no_dashboard_is_refused(
    address: str, said: str, home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    server = HTTPServer(("127.0.0.1", 0), _Anything)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        address = address.format(closed=free_ports(1)[0], other=server.server_port)
        recipe = str(home.recipe("any"))
        for command in (("submit", recipe), ("follow", "any")):
            assert said in refusal(main, capsys, *command, "--address", address).err
    finally:
        server.shutdown()
        server.server_close()


class _Cluster:
    """Takes jobs, and keeps the names of what came with them."""

    def submit_job(self, runtime_env: dict[str, Any], metadata: dict[str, str], **_: Any) -> str:
        self.files = sorted(path.name for path in Path(runtime_env["working_dir"]).iterdir())
        self.modules = metadata["modules"]
        return "job"

    def get_job_info(self, _: str) -> Any:
        return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: False))

    def get_job_logs(self, _: str) -> str:
        return "Running entrypoint for job job: exec\nsweep own: 2 at a time\n"


def test_a_network_of_ours_in_the_checkout_goes_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = _Cluster()
    monkeypatch.setattr("sweeps.submit._connect", lambda _: cluster)
    monkeypatch.chdir(Path(__file__).parents[2])
    own = {"config": RECIPE["config"] | {"model": {"name": "senet.models:build"}}, "enqueue": []}
    recipe = home.recipe("own", **own, space={"streaming.l2_sp": {"log": [0.001, 0.1]}})
    assert main(["submit", str(recipe), "--address", "http://127.0.0.1:1"]) == 0
    assert {"own.yaml", "senet", "sweeps"} <= set(cluster.files)
    assert cluster.modules == ""


def test_a_wrong_recipe_is_told_before_anything_is_sent(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = str(home.recipe("wrong", search={"trials": -1}))
    assert "`search.trials`" in refusal(main, capsys, "submit", wrong, "--address", "http://127.0.0.1:1").err
    assert "no such recipe" in refusal(main, capsys, "submit", "nothing", "--address", "http://127.0.0.1:1").err
    assert "--address" in refusal(main, capsys, "submit", "quickstart").err
    assert "sweeps submit RECIPE" in refusal(main, capsys, "run", "quickstart", "--address", "http://127.0.0.1:1").err
