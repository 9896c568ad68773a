"""The files of cluster/mlflow, as far as they can be judged without being run."""

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.team import PAGE

ROOT = PAGE.parents[1]


def test_in_containers_only_the_proxy_is_reached_and_secrets_are_files() -> None:
    compose = yaml.safe_load((PAGE / "compose.yaml").read_text())
    services = compose["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    assert compose["networks"]["inside"]["internal"] is True
    assert {name for name, service in services.items() if "outside" in service["networks"]} == {"proxy"}
    # Not in the checkout: Ray's launcher reads all of that, and copies it to every machine.
    folder = "/etc/mlflow/secrets"
    for name, secret in compose["secrets"].items():
        assert secret["file"] == f"${{SECRETS:-{folder}}}/{name}"
    assert f"SECRETS={folder} " in (PAGE / "mlflow.service").read_text()
    assert f"/dev/stdin {folder}/$name" in (PAGE / "README.md").read_text()
    for service in services.values():
        for name, value in service["environment"].items():
            assert not re.search("PASSWORD|SECRET|KEY", name) or value.startswith("/run/secrets"), name
    needed = set(re.findall(r"\$\(secret (\w+)\)", (PAGE / "serve.sh").read_text()))
    assert needed == set(services["server"]["secrets"]) == set(compose["secrets"])


def test_nobody_sees_what_he_was_not_granted() -> None:
    settings = configparser.ConfigParser()
    settings.read(PAGE / "basic_auth.ini")
    assert settings["mlflow"]["default_permission"] == "NO_PERMISSIONS"
    assert "admin_password" not in settings["mlflow"]
    assert settings["mlflow"]["database_uri"] == "postgresql+psycopg:///mlflow"


def test_the_server_is_of_the_version_that_is_tested() -> None:
    lock = dict(re.findall(r"^(mlflow|psycopg)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    for file in ("Dockerfile", "README.md"):
        text = (PAGE / file).read_text()
        assert f"mlflow[auth]=={lock['mlflow']}" in text, file
        assert f"psycopg[binary]=={lock['psycopg']}" in text, file


@pytest.mark.parametrize("missing", ["SECRETS", "PGHOST", "ARTIFACTS", "ALLOWED_HOSTS"])
def test_the_server_does_not_start_half_told(tmp_path: Path, missing: str) -> None:
    told = {"SECRETS": str(tmp_path), "PGHOST": "x", "PGUSER": "x", "ARTIFACTS": "x", "ALLOWED_HOSTS": "x"}
    told.pop(missing)
    done = subprocess.run([PAGE / "serve.sh"], env={"PATH": os.environ["PATH"]} | told, capture_output=True, text=True)
    assert done.returncode != 0
    assert missing in done.stderr


def test_the_server_does_not_start_without_its_secrets(tmp_path: Path) -> None:
    told = {"SECRETS": str(tmp_path), "PGHOST": "x", "PGUSER": "x", "ARTIFACTS": "x", "ALLOWED_HOSTS": "x"}
    done = subprocess.run([PAGE / "serve.sh"], env={"PATH": os.environ["PATH"]} | told, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{tmp_path}/admin_password is missing or empty" in done.stderr


def test_the_script_is_sound() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck on this machine (Debian: apt-get install shellcheck)")
    subprocess.run(["shellcheck", PAGE / "serve.sh"], check=True)
