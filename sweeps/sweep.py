"""A sweep as a folder below `sweeps/`: its recipe, its ledger, its trials, who drives it.

sweep.json      id, creation time, versions
recipe.yaml     the recipe, complete, as it was when the sweep began
ledger.db       the Optuna study
trials/0007/    result.json, progress.json, error.txt of trial 7
leaderboard.csv, report.md, result.png    written at the end
"""

import fcntl
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from senet.data.store import check_name
from senet.errors import InputError
from senet.yamlfile import read_mapping
from sweeps.config import Recipe, dump_recipe, validate_recipe

_PACKAGES = ("senet-sweeps", "torch", "ray", "optuna", "mlflow")


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
        about: dict[str, Any] = json.loads((self.folder / "sweep.json").read_text())
        return about

    def recipe(self) -> Recipe:
        """The recipe that the sweep began with."""
        path = self.folder / "recipe.yaml"
        return validate_recipe(read_mapping(path), str(path))

    def result(self, number: int) -> dict[str, Any] | None:
        """What trial `number` left; None if it has not ended."""
        return _read_json(self.trial_folder(number) / "result.json")

    def progress(self, number: int) -> dict[str, Any] | None:
        """The last report of trial `number`."""
        return _read_json(self.trial_folder(number) / "progress.json")

    @contextmanager
    def driving(self) -> Iterator[None]:
        """Be the sweep's only driver. Raises InputError if it has one."""
        with (self.folder / "driver.lock").open("a") as file:
            # Somebody who only asks whether the sweep is driven holds the lock for a moment.
            for patience in range(10, -1, -1):
                if _locked(file.fileno(), fcntl.LOCK_EX):
                    break
                if not patience:
                    raise InputError(f"sweep `{self.name}` is running already; watch it: sweeps status {self.name}")
                time.sleep(0.1)
            yield

    def is_driven(self) -> bool:
        """Whether a process drives the sweep now."""
        with (self.folder / "driver.lock").open("a") as file:
            return not _locked(file.fileno(), fcntl.LOCK_SH)


def create_sweep(home: Path, name: str | None, recipe_name: str, recipe: Recipe) -> Sweep:
    """Make a new sweep's folder. Without `name` it is the recipe's, with a number if that is taken.

    Raises:
        InputError: a sweep `name` exists.
    """
    if name is not None:
        sweep = Sweep(home, check_name(name, "--name"))
        if sweep.folder.exists():
            raise InputError(
                f"--name {name}: a sweep of this name exists in {sweep.folder.parent}; resume or delete it"
            )
        return _written(sweep, recipe)
    number = 1
    while (sweep := Sweep(home, recipe_name if number == 1 else f"{recipe_name}-{number}")).folder.exists():
        number += 1
    return _written(sweep, recipe)


def find_sweep(home: Path, name: str) -> Sweep:
    """An existing sweep. Raises InputError where there is none of this name."""
    sweep = Sweep(home, name)
    if "/" in name or not (sweep.folder / "sweep.json").exists():
        known = ", ".join(sorted(path.parent.name for path in (home / "sweeps").glob("*/sweep.json"))) or "none yet"
        raise InputError(f"no sweep `{name}` in {home / 'sweeps'}; there are: {known}")
    return sweep


def remove_sweep(sweep: Sweep) -> None:
    """Delete the sweep's folder; the bases that it trained stay."""
    shutil.rmtree(sweep.folder)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {package: version(package) for package in _PACKAGES}


def _locked(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _written(sweep: Sweep, recipe: Recipe) -> Sweep:
    sweep.folder.mkdir(parents=True)
    (sweep.folder / "recipe.yaml").write_text(dump_recipe(recipe))
    about = {"id": uuid.uuid4().hex, "created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions()}
    (sweep.folder / "sweep.json").write_text(json.dumps(about, indent=2) + "\n")
    return sweep


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value
