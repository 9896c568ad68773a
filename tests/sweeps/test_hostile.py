"""Files from somebody who means harm: none of them gets code to run."""

import hashlib
import io
import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from senet.checkpoint import load_progress
from senet.cli import main as senet
from senet.data.breeds import prepare_breeds
from sweeps.bases import BaseStore
from sweeps.cli import main as sweeps
from tests.conftest import TINY, merged, refusal
from tests.sweeps.commands import RECIPE


class Bomb:
    """Pickled, it makes the file `mark` when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.mark), "w")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is made by whatever a bomb is put into, and by nothing else."""
    return tmp_path / "gone-off"


@pytest.fixture
def bombs(mark: Path) -> dict[str, bytes]:
    """Pickles as they would come: bare, and in PyTorch's file format, alone or among weights."""
    found = {"bare": pickle.dumps(Bomb(mark))}
    for name, value in (("torch", Bomb(mark)), ("weights", {"conv1.weight": torch.zeros(3), "more": Bomb(mark)})):
        file = io.BytesIO()
        torch.save(value, file)
        found[name] = file.getvalue()
    for bomb in found.values():
        # What is no file of PyTorch's is refused after it has gone off.
        with suppress(RuntimeError):
            torch.load(io.BytesIO(bomb), weights_only=False)
        assert mark.exists(), "it would go off"
        mark.unlink()
    return found


@pytest.fixture
def prepared(home: Path) -> Path:
    """A home with the tiny data set."""
    prepare_breeds(home / "datasets" / "tiny", TINY)
    return home


def test_weights_that_are_a_pickle(
    prepared: Path, bombs: dict[str, bytes], mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, bomb in bombs.items():
        weights, recipe = prepared / f"{name}.pth", prepared / "evil.yaml"
        weights.write_bytes(bomb)
        recipe.write_text(yaml.safe_dump(merged(RECIPE, {"config": {"model": {"initial": str(weights)}}})))
        said = refusal(sweeps, capsys, "run", str(recipe)).err
        assert f"`model.initial`: {weights}: is no file of weights" in said
        # What a killed trial would go on from: it begins anew.
        assert load_progress(weights, "identity") is None
    assert not mark.exists()


def test_a_base_that_is_a_pickle(tmp_path: Path, bombs: dict[str, bytes], mark: Path) -> None:
    for bomb in bombs.values():
        folder = tmp_path / "bases" / "key"
        folder.mkdir(parents=True, exist_ok=True)
        about = {"weights": "weights.safetensors", "sha256": hashlib.sha256(bomb).hexdigest(), "history": [{}]}
        (folder / "weights.safetensors").write_bytes(bomb)
        (folder / "base.json").write_text(json.dumps(about | {"seconds": 1.0, "trainer": "x"}))
        assert BaseStore(tmp_path / "bases").load("key") is None
    assert not mark.exists()


def test_a_data_set_of_pickled_objects(prepared: Path, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = prepared / "datasets" / "tiny" / "streaming.labels.npy"
    np.save(labels, np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    assert "tiny" in refusal(senet, capsys, "data", "verify", "tiny").err
    assert not mark.exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:builtins.open", "!!python/object/new:builtins.open"])
def test_a_recipe_with_a_tag_that_constructs_objects(
    prepared: Path, mark: Path, tag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = prepared / "evil.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE) + f"description: {tag} ['{mark}', 'w']\n")
    line = recipe.read_text().count("\n")
    said = refusal(sweeps, capsys, "run", str(recipe)).err
    assert f"{recipe}: line {line} is not valid YAML: could not determine a constructor" in said
    said = refusal(sweeps, capsys, "run", "quickstart", "--set", f"description={tag} ['{mark}', 'w']").err
    assert "is not valid YAML" in said
    assert not mark.exists()
