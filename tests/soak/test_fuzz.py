"""Mutated input: an answer in one line, never a traceback."""

import random
from pathlib import Path

import pytest
import yaml

from senet.cli import main as senet
from sweeps.cli import main as sweeps
from sweeps.config import bundled_recipes

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


def mutated(content: bytes, dice: random.Random) -> bytes:
    """A few bytes changed, cut or repeated."""
    data = bytearray(content)
    for _ in range(dice.randint(1, 8)):
        at = dice.randrange(len(data) or 1)
        action = dice.randrange(3)
        if action == 0 and data:
            data[at] = dice.randrange(256)
        elif action == 1:
            del data[at : at + dice.randint(1, 200)]
        else:
            data[at:at] = data[at : at + dice.randint(1, 20)]
    return bytes(data)


def test_mutated_recipes(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dice = random.Random(0)
    texts = [path.read_bytes() for path in bundled_recipes().values()]
    path = tmp_path / "mutated.yaml"
    refused = 0
    for _ in range(1500):
        path.write_bytes(mutated(dice.choice(texts), dice))
        # A data set that does not exist stops what is still valid before anything is started.
        code = sweeps(["run", str(path), "--set", "data=nothing-of-this-name"])
        captured = capsys.readouterr()
        assert code == 2
        assert captured.err.count("\n") == 1, captured.err
        refused += "no data set" not in captured.err
    assert 300 < refused < 1500
    assert not (home / "sweeps").exists()


def test_mutated_configs(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from senet.config import TrialConfig

    dice = random.Random(1)
    text = yaml.safe_dump(TrialConfig(data="nothing-of-this-name").model_dump(mode="json")).encode()
    path = tmp_path / "mutated.yaml"
    for _ in range(1500):
        path.write_bytes(mutated(text, dice))
        assert senet(["train", str(path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
