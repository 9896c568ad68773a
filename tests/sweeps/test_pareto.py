"""Two objectives: original against streaming accuracy, several optima."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from senet.config import read_config
from sweeps.cli import main
from sweeps.config import Recipe, validate_recipe
from sweeps.ledger import Entry
from sweeps.memory import Memory, base_of
from sweeps.pareto import ranks
from sweeps.pruning import Pruner, Verdict
from sweeps.simulator import simulate
from sweeps.space import Params
from tests.conftest import merged, refusal
from tests.sweeps.commands import RECIPE as SMALL
from tests.sweeps.commands import Home
from tests.sweeps.made_up import made_up, result

RECIPE: dict[str, Any] = {
    "data": "tiny",
    "config": {"base": {"epochs": 6}},
    "objective": {"mode": "pareto"},
    "search": {"trials": 60, "streams_per_base": 3, "sampler": "random"},
    "space": {"model.width": {"int": [8, 64]}, "streaming.learning_rate": {"log": [0.001, 0.1]}},
}


class Trade:
    """A larger rate streams better and forgets more; a larger width is better at both; an epoch takes 1 s."""

    def base_topk(self, params: Params, seed: int) -> list[float]:
        return [0.5 + 0.05 * epoch for epoch in range(6)]

    def epoch_seconds(self, params: Params) -> float:
        return 1.0

    def streamed(self, params: Params, seed: int) -> dict[str, float]:
        width, rate = float(params["model.width"]), float(params["streaming.learning_rate"])
        streaming = min(1.0, 3 * rate**0.5) * (0.5 + width / 128)
        original = (1 - 2 * rate**0.5) * (0.5 + width / 128)
        return {"joint": 0.7 * original + 0.3 * streaming, "original_topk": original, "streaming_topk": streaming}

    def streaming_seconds(self, params: Params) -> float:
        return 2.0

    def probe(self, params: Params, seed: int, epoch: int) -> dict[str, float]:
        return self.streamed(params | {"streaming.learning_rate": 0.003}, seed)

    def probe_seconds(self, params: Params) -> float:
        return 0.5


WEIGHTS = {8: [0.9, 0.1], 16: [0.5, 0.5], 32: [0.1, 0.9]}


def recipe(**search: Any) -> Recipe:
    return validate_recipe(merged(RECIPE, {"search": search}), "r")


def points(entries: list[Entry]) -> list[tuple[float, float]]:
    found = [entry.result["metrics"] for entry in entries if entry.state == "complete"]
    return [(one["original_topk"], one["streaming_topk"]) for one in found]


def test_ranks_are_those_of_fronts_that_are_peeled_off() -> None:
    dice = random.Random(0)
    for _ in range(50):
        cloud = [(dice.randint(0, 6) / 6, dice.randint(0, 6) / 6) for _ in range(30)]
        left, expected, rank = set(range(30)), [0] * 30, 0
        while left:
            edge = {
                i
                for i in left
                if not any(
                    cloud[j] != cloud[i] and cloud[j][0] >= cloud[i][0] and cloud[j][1] >= cloud[i][1] for j in left
                )
            }
            for i in edge:
                expected[i] = rank
            left, rank = left - edge, rank + 1
        assert ranks(cloud) == expected


def hypervolume(cloud: list[tuple[float, float]]) -> float:
    """The area that the points beat, from (0, 0)."""
    area, height = 0.0, 0.0
    for x, y in sorted(cloud, reverse=True):
        if y > height:
            area, height = area + x * (y - height), y
    return area


# The Gaussian process begins after ten trials, and takes a second for each that it suggests.
@pytest.mark.parametrize(
    ("sampler", "trials"),
    [("tpe", 30), ("nsga2", 30), ("qmc", 30), ("random", 30), pytest.param("gp", 14, marks=pytest.mark.slow)],
)
def test_every_sampler_that_can_searches_the_front(sampler: str, trials: int) -> None:
    run = simulate(recipe(sampler=sampler, trials=trials), Trade(), slots=2)
    assert [entry.state for entry in run.entries] == ["complete"] * trials
    space = recipe().parsed_space("r")
    bases = {base_of(space, entry.params) for entry in run.entries}
    assert trials // 5 <= len(bases) <= -(-trials // 3), "bases are shared as with one objective"
    # The best that there is: width 64 at all rates, 0.66 of the area.
    assert hypervolume(points(run.entries)) > 0.4


def test_a_sampler_that_learns_finds_more_than_chance() -> None:
    def area(sampler: str) -> float:
        runs = [simulate(recipe(sampler=sampler, seed=seed, trials=40), Trade(), slots=2) for seed in range(2)]
        return sum(hypervolume(points(run.entries)) for run in runs)

    assert area("tpe") > area("random")


def test_a_base_in_a_dent_of_the_front_is_streamed_on() -> None:
    space = recipe().parsed_space("r")
    memory = Memory(space, ("original_topk", "streaming_topk"))
    # No straight line touches the second base, whose two accuracies are as good as each other.
    for width, accuracies in ((8, (0.9, 0.1)), (16, (0.45, 0.45)), (32, (0.1, 0.9))):
        for rate in (0.01, 0.02):
            params: Params = {"model.width": width, "streaming.learning_rate": rate}
            metrics = dict(zip(("original_topk", "streaming_topk"), accuracies, strict=True))
            seconds = {"base": 100.0, "streaming": 1.0}
            left = {"metrics": metrics | {"joint": 0.5}, "stage_seconds": seconds, "base_reused": False}
            number = memory.run
            entry = Entry(number=number, state="running", params=params, enqueued=None, run_id=None, result={})
            memory.add(entry)
            memory.learn(replace(entry, state="complete", result=left))
            memory.standing.add(memory.base(entry))
    chosen = {width: memory.next_to_stream_on(2, weights) for width, weights in WEIGHTS.items()}
    assert chosen == {
        width: base_of(space, {"model.width": width, "streaming.learning_rate": 0.01}) for width in WEIGHTS
    }


def test_the_grid_covers_a_space_with_two_objectives() -> None:
    space = {"model.width": {"choice": [8, 16]}, "streaming.epochs": {"int": [2, 3]}}
    small = validate_recipe(RECIPE | {"space": space, "search": {"trials": 9, "sampler": "grid"}}, "r")

    class Flat(Trade):
        def streamed(self, params: Params, seed: int) -> dict[str, float]:
            return {"joint": 0.5, "original_topk": 0.5, "streaming_topk": 0.5}

    assert len(simulate(small, Flat(), slots=2).entries) == 4


def verdicts(probes: list[tuple[float, float]], mode: str) -> list[Verdict | None]:
    """What becomes of trials that are probed at rung 2, one after the other."""
    changes = {"objective": {"mode": mode}, "search": {"pruning": {"rungs": [2], "reduction_factor": 2}}}
    pareto = validate_recipe(RECIPE | changes, "r")
    assert pareto.search.pruning is not None
    pruner = Pruner(pareto.search.pruning, [], lambda entry: str(entry.number), pareto.objective.metrics)
    found = []
    for number, (original, streaming) in enumerate(probes):
        report = {"phase": "base", "epoch": 2, "rung": 2, "base_topk": 0.5, "probe_original_topk": original}
        report |= {"probe_streaming_topk": streaming, "probe_joint": 0.7 * original + 0.3 * streaming}
        found.append(pruner.judge(Entry(number, "running", {}, None, None, {}), report))
    return found


def test_probes_are_ranked_by_who_beats_them() -> None:
    probes = [(0.9, 0.1), (0.1, 0.9), (0.5, 0.5), (0.8, 0.1), (0.4, 0.4)]
    found = verdicts(probes, "pareto")
    # Three that no other beats; the fourth, first of those that one beats, stands behind more than half.
    assert [verdict is None for verdict in found] == [True, True, True, False, False]
    assert found[3] is not None
    assert found[3].reason == "probe after base epoch 2: original 80.0, streaming 10.0, place 4 of 4"
    assert found[3].probe is not None
    assert found[3].probe["streaming_topk"] == 0.1
    # By joint the second is behind the first, and is kept by none.
    assert [verdict is None for verdict in verdicts(probes, "joint")] == [True, False, False, True, False]


def test_pruning_saves_time_on_the_front_too() -> None:
    pruned = simulate(recipe(pruning={"rungs": [2]}), Trade(), slots=2)
    given_up = [entry for entry in pruned.entries if entry.state == "pruned"]
    assert given_up
    kept = [entry.params["model.width"] for entry in pruned.entries if entry.state == "complete"]
    widths = [entry.params["model.width"] for entry in given_up]
    assert sorted(widths)[len(widths) // 2] < sorted(kept)[len(kept) // 2]  # type: ignore[type-var, operator]


def test_cmaes_is_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps(merged(RECIPE, {"search": {"sampler": "cmaes"}})))
    said = refusal(main, capsys, "run", str(path)).err
    assert "`search.sampler`: cmaes has one objective, but `objective.mode` is pareto; use tpe" in said


# A front with a knee at width 2; width 16 is behind it.
FRONT = [
    (1, 0, result(0.90, 0.30)),
    (2, 0, result(0.84, 0.58)),
    (4, 0, result(0.70, 0.70)),
    (16, 0, result(0.82, 0.40)),
]


def test_the_front_is_shown_and_its_knee_is_exported(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = made_up(home, FRONT, objective={"mode": "pareto", "top_k": 3})
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{sweep.folder / 'ledger.db'}")
    assert [trial.values for trial in study.trials] == [[0.9, 0.3], [0.84, 0.58], [0.7, 0.7], [0.82, 0.4]]
    assert sorted(trial.number for trial in study.best_trials) == [0, 1, 2]

    assert main(["status", "s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["objective"]["mode"], found["front"], found["knee"]) == ("pareto", [0, 1, 2], 1)
    assert found["best"]["number"] == 1, "the largest joint, for information"

    assert main(["status", "s"]) == 0
    printed = capsys.readouterr().out
    assert "3 on the front, best joint 76.2" in printed
    assert "front of original against streaming" in printed
    assert (
        "front, from the best original accuracy to the best streaming accuracy: trial 0, 1, 2; knee: trial 1" in printed
    )
    assert "width 16" not in printed, "it is beaten"

    for options, wanted in (([], 2), (["--pick", "knee"], 2), (["--pick", "trial:2"], 4)):
        assert main(["export", "s", "-o", str(home / "best.yaml"), *options]) == 0
        config, provenance = read_config(home / "best.yaml")
        assert config.model.width == wanted
        assert provenance["pick"] == (options[1] if options else "knee")


def test_a_recipe_whose_mode_was_changed_does_not_fit_its_ledger(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = made_up(home, FRONT)
    path = sweep.folder / "recipe.yaml"
    path.write_text(path.read_text().replace("mode: joint", "mode: pareto"))
    assert "another `objective.mode`" in refusal(main, capsys, "status", "s").err


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_sweep_of_two_objectives(tmp_path: Path) -> None:
    home = Home(tmp_path)
    changes = {"objective": {"mode": "pareto"}, "search": {"pruning": {"rungs": [1]}, "sampler": "nsga2"}}
    out = home.call("sweeps", "run", str(home.recipe("two", **merged(SMALL, changes))))
    assert "front of original against streaming" in out
    study = home.study("two")
    assert len(study.directions) == 2
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    for trial in complete:
        metrics = trial.user_attrs["result"]["metrics"]
        assert trial.values == [metrics["original_topk"], metrics["streaming_topk"]]
    status = home.status("two")
    values = {tuple(trial.values) for trial in study.best_trials}
    front = [trial for trial in status["trials"] if trial["number"] in status["front"]]
    assert {(t["metrics"]["original_topk"], t["metrics"]["streaming_topk"]) for t in front} == values
    (parent,), runs = home.runs("two")
    assert parent.data.params["mode"] == "pareto"
    (knee,) = [trial for trial in status["trials"] if trial["number"] == status["knee"]]
    assert parent.data.metrics["best_original_topk"] == knee["metrics"]["original_topk"]
    assert len(runs) == len(study.trials) == 8
