"""The thesis' grid: its rows, tables and statements from results that are made up, and the whole command once."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from senet.data.breeds import prepare_breeds
from senet.data.store import Dataset
from sweeps.analysis import Spread, spread
from sweeps.cli import main
from sweeps.ledger import Ledger
from sweeps.status import sweep_status
from sweeps.sweep import Sweep, create_sweep
from sweeps.thesis.results import gather
from sweeps.thesis.rows import ROWS, row_configs, thesis_recipe
from sweeps.thesis.statements import HOLDS, REVERSED, UNDECIDED, Statement, interval, statements, verdict
from sweeps.thesis.tables import show, table_csv, table_markdown, table_rows
from sweeps.thesis.write import timed_configs, write_thesis
from sweeps.timing import time_epochs
from tests.conftest import TINY, refusal
from tests.sweeps.commands import Home

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

NUMBER = {row.key: i for i, row in enumerate(ROWS)}


def made_up(key: str, seed: int) -> dict[str, float]:
    """Metrics that depend on row and seed in a simple way."""
    i = NUMBER[key]
    return {
        "base_top1": 0.20 + 0.01 * i,
        # Two networks that stream differ by as much with every seed, and every network by a point between seeds.
        "base_topk": 0.40 + 0.01 * i + 0.01 * seed,
        "original_topk": 0.50 - 0.01 * i,
        "streaming_topk": 0.30,
        "joint": 0.44 + {"senet18-2x-expand-32x-reduce": (0.01, 0.02, -0.03)}.get(key, (0.0, 0.0, 0.0))[seed],
    }


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A finished sweep over the small grid; one trial of VGG-16 has failed."""
    recipe, name, _ = thesis_recipe(None, [])
    space = recipe.parsed_space("r")
    sweep = create_sweep(tmp_path_factory.mktemp("thesis"), name, name, recipe, "data")
    ledger = Ledger(sweep.folder, name, create=True)
    for seed in recipe.seeds(space):
        for i, params in enumerate(recipe.first_configurations(space, "r")):
            entry = ledger.open(params, space, enqueued=i, seed=seed)
            metrics = made_up(ROWS[i].key, seed)
            result: dict[str, Any] = {"state": "complete", "metrics": metrics, "seconds": 1.0, "base_reused": False}
            result["history"] = [
                {"phase": "base", "epoch": epoch, "base_top1": 0.1 * epoch, "base_topk": 0.2 * epoch}
                for epoch in (1, 2)
            ]
            if ROWS[i].key == "single-label-vgg16" and seed == 2:
                result = {"state": "failed", "error": "non-finite: x", "seconds": 1.0}
            ledger.finish(entry.number, result)
    return sweep


TIMING: dict[str, Any] = {
    "environment": {"device": "cpu X × 2", "precision": "fp32"},
    "seconds": {
        "resnet18": {"base": [4.0, 4.0], "streaming": [1.0, 2.0]},
        "senet18": {"base": [8.0, 8.0], "streaming": [2.0, 2.0]},
        "single-target-resnet18": {"base": [5.0, 7.0], "streaming": []},
    },
}


def results_of(sweep: Sweep) -> Any:
    recipe = sweep.recipe()
    entries = Ledger(sweep.folder, sweep.name).entries()
    return gather(recipe.parsed_space("r"), entries, row_configs(recipe), TIMING)


def cells(sweep: Sweep, number: int) -> dict[tuple[str, str], dict[str, str]]:
    """A table's CSV by model and variant."""
    rows = csv.DictReader(table_csv(number, results_of(sweep), 3).splitlines())
    return {(row["model"], row["variant"]): row for row in rows}


