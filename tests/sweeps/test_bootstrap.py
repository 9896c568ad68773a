"""The paired interval of a confirmation, against what is known of it."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from sweeps.confirm.bootstrap import paired_interval

# They draw for long: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow


def test_differences_without_spread_have_no_width() -> None:
    found = paired_interval(np.full((4, 30), 1.0), np.zeros((4, 20)), 0.7)
    assert found == pytest.approx((0.7, 0.7, 0.7))


def test_pictures_alone_and_seeds_alone_give_their_known_width() -> None:
    rng = np.random.default_rng(0)
    pictures = np.repeat(rng.normal(size=(1, 400)), 6, axis=0)
    found = paired_interval(pictures, np.zeros((6, 10)), 1.0)
    expected = 2 * 1.96 * pictures[0].std() / 400**0.5
    assert found.high - found.low == pytest.approx(expected, rel=0.05)
    for count in (2, 3, 30):
        seeds = np.repeat(rng.normal(size=(count, 1)), 50, axis=1)
        found = paired_interval(np.zeros((count, 10)), seeds, 0.0)
        expected = 2 * student.ppf(0.975, count - 1) * seeds[:, 0].std(ddof=1) / count**0.5
        assert found.high - found.low == pytest.approx(expected, rel=0.05)
        assert found == paired_interval(np.zeros((count, 10)), seeds, 0.0), "the same every time"


@pytest.mark.parametrize("luck", [0.0, 0.02, 0.06])
def test_the_interval_holds_the_truth_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch, luck: float) -> None:
    # Five seeds, whose luck both parts share; pictures of varying difficulty, and hits that are drawn.
    monkeypatch.setattr("sweeps.confirm.bootstrap.REPLICATES", 400)
    rng = np.random.default_rng(0)

    def part(of_seeds: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        easy = rng.uniform(0.3, 0.7, (1, 200))
        first = rng.random((5, 200)) < easy + 0.06 + of_seeds + rng.uniform(-0.1, 0.1, (1, 200))
        return first.astype(float) - (rng.random((5, 200)) < easy)

    drawn = rng.normal(0, luck, (300, 5, 1))
    found = [paired_interval(part(one), part(one), 0.7) for one in drawn]
    held = sum(interval.low <= 0.06 <= interval.high for interval in found) / len(found)
    assert 0.93 <= held <= 0.999
