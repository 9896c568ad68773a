"""What several tests of the search share."""

from collections.abc import Iterator

import pytest

from tests.sweeps.postgres import PASSWORD, Postgres, cluster, installed


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
