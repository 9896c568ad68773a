"""Commands for a cluster that is elsewhere, reached through Ray's job API at the address of its dashboard.

What is submitted runs on the head: `sweeps run` and `sweeps resume` join the cluster there, and go on when this machine
has left. What a sweep needs of this machine goes with it: the package, the recipe, a network of the user's own.
"""

import logging
import os
import shlex
import shutil
import socket
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import senet
import sweeps
from senet.errors import InputError
from sweeps.config import Recipe, bundled_recipes, load_recipe
from sweeps.environment import is_remote, set_ray_environment

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_POLL_SECONDS = 1.0
_CONNECT_SECONDS = 10
_HOME_NEEDED = "sweeps: SWEEPS_HOME is not set on the head of the cluster: set it to the shared folder before ray start"
# `ray job stop` gives a sweep time to end as Ctrl-C ends it.
_STOP_SECONDS = "60"
_SHIPPED = (senet, sweeps)
# In a job's metadata: the user's own modules that went with it.
_MODULES = "modules"


def submit(arguments: Namespace) -> int:
    """Start a sweep on a cluster, and leave when it has begun there; or with --follow stay until it ends."""
    recipe, name, _ = load_recipe(arguments.recipe, arguments.settings, arguments.name)
    client = _connect(arguments.address)
    modules = _own_modules(recipe)
    with _shipment(arguments.recipe, modules) as (folder, shipped):
        settings = [word for setting in arguments.settings for word in ("--set", setting)]
        command = ["run", shipped, "--name", name, *settings, "--address", "auto"]
        job = _start(client, command, folder, name, modules)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"submitted sweep {name} as job {job}, {size / 1e6:.1f} MB of code", flush=True)
    return _follow(client, job, None if arguments.follow else name, arguments.address)


def forward(arguments: Namespace) -> int:
    """Do on the cluster what another command would do here, and print what it prints.

    A sweep that goes on there is left when it has begun.
    """
    words = _without_address(arguments.argv)
    recipe = getattr(arguments, "recipe", None)
    joins = arguments.command in ("resume", "extend", "doctor")
    name = arguments.name if arguments.command in ("resume", "extend") else None
    modules = [] if recipe is None else _own_modules(load_recipe(recipe, arguments.settings)[0])
    client = _connect(arguments.address)
    if name is not None:
        modules = _submitted_with(client, name)
    with _shipment(recipe, modules) as (folder, shipped):
        command = [shipped if word == recipe else word for word in words] + (["--address", "auto"] if joins else [])
        job = _start(client, command, folder, name, modules)
    return _follow(client, job, name, arguments.address)


def follow(arguments: Namespace) -> int:
    """Print what a submitted sweep says until it ends, from its beginning on."""
    client = _connect(arguments.address)
    jobs = _jobs_of(client, arguments.name)
    if not jobs:
        raise InputError(f"no job of a sweep `{arguments.name}` at {arguments.address}; was it submitted there?")
    # One that was refused, since the sweep runs, is not what is asked for.
    latest = max(jobs, key=lambda job: (not job.status.is_terminal(), job.start_time or 0))
    return _follow(client, str(latest.submission_id), None, arguments.address)


