"""Who has no business here, and tries: Ray without the token or with a wrong one, MLflow without a login or with
somebody else's."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.machines import Namespaces, OneNamespace, free_port
from tests.cluster.team import BIN, ClusterHome, RayCluster, Tracking, plain_environment
from tests.conftest import merged
from tests.sweeps.commands import RECIPE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# What prints `in` has come in.
_CONNECT = "import ray; ray.init('{address}', logging_level='ERROR'); print('in', len(ray.nodes()))"
_CLIENT = "import ray; ray.init('ray://{client}', logging_level='ERROR'); print('in', len(ray.nodes()))"
_SUBMIT = """
from ray.job_submission import JobSubmissionClient
print('in', JobSubmissionClient('http://{dashboard}').submit_job(entrypoint='touch {mark}'))
"""
_CALLS = ("/api/jobs/", "/nodes?view=summary", "/api/cluster_status", "/api/v0/logs?node_ip=x", "/api/v0/actors",
          "/api/v0/tasks", "/timezone")  # fmt: skip


class Doors:
    """A head whose dashboard and client server listen to everybody, and who knocks there."""

    def __init__(self, ray: RayCluster, folder: Path, ports: tuple[int, int]) -> None:
        self.ray, self.folder, self.mark = ray, folder, folder / "run-by-an-intruder"
        machine = ray.machines["head"]
        self._enter = machine.enter(folder)
        self.places = {"address": ray.address, "dashboard": f"{machine.address}:{ports[0]}",
                       "client": f"{machine.address}:{ports[1]}", "mark": str(self.mark)}  # fmt: skip
        (folder / "wrong").write_text("0" * 64)
        self.known = {
            "nothing": {},
            "a wrong token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "wrong")},
            "the token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(ray.folder / "token")},
        }

    def knock(self, program: str, known: str) -> str:
        """What a program says that knows so much."""
        # A home of its own: what is in the user's is not for everybody.
        environment = plain_environment(self.folder / known.replace(" ", "-")) | self.known[known]
        whole = [*self._enter, "timeout", "120", str(BIN / "python"), "-c", program.format(**self.places)]
        done = subprocess.run(whole, env=environment, capture_output=True, text=True)
        return done.stdout + done.stderr

    def ask(self, path: str, *options: str) -> int:
        """The code that the dashboard answers with."""
        whole = [*self._enter, "curl", "--silent", "--max-time", "20", "--output", "/dev/null", "--write-out"]
        whole += ["%{http_code}", *options, f"http://{self.places['dashboard']}{path}"]
        return int(subprocess.run(whole, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def doors(
    lan: Namespaces | OneNamespace, tracking: Tracking, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Doors]:
    """All of them open to the network, which they should not be: what is left is the token."""
    cluster = RayCluster(lan, tracking, tmp_path_factory.mktemp("head"))
    ports = free_port(), 10001 if isinstance(lan, Namespaces) else free_port()
    dashboard = ["--include-dashboard", "true", "--dashboard-host", "0.0.0.0", "--dashboard-port", str(ports[0])]
    try:
        cluster.start_head("head", *dashboard, "--ray-client-server-port", str(ports[1]))
        yield Doors(cluster, tmp_path_factory.mktemp("doors"), ports)
    finally:
        cluster.close()


# Ray's own programs try for half a minute.
@pytest.mark.parametrize(
    ("program", "known"),
    [
        pytest.param(_CONNECT, "nothing", marks=pytest.mark.soak),
        (_CONNECT, "a wrong token"),
        pytest.param(_CLIENT, "nothing", marks=pytest.mark.soak),
        pytest.param(_CLIENT, "a wrong token", marks=pytest.mark.soak),
        (_SUBMIT, "nothing"),
        (_SUBMIT, "a wrong token"),
    ],
    ids=[f"{program}-{known}" for program in ("connect", "client", "submit") for known in ("nothing", "a wrong token")],
)
def test_ray_lets_nobody_in_without_the_token(doors: Doors, program: str, known: str) -> None:
    said = doors.knock(program, known)
    assert not said.startswith("in "), said
    # Ray's client asks again and again until it gives up; that it could come in the next test shows.
    reason = "client connection timeout" if program == _CLIENT else "authentication"
    assert reason in said.lower(), said
    assert not doors.mark.exists()


@pytest.mark.parametrize(
    "program", [_CONNECT, pytest.param(_CLIENT, marks=pytest.mark.soak)], ids=["connect", "client"]
)
def test_ray_lets_in_who_has_the_token(doors: Doors, program: str) -> None:
    said = doors.knock(program, "the token")
    assert "\nin " in "\n" + said


def test_the_dashboard_answers_nobody_without_the_token(doors: Doors) -> None:
    for path in _CALLS:
        assert doors.ask(path) == 401, path
        assert doors.ask(path, "--header", f"Authorization: Bearer {'0' * 64}") in (401, 403), path
    body = json.dumps({"entrypoint": f"touch {doors.mark}"})
    for token in ([], ["--header", f"Authorization: Bearer {'0' * 64}"]):
        post = ["--request", "POST", "--header", "Content-Type: application/json", "--data", body]
        assert doors.ask("/api/jobs/", *post, *token) in (401, 403)
    right = doors.folder / "header"
    right.write_text(f"Authorization: Bearer {doors.ray.token}")
    assert doors.ask("/api/jobs/", "--header", f"@{right}") == 200
    assert not doors.mark.exists()


class Visitor:
    """Calls to the tracking server by somebody."""

    def __init__(self, tracking: Tracking, folder: Path, login: Mapping[str, str] | None) -> None:
        self._tracking, self._folder, self._options = tracking, folder, []
        if login is not None:
            name, password = login["MLFLOW_TRACKING_USERNAME"], login["MLFLOW_TRACKING_PASSWORD"]
            netrc = folder / f"netrc-{name}-{len(list(folder.iterdir()))}"
            netrc.write_text(f"machine {tracking.machine.address} login {name} password {password}\n")
            self._options = ["--netrc-file", str(netrc)]

    def get(self, path: str, *options: str) -> int:
        """The code of the answer."""
        return self._tracking.status(path, *self._options, *options)

    def post(self, path: str, **body: Any) -> int:
        """The code of the answer."""
        return self.get(path, "--header", "Content-Type: application/json", "--data", json.dumps(body))

    def read(self, path: str, **body: Any) -> Any:
        """The answer."""
        data = ["--header", "Content-Type: application/json", "--data", json.dumps(body)] if body else []
        options = [*self._options, *data]
        return json.loads(self._tracking.call("curl", "--silent", *options, f"{self._tracking.url}{path}"))


API = "/api/2.0/mlflow"


@pytest.fixture
def run(tracking: Tracking, tmp_path: Path) -> dict[str, str]:
    """A run of ada's, in an experiment of hers."""
    ada = Visitor(tracking, tmp_path, tracking.login("ada"))
    name = f"hers-{tmp_path.name}"
    experiment = ada.read(f"{API}/experiments/create", name=name)["experiment_id"]
    run = ada.read(f"{API}/runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
    assert ada.post(f"{API}/runs/log-metric", run_id=run, key="joint", value=0.5, timestamp=1) == 200
    assert ada.get(f"{API}/runs/get?run_id={run}") == 200
    ada.read(f"{API}/registered-models/create", name=name)
    return {"experiment": experiment, "run": run, "name": name}


def attempts(visitor: Visitor, run: dict[str, str]) -> dict[str, int]:
    """Reads and writes of somebody else's things, and what came of them."""
    found = {
        "read a run": visitor.get(f"{API}/runs/get?run_id={run['run']}"),
        "read it, as the UI does": visitor.get(f"/ajax-api/2.0/mlflow/runs/get?run_id={run['run']}"),
        "read its metrics": visitor.get(f"{API}/metrics/get-history?run_id={run['run']}&metric_key=joint"),
        "read the experiment": visitor.get(f"{API}/experiments/get?experiment_id={run['experiment']}"),
        "find it by name": visitor.get(f"{API}/experiments/get-by-name?experiment_name={run['name']}"),
        "list its files": visitor.get(f"{API}/artifacts/list?run_id={run['run']}"),
        "download a file": visitor.get(f"/get-artifact?run_id={run['run']}&path=x"),
        "read the model": visitor.get(f"{API}/registered-models/get?name={run['name']}"),
        "log a metric": visitor.post(f"{API}/runs/log-metric", run_id=run["run"], key="k", value=1, timestamp=1),
        "log a batch": visitor.post(f"{API}/runs/log-batch", run_id=run["run"], metrics=[]),
        "begin a run there": visitor.post(f"{API}/runs/create", experiment_id=run["experiment"]),
        "set a tag": visitor.post(f"{API}/runs/set-tag", run_id=run["run"], key="k", value="v"),
        "close the run": visitor.post(f"{API}/runs/update", run_id=run["run"], status="FAILED"),
        "delete the run": visitor.post(f"{API}/runs/delete", run_id=run["run"]),
        "delete the experiment": visitor.post(f"{API}/experiments/delete", experiment_id=run["experiment"]),
        "add a user": visitor.post(f"{API}/users/create", username="mallory", password="x" * 16),
        "become administrator": visitor.get(
            f"{API}/users/update-admin", "--request", "PATCH", "--header", "Content-Type: application/json",
            "--data", json.dumps({"username": "eve", "is_admin": True}),
        ),
    }  # fmt: skip
    found["upload a file"] = visitor.get(
        f"/api/2.0/mlflow-artifacts/artifacts/{run['experiment']}/{run['run']}/artifacts/x", "--request", "PUT",
        "--data", "x",
    )  # fmt: skip
    return found


def test_mlflow_answers_nobody_without_a_login(tracking: Tracking, run: dict[str, str], tmp_path: Path) -> None:
    wrong = tracking.login("ada") | {"MLFLOW_TRACKING_PASSWORD": "guessed-guessed"}
    for login in (None, wrong):
        found = attempts(Visitor(tracking, tmp_path, login), run)
        assert set(found.values()) == {401}, found
    assert Visitor(tracking, tmp_path, None).post(f"{API}/experiments/search", max_results=10) == 401


def test_mlflow_gives_nobody_what_is_another_user_s(tracking: Tracking, run: dict[str, str], tmp_path: Path) -> None:
    eve = Visitor(tracking, tmp_path, tracking.login("eve"))
    found = attempts(eve, run)
    assert set(found.values()) == {403}, found
    assert eve.read(f"{API}/experiments/search", max_results=100).get("experiments", []) == []
    assert eve.read(f"{API}/registered-models/search").get("registered_models", []) == []
    ada = Visitor(tracking, tmp_path, tracking.login("ada"))
    assert ada.get(f"{API}/runs/get?run_id={run['run']}") == 200, "it is still hers"


def test_mlflow_refuses_a_forged_host(tracking: Tracking, tmp_path: Path) -> None:
    ada = Visitor(tracking, tmp_path, tracking.login("ada"))
    assert ada.post(f"{API}/experiments/search", max_results=1) == 200
    for host in ("evil.example.org", f"{tracking.machine.address}.evil.example.org", "localhost"):
        path, header = f"{API}/experiments/get-by-name?experiment_name=x", f"Host: {host}"
        assert ada.get(path, "--header", header) == 403, host


def test_a_granted_user_shares_the_sweeps(tracking: Tracking, tmp_path: Path) -> None:
    eve = Visitor(tracking, tmp_path, tracking.login("eve"))
    team = f"{API}/experiments/get-by-name?experiment_name=senet-sweeps"
    tracking.users("grant", "ada")
    assert eve.get(team) == 403
    ada, admin = (Visitor(tracking, tmp_path, tracking.login(name)) for name in ("ada", "admin"))
    assert ada.get(team) == 200
    tracking.users("grant", "ada")  # A second time it changes nothing.
    experiment = admin.read(team)["experiment"]["experiment_id"]
    run = admin.read(f"{API}/runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
    assert eve.post(f"{API}/runs/delete", run_id=run) == 403
    assert ada.post(f"{API}/runs/log-metric", run_id=run, key="joint", value=0.5, timestamp=1) == 200
    assert ada.post(f"{API}/runs/delete", run_id=run) == 200, "as `sweeps delete` does"


def test_logins_leave_the_machine_encrypted(lan: Namespaces | OneNamespace, tracking: Tracking, tmp_path: Path) -> None:
    if shutil.which("caddy") is None or isinstance(lan, OneNamespace):
        pytest.skip("no caddy on this machine (Debian: apt-get install caddy), or no network for it")
    authority, machine = tracking.start_proxy(), lan.machine("worker-1")
    program = "from mlflow.tracking import MlflowClient; print('in', MlflowClient().search_experiments())"

    def ask(**settings: str) -> str:
        login = tracking.login("ada") | {
            "MLFLOW_TRACKING_URI": "https://tracking",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        }
        whole = [*machine.enter(tmp_path), str(BIN / "python"), "-c", program]
        environment = plain_environment(tmp_path) | login | settings
        done = subprocess.run(whole, env=environment, capture_output=True, text=True)
        return done.stdout + done.stderr

    try:
        assert ask(MLFLOW_TRACKING_SERVER_CERT_PATH=str(authority)).startswith("in ")
        assert "CERTIFICATE_VERIFY_FAILED" in ask()
    finally:
        machine.kill()


def test_who_has_token_and_login_runs_a_sweep_on_two_machines(doors: Doors) -> None:
    doors.ray.start_worker("worker-2")
    home = ClusterHome(doors.ray)
    recipe = home.recipe("let-in", **merged(RECIPE, {"search": {"trials": 2}}))
    said = home.call("sweeps", "run", str(recipe), "--address", doors.ray.address)
    assert "sweep let-in: 2 at a time" in said
    home.assert_right("let-in", 2)
