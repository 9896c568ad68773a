"""What several tests of the search share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.sweeps.postgres import PASSWORD, Postgres, cluster, installed

if TYPE_CHECKING:
    from tests.sweeps.session import Session


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL cluster of the tests' own."""
    programs = installed()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with cluster(programs) as running:
        yield running


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq knows the password."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home for all tests of a file, since making a tracking database takes seconds."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def session(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> "Callable[..., Session]":
    """Makes a driver without Ray, of a search and resources."""
    from tests.sweeps.session import Session

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lambda search=None, resources=None: Session(tracked, search or {}, resources or {})
