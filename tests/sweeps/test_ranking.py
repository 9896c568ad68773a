"""Configurations ranked by their mean over seeds, the weight's interval, and picks: all from made-up results."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from senet.config import read_config
from sweeps.analysis import configurations, knee, weights_of_first_place
from sweeps.cli import main
from sweeps.report import summary, write_report
from sweeps.status import sweep_status
from sweeps.sweep import Sweep
from sweeps.thesis.rows import ROWS
from tests.conftest import refusal
from tests.sweeps.made_up import FAILED, made_up, result

pytestmark = pytest.mark.slow

# Width 2 has the luckiest seed, width 4 the best mean; original and streaming weigh the same here.
SEEDS = [
    (1, 0, result(0.5, 0.5, 0.5)),
    (1, 1, result(0.7, 0.7, 0.5)),
    (2, 0, result(0.9, 0.9, 0.5)),
    (2, 1, result(0.3, 0.3, 0.5)),
    (4, 0, FAILED),
    (4, 1, result(0.65, 0.65, 0.5)),
    (2, 0, result(0.9, 0.9, 0.5)),
    (8, 0, None),
]


def a_trial(number: int, left: dict[str, Any]) -> dict[str, Any]:
    """A trial of a width of its own, as a sweep's status has it."""
    about = {"number": number, "state": "complete", "seed": 0, "enqueued": False, "params": {"model.width": number}}
    return about | {"metrics": left["metrics"]}


@pytest.fixture
def sweep(home: Path) -> Sweep:
    return made_up(home, SEEDS, objective={"top_k": 3, "original_weight": 0.5})