@pytest.mark.parametrize(("data", "width", "k"), [(None, 24, 3), ("stanford_dogs", 64, 5)])
def test_each_row_is_what_its_label_says(data: str | None, width: int, k: int) -> None:
    recipe, _, _ = thesis_recipe(data, [])
    assert (recipe.search.trials, recipe.search.replicates) == (48, 3)
    configs = row_configs(recipe)
    assert len({json.dumps(config.base_identity(), sort_keys=True) for config in configs.values()}) == len(ROWS) == 16
    assert [sum(number in row.tables for row in ROWS) for number in (1, 2, 3, 4, 5)] == [3, 4, 11, 11, 11]
    names = {"SENet-18": "senet18", "ResNet-18": "resnet18", "VGG-16": "vgg16", "Inception-ResNet": "inception_resnet"}
    for row in ROWS:
        config, label = configs[row.key], row.label
        assert config.model.name == names[row.model]
        assert config.model.expansion == (2 if "2x expand" in label else 4 if "4x expand" in label else 1), label
        reductions = {"8x reduction": 8, "32x reduc": 32, "32x reduce": 32, "sqrt reduction": "sqrt"}
        assert config.model.reduction == next((r for part, r in reductions.items() if part in label), 16), label
        assert config.loss == ("soft_margin" if "soft margin" in label else "margin")
        expected = {"softmax": "single_label", "single-target, retrained": "single_target"}
        assert config.protocol == expected.get(row.variant, "streaming")
        assert config.model.width == (int(row.variant) if row.variant.isdigit() else 64) * width / 64
        assert (config.streaming.epochs, config.streaming.learning_rate) == (4, 0.003)
        assert config.objective.top_k == k
    if data is not None:
        base = configs["senet18"].base
        assert (base.epochs, base.batch_size, base.schedule, base.milestones) == (15, 100, "step", (10, 12))
        assert (base.learning_rate, base.momentum, base.weight_decay) == (0.1, 0.9, 5e-4)


