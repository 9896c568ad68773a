"""Confirming a sweep: its study, its ranking, the interval, what is read of the test split, and the command itself."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from senet.files import write_atomically
from sweeps.cli import main
from sweeps.confirm.report import print_result, write_markdown
from sweeps.confirm.result import Result, conclude, stored_result
from sweeps.confirm.study import candidates, check_study, study_of, study_recipe
from sweeps.errors import FailedError
from sweeps.ledger import open_ledger
from sweeps.status import sweep_status
from sweeps.sweep import Sweep
from tests.conftest import refusal
from tests.sweeps.made_up import FAILED, made_up, result

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

# Widths 3 and 2 are the best two, width 1 is the baseline, width 4 is behind it; width 2 was tried with two seeds.
TRIALS = [
    (1, 0, result(0.5, 0.5)),
    (2, 0, result(0.6, 0.6)),
    (2, 7, result(0.7, 0.7)),
    (3, 0, result(0.8, 0.6)),
    (4, 0, result(0.4, 0.4)),
]
PICTURES = 40


def hits(right: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.arange(PICTURES) < right


class Eyes:
    """Stands for the workers: writes down hits that the width and the split decide, and remembers what it was asked."""

    def __init__(self, right: Callable[[int, str], int]) -> None:
        self._right = right
        self.looked: list[tuple[int, int, list[str]]] = []

    def __call__(self, assignments: list[dict[str, Any]]) -> None:
        for given in assignments:
            width, seed = given["config"]["model"]["width"], given["config"]["seed"]
            self.looked.append((width, seed, given["splits"]))
            seen = {
                f"{split}.{part}": hits(self._right(width, split))
                for split in given["splits"]
                for part in ("original", "streaming")
            }
            file = io.BytesIO()
            np.savez(file, **seen)  # type: ignore[arg-type]
            write_atomically(Path(given["folder"]) / "hits.npz", file.getvalue())


def right_of(width: int, split: str) -> int:
    """Of 40 pictures: width 2 has 30 right on validation, width 3 has 28, the baseline 20; less on the test split."""
    return {1: 20, 2: 30, 3: 28, 4: 16}[width] - (4 if split == "test" else 0)


def add_study(sweep: Sweep, top: int = 2, changes: dict[int, dict[str, Any]] | None = None) -> None:
    """A finished study of the sweep with seeds 8 and 9; `changes`: what the trials of these numbers have left."""
    recipe = study_recipe(sweep, sweep_status(sweep), top, seeds=2)
    trials = []
    for seed in (8, 9):
        for entry in recipe.enqueue:
            accuracy = right_of(entry["model.width"], "validation") / PICTURES
            left = (changes or {}).get(len(trials), result(accuracy, accuracy))
            trials.append((entry["model.width"], seed, left))
    plain = recipe.model_dump(mode="json")
    made_up(sweep.home, trials, name="s-confirm", **plain)  # type: ignore[arg-type]
    check_study(sweep, recipe)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the sweep, and one with its study, both to be copied."""
    folder = tmp_path_factory.mktemp("prepared")
    made_up(folder / "swept", TRIALS)
    shutil.copytree(folder / "swept", folder / "studied")
    add_study(Sweep(folder / "studied", "s"))
    return folder


@pytest.fixture
def swept(prepared: Path, home: Path) -> Sweep:
    """The finished sweep alone."""
    shutil.copytree(prepared / "swept", home)
    return Sweep(home, "s")


@pytest.fixture
def studied(prepared: Path, home: Path) -> Sweep:
    """The sweep whose study has finished."""
    shutil.copytree(prepared / "studied", home)
    return Sweep(home, "s")


def concluded(sweep: Sweep, eyes: Eyes | None = None, top: int = 2) -> Result:
    return conclude(sweep, sweep_status(sweep), top, eyes or Eyes(right_of))


def shown(found: Result) -> str:
    """What is printed of a result."""
    console = Console(file=io.StringIO(), width=200)
    print_result(console, found)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_study_holds_the_best_and_the_baseline_with_fresh_seeds(swept: Sweep) -> None:
    status = sweep_status(swept)
    recipe = study_recipe(swept, status, top=2, seeds=3)
    assert recipe.enqueue == [{"model.width": 3}, {"model.width": 2}, {"model.width": 1}]
    assert (recipe.search.trials, recipe.search.replicates) == (9, 3)
    assert recipe.seeds(recipe.parsed_space("r")) == [8, 9, 10], "the sweep has had 0 and 7"
    before = swept.recipe()
    assert (recipe.data, recipe.objective, recipe.resources) == (before.data, before.objective, before.resources)
    everything = study_recipe(swept, status, top=99, seeds=2)
    assert [entry["model.width"] for entry in everything.enqueue] == [3, 2, 1, 4]


