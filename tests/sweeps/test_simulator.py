"""Whole searches in virtual time."""

import math
import time
import tracemalloc
from typing import Any

import pytest

from sweeps.config import Recipe, validate_recipe
from sweeps.memory import base_of
from sweeps.plan import expected_bases, fewest_bases
from sweeps.samplers import Sampler
from sweeps.simulator import Simulation, simulate
from sweeps.space import Params
from tests.conftest import merged

RECIPE: dict[str, Any] = {
    "data": "tiny",
    "config": {"base": {"epochs": 6}},
    "search": {"trials": 40, "streams_per_base": 3, "sampler": "random"},
    "space": {
        "model.width": {"int": [8, 64]},
        "streaming.learning_rate": {"log": [0.001, 0.1]},
    },
}


class Hill:
    """Joint grows with the width and is best at a learning rate of 0.01; an epoch takes 1 s, a streaming phase 2 s."""

    def base_topk(self, params: Params, seed: int) -> list[float]:
        return [0.5 + 0.05 * epoch for epoch in range(6)]

    def epoch_seconds(self, params: Params) -> float:
        return 1.0

    def streamed(self, params: Params, seed: int) -> dict[str, float]:
        width, rate = float(params["model.width"]), float(params["streaming.learning_rate"])
        joint = 0.5 + width / 256 - 0.1 * abs(math.log10(rate) + 2)
        return {"joint": joint, "original_topk": joint, "streaming_topk": joint}

    def streaming_seconds(self, params: Params) -> float:
        return 2.0

    def probe(self, params: Params, seed: int, epoch: int) -> dict[str, float]:
        return self.streamed(params | {"streaming.learning_rate": 0.003}, seed)

    def probe_seconds(self, params: Params) -> float:
        return 0.5


class Flat(Hill):
    """All the same."""

    def streamed(self, params: Params, seed: int) -> dict[str, float]:
        return {"joint": 0.5, "original_topk": 0.5, "streaming_topk": 0.5}


def recipe(space: dict[str, Any] | None = None, **search: Any) -> Recipe:
    return validate_recipe(merged(RECIPE, {"search": search}) | ({} if space is None else {"space": space}), "r")


def spent(run: Simulation, stage: str) -> float:
    return sum(entry.result["stage_seconds"].get(stage, 0.0) for entry in run.entries)


def test_time_is_accounted_for() -> None:
    run = simulate(recipe(), Hill(), slots=2)
    assert [entry.state for entry in run.entries] == ["complete"] * 40
    bases = {base_of(recipe().parsed_space("r"), entry.params) for entry in run.entries}
    assert spent(run, "base") == 6.0 * len(bases)
    assert spent(run, "streaming") == 2.0 * 40
    assert run.busy_seconds == pytest.approx(spent(run, "base") + spent(run, "streaming"))
    assert run.seconds == pytest.approx((run.busy_seconds + run.waiting_seconds) / 2, abs=8)


def test_slots_are_busy() -> None:
    run = simulate(recipe(trials=60), Hill(), slots=8)
    assert run.busy_seconds >= 0.9 * (run.busy_seconds + run.waiting_seconds)


def test_dear_bases_are_streamed_on_more() -> None:
    class Cheap(Hill):
        def epoch_seconds(self, params: Params) -> float:
            return 0.1

        def streamed(self, params: Params, seed: int) -> dict[str, float]:
            return super().streamed(params | {"streaming.learning_rate": 0.01}, seed)

    class Dear(Cheap):
        def epoch_seconds(self, params: Params) -> float:
            return 24.0

    space = recipe().parsed_space("r")
    bases = [
        len({base_of(space, entry.params) for entry in simulate(recipe(), world, slots=1).entries})
        for world in (Cheap(), Dear())
    ]
    assert bases[1] < bases[0]
    assert bases[1] >= 40 / (1.5 * 3), "and yet not many more than the settings that every base gets"
    predicted = fewest_bases(recipe(), space), expected_bases(recipe(), space)
    assert predicted == (9, 14)
    assert all(predicted[0] <= count <= predicted[1] for count in bases), "as a dry run says"


