"""New base or one more streaming setting: the direction of the choice where it is plain."""

import numpy as np
import pytest

from sweeps.gain import next_base


def test_the_better_base_is_streamed_on() -> None:
    joints = {"a": [0.50, 0.52], "b": [0.70, 0.72], "c": [0.60, 0.62]}
    assert next_base(joints, ["a", "b", "c"], base_seconds=1000, streaming_seconds=1) == "b"


def test_a_cheap_base_is_worth_more_than_the_next_setting_on_poor_ones() -> None:
    joints = {"a": [0.50, 0.51], "b": [0.70, 0.71], "c": [0.60, 0.61]}
    assert next_base(joints, ["a"], base_seconds=0.01, streaming_seconds=1) is None


def test_the_dearer_a_base_the_longer_one_streams() -> None:
    joints = {"a": [0.50, 0.50], "b": [0.62, 0.62], "c": [0.60, 0.60]}
    assert [next_base(joints, list(joints), cost, 1.0) for cost in (0.01, 10_000)] == [None, "b"]


def test_without_an_open_base_there_is_only_a_new_one() -> None:
    assert next_base({"a": [0.5, 0.6], "b": [0.5]}, [], 1000, 1) is None


def test_equal_values_are_no_trouble() -> None:
    assert next_base({"a": [0.5, 0.5], "b": [0.5, 0.5]}, ["a", "b"], 100, 1) in ("a", "b", None)


@pytest.mark.parametrize("ratio", [5, 70])
def test_expected_gain_agrees_with_drawing(ratio: float) -> None:
    # One base that is known well and one that is not: the choice is that of a simulation with the same model.
    joints = {"known": [0.60, 0.64, 0.56, 0.62, 0.58, 0.60], "new": [0.59, 0.63], "low": [0.40, 0.44, 0.36]}
    chosen = next_base(joints, ["known", "new"], ratio, 1.0)
    rng = np.random.default_rng(1)
    means = np.array([np.mean(v) for v in joints.values()])
    counts = np.array([len(v) for v in joints.values()])
    residuals = np.concatenate([np.array(v) - np.mean(v) for v in joints.values()])
    within = float(np.sqrt(np.square(residuals).sum() / (len(residuals) - 3)))
    between = float(np.sqrt(means.var(ddof=1) - within**2 * (1 / counts).mean()))
    shrink = within**2 / between**2

    def rate(mean: float, unsure: float, first: float) -> float:
        base = rng.normal(mean, unsure, 200_000)
        gains = []
        for k in (1, 2, 4, 8, 16):
            best = base + within * rng.normal(size=(k, len(base))).max(axis=0)
            gains.append(np.maximum(best - 0.64, 0).mean() / (first + k))
        return float(max(gains))

    rates: dict[str | None, float] = {None: rate(means.mean(), between, ratio)}
    for i, name in ((0, "known"), (1, "new")):
        mean = (counts[i] * means[i] + shrink * means.mean()) / (counts[i] + shrink)
        rates[name] = rate(mean, within / np.sqrt(counts[i] + shrink), 0)
    assert chosen == max(rates, key=lambda name: rates[name])