def _connect(address: str) -> "JobSubmissionClient":
    """A client of the job API. Raises InputError where nobody answers, or the token is wrong."""
    where = f"--address {address}"
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not is_remote(address) or not host or parts.path.strip("/") or parts.username is not None:
        raise InputError(f"{where}: must be the address of the cluster's dashboard, such as http://127.0.0.1:8265")
    try:
        socket.create_connection((host, port or (443 if parts.scheme == "https" else 80)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(f"{where}: nobody answers there: {error.strerror or error}") from None
    set_ray_environment(local=False)
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Ray would take these, and not what was asked for.
    for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(variable, None)

    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for module in ("modules.dashboard_sdk", "modules.job.sdk"):
        logging.getLogger(f"ray.dashboard.{module}").setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise InputError(
            f"{where}: the cluster wants its token, and this one is none or another: put it into ~/.ray/auth_token, or "
            f"set RAY_AUTH_TOKEN"
        ) from None
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{where}: is not the dashboard of a Ray cluster: {reason}") from None


@contextmanager
def _shipment(recipe_path: str | None, modules: list[Path]) -> Iterator[tuple[Path, str]]:
    """A folder with what the cluster needs of this machine, and how the recipe is called in it."""
    with tempfile.TemporaryDirectory(prefix="sweeps-submit-") as temporary:
        folder = Path(temporary)
        skipped = shutil.ignore_patterns("__pycache__")
        for package in _SHIPPED:
            source = Path(str(package.__file__)).parent
            shutil.copytree(source, folder / source.name, ignore=skipped)
        about = distribution("senet-sweeps")
        metadata = folder / f"senet_sweeps-{about.version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: senet-sweeps\nVersion: {about.version}\n")
        shipped = str(recipe_path)
        if recipe_path is not None and recipe_path not in bundled_recipes():
            shipped = Path(recipe_path).name
            shutil.copy(recipe_path, folder / shipped)
        for module in modules:
            target = folder / module.name
            if module.is_dir():
                shutil.copytree(module, target, ignore=skipped)
            else:
                shutil.copy(module, target)
        yield folder, shipped


def _own_modules(recipe: Recipe) -> list[Path]:
    """Modules and packages of the current directory that hold the user's own networks; ours go along anyway."""
    space = recipe.parsed_space("recipe")
    choices: Any = getattr(space.distributions.get("model.name"), "choices", ())
    found = set()
    for name in {space.config({}).model.name, *map(str, choices)}:
        if ":" in name:
            first = name.partition(":")[0].partition(".")[0]
            found |= {path for path in (Path(first), Path(f"{first}.py")) if path.exists()}
    return sorted(path for path in found if path.stem not in {package.__name__ for package in _SHIPPED})


def _submitted_with(client: "JobSubmissionClient", name: str) -> list[Path]:
    """The modules that a sweep's latest job that was not refused had with it. Raises InputError where this directory
    lacks one."""
    jobs = sorted(_jobs_of(client, name), key=lambda job: (job.driver_exit_code != 2, job.start_time or 0))
    modules = [Path(module) for module in (jobs[-1].metadata.get(_MODULES, "").split("/") if jobs else []) if module]
    for module in modules:
        if not module.exists():
            raise InputError(f"sweep `{name}` has networks of {module}: call this in the directory that holds it")
    return modules


def _jobs_of(client: "JobSubmissionClient", name: str) -> list[Any]:
    return [job for job in client.list_jobs() if (job.metadata or {}).get("sweep") == name]


def _start(
    client: "JobSubmissionClient", command: list[str], folder: Path, name: str | None, modules: list[Path]
) -> str:
    """Submit a command of ours, as the driver of sweep `name` if one is given; returns the job's id."""
    line = shlex.join(["exec", "python", "-m", "sweeps.cli", *command])
    told = shlex.quote(_HOME_NEEDED)
    try:
        return str(
            client.submit_job(
                entrypoint=f'if [ -z "$SWEEPS_HOME" ]; then echo {told}; exit 2; fi; {line}',
                runtime_env={
                    "working_dir": str(folder),
                    "env_vars": {"COLUMNS": "160", "RAY_JOB_STOP_WAIT_TIME_S": _STOP_SECONDS},
                },
                metadata={} if name is None else {"sweep": name, _MODULES: "/".join(map(str, modules))},
            )
        )
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"the cluster does not take the job: {reason}") from None


def _follow(client: "JobSubmissionClient", job: str, name: str | None, address: str) -> int:
    """Print what a job says, until it ends, or until the sweep `name` has begun; returns the exit code.

    Raises:
        InputError: the cluster is gone.
    """
    shown = 0
    try:
        while True:
            details = client.get_job_info(job)
            lines = _own_words(client.get_job_logs(job)).splitlines()
            for line in lines[shown:]:
                print(line, file=sys.stderr if line.startswith("sweeps: ") else sys.stdout, flush=True)
            shown = len(lines)
            if details.status.is_terminal():
                break
            if name is not None and any(line.startswith(f"sweep {name}: ") for line in lines):
                print(f"it goes on there; follow it: sweeps follow {name} --address {address}")
                print(f"stop it: sweeps stop {name} --address {address}")
                return 0
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        print("the job goes on")
        return 1
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"--address {address}: the cluster no longer answers: {reason}") from None
    if details.status == "SUCCEEDED":
        return 0
    if not lines:
        print(f"sweeps: job {job}: {details.status}: {details.message}", file=sys.stderr)
    return details.driver_exit_code or 1


def _own_words(log: str) -> str:
    """The whole lines of a job's log, without what Ray says before it begins."""
    before, found, rest = log.rpartition("Running entrypoint for job")
    said = rest.partition("\n")[2] if found else before
    return said[: said.rfind("\n") + 1]


def _without_address(argv: list[str]) -> list[str]:
    """A command line without --address and its value."""
    words = iter(argv)
    kept = []
    for word in words:
        if word == "--address":
            next(words)
        elif not word.startswith("--address="):
            kept.append(word)
    return kept
