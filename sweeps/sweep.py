"""A sweep as a folder below `sweeps/`: its recipe, its ledger, its trials, who drives it.

sweep.json      id, creation time, versions
recipe.yaml     the recipe, complete, as it was when the sweep began
ledger.db       the Optuna study; ledger.journal on a mounted share; neither if it is in PostgreSQL
trials/0007/    result.json, progress.json, error.txt of trial 7; attempt-1.json: of an attempt that was set aside
driven.json, ending.json, asked.json      wall time so far, why the last session ended, what the driver is asked for
leaderboard.csv, report.md, result.png    written at the end
confirm.json, confirm.md    what confirming it on fresh seeds came to; the study itself is the sweep NAME-confirm
thesis/             tables, statements, figures and epoch times of a sweep over the thesis' grid
"""

import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from senet.data.catalogue import obtain_dataset
from senet.data.store import check_name
from senet.errors import InputError
from senet.files import write_atomically
from senet.yamlfile import read_mapping
from sweeps.config import Recipe, dump_recipe, validate_recipe
from sweeps.shared import Shared
from sweeps.storage import database_lock

_PACKAGES = ("senet-sweeps", "torch", "ray", "optuna", "mlflow")

ATTEMPT = "attempt-"
"""begins the names of what earlier attempts of a trial have left"""
_CHECKPOINTS = "streaming*.pt"
OF_AN_ATTEMPT = ("progress.json", "result.json")
"""files of the attempt that is under way"""


