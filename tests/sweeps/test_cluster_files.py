"""The launch files: checked by Ray's, Kubernetes' and the shell's own rules, and the scripts run for real."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.conftest import merged
from tests.sweeps.commands import RECIPE, Home, kill_everything, wait_for
from tests.sweeps.raycluster import ATTEMPTS, came_up, free_ports

CLUSTER = Path(__file__).parents[2] / "cluster"
WAYS = ("local", "machines", "aws", "gcp", "kubernetes", "slurm")
LAUNCHERS = ("machines/launcher.yaml", "aws/cluster.yaml", "gcp/cluster.yaml")
SCRIPTS = ("machines/head.sh", "machines/worker.sh", "slurm/sweep.sbatch")
BIN = Path(sys.executable).parent

# KubeRay's own rules (ray.io/v1) for what the files use of them: all else of its kinds is refused here.
POD_GROUP = {"rayStartParams": dict, "template": dict}
WORKERS = POD_GROUP | {"groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int}
RAY_CLUSTER = {
    "rayVersion": str,
    "authOptions": dict,
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": dict,
    "headGroupSpec": dict,
    "workerGroupSpecs": list,
}
RAY_JOB = {
    "entrypoint": str,
    "backoffLimit": int,
    "submissionMode": str,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "runtimeEnvYAML": str,
    "rayClusterSpec": dict,
}


def read(name: str) -> dict[str, Any]:
    """A launch file."""
    found: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return found


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_takes_what_its_launcher_is_given(name: str) -> None:
    prepared = prepare_config(read(name))
    validate_config(prepared)
    with pytest.raises(Exception, match="'headgroup' was unexpected"):
        validate_config(prepared | {"headgroup": {}})


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launched_machines_have_the_token_as_a_file(name: str, tmp_path: Path) -> None:
    config = read(name)
    (target,) = [target for target, source in config["file_mounts"].items() if source == "~/.ray/auth_token"]
    assert target.endswith("/.ray/auth_token")
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]
    # `ray down` calls `ray stop` there.
    (found,) = [command for command in config["setup_commands"] if ".bashrc" in command]
    (tmp_path / ".bashrc").touch()
    bash = f"cd; {found}; {found}; cat .bashrc; source .bashrc; echo $PATH $RAY_AUTH_MODE"
    said = subprocess.run(
        ["bash", "-c", bash], env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, stdout=-1, text=True
    )
    lines = said.stdout.splitlines()
    assert lines[1:] == [f"{tmp_path}/senet-sweeps/.venv/bin:/usr/bin:/bin token"], "once, however often it is set up"
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert sum("SWEEPS_HOME=/shared/mlruns" in command for command in starts) == 2
    assert all("ray stop" in command or "/cluster/machines/" in command for command in starts), "which set the token"


@pytest.mark.parametrize("name", ["aws/cluster.yaml", "gcp/cluster.yaml"])
def test_gpu_machines_come_from_none_and_are_spot_but_the_head_is_not(name: str) -> None:
    config = read(name)
    head, gpu = (config["available_node_types"][kind] for kind in (config["head_node_type"], "gpu"))
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert gpu["min_workers"] == 0 < gpu["max_workers"] <= config["max_workers"]
    assert gpu["resources"]["GPU"] == 1
    spot = "InstanceMarketOptions" if name.startswith("aws") else "scheduling"
    assert spot in gpu["node_config"]
    assert spot not in head["node_config"]


@pytest.mark.parametrize("path", sorted(CLUSTER.rglob("*.*")), ids=lambda path: str(path.relative_to(CLUSTER)))
def test_no_file_holds_a_secret_or_opens_a_dashboard(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"RAY_AUTH_TOKEN=[^$\s]", text)
    assert not re.search(r"RAY_AUTH_MODE[=:] *disabled", text)
    assert "dashboard-host=0.0.0.0" not in text


@pytest.mark.parametrize("name", SCRIPTS)
def test_shell_scripts_are_sound(name: str) -> None:
    subprocess.run(["bash", "-n", CLUSTER / name], check=True)
    checked = subprocess.run([BIN / "shellcheck", CLUSTER / name], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert "RAY_AUTH_MODE=token" in (CLUSTER / name).read_text()
    assert name.endswith(".sbatch") or os.access(CLUSTER / name, os.X_OK)


def test_kubernetes_takes_the_volume() -> None:
    volume = read("kubernetes/storage.yaml")
    kubernetes_validate.validate(volume, "1.33", strict=True)
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(merged(volume, {"spec": {"size": 1}}), "1.33", strict=True)


def check_fields(value: dict[str, Any], fields: dict[str, type], where: str) -> None:
    """All of `value` is known, and of the right type."""
    for key, inner in value.items():
        assert key in fields, f"{where}: unknown field {key}"
        assert isinstance(inner, fields[key]), f"{where}.{key}"


def check_ray_cluster(spec: dict[str, Any]) -> None:
    """A RayCluster's spec: KubeRay's fields, and pods that Kubernetes takes."""
    check_fields(spec, RAY_CLUSTER, "spec")
    assert spec["authOptions"] == {"mode": "token"}
    check_fields(spec["autoscalerOptions"], {"idleTimeoutSeconds": int}, "autoscalerOptions")
    check_fields(spec["headGroupSpec"], POD_GROUP, "headGroupSpec")
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "KubeRay wants strings"
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}} | group["template"]
        kubernetes_validate.validate(pod, "1.33", strict=True)
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "SWEEPS_HOME", "value": "/shared/mlruns"} in container["env"]
        claims = [
            v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v
        ]
        assert claims == [read("kubernetes/storage.yaml")["metadata"]["name"]]
        assert group["template"]["spec"]["securityContext"]["runAsNonRoot"]
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    for workers in spec["workerGroupSpecs"]:
        check_fields(workers, WORKERS, "workerGroupSpecs")
        assert workers["minReplicas"] == workers["replicas"] == 0 < workers["maxReplicas"]
        (container,) = workers["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_kubernetes_takes_the_cluster_and_the_job() -> None:
    cluster, job = read("kubernetes/raycluster.yaml"), read("kubernetes/rayjob.yaml")
    for found, kind in ((cluster, "RayCluster"), (job, "RayJob")):
        assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", kind)
        assert set(found) == {"apiVersion", "kind", "metadata", "spec"}
    check_ray_cluster(cluster["spec"])
    check_fields(job["spec"], RAY_JOB, "spec")
    assert job["spec"]["rayClusterSpec"] == cluster["spec"], "a job's cluster is the same cluster"
    subprocess.run(["sh", "-n", "-c", job["spec"]["entrypoint"]], check=True)
    lock = (CLUSTER.parent / "requirements.lock").read_text()
    assert f"\nray=={cluster['spec']['rayVersion']}\n" in lock


@pytest.mark.parametrize("way", WAYS)
def test_every_way_has_a_page(way: str) -> None:
    text = (CLUSTER / way / "README.md").read_text()
    for step in ("Start", "[Jj]oin", "[Rr]un", "Watch", "Resume", "Stop"):
        assert re.search(rf"\*\*[^*]*{step}", text), step
    assert f"({way}/README.md)" in (CLUSTER / "README.md").read_text()


@pytest.mark.parametrize("page", sorted(CLUSTER.rglob("*.md")), ids=lambda path: str(path.relative_to(CLUSTER)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def start(script: str, *arguments: str, log: Path, **environment: str) -> subprocess.Popen[str]:
    """Start one of the scripts, without a token of ours."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    with log.open("w") as file:
        return subprocess.Popen(
            [CLUSTER / script, *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            env=kept | {"PATH": f"{BIN}:{os.environ['PATH']}"} | environment,
            start_new_session=True,
        )


def said(script: str, *arguments: str, tmp_path: Path, **environment: str) -> tuple[int, str]:
    """What a script says that does not start: its exit code and its words."""
    process = start(script, *arguments, log=tmp_path / "log", **environment)
    process.wait(timeout=60)
    return process.returncode, (tmp_path / "log").read_text()


def test_scripts_say_what_is_missing(tmp_path: Path) -> None:
    own = {"HOME": str(tmp_path), "SWEEPS_HOME": str(tmp_path)}
    for script, arguments in (("machines/head.sh", ()), ("machines/worker.sh", ("head",))):
        code, words = said(script, *arguments, tmp_path=tmp_path, HOME=str(tmp_path), SWEEPS_HOME="/nowhere")
        assert (code, words.count("\n")) == (2, 1)
        assert "SWEEPS_HOME /nowhere: is no folder that can be written to here; is it mounted?" in words
        code, words = said(script, *arguments, tmp_path=tmp_path, HOME=str(tmp_path), SWEEPS_HOME="")
        assert code == 1
        assert "SWEEPS_HOME: the folder that all machines share" in words
    code, words = said("machines/worker.sh", "head", tmp_path=tmp_path, **own)
    assert (code, words.count("\n")) == (2, 1)
    assert "no token: copy ~/.ray/auth_token of the head to this machine" in words


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_head_and_worker_make_a_cluster(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port, dashboard, agent = free_ports(3)
    own = {"HOME": str(tmp_path), "SWEEPS_HOME": str(home.folder), "PORT": str(port)}
    small = ("--block", "--num-cpus=1", "--object-store-memory=80000000")
    # Ray's sockets want a short path.
    folder = f"/tmp/sweeps-files-{os.getpid()}"
    ports = (f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder}")
    machines = []
    try:
        for script, options in (("head.sh", ports), ("worker.sh", (f"127.0.0.1:{port}",))):
            log = tmp_path / script
            arguments = (*options, *small) if script == "worker.sh" else (*small, *options)
            for _ in range(ATTEMPTS):
                machines.append(start(f"machines/{script}", *arguments, log=log, **own))
                if came_up(machines[-1], log):
                    break
            assert machines[-1].poll() is None, log.read_text()
        token = tmp_path / ".ray" / "auth_token"
        assert token.stat().st_mode & 0o077 == 0
        assert token.read_text() not in "".join(path.read_text() for path in tmp_path.glob("*.sh"))
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        out = home.call("sweeps", "doctor", "--address", f"127.0.0.1:{port}")
        assert "all 2 machines" in out
        assert "closed: whatever listens to others asks for a token or a login" in out
    finally:
        for machine in reversed(machines):
            kill_everything(machine)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_no_secrets_go_to_the_machines(name: str) -> None:
    config = read(name)
    assert "." in config["file_mounts"].values()
    assert {"cluster/mlflow/secrets", "cluster/mlflow/.env"} <= set(config["rsync_exclude"])


@pytest.mark.parametrize(("name", "again"), [("USR1", True), ("TERM", False)])
def test_a_slurm_job_queues_itself_again_when_the_time_is_up_but_not_when_it_is_cancelled(
    tmp_path: Path, name: str, again: bool
) -> None:
    assert "#SBATCH --signal=B:USR1@300\n" in (CLUSTER / "slurm" / "sweep.sbatch").read_text()
    ended = f"trap 'echo >{tmp_path}/told; exit 1' TERM; echo >{tmp_path}/driven"
    commands = {
        "ray": '[ "$1" = get-auth-token ] || exec sleep 60',
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
        "scontrol": f'if [ "$1" = requeue ]; then echo "$2" >>{tmp_path}/requeued; else echo 127.0.0.1; fi',
        "sweeps": f"{ended}; while :; do sleep 0.1; done",
    }
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for command, body in commands.items():
        (programs / command).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (programs / command).chmod(0o755)
    head, number = head_of_a_job()
    with head:
        own = {"HOME": str(tmp_path), "SWEEPS_HOME": str(tmp_path), "SLURM_SUBMIT_DIR": str(tmp_path),
               "SLURM_JOB_ID": str(number), "SLURM_JOB_NODELIST": "here", "SLURM_JOB_NUM_NODES": "1",
               "MLFLOW_TRACKING_URI": "https://tracking"}  # fmt: skip
        process = start("slurm/sweep.sbatch", "recipe", "job", log=tmp_path / "log", **own)
        try:
            wait_for((tmp_path / "driven").exists, 60)
            os.kill(process.pid, getattr(signal, f"SIG{name}"))
            process.wait(timeout=60)
        finally:
            kill_everything(process)
    assert process.returncode == 1, (tmp_path / "log").read_text()
    assert (tmp_path / "told").exists(), "the sweep was given the time to stop"
    assert (tmp_path / "requeued").exists() == again


def head_of_a_job() -> tuple[socket.socket, int]:
    """What listens where a Slurm job looks for Ray's head, and the number of the job."""
    for number in range(os.getpid(), os.getpid() + 100):
        with suppress(OSError):
            return socket.create_server(("127.0.0.1", 30000 + number % 10000)), number
    raise AssertionError("no free port")


def slurm_of_one(tmp_path: Path) -> Path:
    """A folder with Slurm's own commands, for an allocation of this machine alone."""
    commands = {
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
        "scontrol": f'if [ "$1" = requeue ]; then echo "$2" >>{tmp_path}/requeued; else echo 127.0.0.1; fi',
    }
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in commands.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (programs / name).chmod(0o755)
    return programs


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_slurm_job_ends_in_time_and_the_next_goes_on(home: Home, tmp_path: Path) -> None:
    programs = slurm_of_one(tmp_path)
    slow = merged(RECIPE, {"config": {"base": {"epochs": 60}}, "search": {"trials": 3}})
    recipe = str(home.recipe("recipe", **slow))

    def job(number: int) -> tuple[subprocess.Popen[str], Path]:
        log = tmp_path / f"slurm-{number}.out"
        own = {
            "HOME": str(tmp_path), "SWEEPS_HOME": str(home.folder), "PATH": f"{programs}:{BIN}:{os.environ['PATH']}",
            "SLURM_JOB_ID": str(number), "SLURM_JOB_NODELIST": "here", "SLURM_JOB_NUM_NODES": "1",
            "SLURM_CPUS_PER_TASK": "2", "SLURM_SUBMIT_DIR": str(CLUSTER.parent),
            "MLFLOW_TRACKING_URI": f"sqlite:///{home.tracking}",
        }  # fmt: skip
        return start("slurm/sweep.sbatch", recipe, "job", log=log, **own), log

    def running() -> bool:
        return bool(list((home.folder / "sweeps" / "job").glob("trials/*/progress.json")))

    number = os.getpid()
    for _ in range(ATTEMPTS):
        process, log = job(number)
        wait_for(lambda: running() or process.poll() is not None)  # noqa: B023
        if process.poll() is None:
            break
    try:
        assert process.poll() is None, log.read_text()
        os.kill(process.pid, signal.SIGUSR1)
        process.wait(timeout=120)
        assert process.returncode == 1
        assert "interrupted; go on: sweeps resume job" in log.read_text()
        assert (tmp_path / "requeued").read_text() == f"{number}\n"
        assert home.status("job")["state"] == "interrupted"

        process, log = job(number)
        process.wait(timeout=400)
        assert process.returncode == 0, log.read_text()
        assert "best: trial" in log.read_text()
        assert (tmp_path / "requeued").read_text() == f"{number}\n"
        home.assert_consistent("job", 3)
    finally:
        kill_everything(process)
        shutil.rmtree(f"/tmp/ray-{number}", ignore_errors=True)