def test_fresh_seeds_below_the_largest(home: Path) -> None:
    highest = 2**31 - 1
    sweep = made_up(home, [(1, highest, result(0.5, 0.5)), (2, 3, result(0.5, 0.5))])
    recipe = study_recipe(sweep, sweep_status(sweep), top=2, seeds=5)
    assert recipe.seeds(recipe.parsed_space("r")) == [4, 5, 6, 7, 8]


def test_what_it_comes_to(studied: Sweep) -> None:
    sweep, eyes = studied, Eyes(right_of)
    found = concluded(sweep, eyes)
    # The sweep had width 3 first; on fresh seeds width 2 is. Nobody else's test pictures are looked at.
    both, one = ["validation", "test"], ["validation"]
    assert sorted(eyes.looked) == [(1, 8, both), (1, 9, both), (2, 8, both), (2, 9, both), (3, 8, one), (3, 9, one)]
    assert [(row["trial"], row["n"], row["joint"]["mean"]) for row in found["validation"]] == [
        (1, 2, pytest.approx(30 / 40)), (3, 2, pytest.approx(28 / 40)), (0, 2, pytest.approx(20 / 40))
    ]  # fmt: skip
    assert found["validation"][0]["in_the_sweep"] == {
        "mean": pytest.approx(0.65),
        "sd": pytest.approx(0.0707107),
        "n": 2,
    }
    assert (found["pick"], found["baseline"], found["seeds"], found["failed"]) == (1, 0, [8, 9], [])
    assert found["validation"][0]["ahead_of_next"]["mean"] == pytest.approx(2 / 40)
    better = found["test"]["better"]
    assert better["mean"] == pytest.approx(10 / 40)
    assert 0.1 < better["low"] < 0.25 < better["high"] < 0.4
    assert found["test"]["pick"]["joint"]["values"] == pytest.approx([26 / 40] * 2)
    assert found["largest_deviation_of_a_joint_measured_again"] < 1e-12
    assert stored_result(sweep) == found

    assert found["split"] == ""
    low, high = found["weights_of_first_place"]
    assert low <= found["objective"]["original_weight"] <= high
    assert f"trial 1 is first of 3 candidates for w from {low:.2f} to {high:.2f}" in shown(found)
    assert "test = validation" in shown(found | {"split": "test = validation"})
    text, printed = write_markdown(sweep, found).read_text(), shown(found)
    said = (
        "trial 1 is better than the baseline: +25.0 points on the test split, 95 % interval "
        f"{100 * better['low']:.1f} to {100 * better['high']:.1f} (2 seeds × 40 base and 40 streaming pictures)"
    )
    assert said in text
    assert said in printed
    assert (
        "test split, pick: trial 1, joint 65.0 ± 0.0, original 65.0 ± 0.0, streaming 65.0 ± 0.0 (n=2 seeds)" in printed
    )
    assert "| pick | 1 | 2 | 75.0 ± 0.0 | 75.0 ± 0.0 | 75.0 ± 0.0 | 65.0 ± 7.1 (n=2) | +5.0 (" in text
    assert "| baseline | 0 | 2 | 50.0 ± 0.0 |" in text


def exported(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, dict[str, Any]]:
    """The comment and the provenance of an export."""
    capsys.readouterr()
    assert main(["export", "s", *options]) == 0
    text = capsys.readouterr().out
    provenance: dict[str, Any] = yaml.safe_load(text)["provenance"]["confirmation"]
    return text.partition("\n\n")[0], provenance