@dataclass(frozen=True)
class Sweep:
    """One sweep's folder."""

    home: Path
    name: str

    @property
    def folder(self) -> Path:
        """Where the sweep lies."""
        return self.home / "sweeps" / self.name

    def trial_folder(self, number: int) -> Path:
        """Where trial `number` writes."""
        return self.folder / "trials" / f"{number:04d}"

    def about(self) -> dict[str, Any]:
        """What sweep.json holds."""
        about = _read_json(self.folder / "sweep.json")
        if about is None or "id" not in about:
            raise InputError(f"{self.folder / 'sweep.json'}: cannot be read; delete the folder")
        return about

    def recipe(self) -> Recipe:
        """The recipe that the sweep began with."""
        path = self.folder / "recipe.yaml"
        return validate_recipe(read_mapping(path), str(path))

    def result(self, number: int) -> dict[str, Any] | None:
        """What trial `number` left; None if it has not ended."""
        return self._of_trial(number, "result.json")

    def progress(self, number: int) -> dict[str, Any] | None:
        """The last report of trial `number`."""
        return self._of_trial(number, "progress.json")

    def write_result(self, number: int, result: dict[str, Any]) -> None:
        """Write down what trial `number` left, in its place."""
        path = self.trial_folder(number) / "result.json"
        write_atomically(path, json.dumps(result).encode())
        Shared(self.home).pass_on(path)

    def pass_on(self) -> None:
        """Let other machines see the sweep's own files."""
        Shared(self.home).pass_on_folder(self.folder)

    def _of_trial(self, number: int, name: str) -> dict[str, Any] | None:
        path = self.trial_folder(number) / name
        Shared(self.home).fetch(path)
        look_again(path.parent)
        return _read_json(path)

    def extended(self, trials: int) -> Recipe:
        """The recipe with so many trials more."""
        recipe = self.recipe()
        search = recipe.search.model_copy(update={"trials": recipe.search.trials + trials})
        return recipe.model_copy(update={"search": search})

    def extend(self, trials: int) -> None:
        """Plan further trials, more than there are or were planned."""
        # Between the two writes it is what it was: finished.
        extended = self.extended(trials)
        self.set_ending(None)
        write_atomically(self.folder / "recipe.yaml", dump_recipe(extended).encode())
        self.pass_on()

    def attempts(self, number: int) -> list[dict[str, Any]]:
        """What earlier attempts of trial `number` left that were set aside."""
        folder, shared = self.trial_folder(number), Shared(self.home)
        if shared.url is not None:
            for name in shared.listing(folder):
                if name.startswith(ATTEMPT) and not (folder / name).exists():
                    shared.fetch(folder / name)
        found = [_read_json(path) for path in sorted(folder.glob(f"{ATTEMPT}*.json"))]
        return [result for result in found if result is not None]

    def set_attempt_aside(self, number: int, next_resources: dict[str, float]) -> None:
        """Make room for a further attempt of trial `number`, and write down what it shall have of a machine."""
        aside = self.trial_folder(number) / f"{ATTEMPT}{len(self.attempts(number)) + 1}.json"
        result = (self.result(number) or {}) | {"next_resources": next_resources}
        write_atomically(aside, json.dumps(result).encode())
        Shared(self.home).pass_on(aside)
        self._clear_attempt(number)

    def whole_result(self, number: int) -> dict[str, Any] | None:
        """What trial `number` left, with its attempts before; None if it has not ended, or is to be tried again."""
        result, attempts = self.result(number), self.attempts(number)
        if result is None:
            return None
        if attempts and is_set_aside(result, attempts[-1]):
            # Whoever set it aside was killed before it was gone.
            self._clear_attempt(number)
            return None
        return result | ({"attempts": attempts} if attempts else {})

    def _clear_attempt(self, number: int) -> None:
        """Remove what an attempt left that was set aside: the next one's time is its own."""
        for name in OF_AN_ATTEMPT:
            path = self.trial_folder(number) / name
            path.unlink(missing_ok=True)
            Shared(self.home).remove(path)

    def ending(self) -> str | None:
        """Why the last session ended: `ended…` for good, `paused…` or `interrupted`; None: it runs, or was killed."""
        return (_read_json(self.folder / "ending.json") or {}).get("reason")

    def set_ending(self, reason: str | None) -> None:
        """Write down why a session ends, or with None that one begins."""
        if reason is None:
            (self.folder / "ending.json").unlink(missing_ok=True)
            (self.folder / "asked.json").unlink(missing_ok=True)
            shared = Shared(self.home)
            shared.remove(self.folder / "ending.json")
            shared.remove(self.folder / "asked.json")
        else:
            write_atomically(self.folder / "ending.json", json.dumps({"reason": reason}).encode())
            self.pass_on()

    def asked(self) -> str | None:
        """What `sweeps pause` or `sweeps stop` asks the driver for."""
        return (_read_json(self.folder / "asked.json") or {}).get("asked")

    def ask(self, what: str) -> None:
        """Ask the driver to `pause` or to `stop`."""
        path = self.folder / "asked.json"
        write_atomically(path, json.dumps({"asked": what}).encode())
        Shared(self.home).pass_on(path)

    def hear(self) -> None:
        """Get what was asked for on another machine; where the bucket does not answer, later."""
        with suppress(InputError, OSError):
            Shared(self.home).fetch(self.folder / "asked.json")
        look_again(self.folder)

    def seconds_driven(self) -> float:
        """Wall time of all sessions so far."""
        return float((_read_json(self.folder / "driven.json") or {}).get("seconds", 0.0))

    def note_seconds_driven(self, seconds: float) -> None:
        """Write down the wall time of all sessions so far."""
        path = self.folder / "driven.json"
        write_atomically(path, json.dumps({"seconds": seconds}).encode())
        # Where the bucket does not answer, later.
        with suppress(InputError, OSError):
            Shared(self.home).pass_on(path)

    @contextmanager
    def driving(self) -> Iterator[Callable[[], bool]]:
        """Be the sweep's only driver; yields what tells whether it still is. Raises InputError if it has one."""
        # Somebody who only asks whether the sweep is driven holds the lock for a moment.
        for _ in range(10):
            with self._lock(alone=True) as held:
                if held():
                    yield held
                    return
            time.sleep(0.1)
        raise InputError(f"sweep `{self.name}` is running already; watch it: sweeps status {self.name}")

    def is_driven(self) -> bool:
        """Whether a process drives the sweep now."""
        with self._lock(alone=False) as held:
            return not held()

    @contextmanager
    def _lock(self, alone: bool) -> Iterator[Callable[[], bool]]:
        """Try to hold the driver's lock: in the folder, and in the ledger's database, which all machines see; yields
        what tells whether it is held."""
        with self._lock_file(alone) as file:
            ours = _locked(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            url = self.recipe().search.storage
            if url is None or not ours:
                yield lambda: ours
                return
            with database_lock(url, str(self.about()["id"]), alone) as held:
                yield held

    def _lock_file(self, alone: bool) -> IO[str]:
        # NFS 4 gives a shared lock to whoever may read, an exclusive one to whoever may write.
        path = self.folder / "driver.lock"
        try:
            return path.open("a+")
        except OSError as error:
            # Another user's sweep may be looked at, and one on a share that is mounted for reading alone.
            if alone or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not path.exists():
                raise
            return path.open()


def is_set_aside(result: dict[str, Any], attempt: dict[str, Any]) -> bool:
    """Whether a result is that of an attempt which has made room for another."""
    return result == {key: value for key, value in attempt.items() if key != "next_resources"}


def look_again(folder: Path) -> None:
    """Let a share see what others have put into a folder, or taken from it: NFS believes for a minute what it knew."""
    with suppress(FileNotFoundError):
        os.listdir(folder)


def remove_checkpoints(shared: Shared, folder: Path) -> None:
    """Remove what a trial that has ended kept of its streaming phase, to go on from."""
    there = [] if shared.url is None else [folder / name for name in shared.listing(folder)]
    for path in {*folder.glob(_CHECKPOINTS), *there}:
        if path.match(_CHECKPOINTS):
            path.unlink(missing_ok=True)
            shared.remove(path)


def refuse_name(home: Path, name: str) -> None:
    """Raise InputError if `name` is no name for a new sweep."""
    sweep = Sweep(home, check_name(name, "--name"))
    if sweep.folder.exists() or Shared(home).fetch(sweep.folder / "sweep.json"):
        raise InputError(f"--name {name}: a sweep of this name exists in {home / 'sweeps'}; resume or delete it")


def create_sweep(
    home: Path,
    name: str | None,
    recipe_name: str,
    recipe: Recipe,
    data_fingerprint: str,
    warm_start: str | None = None,
) -> Sweep:
    """Make a new sweep's folder, whole or not at all. Without `name` it is the recipe's, with a number if taken.

    Args:
        warm_start: the sweep whose trials it takes over.

    Raises:
        InputError: a sweep `name` exists.
    """
    (home / "sweeps").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".new-", dir=home / "sweeps"))
    folder.chmod(0o755)
    about = {
        "id": uuid.uuid4().hex,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data_fingerprint": data_fingerprint,
        "versions": versions(),
    }
    about |= {} if warm_start is None else {"warm_start": warm_start}
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), "utf-8")
    (folder / "sweep.json").write_text(json.dumps(about, indent=2) + "\n")
    number, shared = 1, Shared(home)
    while True:
        sweep = Sweep(home, name or (recipe_name if number == 1 else f"{recipe_name}-{number}"))
        if shared.url is not None:
            # One of this name that another machine began is a folder that is not empty.
            shared.fetch(sweep.folder / "sweep.json")
        try:
            folder.rename(sweep.folder)
            sweep.pass_on()
            return sweep
        except OSError:
            if name is not None:
                shutil.rmtree(folder)
                refuse_name(home, name)
                raise
            if not sweep.folder.exists():
                raise
        number += 1