def test_overrides_change_the_sizes_and_nothing_else(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    recipe, name, _ = thesis_recipe("7", ["search.replicates=5", "config.base.epochs=2"])
    assert (recipe.data, name, recipe.search.trials, recipe.config["base"]["epochs"]) == ("7", "thesis", 80, 2)
    for arguments, message in (
        (["--set", "enqueue=[]"], "`enqueue`: must hold the thesis' 16 configurations, but got 0"),
        (["--set", "config.loss=soft_margin"], "`enqueue[0]`: `loss` must be 'margin' for SENet-18, softmax, but got"),
        (["--set", "search.replicates=0"], "`search.replicates`: should be greater than 0"),
        (["--name", "a/b"], "--name `a/b` must be 1 to 64 letters"),
        (["--data", "pets"], "no data set `pets`"),
        (["--data", "breeds", "--set", "objective.top_k=30"], "`objective.top_k`: must be from 2"),
    ):
        assert message in refusal(main, capsys, "thesis", *arguments).err
    assert not home.exists()


def test_a_sweep_of_another_recipe_is_not_gone_on_with(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWEEPS_HOME", str(sweep.home))
    error = refusal(main, capsys, "thesis", "--set", "config.base.epochs=1").err
    assert "--name thesis-small: a sweep of this name exists with another recipe" in error


def test_tables_hold_our_numbers_and_the_published_ones(sweep: Sweep) -> None:
    first = cells(sweep, 1)
    assert list(first) == [("SENet-18", "softmax"), ("ResNet-18", "softmax"), ("VGG-16", "softmax")]
    assert first["VGG-16", "softmax"] == {
        "model": "VGG-16", "variant": "softmax", "base_top1_mean": "22.0", "base_top1_sd": "0.0", "base_top1_n": "2",
        "base_top1_thesis": "41.3", "base_topk_mean": "42.5", "base_topk_sd": "0.7071", "base_topk_n": "2",
        "base_topk_thesis": "73.6",
    }  # fmt: skip
    assert list(cells(sweep, 2)) == [(m, v) for m in ("ResNet-18", "SENet-18") for v in ("margin", "soft margin")]
    assert cells(sweep, 2)["SENet-18", "soft margin"]["base_topk_thesis"] == "64.7"
    fourth = cells(sweep, 4)
    pick = fourth["SENet-18", "2x expand, 32x reduce"]
    assert (pick["base_topk_mean"], pick["base_topk_sd"], pick["base_topk_thesis"]) == ("53.0", "1.0", "86.8")
    assert (pick["original_topk_mean"], pick["original_topk_thesis"]) == ("38.0", "86.2")
    assert (pick["streaming_topk_mean"], pick["streaming_topk_thesis"]) == ("30.0", "75.4")
    assert (pick["joint_mean"], pick["joint_n"], "joint_thesis" in pick) == ("44.0", "3", False)
    assert cells(sweep, 3)["SENet-18", "2x expand, 32x reduce"]["base_top1_thesis"] == ""
    assert ("Inception-ResNet", "96 (here 36)") in fourth


def test_times_and_their_ratios(sweep: Sweep) -> None:
    fifth = cells(sweep, 5)
    plain, single = fifth["ResNet-18", "normal"], fifth["ResNet-18", "single-target, retrained"]
    assert (plain["base_seconds_mean"], plain["base_seconds_sd"], plain["base_seconds_thesis"]) == (
        "4.0",
        "0.0",
        "403.7",
    )
    assert (plain["base_ratio_mean"], plain["streaming_ratio_mean"]) == ("0.5", "0.75")
    assert float(plain["streaming_ratio_thesis"]) == pytest.approx(20.9 / 25.3, abs=1e-4)
    assert (single["streaming_seconds_mean"], single["streaming_seconds_thesis"]) == ("6.0", "394.3")
    assert fifth["SENet-18", "4x expand"]["base_seconds_n"] == "0"
    assert "| SENet-18 | 4x expand | 0 | – | 425.6 |" in table_markdown(5, results_of(sweep), 3)


def test_markdown_shows_means_deviations_and_dashes(sweep: Sweep) -> None:
    text = table_markdown(3, results_of(sweep), 3)
    assert "| model | variant | n | base top-1 | thesis: base top-1 | base top-3 | thesis: base top-5 |" in text
    assert "| ResNet-18 | normal | 3 | 25.0 ± 0.0 | 41.1 | 46.0 ± 1.0 | 77.4 |" in text
    assert "| SENet-18 | 2x expand, 32x reduce | 3 | 32.0 ± 0.0 | – |" in text
    assert show(spread([1.0])) == "1.0"
    assert show(spread([])) == "–"
    assert [found.row.model for found in table_rows(3, results_of(sweep))][-1] == "ResNet-18"


def test_intervals_and_verdicts() -> None:
    assert spread([1.0, 2.0, 3.0]) == Spread(2.0, 1.0, 3)
    # Student's t of two degrees of freedom is 4.3027 at 97.5 %.
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert interval([1.0]) is None
    assert [verdict(*ends) for ends in ((0.1, 2.0), (-2.0, -0.1), (-1.0, 1.0), (None, None))] == [
        HOLDS, REVERSED, UNDECIDED, UNDECIDED,
    ]  # fmt: skip


def test_statements_on_known_differences(sweep: Sweep) -> None:
    found: dict[str, Statement] = {}
    for one in statements(results_of(sweep), 3):
        found[f"{one.claim}: {one.measure}"] = one
    assert len(found) == 10

    def said(words: str) -> Statement:
        (one,) = [value for key, value in found.items() if words in key]
        return one

    base = said("raise the base accuracy")
    assert base.measure == "base top-3, SENet-18, normal (16x) − ResNet-18, normal, points"
    assert base.estimate is not None
    assert (base.estimate.mean, base.estimate.n, base.verdict) == (pytest.approx(1.0), 3, HOLDS)
    assert said("raise the joint").verdict == UNDECIDED, "no difference at all"
    assert said("soft margin (ResNet)").estimate == Spread(pytest.approx(2.0), pytest.approx(0.0, abs=1e-9), 3)
    assert said("2x expansion keeps more original accuracy").verdict == REVERSED
    assert said("32x reduction keeps more original accuracy").verdict == REVERSED
    best = said("best balance")
    assert (best.verdict, best.low) == (UNDECIDED, pytest.approx(-4.3027 * 7**0.5 / 3**0.5, abs=1e-3))
    assert best.note == "its mean joint is number 1 of the 10 networks that stream"
    once, whole = said("seconds of an epoch"), said("seconds of all epochs")
    assert once.estimate is not None
    assert (once.estimate.mean, once.low, once.high, once.verdict) == (4.0, 2.5, 7.0, HOLDS)
    # Six epochs of retraining against four of streaming.
    assert whole.estimate is not None
    assert whole.estimate.mean == 6.0
    assert "joint 44.0 after streaming, 44.0 after retraining" in once.note
    # Joint tells the pick alone from the others: a correlation far from perfect, and not the same for all seeds.
    correlation = said("predicts the joint result badly")
    assert correlation.estimate is not None
    assert correlation.estimate.n == 3
    assert -0.5 < correlation.estimate.mean < 0.5


def test_a_single_seed_decides_nothing_and_a_missing_row_breaks_nothing(sweep: Sweep) -> None:
    results = {
        key: dataclasses.replace(found, trials={0: found.trials[0]} if key != "resnet18" else {}, seconds={})
        for key, found in results_of(sweep).items()
    }
    found = statements(results, 3)
    assert {one.verdict for one in found} == {UNDECIDED}
    assert found[0].estimate is None
    assert found[2].estimate is None


def test_everything_is_written(sweep: Sweep) -> None:
    files, summary = write_thesis(sweep, sweep_status(sweep), TIMING)
    names = [f"table-{i}.csv" for i in (1, 2, 3, 4, 5)] + [f"figure-{i}.png" for i in (6, 12, 13)]
    assert sorted(path.name for path in files) == sorted([*names, "tables.md", "statements.md"])
    assert {path.parent for path in files} == {sweep.folder / "thesis"}
    for path in files:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert min(picture.size) > 400
    text = (sweep.folder / "thesis" / "tables.md").read_text()
    assert all(f"## Table {number}: " in text for number in (1, 2, 3, 4, 5))
    assert "epochs were timed on cpu X × 2, fp32" in text
    assert "- failed: VGG-16, softmax, seed 2: non-finite: x" in text
    assert "our reading" in text
    said = (sweep.folder / "thesis" / "statements.md").read_text()
    assert "| SE blocks raise the base accuracy |" in said
    assert summary.startswith("SE blocks raise the base accuracy: holds (base top-3")
    write_thesis(sweep, sweep_status(sweep), {})
    assert "epochs were not timed" in (sweep.folder / "thesis" / "tables.md").read_text()


def test_epochs_are_timed_once(tiny: Dataset, tmp_path: Path, sweep: Sweep) -> None:
    configs = timed_configs(sweep)
    assert len(configs) == 11
    few = {
        key: configs[key].model_copy(
            update={
                "model": configs[key].model.model_copy(update={"width": 4}),
                "base": configs[key].base.model_copy(update={"batch_size": 20}),
                "streaming": configs[key].streaming.model_copy(update={"batch_size": 20}),
            }
        )
        for key in ("resnet18", "single-target-resnet18")
    }
    said: list[str] = []
    file = tmp_path / "timing.json"
    timing = time_epochs(file, few, tiny, False, said.append)
    assert said == ["timing epochs: resnet18", "timing epochs: single-target-resnet18"]
    assert {key: [len(found[phase]) for phase in found] for key, found in timing["seconds"].items()} == {
        "resnet18": [2, 2], "single-target-resnet18": [2, 0],
    }  # fmt: skip
    assert all(seconds > 0 for seconds in timing["seconds"]["resnet18"]["base"])
    assert time_epochs(file, few, tiny, False, said.append) == timing == json.loads(file.read_text())
    few["resnet18"] = few["resnet18"].model_copy(update={"loss": "soft_margin"})
    time_epochs(file, few, tiny, False, said.append)
    assert said[2:] == ["timing epochs: resnet18"]


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_command_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Times do not matter here; threads that wait for each other on a busy machine would take minutes.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    home = Home(tmp_path)
    prepare_breeds(tmp_path / "datasets" / "dogs", dataclasses.replace(TINY, size=32))
    settings = {
        "resources": {"cpu": 1, "gpu": 0},
        "search.replicates": 1,
        "objective.top_k": 2,
        "config.base": {"epochs": 1, "batch_size": 20, "learning_rate": 0.01},
        "config.streaming": {"epochs": 1, "batch_size": 20},
        "config.model.width": 4,
        "space.model.width": {"choice": [4, 6]},
        "enqueue": [row.settings() | ({"model.width": 6} if row.variant == "96" else {}) for row in ROWS],
    }
    call = ["thesis", "--data", "dogs", *(f"--set={key}={json.dumps(value)}" for key, value in settings.items())]
    process = home.start("sweeps", *call)
    out, error = process.communicate(timeout=480)
    assert (process.returncode, error) == (0, ""), out + error
    home.assert_consistent("thesis", 16)
    trials = home.study("thesis").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 16
    assert [trial.user_attrs["enqueued"] for trial in trials] == list(range(16))
    folder = tmp_path / "sweeps" / "thesis" / "thesis"
    for word in ("statements.md", "figure-13.png", "SE blocks raise the base accuracy: "):
        assert word in out
    rows = list(csv.DictReader((folder / "table-5.csv").open()))
    assert [row["base_seconds_n"] for row in rows] == ["2"] * 11
    (parent,), nested = home.runs("thesis")
    assert {run.data.params["seed"] for run in nested} == {"0"}
    assert (tmp_path / "artifacts" / parent.info.run_id / "artifacts" / "tables.md").exists()
    # A second call writes the tables anew, and runs and times nothing.
    (folder / "tables.md").unlink()
    again = home.call("sweeps", *call)
    assert "nothing is run again" in again
    assert "timing" not in again
    assert (folder / "tables.md").exists()
