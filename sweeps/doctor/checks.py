"""What is right and what is wrong, judged from what the machines found, each with a line of advice."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senet.errors import InputError
from senet.mounts import kind_of_share, share_of
from sweeps.config import Recipe
from sweeps.doctor.cluster import Answers, Machine
from sweeps.storage import check_bucket, open_database, storage_file, tracking_uri
from sweeps.tracking import tracking_problem

_CLOCK_SECONDS = 2.0


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    check: str
    where: str
    found: str
    advice: str = ""
    """what to do; empty where all is well"""


def reached(machines: list[Machine], described: Answers) -> list[Finding]:
    """Whether every machine runs what it is sent."""
    advice = "look at the machine and at Ray's logs there; or take it out of the cluster: ray stop"
    bad = [Finding("machines", name, f"does not answer: {why}", advice) for name, why in described.missing.items()]
    names = ", ".join(machine.name for machine in machines)
    return bad or [Finding("machines", _all(machines), names)]


def versions(ours: dict[str, str], described: Answers) -> list[Finding]:
    """Whether every machine has the driver's Python and packages: a result does not depend on where a trial ran."""
    bad = []
    for name, found in described.given.items():
        other = [f"{package} {have}" for package, have in found["versions"].items() if have != ours[package]]
        if other:
            here = ", ".join(
                f"{package} {ours[package]}" for package in ours if found["versions"][package] != ours[package]
            )
            advice = "install the same everywhere: the same code, and requirements.lock"
            bad.append(Finding("versions", name, f"{', '.join(other)}; the driver has {here}", advice))
    return bad or [Finding("versions", _all(described.given), ", ".join(f"{p} {v}" for p, v in ours.items()))]


def devices(machines: list[Machine], described: Answers, recipe: Recipe | None) -> list[Finding]:
    """Whether torch sees the GPUs that Ray gives away, and some machine has what a trial asks for."""
    bad = []
    for machine in machines:
        found = described.given.get(machine.name)
        offered = machine.resources.get("GPU", 0)
        if found is not None and found["torch"] is not None:
            advice = "install torch there as requirements.lock has it"
            bad.append(Finding("GPUs", machine.name, f"torch cannot be imported: {found['torch']}", advice))
        elif found is not None and offered > found["gpus"]:
            advice = "install the driver of the GPU there, or start Ray there with --num-gpus as many as there are"
            bad.append(Finding("GPUs", machine.name, f"Ray offers {offered:g}, torch sees {found['gpus']}", advice))
    total = sum(machine.resources.get("GPU", 0) for machine in machines)
    holding = [] if recipe is None else able(machines, recipe)
    if recipe is not None and not holding:
        share = recipe.resources.most()
        most = {name: max(machine.resources.get(name, 0) for machine in machines) for name in ("CPU", "GPU")}
        advice = "lower `resources` of the recipe, add a machine, or set `search.concurrency` if the cluster adds them"
        asked = f"a trial asks for CPU {share['cpu']:g}, GPU {share['gpu']:g}"
        bad.append(Finding("GPUs", _all(machines), f"{asked}; the largest machine has {_shares(most)}", advice))
    elif recipe is not None:
        said = f"{total:g}; {len(holding)} of {len(machines)} hold a trial"
        at_a_time = recipe.search.concurrency
        room = sum(recipe.resources.room(machine.resources) for machine in holding)
        if at_a_time is not None and room < min(at_a_time, recipe.search.trials):
            advice = "lower `search.concurrency` or `resources`, or add machines, unless the cluster itself adds them"
            said += f", {room} at a time, `search.concurrency` asks for {at_a_time}"
            return [*bad, Finding("GPUs", _all(machines), said, advice)]
        return bad or [Finding("GPUs", _all(machines), said)]
    return bad or [Finding("GPUs", _all(machines), f"{total:g}")]


def able(machines: list[Machine], recipe: Recipe) -> list[Machine]:
    """The machines that hold a trial of the recipe."""
    return [machine for machine in machines if recipe.resources.room(machine.resources)]


def storage(folder: str, described: Answers, written: Answers, unread: Answers) -> list[Finding]:
    """Whether all machines write below SWEEPS_HOME, a folder or a bucket, and see what the others wrote."""
    bad = []
    mount = f"mount the shared folder at {folder} on every machine, writable for the user that runs Ray"
    if "://" in folder:
        mount = "give the user that runs Ray there the right to read and write the bucket, and install s3fs or gcsfs"
    for name, found in described.given.items():
        if not found["exists"]:
            bad.append(Finding("storage", name, f"{folder} is not there", mount))
    missing = {finding.where for finding in bad}
    for name, why in [*written.given.items(), *written.missing.items()]:
        if why is not None and name not in missing:
            bad.append(Finding("storage", name, f"cannot write to {folder}: {why}", mount))
            missing.add(name)
    for name, lost in [*unread.given.items(), *((name, [why]) for name, why in unread.missing.items())]:
        if lost and name not in missing:
            bad.append(
                Finding("storage", name, f"does not see in {folder} what was written on {', '.join(lost)}", mount)
            )
    return bad or [Finding("storage", _all(described.given), f"{folder}: written and read by all")]