def test_configurations_are_ranked_by_their_mean_over_seeds(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    best, baseline = found["best"], found["baseline"]
    assert (best["number"], best["n"], best["joint_mean"], best["joint_sd"]) == (5, 1, 0.65, None)
    # Of two alike the earlier: width 2 has 0.6 too, with the same seed counted once.
    assert (baseline["number"], baseline["n"]) == (0, 2)
    assert (baseline["joint_mean"], baseline["joint_sd"]) == pytest.approx((0.6, 0.1414214))
    assert best["metrics"]["joint"] == 0.65
    assert len(found["trials"]) == 8

    write_report(sweep, sweep_status(sweep))
    rows = list(csv.DictReader((sweep.folder / "leaderboard.csv").open()))
    shown = [(row["trial"], row["n"], row["seeds"], float(row["joint"]), row["joint_sd"][:5]) for row in rows]
    assert shown == [
        ("5", "1", "1", 0.65, ""),
        ("0", "2", "0 1", pytest.approx(0.6), "0.141"),
        ("2", "2", "0 1", pytest.approx(0.6), "0.424"),
    ]
    text = (sweep.folder / "report.md").read_text()
    assert "| 0 | 2 | 60.0 ± 14.1 | 60.0 | 60.0 | 90.0 | 66.7 | no | width 1 |" in text
    assert "| 5 | 1 | 65.0 | 65.0 |" in text
    said = "best: trial 5, joint 65.0 (n=1); baseline: trial 0, joint 60.0 ± 14.1 (n=2); +5.0 points on validation"
    assert said in text
    assert main(["status", "s"]) == 0
    printed = capsys.readouterr().out
    assert said in printed
    assert "60.0 ± 42.4" in printed
    assert "best joint 65.0" in printed


def test_the_thesis_winner_is_first_from_a_weight_of_0_68(home: Path) -> None:
    table = [row for row in ROWS if 4 in row.tables and row.protocol == "streaming"]
    names = [row.key for row in table]
    trials = []
    for number, row in enumerate(table):
        original, streaming = row.published.original_top5, row.published.streaming_top5
        assert original is not None
        assert streaming is not None
        trials.append((number + 1, 0, result(original / 100, streaming / 100)))
    sweep = made_up(home, trials)
    found = sweep_status(sweep)
    ranking = sorted(found["trials"], key=lambda trial: -trial["metrics"]["joint"])
    assert names[found["best"]["number"]] == "senet18-2x-expand-32x-reduce"
    assert names[ranking[1]["number"]] == "senet18-8x-reduction"
    ahead = found["best"]["joint_mean"] - ranking[1]["metrics"]["joint"]
    assert 100 * ahead == pytest.approx(0.45)
    line = (
        f"trial {found['best']['number']} is first of 10 configurations for w from 0.68 to 1.00 (w = 0.7 was asked for)"
    )
    assert line in summary(found).splitlines()


@pytest.mark.parametrize(
    ("points", "ends"),
    [
        ([(0.8, 0.6)], (0, 1)),
        ([(0.8, 0.6), (0.8, 0.6)], (0, 1)),
        ([(0.8, 0.6), (0.9, 0.2), (0.6, 0.8)], (0.5, 0.8)),
        ([(0.8, 0.6), (0.7, 0.5)], (0, 1)),
    ],
)
def test_the_weights_at_which_the_best_stays_first(points: list[tuple[float, float]], ends: Any) -> None:
    ranking = configurations([a_trial(i, result(*point)) for i, point in enumerate(points)])
    assert ranking[0].first["number"] == 0
    assert weights_of_first_place(ranking[0], ranking) == pytest.approx(ends)


def test_who_is_never_first() -> None:
    ranking = configurations([a_trial(0, result(0.8, 0.6)), a_trial(1, result(0.7, 0.5)), a_trial(2, result(0.7, 0.6))])
    assert [weights_of_first_place(one, ranking) for one in ranking] == [(0.0, 1.0), (0.0, 0.0), None]


# Streaming and original accuracy on a front with a knee at width 2; width 16 is behind it.
FRONT = [
    (1, 0, result(0.90, 0.30)),
    (2, 0, result(0.84, 0.58)),
    (4, 0, result(0.70, 0.70)),
    (8, 0, result(0.50, 0.80)),
    (16, 0, result(0.82, 0.40)),
    (16, 1, result(0.84, 0.42)),
    (4, 1, FAILED),
]


@pytest.fixture(scope="module")
def picked_from(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the sweep `s` with that front."""
    folder = tmp_path_factory.mktemp("front")
    made_up(folder, FRONT)
    return folder


@pytest.fixture
def front(picked_from: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That sweep, for commands."""
    monkeypatch.setenv("SWEEPS_HOME", str(picked_from))


@pytest.mark.usefixtures("front")
@pytest.mark.parametrize(
    ("pick", "number", "described"),
    [
        ("best", 1, "the best of 6 complete trials"),
        ("knee", 1, "the knee between original and streaming accuracy of 6"),
        ("original_topk>=0.85", 0, "the best streaming accuracy with original_topk>=0.85 of 6"),
        ("original_topk >= 0.6", 2, "the best streaming accuracy with"),
        ("streaming_topk<=0.45", 4, "the best streaming accuracy with"),
        ("retention>=0.7", 2, "the best streaming accuracy with"),
        ("trial:5", 5, "chosen by its number, one of 6"),
    ],
)
def test_each_pick(tmp_path: Path, pick: str, number: int, described: str) -> None:
    assert main(["export", "s", "--pick", pick, "-o", str(tmp_path / "x.yaml")]) == 0
    text = (tmp_path / "x.yaml").read_text()
    assert text.startswith(f"# Trial {number} of the sweep `s`: {described}")
    config, provenance = read_config(tmp_path / "x.yaml")
    width, seed, left = FRONT[number]
    assert left is not None
    assert (config.model.width, config.seed) == (width, seed)
    assert (provenance["pick"], provenance["trial"]) == (pick, number)
    assert provenance["validation"] == left["metrics"]
    assert provenance["validation_over_seeds"]["n"] == (2 if width == 16 else 1)
    assert provenance["confirmation"] == {
        "confirmed": False, "said": "not confirmed on fresh seeds: sweeps confirm s"
    }  # fmt: skip
    assert "# Not confirmed on fresh seeds: sweeps confirm s.\n" in text


def test_a_knee_is_not_on_the_wrong_side() -> None:
    # The middle of this front lies behind the line between its ends.
    points = [result(0.9, 0.3), result(0.55, 0.35), result(0.5, 0.8)]
    assert knee(configurations([a_trial(i, left) for i, left in enumerate(points)])).first["number"] == 0


@pytest.mark.usefixtures("front")
@pytest.mark.parametrize(
    ("pick", "message"),
    [
        ("worst", "--pick worst: must be confirmed, best, knee, trial:N or a condition, such as 'original_topk>=0.85'"),
        ("original_topk>0.85", "--pick original_topk>0.85: must be confirmed, best, knee, trial:N or a condition"),
        ("original_topk>=0.95", "none is so; original_topk goes from 0.5000 to 0.9000"),
        ("original_topk>=high", "`high` must be a number, such as 0.85"),
        ("original_topk>=nan", "`nan` must be a number, such as 0.85"),
        (
            "accuracy>=0.5",
            "no metric `accuracy`; there are: base_topk, joint, original_topk, retention, streaming_topk",
        ),
        ("trial:7", "--pick trial:7: no such trial; there are 0 to 6"),
        ("trial:6", "--pick trial:6: is failed; a complete trial is needed"),
        ("trial:x", "must be confirmed, best, knee, trial:N"),
    ],
)
def test_each_wrong_pick(capsys: pytest.CaptureFixture[str], pick: str, message: str) -> None:
    captured = refusal(main, capsys, "export", "s", "--pick", pick)
    assert message in captured.err
    assert captured.out == ""


def test_nothing_to_pick_from(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = made_up(home, [(1, 0, FAILED)])
    assert summary(sweep_status(sweep)).splitlines()[-1] == "failed: trial 0: error: x"
    assert "configurations for w" not in summary(sweep_status(sweep))
    left: Any = refusal(main, capsys, "export", "s", "--pick", "knee")
    assert "sweep `s` has no complete trial yet" in left.err