def test_probes_give_up_poor_bases_early() -> None:
    pruning = {"rungs": [2], "reduction_factor": 3}
    # One at a time, in an order that the seed decides.
    whole = simulate(recipe(), Hill(), slots=1)
    run = simulate(recipe(pruning=pruning), Hill(), slots=1)
    given_up = [entry for entry in run.entries if entry.state == "pruned"]
    assert given_up
    assert {entry.result["step"] for entry in given_up} == {2}
    assert all(entry.result["stage_seconds"] == {"base": 2.0, "probe": 0.5} for entry in given_up)
    widths = sorted(entry.params["model.width"] for entry in given_up)  # type: ignore[type-var]
    kept = [entry.params["model.width"] for entry in run.entries if entry.state == "complete"]
    assert widths[len(widths) // 2] < sorted(kept)[len(kept) // 2]  # type: ignore[type-var, operator]
    best = max(entry.joint for entry in whole.entries)
    assert max(entry.joint for entry in run.entries) >= best - 0.03


def test_a_finite_space_ends_when_it_is_covered() -> None:
    space = {"model.width": {"choice": [8, 16]}, "streaming.epochs": {"int": [2, 5]}}
    for sampler in ("tpe", "random", "grid", "nsga2"):
        run = simulate(recipe(space, trials=50, sampler=sampler), Flat(), slots=2)
        tried = [tuple(entry.params.values()) for entry in run.entries if entry.state == "complete"]
        assert sorted(tried) == sorted({(w, e) for w in (8, 16) for e in (2, 3, 4, 5)}), sampler


def test_the_grid_is_walked_base_by_base() -> None:
    space = {"streaming.epochs": {"int": [2, 3]}, "model.width": {"choice": [8, 16]}}
    run = simulate(recipe(space, trials=4, sampler="grid"), Flat(), slots=1)
    order = [(entry.params["model.width"], entry.params["streaming.epochs"]) for entry in run.entries]
    assert order == [(8, 2), (8, 3), (16, 2), (16, 3)]


def test_repeats_become_other_seeds() -> None:
    space = {"model.width": {"choice": [8, 16]}, "streaming.epochs": {"int": [2, 3]}}
    run = simulate(recipe(space, trials=12, repeats="seed"), Flat(), slots=1)
    assert [entry.state for entry in run.entries] == ["complete"] * 12
    tried = {(*entry.params.values(), entry.seed) for entry in run.entries}
    assert len(tried) == 12, "never the same configuration with the same seed"
    assert {entry.seed for entry in run.entries} > {0, 1}


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_ten_thousand_trials_on_64_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    big = recipe(trials=10_000)
    drawing = 0.0
    draw = Sampler.draw

    def timed(*arguments: Any) -> Any:
        nonlocal drawing
        before = time.process_time()
        drawn = draw(*arguments)
        drawing += time.process_time() - before
        return drawn

    monkeypatch.setattr(Sampler, "draw", timed)
    start = time.process_time()
    simulate(big, Hill(), slots=64)
    booking = time.process_time() - start - drawing
    monkeypatch.undo()
    print(f"{booking / 10:.1f} ms a trial, and {drawing / 10:.1f} ms of the random sampler's")
    assert booking / 10_000 < 0.020
    small = recipe(trials=2_000)
    tracemalloc.start()
    run = simulate(small, Hill(), slots=64)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{used / len(run.entries):.0f} bytes a trial")
    assert used / len(run.entries) < 5 * 1024


def test_a_sampler_that_has_settled_is_sent_elsewhere() -> None:
    space = {"model.width": {"int": [8, 64]}, "streaming.epochs": {"int": [2, 9]}}

    class Peak(Hill):
        def streamed(self, params: Params, seed: int) -> dict[str, float]:
            best = params == {"model.width": 8, "streaming.epochs": 2}
            return {"joint": 0.9 if best else 0.5, "original_topk": 0.5, "streaming_topk": 0.5}

    found = validate_recipe(
        RECIPE | {"space": space, "enqueue": [{"model.width": 8, "streaming.epochs": 2}],
                  "search": {"trials": 60, "streams_per_base": 3, "sampler": "tpe"}}, "r"
    )  # fmt: skip
    run = simulate(found, Peak(), slots=2)
    assert [entry.state for entry in run.entries] == ["complete"] * 60, "none is answered while others are left"
    assert len({entry.params["model.width"] for entry in run.entries}) >= 60 / (1.5 * 3)
