"""A sweep on data whose test split is its validation split says so wherever it is told of."""

from pathlib import Path

import pytest
import yaml

from senet.cli import main as senet
from sweeps.cli import main as sweeps
from sweeps.config import load_recipe
from sweeps.export import export_pick
from sweeps.report import summary
from sweeps.status import sweep_status
from sweeps.sweep import create_sweep
from tests.senet.photo_folders import Folders
from tests.sweeps.commands import RECIPE

NOTE = "test = validation: the split `thesis` selects and judges on the same 20 % of the pictures"


@pytest.mark.parametrize("split", ["default", "thesis"])
def test_status_report_and_export_say_it(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    folders = Folders(tmp_path)
    call = ["data", "import", "pets", "--base", str(folders.base), "--stream", str(folders.stream), "--size", "16"]
    assert senet([*call, "--split", split]) == 0
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"data": "pets"}))
    recipe, name, _ = load_recipe(str(path), [])
    sweep = create_sweep(home, None, name, recipe, "f")
    status = sweep_status(sweep)
    assert (NOTE in summary(status).splitlines()) == (split == "thesis")
    capsys.readouterr()
    assert sweeps(["status"]) == 0
    assert (NOTE in capsys.readouterr().out) == (split == "thesis")
    metrics = {"joint": 0.5, "original_topk": 0.6, "streaming_topk": 0.3}
    trial = {"number": 0, "seed": 0, "params": dict(RECIPE["enqueue"][0]), "metrics": metrics, "base_key": "k"}
    trial |= {"mlflow_run_id": "m", "state": "complete", "enqueued": True}
    text = export_pick(sweep, status | {"best": trial, "trials": [trial]}, "best")
    assert (yaml.safe_load(text)["provenance"].get("split") == NOTE) == (split == "thesis")
