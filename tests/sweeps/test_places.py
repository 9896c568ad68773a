"""What a sweep asks a cluster for, and that it gives all of it back."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import merged
from tests.sweeps.commands import RECIPE, Home
from tests.sweeps.raycluster import RayCluster, ray_cluster

LOOK = """
import json
import ray
from ray.util import placement_group_table

ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
free, whole = ray.available_resources(), ray.cluster_resources()
print(json.dumps({"free": free.get("CPU", 0.0), "whole": whole["CPU"], "asked": len(placement_group_table())}))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trials_after_the_first_ask_a_cluster_for_nothing(tmp_path: Path) -> None:
    # Cores are left over: what is asked for and taken back at once would be had, and half of it lost.
    home = Home(tmp_path)
    recipe = merged(RECIPE, {"search": {"trials": 12, "concurrency": 2}})
    with ray_cluster(4) as cluster:
        home.settings = cluster.environment
        home.call("sweeps", "run", str(home.recipe("places", **recipe)), "--address", cluster.address)
        home.assert_consistent("places", 12)
        found = look(cluster)
    assert found["free"] == found["whole"]
    assert found["asked"] == 2


def look(cluster: RayCluster) -> dict[str, Any]:
    """What is free on a cluster, and how many placement groups were ever asked for."""
    environment = os.environ | cluster.environment | {"RAY_ADDRESS": cluster.address}
    command = [sys.executable, "-c", LOOK]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found