def test_an_export_says_whether_its_pick_was_confirmed(studied: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    found = concluded(studied)
    head, about = exported(capsys, "--pick", "trial:2")
    assert "# Confirmed: joint 75.0 ± 0.0 on validation with 2 fresh seeds; trial 1 is better than the baseline" in head
    assert about["confirmed"] is True
    assert about["better_than_baseline"] == found["test"]["better"]
    assert about["test_joint"] == {"mean": pytest.approx(26 / 40), "sd": pytest.approx(0), "n": 2}
    head, about = exported(capsys, "--pick", "best")
    assert (
        "# Not confirmed: joint 70.0 ± 0.0 on validation with 2 fresh seeds, where trial 1 came first (--pick" in head
    )
    assert about == {"confirmed": False, "said": about["said"]}
    assert about["said"].endswith("(--pick confirmed)")
    head, about = exported(capsys, "--pick", "trial:4")
    assert "# Not confirmed: it was no candidate of `sweeps confirm`, where trial 1 came first." in head
    assert about["confirmed"] is False


def test_what_came_first_on_fresh_seeds_is_exported(studied: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    head, about = exported(capsys)
    assert head.startswith("# Trial 3 of the sweep `s`: the best of 5 complete trials.")
    assert about["confirmed"] is False
    said = refusal(main, capsys, "export", "s", "--pick", "confirmed").err
    assert "--pick confirmed: sweep `s` was not confirmed yet: sweeps confirm s" in said
    concluded(studied)
    for options in ((), ("--pick", "confirmed")):
        head, about = exported(capsys, *options)
        assert head.startswith("# Trial 1 of the sweep `s`: first on fresh seeds, one of 5 complete trials.")
        assert about["confirmed"] is True


def test_a_sweep_that_went_on_after_it_was_confirmed(studied: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    concluded(studied)
    said = "; trials that are complete since then, and were no candidates: "
    assert said not in exported(capsys)[0]
    assert main(["confirm", "s"]) == 0
    assert "is not read again; it said:" in capsys.readouterr().out
    ledger = open_ledger(studied)
    for width in (5, 6):
        entry = ledger.open({"model.width": width}, studied.recipe().parsed_space("s"), seed=0)
        ledger.finish(entry.number, result(0.9, 0.9))
    studied.extend(2)
    assert f"streaming pictures){said}2.\n" in exported(capsys)[0]
    assert main(["confirm", "s"]) == 0
    assert f"is not read again{said}2; it said:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("right", "verdict"),
    [
        (
            lambda width, split: 20 + (width == 2 and split == "validation"),
            "trial 1 is not shown to be better than the",
        ),
        (
            lambda width, split: 30 if (width == 2) == (split == "validation") else 10,
            "trial 1 is worse than the baseline",
        ),
    ],
)
def test_a_pick_that_is_not_better(
    studied: Sweep, capsys: pytest.CaptureFixture[str], right: Callable[[int, str], int], verdict: str
) -> None:
    concluded(studied, Eyes(right))
    head, about = exported(capsys, "--pick", "trial:1")
    assert "# Not confirmed: joint" in head
    assert verdict in head
    assert about["confirmed"] is False


def test_candidates_that_failed_on_fresh_seeds(swept: Sweep) -> None:
    # The candidates are widths 3, 2, 1, 4. Width 2 has failed with a seed, and stands behind those that have not.
    add_study(swept, top=4, changes={1: FAILED, 3: FAILED, 7: FAILED})
    found = concluded(swept, top=4)
    assert [(row["trial"], row["n"]) for row in found["validation"]] == [(3, 2), (0, 2), (1, 1)]
    assert found["validation"][0]["ahead_of_next"]["n"] == 2
    assert found["validation"][1]["ahead_of_next"] is None, "one seed says nothing of how much seeds differ"
    assert (found["pick"], found["failed"]) == (3, [4])


def test_a_baseline_that_always_failed(swept: Sweep) -> None:
    add_study(swept, changes={2: FAILED, 5: FAILED})
    with pytest.raises(
        FailedError, match="the baseline failed with all fresh seeds; look at it: sweeps status s-confirm"
    ):
        concluded(swept)
    assert not (swept.folder / "confirm.json").exists()


def test_a_baseline_that_comes_first(swept: Sweep) -> None:
    add_study(swept, changes=dict.fromkeys((0, 1, 3, 4), result(0.1, 0.1)))
    eyes = Eyes(right_of)
    found = concluded(swept, eyes)
    assert (found["pick"], found["test"]["better"]) == (0, None)
    assert {width for width, _, splits in eyes.looked if "test" in splits} == {1}
    printed = shown(found)
    assert "trial 0, the baseline, came first: nothing better than it was found" in printed
    # The hits that were made up are not those that the trials had.
    assert "note: pictures were looked at on another kind of machine" in printed


def test_a_pick_that_shares_no_seed_with_the_baseline(swept: Sweep) -> None:
    # In the study's order: widths 3, 2, 1 with seed 8, then with seed 9.
    add_study(swept, changes={0: FAILED, 3: FAILED, 1: FAILED, 5: FAILED})
    found = concluded(swept)
    assert (found["pick"], found["baseline"], found["test"]["better"]) == (1, 0, None)
    printed = shown(found)
    assert "trial 1 came first, but it and the baseline share fewer than two seeds: not compared" in printed
    assert "test split, baseline: trial 0" in printed


def test_pictures_are_looked_at_with_what_a_trial_needed(studied: Sweep) -> None:
    study = study_of(studied)
    study.trial_folder(1).mkdir(parents=True, exist_ok=True)
    (study.trial_folder(1) / "attempt-1.json").write_text('{"next_resources": {"cpu": 1, "gpu": 0.5}}')
    shares: dict[str, float] = {}

    def look(assignments: list[dict[str, Any]]) -> None:
        shares.update({Path(given["folder"]).name: given["gpu"] for given in assignments})
        Eyes(right_of)(assignments)

    conclude(studied, sweep_status(studied), 2, look)
    assert sorted(shares.values()) == [0, 0, 0, 0, 0, 0.5]
    assert shares[study.trial_folder(1).name] == 0.5


def test_what_was_looked_at_is_not_looked_at_again(studied: Sweep) -> None:
    sweep, eyes = studied, Eyes(right_of)
    concluded(sweep)
    (sweep.folder / "confirm.json").unlink()
    damaged = study_of(sweep).trial_folder(0) / "hits.npz"
    damaged.write_bytes(damaged.read_bytes()[:50])
    found = concluded(sweep, eyes)
    assert [(width, seed) for width, seed, _ in eyes.looked] == [(3, 8)]
    assert found["pick"] == 1


@pytest.mark.parametrize(
    ("trials", "changes", "arguments", "message"),
    [
        (None, {}, [], "no sweep `s`"),
        (None, {}, ["--top", "0"], "--top 0: must be 1 or more"),
        (None, {}, ["--seeds", "-1"], "--seeds -1: must be 2 or more"),
        (None, {}, ["--seeds", "1"], "--seeds 1: must be 2 or more"),
        (None, {}, ["--seeds", "x"], "argument --seeds: invalid int value: 'x'"),
        (TRIALS, {}, ["--seeds", str(2**31)], "there are not so many fresh ones"),
        (TRIALS, {"search": {"trials": 9}}, [], "sweep `s` is not finished; go on with it: sweeps resume s"),
        ([(1, 0, FAILED)], {}, [], "sweep `s` has no complete trial; look at it: sweeps status s"),
        ([(2, 0, result(0.5, 0.5))], {"enqueue": []}, [], "sweep `s` has no baseline: no configuration of `enqueue`"),
        ([(1, 0, FAILED), (2, 0, result(0.5, 0.5))], {}, [], "sweep `s` has no baseline"),
    ],
)
def test_what_cannot_be_confirmed(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    trials: Any,
    changes: dict[str, Any],
    arguments: list[str],
    message: str,
) -> None:
    if trials is not None:
        made_up(home, trials, **changes)
    assert message in refusal(main, capsys, "confirm", "s", *arguments).err
    assert [path.name for path in (home / "sweeps").glob("*")] == ([] if trials is None else ["s"])


def test_a_study_that_is_another(studied: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    said = (
        "sweep `s-confirm` exists, and was begun with other configurations, --top or --seeds; give those, or delete it"
    )
    assert said in refusal(main, capsys, "confirm", "s").err
    for damaged in ("[]", '{"pick": 1, "validation": [], "test": {}}'):
        (studied.folder / "confirm.json").write_text(damaged)
        assert "confirm.json: is no result; delete it" in refusal(main, capsys, "confirm", "s").err
        assert "confirm.json: is no result; delete it" in refusal(main, capsys, "export", "s").err


def test_the_baseline_of_pareto_mode_is_the_best_though_the_knee_was_enqueued_too(home: Path) -> None:
    # Widths 1 and 2 are enqueued: the knee, and what has the higher joint of them.
    both = [{"model.width": 1}, {"model.width": 2}]
    trials = [(1, 0, result(0.6, 0.6)), (2, 0, result(0.8, 0.2)), (3, 0, result(0.9, 0.1)), (4, 0, result(0.1, 0.7))]
    sweep = made_up(home, trials, objective={"mode": "pareto"}, enqueue=both)
    status = sweep_status(sweep)
    assert (status["knee"], status["baseline"]["number"]) == (0, 1)
    assert [one.first["number"] for one in candidates(status, 1)] == [0, 1]


def test_in_pareto_mode_the_knee_is_compared_with_the_baseline(home: Path) -> None:
    # Width 2 has the highest joint, width 3 is the knee between it and width 4; width 1 is the baseline.
    trials = [(1, 0, result(0.5, 0.1)), (2, 0, result(0.9, 0.1)), (3, 0, result(0.6, 0.6)), (4, 0, result(0.1, 0.7))]
    sweep = made_up(home, trials, objective={"mode": "pareto"})
    status = sweep_status(sweep)
    assert (status["knee"], status["best"]["number"]) == (2, 1)
    add_study(sweep, top=2)
    found = concluded(sweep)
    assert [row["trial"] for row in found["validation"]] == [2, 1, 0]
    assert found["pick"] == 2
    assert found["test"]["better"]["mean"] == pytest.approx(8 / 40)
    assert "the knee of the sweep before all" in write_markdown(sweep, found).read_text()
