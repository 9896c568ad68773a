"""A cluster for each test, and one tracking server for all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.machines import Namespaces, OneNamespace, why_no_namespaces
from tests.cluster.team import ClusterHome, RayCluster, Tracking, tracking_server
from tests.sweeps.postgres import installed

Lan = Namespaces | OneNamespace


@pytest.fixture(scope="package")
def lan(request: pytest.FixtureRequest) -> Iterator[Lan]:
    """A switch for machines; where those cannot be made, or a test asks for it, all is on this one."""
    alone = getattr(request, "param", None) == "one namespace"
    made = OneNamespace() if alone or why_no_namespaces() else Namespaces()
    yield made
    made.close()


@pytest.fixture(scope="package")
def tracking(lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    """The team's tracking server."""
    if installed() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with tracking_server(lan, tmp_path_factory.mktemp("tracking")) as running:
        yield running


@pytest.fixture
def ray(lan: Lan, tracking: Tracking, tmp_path: Path) -> Iterator[RayCluster]:
    """A head and two workers."""
    cluster = RayCluster(lan, tracking, tmp_path)
    try:
        cluster.start_head()
        for name in ("worker-1", "worker-2"):
            cluster.start_worker(name)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def home(ray: RayCluster) -> Iterator[ClusterHome]:
    """The folder that the machines share."""
    made = ClusterHome(ray)
    yield made
    made.close()
