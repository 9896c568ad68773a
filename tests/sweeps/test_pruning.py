"""When a base is given up: exact decisions for known curves."""

from typing import Any

import pytest

from sweeps.config import PruningConfig
from sweeps.ledger import Entry
from sweeps.pruning import Pruner, rungs_of

# Thesis, table 4: base, original and streaming top-5; row 7 is its pick (2x expansion, 32x reduction).
TABLE_4 = [
    (77.4, 56.2, 27.3), (87.8, 76.3, 69.8), (90.3, 84.3, 76.7), (89.1, 63.7, 92.6), (88.6, 79.6, 89.3),
    (86.4, 85.8, 71.9), (85.9, 82.3, 71.6), (86.8, 86.2, 75.4), (74.2, 76.9, 69.2), (76.1, 69.1, 74.4),
]  # fmt: skip
PICK = 7


def entry(number: int, enqueued: int | None = None) -> Entry:
    return Entry(number, "running", {}, enqueued, None, {})


def own_base(entry: Entry) -> str:
    """A base of its own for every trial."""
    return str(entry.number)


def report(epoch: int, topk: float, joint: float | None = None) -> dict[str, Any]:
    values: dict[str, Any] = {"phase": "base", "epoch": epoch, "base_topk": topk}
    if joint is not None:
        values |= {"rung": epoch, "probe_joint": joint, "probe_original_topk": joint, "probe_streaming_topk": joint}
    return values


def probed(pruner: Pruner, joints: list[float]) -> list[bool]:
    """Which of these go on, one after the other at one rung."""
    return [pruner.judge(entry(i), report(2, 0.5, joint)) is None for i, joint in enumerate(joints)]


def test_a_rung_keeps_the_best_third_of_those_that_came_so_far() -> None:
    pruner = Pruner(PruningConfig(rungs=(2,), reduction_factor=3), [], own_base)
    # The first two cannot be judged; the third is the best of three; of six two places go on.
    assert probed(pruner, [0.5, 0.4, 0.6, 0.55, 0.3, 0.58, 0.61]) == [True, True, True, False, False, True, True]


def test_the_reason_names_place_and_epoch() -> None:
    pruner = Pruner(PruningConfig(rungs=(2,), reduction_factor=2), [], own_base)
    probed(pruner, [0.5])
    verdict = pruner.judge(entry(1), report(2, 0.9, 0.25))
    assert verdict is not None
    assert (verdict.step, verdict.reason) == (2, "probe after base epoch 2: joint 25.0, place 2 of 2")
    assert verdict.result() | {"error": ""} == {
        "state": "pruned", "stage": "base", "step": 2, "error": "",
        "probe": {"joint": 0.25, "original_topk": 0.25, "streaming_topk": 0.25},
    }  # fmt: skip


def test_base_accuracy_ranks_nothing() -> None:
    pruner = Pruner(PruningConfig(rungs=(2,), margin=0.2), [], own_base)
    # 15 points below the median is no failure to learn.
    for number, topk in enumerate([0.8, 0.8, 0.8, 0.8, 0.65]):
        assert pruner.judge(entry(number), report(1, topk)) is None


def test_what_fails_to_learn_stops() -> None:
    pruner = Pruner(PruningConfig(margin=0.2), [], own_base)
    for number in range(4):
        assert pruner.judge(entry(number), report(1, 0.1 if number == 0 else 0.8)) is None, "too few to compare with"
    verdict = pruner.judge(entry(9), report(1, 0.55))
    assert verdict is not None
    assert verdict.reason == "fails to learn: base top-k 55.0, the median of 4 others 80.0, after base epoch 1"
    assert verdict.probe is None
    assert pruner.judge(entry(10), report(2, 0.55)) is None, "another epoch has a median of its own"


