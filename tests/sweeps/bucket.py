"""A home in a bucket, for tests: commands whose driver and trials have disks of their own, and trials without Ray."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from senet.home import copy_of
from sweeps.config import validate_recipe
from sweeps.sweep import create_sweep
from sweeps.trial import run_trial
from tests.sweeps.commands import RECIPE, Home
from tests.sweeps.postgres import PASSWORD

S3 = {"AWS_ACCESS_KEY_ID": "ada", "AWS_SECRET_ACCESS_KEY": "not-real", "AWS_DEFAULT_REGION": "us-east-1"}
# A grid, so that the search decides alike in every run, however long its trials take.
GRID: dict[str, Any] = {
    "data": "s3://lab/tiny",
    "search": {"trials": 4, "sampler": "grid", "concurrency": 1},
    "space": {"model.expansion": {"choice": [1, 2]}, "streaming.learning_rate": {"choice": [0.003, 0.03]}},
    "enqueue": [{"model.expansion": 1, "streaming.learning_rate": 0.003}],
}


class BucketHome(Home):
    """Commands whose home is a bucket; the driver has one disk, its trials have another."""

    def __init__(self, folder: Path, server: str) -> None:
        super().__init__(folder)
        self.server = server
        self.tracking_server = ""

    def program(self, command: str) -> list[str]:
        code = f"""
import os, sys
os.environ |= {S3 | {"AWS_ENDPOINT_URL": self.server, "PGPASSWORD": PASSWORD}}
os.environ["SWEEPS_HOME"] = "s3://lab/home"
os.environ["SWEEPS_CACHE"] = {str(self.folder / "driver")!r}
os.environ["MLFLOW_TRACKING_URI"] = {self.tracking_server!r}
import sweeps.environment
set_environment = sweeps.environment.set_ray_environment
def with_a_disk_of_its_own(local):
    set_environment(local)
    import sweeps.run
    sweeps.run._WORKER_ENVIRONMENT["SWEEPS_CACHE"] = {str(self.folder / "worker")!r}
sweeps.environment.set_ray_environment = with_a_disk_of_its_own
import sweeps.cli
sys.exit(sweeps.cli.main())
"""
        return [sys.executable, "-c", code]

    def lose_machines(self) -> None:
        """Take both disks away."""
        for disk in ("driver", "worker"):
            shutil.rmtree(self.folder / disk, ignore_errors=True)


class Machines:
    """Trials without Ray, each on a machine with a disk of its own; the driver has another."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
        self._folder, self._monkeypatch, self._url, self.trainer = folder, monkeypatch, url, "x"
        self.at("driver")
        driver = folder / "home" if url is None else copy_of(url)
        recipe = validate_recipe(RECIPE | GRID, "r")
        self.sweep = create_sweep(driver, None, "x", recipe, "data")
        self._config = recipe.parsed_space("r").config({"streaming.learning_rate": 0.01})

    def at(self, machine: str) -> None:
        """Be at one of the machines."""
        self._monkeypatch.setenv("SWEEPS_CACHE", str(self._folder / machine))

    def run(
        self,
        machine: str,
        number: int,
        stop_after: tuple[str, int] | None = None,
        everything: list[dict[str, Any]] | None = None,
    ) -> list[tuple[str, int]]:
        """Run a trial on a machine, or until it is cut off after an epoch; returns its reports of epochs.

        Args:
            everything: is given all reports.
        """
        heard: list[tuple[str, int]] = []

        def report(said: dict[str, Any]) -> None:
            if everything is not None:
                everything.append(said)
            if said["phase"] in ("base", "streaming"):
                heard.append((said["phase"], said["epoch"]))
                if heard[-1] == stop_after:
                    raise SystemExit

        self.at(machine)
        self._monkeypatch.setattr(tune, "report", report)
        assignment = {
            "config": self._config.model_dump(mode="json"),
            "home": str(self.sweep.home),
            "bucket": self._url,
            "folder": str(self.sweep.trial_folder(number)),
            "resources": {"cpu": 1, "gpu": 0},
            "trainer": f"{self.trainer}/{number}",
            "rungs": [],
            "probe": {},
        }
        try:
            run_trial(assignment)
        except SystemExit:
            assert stop_after is not None
        self.at("driver")
        return heard