def find_sweep(home: Path, name: str) -> Sweep:
    """An existing sweep. Raises InputError where there is none of this name."""
    sweep = Sweep(home, name)
    if "/" not in name and name:
        shared = Shared(home)
        for file in ("recipe.yaml", "ending.json", "driven.json", "confirm.json", "sweep.json"):
            if not shared.fetch(sweep.folder / file) and file == "ending.json":
                # It goes on meanwhile, on another machine.
                (sweep.folder / file).unlink(missing_ok=True)
    if "/" in name or not (sweep.folder / "sweep.json").exists():
        known = ", ".join(sorted(path.parent.name for path in (home / "sweeps").glob("[!.]*/sweep.json"))) or "none yet"
        raise InputError(f"no sweep `{name}` in {home / 'sweeps'}; there are: {known}")
    return sweep


def sweep_names(home: Path) -> list[str]:
    """The names of all sweeps, damaged ones too."""
    shared, folder = Shared(home), home / "sweeps"
    names = {path.parent.name for path in folder.glob("[!.]*/recipe.yaml")}
    if shared.url is not None:
        parts = [name.split("/") for name in shared.listing(folder)]
        names |= {first for first, *rest in parts if rest == ["recipe.yaml"]}
    return sorted(names)


def check_same_data(sweep: Sweep) -> None:
    """Raise InputError where the data set is no longer the one that the sweep began with."""
    data = sweep.recipe().data
    if obtain_dataset(sweep.home, data).fingerprint != sweep.about()["data_fingerprint"]:
        raise InputError(
            f"data set `{data}` is not the one that sweep `{sweep.name}` began with: trials on both cannot be "
            f"compared; start a new sweep"
        )


def remove_sweep(sweep: Sweep) -> None:
    """Delete the sweep's folder; the bases that it trained stay."""
    Shared(sweep.home).remove(sweep.folder)
    shutil.rmtree(sweep.folder)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {package: version(package) for package in _PACKAGES}


def _locked(file: IO[str], kind: int) -> bool:
    """Whether the lock is ours now. Raises InputError where files cannot be locked."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise InputError(
            f"{file.name}: cannot be locked: {error.strerror}; SWEEPS_HOME must be where files can be (a share may "
            f"have to be mounted with `flock`)"
        ) from None
    return True


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
