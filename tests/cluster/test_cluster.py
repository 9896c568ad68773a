"""A sweep over three machines, tracked on a fourth."""

import pytest

from tests.cluster.team import ClusterHome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_sweep_runs_on_all_machines(home: ClusterHome) -> None:
    out = home.call("sweeps", "run", str(home.recipe("small")), "--address", home.ray.address)
    assert "3 at a time" in out
    home.assert_consistent("small", 8)
    found = home.status("small")
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 8
