"""A cluster for each test, and one tracking server for all of them."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.machines import Namespaces, OneNamespace, why_no_namespaces
from tests.cluster.team import ClusterHome, RayCluster, Tracking, tracking_server
from tests.sweeps.postgres import installed


@pytest.fixture(scope="session")
def lan() -> Iterator[Namespaces | OneNamespace]:
    """A switch for machines; where those cannot be made, all is on this one."""
    made = OneNamespace() if why_no_namespaces() else Namespaces()
    yield made
    made.close()


@pytest.fixture(scope="session")
def tracking(lan: Namespaces | OneNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    """The team's tracking server."""
    if installed() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tracking_server(lan, tmp_path_factory.mktemp("tracking"), port) as running:
        yield running


@pytest.fixture
def ray(lan: Namespaces | OneNamespace, tracking: Tracking, tmp_path: Path) -> Iterator[RayCluster]:
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
def home(ray: RayCluster) -> ClusterHome:
    """The folder that the machines share."""
    return ClusterHome(ray)
