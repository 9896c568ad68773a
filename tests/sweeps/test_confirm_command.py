"""`sweeps confirm` as it is called: killed, gone on with, checked against networks trained here, called again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient

from senet.checkpoint import restored
from senet.data.store import Dataset, open_dataset
from senet.device import Runtime
from senet.evaluation import Evaluation
from senet.phases import stream, train_base
from sweeps.config import validate_recipe
from tests.conftest import merged
from tests.sweeps.commands import RECIPE, Home, kill_everything, wait_for

# Every command starts a process, and a sweep several: on a slow machine that adds up.
pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

CALL = ("confirm", "small", "--top", "2", "--seeds", "2")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """With a finished sweep."""
    home = Home(tmp_path_factory.mktemp("home"))
    home.call("sweeps", "run", str(home.recipe("small", **merged(RECIPE, {"search": {"trials": 5}}))))
    return home


def results(home: Home) -> dict[str, float]:
    """Result files of the study with the times of their writing."""
    return {str(path): path.stat().st_mtime for path in home.folder.glob("sweeps/small-confirm/trials/*/result.json")}


@pytest.fixture(scope="module")
def output(home: Home) -> str:
    """What was printed in the end; the command was killed before."""
    process = home.start("sweeps", *CALL)
    wait_for(lambda: results(home))
    kill_everything(process)
    before = results(home)
    # All five: the third best may be the baseline, which is there anyway.
    others = home.call("sweeps", "confirm", "small", "--top", "5", "--seeds", "2", code=2)
    assert "begun with other configurations" in others
    out = home.call("sweeps", *CALL)
    after = results(home)
    assert {path: after[path] for path in before} == before, "no finished trial ran again"
    return out


@pytest.fixture(scope="module")
def confirmed(home: Home, output: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home.folder / "sweeps" / "small" / "confirm.json").read_text())
    return found


def test_the_study_is_a_sweep_of_its_own(home: Home, output: str, confirmed: dict[str, Any]) -> None:
    sweep, study = home.status("small"), home.status("small-confirm")
    home.assert_consistent("small-confirm", len(study["trials"]))
    rows = confirmed["validation"]
    assert len(study["trials"]) == 2 * len(rows)
    assert {trial["seed"] for trial in study["trials"]} == {1, 2} == set(confirmed["seeds"])
    assert {trial["seed"] for trial in sweep["trials"]} == {0}
    params = [row["params"] for row in rows]
    assert sweep["best"]["params"] in params
    assert sweep["baseline"]["params"] in params
    assert rows[0]["params"] == study["best"]["params"]
    # What is measured again is what the trials have measured, to the bit.
    assert confirmed["largest_deviation_of_a_joint_measured_again"] == 0
    for row in rows:
        joints = [trial["metrics"]["joint"] for trial in study["trials"] if trial["params"] == row["params"]]
        assert row["joint"]["values"] == joints
    assert "looking at the pictures of every trial" in output
    assert "test split, pick: trial" in output


def accuracies(home: Home, dataset: Dataset, params: dict[str, Any], seed: int) -> dict[str, float]:
    """Original and streaming accuracy on the test split of a network that is trained here."""
    runtime = Runtime(torch.device("cpu"), bf16=False)
    config = validate_recipe(RECIPE, "r").parsed_space("r").config(params, seed=seed)
    base = train_base(config, dataset, runtime, lambda report: None)
    state = stream(config, base, dataset, runtime, lambda report: None).state
    evaluation = Evaluation(config, dataset, "test", runtime)
    scores = evaluation.scores(restored(config.model, state, len(dataset.classes)))
    measured = evaluation.after(scores, 1.0, 1.0, scores.calibration())
    return {name: float(measured[name]) for name in ("original_topk", "streaming_topk", "joint")}


def test_the_test_split_says_what_a_network_trained_here_says(home: Home, confirmed: dict[str, Any]) -> None:
    dataset = open_dataset(home.folder / "datasets" / "tiny")
    params = {row["trial"]: row["params"] for row in confirmed["validation"]}
    for role in ("pick", "baseline"):
        here = [accuracies(home, dataset, params[confirmed[role]], seed) for seed in (1, 2)]
        for name in ("original_topk", "streaming_topk", "joint"):
            assert confirmed["test"][role][name]["values"] == pytest.approx([values[name] for values in here]), name


def test_tracking_and_export_know(home: Home, confirmed: dict[str, Any], output: str) -> None:
    (parent,), _ = home.runs("small")
    client = MlflowClient(tracking_uri=f"sqlite:///{home.folder / 'mlflow.db'}")
    assert {"confirm.json", "confirm.md"} <= {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert "next: sweeps export small -o best.yaml" in output
    text = home.call("sweeps", "export", "small")
    assert text.startswith(f"# Trial {confirmed['pick']} of the sweep `small`: first on fresh seeds, one of ")
    assert "fresh seeds; trial" in text.partition("\n\n")[0]
    assert "not confirmed on fresh seeds" not in text


def test_a_second_call_reads_nothing(home: Home, confirmed: dict[str, Any], output: str) -> None:
    folder = home.folder / "sweeps"
    files = [folder / "small" / "confirm.json", *sorted(folder.glob("small-confirm/trials/*/hits.npz"))]
    before = [(path.stat().st_mtime, path.read_bytes()) for path in files]
    manifest = Path(home.folder / "datasets" / "tiny" / "manifest.json")
    kept = manifest.read_bytes()
    manifest.unlink()
    again = home.call("sweeps", *CALL)
    manifest.write_bytes(kept)
    assert f"the test split was read at {confirmed['read_test_split']}, and is not read again" in again
    table = output[output.index("small on fresh seeds") :]
    assert table in again, "the same table, the same verdict"
    assert [(path.stat().st_mtime, path.read_bytes()) for path in files] == before


def test_a_sweep_is_deleted_with_what_confirmed_it(home: Home, confirmed: dict[str, Any]) -> None:
    said = home.call("sweeps", "delete", "small", "--yes")
    assert "deleted sweep small-confirm and" in said
    assert not list((home.folder / "sweeps").glob("small*"))
    assert home.runs("small") == home.runs("small-confirm") == ([], [])
