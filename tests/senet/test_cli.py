"""The command `senet` as a person calls it: train, stream, predict, data; and its one-line errors."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from senet.cli import main
from senet.data.store import open_dataset
from senet.modelfolder import load_model
from tests.conftest import TINY_TRIAL, merged, refusal

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

DRAW = [
    *("--breeds", "6", "--train-per-breed", "20", "--validation-per-breed", "10", "--test-per-breed", "10"),
    *("--mixes", "3", "--train-per-mix", "20", "--validation-per-mix", "10", "--test-per-mix", "10"),
    *("--size", "24", "--difficulty", "0.5"),
]


@pytest.fixture
def config(home: Path, tmp_path: Path) -> Path:
    """A config file whose data set is prepared."""
    assert main(["data", "breeds", "tiny", *DRAW]) == 0
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump(TINY_TRIAL | {"provenance": {"sweep": "s", "trial": 3}}))
    return path


def test_train_stream_predict(config: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(config), "--name", "first"]) == 0
    folder = home / "models" / "first"
    assert {path.name for path in folder.iterdir()} == {
        "weights.safetensors", "config.yaml", "model.json", "metrics.json",
    }  # fmt: skip
    assert [path.name for path in (home / "models").iterdir()] == ["first"], "no progress is left"
    model = load_model(folder)
    assert set(model.metrics) == {"validation", "test"}
    assert 0.3 < model.metrics["test"]["joint"] < 1
    assert model.metrics["test"]["calibration_error"] < 0.2
    assert (model.provenance["sweep"], model.provenance["trial"]) == ("s", 3)

    # The next mixes, of the same breeds: what was learned before is measured before and after.
    assert main(["data", "breeds", "next", *DRAW, "--seed", "0", "--mixes", "5"]) == 0
    capsys.readouterr()
    assert main(["stream", str(folder), "next", "--epochs", "3", "--learning-rate", "0.005"]) == 0
    told = capsys.readouterr()
    assert (told.err, told.out.count("base at first ")) == ("", 2)
    streamed = load_model(home / "models" / "first-2")
    assert streamed.config.streaming.epochs == 3
    assert streamed.metrics["test"]["streaming_topk"] > streamed.metrics["test"]["base_streaming_topk"]
    assert streamed.provenance["streamed_into"][0]["metrics"] == model.metrics

    # Where the base pictures are others, what was learned before is not measured.
    assert main(["data", "breeds", "others", *DRAW, "--seed", "1"]) == 0
    assert main(["stream", str(folder), "others", "--epochs", "1"]) == 0
    assert "warning: the base pictures of `others`, or their split, are not those" in capsys.readouterr().err

    dataset = open_dataset(home / "datasets" / "tiny")
    files, truth = [], []
    for i in dataset.base.indices("test")[:30]:
        file = tmp_path / f"{i}.png"
        Image.fromarray(dataset.base.images[i]).save(file)
        files.append(str(file))
        truth.append(dataset.classes[int(np.flatnonzero(dataset.base.labels[i])[0])])
    capsys.readouterr()
    assert main(["predict", str(folder), *files, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == files
    assert all(set(line["probabilities"]) == set(dataset.classes) for line in lines)
    assert all(0 <= p <= 1 for line in lines for p in line["probabilities"].values())
    hits = [label in list(line["probabilities"])[:2] for line, label in zip(lines, truth, strict=True)]
    assert np.mean(hits) == pytest.approx(model.metrics["test"]["original_topk"], abs=0.25)

    assert main(["predict", str(folder), files[0], "--top", "1"]) == 0
    assert capsys.readouterr().out.count(" 0.") == 1


def stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str], **when: object
) -> None:
    """Stop a command by SIGTERM at the first report that holds what `when` says."""

    def stop(report: dict[str, object]) -> None:
        if when.items() <= report.items():
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("senet.training.print_epoch", stop)
        assert main(command) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-2:] == ["stopped; the same command goes on after the last epoch", "senet: interrupted"]


@pytest.mark.slow
def test_a_stopped_training_goes_on(
    config: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(config), "--name", "whole"]) == 0
    stopped(monkeypatch, capsys, ["train", str(config), "--name", "resumed"], phase="streaming")
    assert not (home / "models" / "resumed").exists()
    # What is left of a file that was being written when the process was killed.
    (home / "models" / ".resumed.progress" / ".base.pt-1").write_text("half")
    assert main(["train", str(config), "--name", "resumed"]) == 0
    assert "are told, not trained again" in capsys.readouterr().out.splitlines()[0]
    assert [path.name for path in (home / "models").glob(".*")] == [], "no progress is left"
    whole, resumed = (load_model(home / "models" / name) for name in ("whole", "resumed"))
    assert whole.metrics == resumed.metrics


@pytest.mark.slow
def test_a_stopped_stream_goes_on(
    config: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(config), "--name", "first"]) == 0
    command = ["stream", str(home / "models" / "first"), "tiny", "--epochs", "3"]
    assert main(command) == 0
    stopped(monkeypatch, capsys, command, epoch=2)
    assert sorted(path.name for path in (home / "models").glob("[!.]*")) == ["first", "first-2"]
    assert main(command) == 0
    assert "are told, not trained again" in capsys.readouterr().out.splitlines()[0]
    assert [path.name for path in (home / "models").glob(".*")] == [], "no progress is left"
    whole, resumed = (load_model(home / "models" / name) for name in ("first-2", "first-3"))
    assert whole.metrics == resumed.metrics


def test_another_seed_is_another_model(config: Path, home: Path) -> None:
    for seed in ("0", "1"):
        assert main(["train", str(config), "--name", f"seed{seed}", "--seed", seed]) == 0
    first, other = (load_model(home / "models" / f"seed{seed}") for seed in "01")
    assert (first.config.seed, other.config.seed) == (0, 1)
    assert first.metrics != other.metrics


def line_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    captured = refusal(main, capsys, *arguments)
    assert captured.out == ""
    return captured.err


def test_wrong_input_is_one_line(config: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(str(path) for path in home.rglob("*"))
    missing = str(tmp_path / "none")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(merged(TINY_TRIAL, {"model": {"widht": 8}})))
    other_data = tmp_path / "other.yaml"
    other_data.write_text(yaml.safe_dump(TINY_TRIAL | {"data": "pets"}))
    assert f"{missing}: no such file" in line_of(capsys, "train", missing)
    assert f"{wrong}: unknown key `model.widht`" in line_of(capsys, "train", str(wrong))
    assert "no data set `pets`" in line_of(capsys, "train", str(other_data))
    assert "--name `a/b` must be" in line_of(capsys, "train", str(config), "--name", "a/b")
    assert f"{missing}: no model folder" in line_of(capsys, "predict", missing, "x.png")
    assert f"{missing}: no model folder" in line_of(capsys, "stream", missing, "tiny")
    assert "exists" in line_of(capsys, "data", "breeds", "tiny", *DRAW)
    assert "`breeds` must be 3 to 200, but got 2" in line_of(capsys, "data", "breeds", "x", "--breeds", "2")
    for command in (["import", "s3://b/x", "--base", missing, "--stream", missing], ["breeds", "s3://b/x"]):
        assert "the data set's name `s3://b/x` must be" in line_of(capsys, "data", *command)
    laughs = tmp_path / "laughs.yaml"
    rows = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    laughs.write_text("\n".join(["provenance:", "  a0: &a0 [x]", *(f"  {row}" for row in rows)]))
    assert "it holds more than 1,000,000 values" in line_of(capsys, "train", str(laughs))
    laughs.write_text("provenance: &a {x: *a}")
    assert "it holds more than 1,000,000 values" in line_of(capsys, "train", str(laughs))
    assert missing in line_of(capsys, "data", "import", "x", "--base", missing, "--stream", missing)
    assert "invalid choice: 'nothing'" in line_of(capsys, "nothing")
    assert sorted(str(path) for path in home.rglob("*")) == before


def test_wrong_input_to_a_model(config: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(config)]) == 0
    folder = home / "models" / "best"
    text = tmp_path / "text.png"
    text.write_text("no image")
    assert f"{text}: cannot be read as an image" in line_of(capsys, "predict", str(folder), str(text))
    assert f"{tmp_path}: is a folder; name its images" in line_of(capsys, "predict", str(folder), str(tmp_path))
    assert "exists already" in line_of(capsys, "train", str(config))
    assert "--seed: `seed`: should be less than 2147483648" in line_of(
        capsys, "train", str(config), "--name", "s", "--seed", "3000000000"
    )
    strange = tmp_path / "caf\udce9.png"
    Image.new("RGB", (24, 24)).save(strange)
    assert main(["predict", str(folder), str(strange)]) == 0
    assert capsys.readouterr().out.encode("utf-8").startswith(str(tmp_path).encode() + b"/caf\\xe9.png: ")
    assert "--top must be 1 or more, but got 0" in line_of(capsys, "predict", str(folder), str(text), "--top", "0")
    message = line_of(capsys, "stream", str(folder), "tiny", "--epochs", "0")
    assert "`streaming.epochs`: must be 1 or more to stream anything, but got 0" in message
    main(["data", "breeds", "large", *DRAW, "--size", "32"])
    assert "side of 32, but the model takes 24" in line_of(capsys, "stream", str(folder), "large")
    main(["data", "breeds", "more", *DRAW, "--breeds", "8"])
    assert "the model does not know the class" in line_of(capsys, "stream", str(folder), "more")


def test_a_damaged_model(config: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(config)]) == 0
    folder, text = home / "models" / "best", tmp_path / "text.png"
    described = (folder / "model.json").read_text()
    (folder / "model.json").write_text(described.replace('"format": 2', '"format": 1'))
    message = line_of(capsys, "predict", str(folder), str(text))
    assert f"{folder}: was written by another version (format 1, this one reads 2); train it again" in message
    for right, wrong in (
        ('"size": ', '"size": 24.5, "was": '),
        ('"mean": [', '"mean": [NaN, '),
        ('"classes": [', '"classes": [NaN, '),
        ('"classes": [', '"classes": [], "were": ['),
        ('"classes": [', '"were": ['),
        ('"policy": "', '"policy": "un'),
        ('"scale": ', '"scale": NaN, "was": '),
    ):
        assert right in described
        (folder / "model.json").write_text(described.replace(right, wrong, 1))
        message = line_of(capsys, "predict", str(folder), str(text))
        assert f"{folder}: the model folder is damaged: model.json: " in message
    (folder / "model.json").write_text(described)
    weights = load_file(folder / "weights.safetensors")
    for change, said in (
        (lambda value: value / 0, "weights.safetensors: there are weights that are no finite numbers"),
        (lambda value: value.flatten()[:1], "size mismatch for "),
    ):
        save_file({name: change(value) for name, value in weights.items()}, folder / "weights.safetensors")
        message = line_of(capsys, "predict", str(folder), str(text))
        assert f"{folder}: the model folder is damaged: " in message
        assert said in message
    (folder / "weights.safetensors").write_bytes(b"pickle")
    assert f"{folder}: the model folder is damaged" in line_of(capsys, "predict", str(folder), str(text))