def test_given_configurations_are_compared_with_and_never_given_up() -> None:
    pruner = Pruner(PruningConfig(rungs=(2,), reduction_factor=2), [], own_base)
    for number, joint in enumerate([0.5, 0.6, 0.1]):
        assert pruner.judge(entry(number, enqueued=number), report(2, 0.5, joint)) is None
    assert pruner.judge(entry(3), report(2, 0.5, 0.55)) is None
    assert pruner.judge(entry(4), report(2, 0.5, 0.52)) is not None


def test_a_base_that_is_wanted_again_goes_on_from_where_it_was() -> None:
    pruner = Pruner(PruningConfig(rungs=(2, 4), reduction_factor=2), [], lambda entry: str(entry.number % 10))
    for trial, joint in enumerate([0.7, 0.6]):
        pruner.judge(entry(trial), report(2, 0.5, joint))
    assert pruner.judge(entry(2), report(2, 0.5, 0.3)) is not None
    # Another trial of the same base tells of its epochs so far again: that is no second base at this rung.
    assert pruner.judge(entry(12), report(1, 0.4)) is None
    assert pruner.judge(entry(12), report(2, 0.5, 0.3)) is None
    assert pruner.judge(entry(3), report(2, 0.5, 0.65)) is None, "second of four"
    # From there on it is judged.
    pruner.judge(entry(0), report(4, 0.5, 0.7))
    assert pruner.judge(entry(12), report(4, 0.5, 0.3)) is not None


def test_streaming_reports_are_not_judged() -> None:
    assert (
        Pruner(PruningConfig(), [], own_base).judge(entry(0), {"phase": "streaming", "epoch": 1, "joint": 0.1}) is None
    )


def test_a_later_session_knows_the_rungs() -> None:
    first = [report(2, 0.5, joint) for joint in (0.5, 0.6, 0.7)]
    ended = [Entry(i, "complete", {}, None, None, {"history": [r], "base_reused": False}) for i, r in enumerate(first)]
    # A trial on a reused base tells of it again: it counts once.
    ended.append(Entry(3, "complete", {}, None, None, {"history": [first[2]], "base_reused": True}))
    later = Pruner(PruningConfig(rungs=(2,), reduction_factor=4), ended, own_base)
    assert later.judge(entry(4), report(2, 0.5, 0.69)) is not None, "second of four, and one goes on"


@pytest.mark.parametrize("order", [range(10), range(9, -1, -1), [7, 0, 3, 4, 1, 2, 5, 6, 8, 9]])
def test_the_thesis_pick_is_kept(order: list[int]) -> None:
    pruner = Pruner(PruningConfig(rungs=(2,), reduction_factor=3, margin=0.15), [], own_base)
    kept = []
    for number in order:
        base, original, streaming = (value / 100 for value in TABLE_4[number])
        if pruner.judge(entry(number), report(2, base, 0.7 * original + 0.3 * streaming)) is None:
            kept.append(number)
    assert PICK in kept
    assert len(kept) < 10


def test_rungs_of_networks_of_other_cost() -> None:
    config = PruningConfig(rungs=(2, 4, 8))
    assert rungs_of(config, 12, 1.0) == {2: 2, 4: 4, 8: 8}
    assert rungs_of(config, 8, 1.0) == {2: 2, 4: 4}, "a rung at the end judges nothing"
    assert rungs_of(config, 12, 2.0) == {1: 2, 2: 4, 4: 8}
    assert rungs_of(config, 12, 0.5) == {4: 2, 8: 4}
    assert rungs_of(config, 12, 8.0) == {1: 8}, "an epoch is one rung, the last one"


def test_what_was_passed_before_the_driver_died_is_not_judged_again() -> None:
    history = {"history": [report(2, 0.5, 0.9)], "base_reused": False}
    others = [Entry(i, "complete", {}, None, None, history) for i in range(1, 4)]
    config = PruningConfig(rungs=(2,), reduction_factor=2)
    assert Pruner(config, others, own_base, passed={"0": 2}).judge(entry(0), report(2, 0.5, 0.1)) is None
    # At the last epoch that it has said the verdict may be missing.
    assert Pruner(config, others, own_base, passed={"0": 1}).judge(entry(0), report(2, 0.5, 0.1)) is not None
