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

# As many bases as are begun.
WIDE = RECIPE["space"] | {"base.learning_rate": {"log": [0.0001, 0.1]}}


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


@pytest.mark.parametrize("slots", [1, 5])
def test_repeats_become_other_seeds(slots: int) -> None:
    space = {"model.width": {"choice": [8, 16]}, "streaming.epochs": {"int": [2, 3]}}
    run = simulate(recipe(space, trials=12, repeats="seed"), Flat(), slots=slots)
    assert [entry.state for entry in run.entries] == ["complete"] * 12
    tried = {(*entry.params.values(), entry.seed) for entry in run.entries}
    assert len(tried) == 12, "never the same configuration with the same seed"
    assert {entry.seed for entry in run.entries} > {0, 1}


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_ten_thousand_trials_on_64_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    big = recipe(WIDE, trials=10_000)
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
    run = simulate(big, Hill(), slots=64)
    took = time.process_time() - start
    monkeypatch.undo()
    print(f"{(took - drawing) / 10:.1f} ms a trial, and {drawing / 10:.1f} ms of the random sampler's draws")
    assert len({base_of(big.parsed_space("r"), entry.params) for entry in run.entries}) > 1_000
    assert took / 10_000 < 0.020, "with its draws"


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_thousands_of_trials_in_little_memory() -> None:
    # What is made once is no trial's.
    simulate(recipe(WIDE, trials=100), Hill(), slots=64)
    tracemalloc.start()
    simulate(recipe(WIDE, trials=4_000), Hill(), slots=64)
    # At the most, while the search was alive: of its end only the results are left.
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{most / 4_000:.0f} bytes a trial")
    assert most / 4_000 < 5 * 1024


@pytest.mark.slow
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


def tried(run: Simulation, path: str) -> set[Any]:
    return {entry.params.get(path) for entry in run.entries if entry.answers is None}


@pytest.mark.parametrize("slots", [pytest.param(1, marks=pytest.mark.soak), pytest.param(4, marks=pytest.mark.slow)])
def test_a_sampler_that_repeats_itself_does_not_stop_the_search(slots: int) -> None:
    class Rising(Hill):
        def streamed(self, params: Params, seed: int) -> dict[str, float]:
            joint = float(params["streaming.learning_rate"]) * 50
            return {"joint": joint, "original_topk": joint, "streaming_topk": joint}

    space = {"streaming.learning_rate": {"float": [0.001, 0.01]}}
    run = simulate(recipe(space, trials=20, sampler="gp"), Rising(), slots=slots)
    assert [entry.state for entry in run.entries] == ["complete"] * 20


def test_a_space_whose_configurations_only_seem_to_differ_is_covered() -> None:
    # A ResNet has no reduction: four configurations, however many reductions there are.
    space = {
        "model.name": {"choice": ["resnet18", "resnet34"]},
        "model.reduction": {"float": [2, 32]},
        "streaming.epochs": {"int": [1, 2]},
    }
    run = simulate(recipe(space, trials=30), Flat(), slots=2)
    states = [entry.state for entry in run.entries]
    assert states.count("complete") == 4
    assert len(states) - 4 == states.count("answered") <= 5
    again = simulate(recipe(space, trials=12, repeats="seed"), Flat(), slots=2)
    assert [entry.state for entry in again.entries] == ["complete"] * 12
    first = [entry.params for entry in again.entries if not entry.seed]
    assert all(entry.params in first for entry in again.entries), "one row each"


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_bases_without_streaming_settings_are_not_answered_again_and_again(sampler: str) -> None:
    run = simulate(recipe({"base.learning_rate": {"log": [0.01, 1]}}, trials=8, sampler=sampler), Flat(), slots=1)
    assert [entry.state for entry in run.entries] == ["complete"] * 8
    space = {"base.learning_rate": {"log": [0.01, 1]}, "streaming.freeze_batchnorm": {"choice": [False, True]}}
    run = simulate(recipe(space, trials=8, sampler=sampler), Flat(), slots=1)
    assert [entry.state for entry in run.entries] == ["complete"] * 8


@pytest.mark.parametrize("slots", [1, 4])
def test_further_seeds_do_not_take_all_trials(slots: int) -> None:
    run = simulate(recipe({"model.width": {"int": [1, 64]}}, trials=30, repeats="seed"), Flat(), slots=slots)
    assert len(tried(run, "model.width")) >= 15
    bases = [base_of(recipe().parsed_space("r"), entry.params, entry.seed) for entry in run.entries]
    assert spent(run, "base") == 6.0 * len(set(bases)), "no base is trained twice"


def test_all_given_configurations_are_run_with_all_seeds_before_a_finite_space_ends() -> None:
    space = {"model.width": {"choice": [8, 16]}}
    given = [{"model.width": 8}, {"model.width": 16}]
    for slots in (1, 4):
        found = recipe(space, trials=9, replicates=2, sampler="grid").model_copy(update={"enqueue": given})
        run = simulate(found, Flat(), slots=slots)
        assert sorted((entry.params["model.width"], entry.seed) for entry in run.entries) == [
            (8, 0), (8, 1), (16, 0), (16, 1)
        ]  # fmt: skip


PRUNED = {"rungs": [2], "reduction_factor": 2}


def test_a_probe_takes_its_time_also_where_it_is_the_last() -> None:
    run = simulate(recipe(trials=30, pruning=PRUNED), Hill(), slots=2)
    assert any(entry.state == "pruned" for entry in run.entries)
    booked = sum(spent(run, stage) for stage in ("base", "probe", "streaming"))
    assert run.busy_seconds == pytest.approx(booked)


def test_further_seeds_are_never_given_up() -> None:
    class Noisy(Hill):
        def streamed(self, params: Params, seed: int) -> dict[str, float]:
            joint = 0.5 - 0.01 * seed
            return {"joint": joint, "original_topk": joint, "streaming_topk": joint}

    space = {"model.width": {"int": [8, 12]}}
    run = simulate(recipe(space, trials=30, repeats="seed", pruning=PRUNED), Noisy(), slots=2)
    further = [entry for entry in run.entries if entry.seed]
    assert further
    assert {entry.state for entry in further} == {"complete"}


def test_networks_of_unlike_cost_are_probed_at_equal_cost() -> None:
    class Dear(Flat):
        def epoch_seconds(self, params: Params) -> float:
            return 2.0 if params["model.width"] == 64 else 1.0

    space = {"model.width": {"choice": [8, 64]}}
    config = {"base": {"epochs": 6}, "model": {"width": 8}}
    for equal, epochs in ((True, {8: 4, 64: 2}), (False, {8: 4, 64: 4})):
        pruning = {"rungs": [4], "reduction_factor": 2, "equal_cost": equal}
        changes = {"search": {"trials": 2, "pruning": pruning}, "config": config}
        found = validate_recipe(merged(RECIPE, changes) | {"space": space}, "r")
        run = simulate(found, Dear(), slots=2)
        probed = {
            entry.params["model.width"]: report["epoch"]
            for entry in run.entries
            for report in entry.result["history"]
            if "rung" in report
        }
        assert probed == epochs


@pytest.mark.parametrize("budget", [{"hours": 30 / 3600}, {"device_hours": 60 / 3600}])
def test_a_budget_ends_a_simulated_search(budget: dict[str, float]) -> None:
    run = simulate(recipe(trials=500, budget=budget), Hill(), slots=2)
    assert 5 <= len(run.entries) < 60