def ledger(home: Path, recipe: Recipe | None, bucket: str | None = None) -> list[Finding]:
    """Whether the ledgers of the sweeps that are there, and of the next one, lie where they are safe.

    Args:
        bucket: the URL of the bucket that `home` is a copy of, if it is one.
    """
    if bucket is not None:
        if recipe is None:
            return [Finding("ledger", "driver", "the database that a recipe names (`search.storage`)")]
        try:
            check_bucket(bucket, recipe.search.storage, recipe.data)
        except InputError as error:
            return [Finding("ledger", "driver", str(error), 'see "Without a shared folder" in cluster/README.md')]
    if recipe is not None and recipe.search.storage is not None:
        try:
            open_database(recipe.search.storage)
        except InputError as error:
            advice = "start the database, let this user in, and give the password as PGPASSWORD or in ~/.pgpass"
            return [Finding("ledger", "driver", str(error), advice)]
        return [Finding("ledger", "driver", recipe.search.storage)]
    for folder in sorted((home / "sweeps").glob("[!.]*/")):
        try:
            storage_file(folder)
        except InputError as error:
            return [Finding("ledger", "driver", str(error), "begin that sweep anew, or move SWEEPS_HOME")]
    share = share_of(home)
    kind = "sqlite on a local disk of the driver" if share is None else f"a journal file on a share ({share})"
    return [Finding("ledger", "driver", kind)]


def tracking(home: Path, machines: int) -> list[Finding]:
    """Whether tracking can be written, and is not a file that several machines share."""
    server = "start a tracking server (cluster/mlflow), and name it in MLFLOW_TRACKING_URI"
    try:
        uri = tracking_uri(home)
    except InputError as error:
        return [Finding("tracking", "driver", str(error), server)]
    problem = tracking_problem(home)
    if problem is not None:
        login = "is MLFLOW_TRACKING_URI right, the server up, and the login of this user in MLFLOW_TRACKING_USERNAME, "
        return [Finding("tracking", "driver", problem, f"{login}MLFLOW_TRACKING_PASSWORD or ~/.mlflow/credentials?")]
    if uri.startswith("sqlite:") and machines > 1:
        why = f"{uri}: sqlite on a disk that {machines} machines share is not safe"
        return [Finding("tracking", "driver", why, server)]
    return [Finding("tracking", "driver", f"{uri}: written")]


def clocks(offsets: dict[str, float | None]) -> list[Finding]:
    """Whether the machines agree on the time: who holds a base for how long is judged by it."""
    known = {name: offset for name, offset in offsets.items() if offset is not None}
    bad = [
        Finding(
            "clocks", name, f"{offset:+.1f} s from the driver's", "synchronise the clock there, such as with chrony"
        )
        for name, offset in known.items()
        if abs(offset) > _CLOCK_SECONDS
    ]
    most = max(map(abs, known.values()), default=0.0)
    return bad or [Finding("clocks", _all(known), f"within {most:.1f} s")]


def disk(described: Answers, needed: int, free_there: int) -> list[Finding]:
    """Whether the storage has room for what the sweep will write."""
    free = min([free_there, *(found["free_bytes"] for found in described.given.values() if found["exists"])])
    said = f"{free / 1e9:.1f} GB free, at most {needed / 1e9:.1f} GB needed for bases and unfinished trials"
    advice = "make room (sweeps bases --prune), plan fewer trials, or bound the networks with `constraints`"
    return [Finding("disk", _all(described.given), said, advice if free < needed else "")]


def copies(found: Answers, needed: int) -> list[Finding]:
    """Whether every machine has its own copy of the data set, or a disk of its own with room for it."""
    bad = []
    for name, machine in found.given.items():
        share = kind_of_share(Path(machine["place"]), machine["mounts"])
        free = machine["free_bytes"]
        if share is not None:
            said = f"{machine['place']} is on a mounted share ({share}), so the data are read over the network"
            bad.append(Finding("copies", name, said, "name a folder on a disk of the machine in SWEEPS_CACHE there"))
        elif not machine["exists"] and free < needed:
            said = f"{free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed for its copy of the data"
            bad.append(Finding("copies", name, said, "make room there, or name another disk there in SWEEPS_CACHE"))
    bad += [Finding("copies", name, why, "look at the machine") for name, why in found.missing.items()]
    said = f"{needed / 1e9:.1f} GB of data on a disk of each, or room for it"
    return bad or [Finding("copies", _all(found.given), said)]


def network(corner: str, answers: Answers) -> list[Finding]:
    """Whether the `smallest` or the `largest` network goes through both phases."""
    check = f"{corner} network"
    advice = "see sweeps run --dry-run; bound the networks with `constraints`, or give a trial more of a machine"
    bad = [Finding(check, name, why, advice) for name, why in answers.missing.items()]
    slowest = max((found["seconds"] for found in answers.given.values()), default=0.0)
    peak = max((found["bytes"] for found in answers.given.values()), default=0)
    good = f"one batch of both phases in {slowest:.1f} s, {peak / 1e9:.1f} GB"
    return bad or [Finding(check, _all(answers.given), good)]


def doors(opened: Answers) -> list[Finding]:
    """Whether everything that other machines reach asks for a token or a login."""
    advice = (
        "whoever reaches it may run code or read results: start it again with RAY_AUTH_MODE=token (MLflow: --app-name "
        "basic-auth), or on 127.0.0.1"
    )
    bad = [
        Finding("doors", name, f"open to anybody: {', '.join(found)}", advice)
        for name, found in opened.given.items()
        if found
    ]
    missing = "pip install 'senet-sweeps[cluster]' there, so that it can be looked at"
    bad += [Finding("doors", name, f"not looked at: {why}", missing) for name, why in opened.missing.items()]
    return bad or [
        Finding("doors", _all(opened.given), "closed: whatever listens to others asks for a token or a login")
    ]


def _all(names: Any) -> str:
    count = len(names)
    return "the machine" if count == 1 else f"all {count} machines"


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:g}" for name, share in shares.items())
