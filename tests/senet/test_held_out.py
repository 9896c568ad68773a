"""What is said of data sets that lack something: a streaming set, or a test split of their own."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from senet.cli import main
from senet.data.store import open_dataset
from senet.modelfolder import load_model
from sweeps.cli import main as sweeps
from tests.conftest import TINY_TRIAL, merged, refusal
from tests.senet.photo_folders import Folders
from tests.senet.test_stanford_dogs import Dogs

NOTE = "test = validation: the split `thesis` selects and judges on the same 20 % of the pictures"
SHORT = {"base": {"epochs": 1, "batch_size": 8}, "streaming": {"epochs": 1, "batch_size": 4}, "model": {"width": 4}}


def write(path: Path, **values: object) -> Path:
    path.write_text(yaml.safe_dump(merged(merged(TINY_TRIAL, SHORT), values)))
    return path


@pytest.fixture
def dogs(tmp_path: Path, home: Path) -> str:
    """A data set without streaming pictures."""
    dogs = Dogs(tmp_path)
    assert (
        main(["data", "import-stanford-dogs", str(dogs.tar), "--name", "dogs", "--size", "24", "--policy", "crop"]) == 0
    )
    return "dogs"


def test_a_single_label_network_can_do_without_streaming_pictures(
    dogs: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path / "alone.yaml", data=dogs, protocol="single_label")
    assert main(["train", str(config)]) == 0
    out = capsys.readouterr().out
    assert "test (percent, top 2): base " in out
    assert "streaming" not in out.split("test (percent")[1]
    assert re.search(r"^standard error on the test split: original ± \d+\.\d \(\d+ images\)$", out, re.MULTILINE)
    model = load_model(home / "models" / "alone")
    assert np.isfinite(list(model.metrics["test"].values())).all()
    assert model.metrics["test"]["joint"] == model.metrics["test"]["original_topk"]


@pytest.mark.parametrize("protocol", ["streaming", "single_target", "label_splitting"])
def test_all_that_streams_refuses_it(
    dogs: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str
) -> None:
    config = write(tmp_path / "c.yaml", data=dogs, protocol=protocol)
    line = refusal(main, capsys, "train", str(config)).err
    assert f"data set `dogs` has no streaming pictures, which `protocol: {protocol}` needs" in line
    assert not (home / "models" / "c").exists()


@pytest.mark.slow
def test_sweeps_and_streams_refuse_it(
    dogs: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    space = {"streaming.learning_rate": {"log": [0.001, 0.1]}}
    recipe.write_text(yaml.safe_dump({"data": dogs, "objective": {"top_k": 2}, "space": space}))
    assert (
        "data set `dogs` has no streaming pictures, which a sweep ranks by"
        in refusal(sweeps, capsys, "run", str(recipe)).err
    )
    mixed = Dogs(tmp_path / "more")
    for i in range(6):
        mixed.images.joinpath("..", "mixes", "chihuahua+golden retriever").mkdir(parents=True, exist_ok=True)
        source = mixed.images / "n02085620-Chihuahua" / f"n02085620_{i}.jpg"
        (mixed.root / "mixes" / "chihuahua+golden retriever" / f"{i}.jpg").write_bytes(source.read_bytes())
    call = ["data", "import-stanford-dogs", str(mixed.tar), "--name", "mixed", "--size", "24"]
    assert main([*call, "--policy", "crop", "--stream", str(mixed.root / "mixes")]) == 0
    assert main(["train", str(write(tmp_path / "first.yaml", data="mixed"))]) == 0
    model = str(home / "models" / "first")
    assert "data set `dogs` has no streaming pictures" in refusal(main, capsys, "stream", model, "dogs").err
    assert main([*call, "--replace", "--policy", "pad", "--stream", str(mixed.root / "mixes")]) == 0
    line = refusal(main, capsys, "stream", model, "mixed").err
    assert "fitted by the policy `pad`, but the model's by `crop`; import them with `--policy crop`" in line


def test_the_split_of_the_thesis_is_told_wherever_it_is_judged_by(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = Folders(tmp_path)
    call = ["data", "import", "pets", "--base", str(folders.base), "--stream", str(folders.stream)]
    assert main([*call, "--size", "24", "--split", "thesis"]) == 0
    assert NOTE in capsys.readouterr().out
    dataset = open_dataset(home / "datasets" / "pets")
    assert np.array_equal(dataset.base.indices("validation"), dataset.base.indices("test"))
    assert dataset.manifest["counts"]["streaming"] == {"train": 12, "validation": 3, "test": 3}
    assert dataset.manifest["split"] == {
        "name": "thesis", "seed": 0, "shares": {"base": [0.8, 0.0, 0.0, 0.2], "streaming": [0.8, 0.0, 0.0, 0.2]},
    }  # fmt: skip
    assert main(["train", str(write(tmp_path / "best.yaml", data="pets"))]) == 0
    assert NOTE in capsys.readouterr().out.splitlines()
    model = load_model(home / "models" / "best")
    assert model.provenance["data"]["split"] == NOTE
    names = [name for name in model.metrics["test"] if name != "calibration_error"]
    assert {name: model.metrics["test"][name] for name in names} == {
        name: model.metrics["validation"][name] for name in names
    }
    assert json.loads((home / "models" / "best" / "model.json").read_text())["preprocessing"]["policy"] == "crop"
