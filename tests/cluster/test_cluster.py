"""A sweep over three machines, tracked on a fourth."""

import re
from pathlib import Path

import pytest

from tests.cluster.machines import Namespaces, OneNamespace
from tests.cluster.team import LEFT_BEHIND, ClusterHome
from tests.conftest import merged
from tests.sweeps.commands import RECIPE, wait_for

# Two cores, three machines: on a busy one that takes its time.
pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


def look_for_secrets(home: ClusterHome) -> None:
    """Nobody's password is where it does not belong: in command lines, in what workers know, in what is written."""
    passwords = [secret.encode() for secret in home.ray.tracking.passwords.values()]
    token = home.ray.token.encode()
    trials = nodes = 0
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            line, known = (proc / "cmdline").read_bytes(), (proc / "environ").read_bytes()
        except OSError:
            continue
        assert not any(secret in line for secret in [*passwords, token]), line
        if str(home.ray.folder).encode() not in known or b"ray" not in line:
            continue
        nodes += b"raylet" in line and LEFT_BEHIND.encode() in known
        if line.startswith(b"ray::ImplicitFunc"):
            trials += 1
            assert not any(secret in known for secret in [*passwords, LEFT_BEHIND.encode()]), line
            assert b"MLFLOW_TRACKING_URI=http" not in known, line
    assert nodes >= 3, "what starts Ray knows what it should not"
    assert trials >= 1
    for path in home.folder.rglob("*"):
        try:
            text = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:
            # The sweep goes on meanwhile, and has files that are soon gone.
            continue
        assert not any(secret in text for secret in [*passwords, token]), path


# Where there are no namespaces, both are the second one.
@pytest.mark.parametrize("lan", ["namespaces", "one namespace"], indirect=True)
def test_a_sweep_runs_on_all_machines_and_tells_nobody_a_secret(
    home: ClusterHome, lan: Namespaces | OneNamespace
) -> None:
    address = ["--address", "auto" if isinstance(lan, Namespaces) else home.ray.address]
    # Trials that last until the slowest machine has begun its first.
    recipe = str(home.recipe("small", **merged(RECIPE, {"config": {"streaming": {"epochs": 60}}})))
    greedy = home.call("sweeps", "run", recipe, *address, "--set", "resources.cpu=2", code=2)
    assert "`resources.cpu`: a trial asks for 2, but no machine has more than 1" in greedy
    if isinstance(lan, Namespaces):
        untracked = home.call("env", "MLFLOW_TRACKING_URI=", "sweeps", "run", recipe, *address, code=2)
        assert "the cluster has 3 machines" in untracked
        assert "name it in MLFLOW_TRACKING_URI" in untracked
    assert not (home.folder / "sweeps").exists()
    process = home.start("sweeps", "run", recipe, *address)
    wait_for(lambda: home.ended("small"), 600)
    look_for_secrets(home)
    out, error = process.communicate(timeout=600)
    assert (process.returncode, error) == (0, ""), out + error
    assert "sweep small: 3 at a time" in out
    home.assert_right("small", 8)
    states = "".join(path.read_text() for path in home.folder.glob("sweeps/small/ray/*/experiment_state-*.json"))
    used, there = set(re.findall(r"node_ip\W+([\d.]+)", states)), {m.address for m in home.ray.machines.values()}
    # On a busy machine the last worker may yet come when all trials are taken.
    assert used <= there
    assert len(used) >= min(2, len(there))
