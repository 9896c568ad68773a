"""`sweeps bases`: what it lists, checks and removes, and what it refuses."""

import hashlib
import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sweeps.cli import main
from sweeps.inventory import Inventory, size_of
from sweeps.lease import Timing, lease_holder, take_lease
from tests.conftest import refusal

KEYS = ["0123456789abcde" + digit for digit in "01234"]


def make(home: Path, key: str, hours_ago: float, size: int = 1000, complete: bool = True) -> Path:
    """A base as a trial leaves it."""
    folder = home / "bases" / key
    folder.mkdir(parents=True)
    model = {"name": "senet18", "width": 64, "expansion": 2, "reduction": 32}
    about: dict[str, Any] = {"config": {"model": model}, "data": "pets", "environment": {"device": "cpu"}}
    about["trainer"] = "s/1"
    if complete:
        weights = b"w" * size
        (folder / "weights-1.safetensors").write_bytes(weights)
        about |= {"weights": "weights-1.safetensors", "sha256": hashlib.sha256(weights).hexdigest()}
        about |= {"seconds": 12.25, "history": [{"epoch": 1, "base_topk": 0.5, "base_top1": 0.25}]}
        (folder / "base.json").write_text(json.dumps(about))
    else:
        (folder / "making.json").write_text(json.dumps(about))
        (folder / "progress.pt").write_bytes(b"p" * size)
    then = time.time() - 3600 * hours_ago
    for path in folder.iterdir():
        os.utime(path, (then, then))
    return folder


@pytest.fixture
def bases(home: Path) -> dict[str, Path]:
    """One used ten days ago, one yesterday, one now, one given up, one damaged."""
    ages = (240.0, 24.0, 0.0)
    folders = {name: make(home, key, age) for name, key, age in zip(("old", "recent", "now"), KEYS, ages, strict=False)}
    folders["given up"] = make(home, KEYS[3], 240.0, complete=False)
    folders["damaged"] = make(home, KEYS[4], 0.0)
    (folders["damaged"] / "weights-1.safetensors").write_bytes(b"x" * 1000)
    return folders


def left(bases: dict[str, Path]) -> set[str]:
    return {name for name, folder in bases.items() if folder.exists()}


def test_what_is_listed(bases: dict[str, Path], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with take_lease(bases["given up"], "sweep/7", Timing()):
        assert main(["bases", "--json"]) == 0
        found = {base["key"]: base for base in json.loads(capsys.readouterr().out)}
        assert main(["bases"]) == 0
        shown = capsys.readouterr().out
    assert [base["state"] for base in found.values()] == ["complete"] * 3 + ["training", "complete"]
    old = found[KEYS[0]]
    assert old["network"] == "senet18, expansion 2, reduction 32"
    assert old["data"] == "pets"
    assert old["metrics"] == {"base_topk": 0.5, "base_top1": 0.25}
    assert old["seconds"] == 12.25
    assert old["bytes"] == sum(path.stat().st_size for path in bases["old"].iterdir())
    assert found[KEYS[3]]["holder"].startswith("sweep/7, process")
    assert f"{KEYS[3]}: trained by sweep/7, process {os.getpid()} on " in shown
    line = next(line for line in shown.splitlines() if line.startswith(KEYS[0]))
    assert "senet18, expansion 2, reduction 32" in line
    assert "50.0" in line
    assert "5 bases, 6." in shown


def test_what_is_damaged_is_found(bases: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bases", "--verify"]) == 1
    assert f"damaged: {KEYS[4]}; remove them: sweeps bases --prune --damaged" in capsys.readouterr().out
    assert main(["bases", "--prune", "--damaged", "--yes"]) == 0
    assert left(bases) == {"old", "recent", "now", "given up"}
    assert main(["bases", "--verify"]) == 0


@pytest.mark.parametrize(
    ("options", "stay"),
    [
        (["--older-than", "5"], {"recent", "now", "damaged"}),
        (["--older-than", "0"], {"now", "damaged"}),
        (["--older-than", "30"], {"old", "recent", "now", "given up", "damaged"}),
        (["--keep", "4.5kB"], {"recent", "now", "damaged"}),
        (["--keep", "1GB"], {"old", "recent", "now", "given up", "damaged"}),
        (["--keep", "0"], {"now", "damaged"}),
        (["--keep", "1kB", "--damaged"], {"now"}),
    ],
)
def test_what_is_removed(
    bases: dict[str, Path], options: list[str], stay: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bases", "--prune", *options, "--yes"]) == 0
    assert left(bases) == stay
    said = capsys.readouterr().out
    removed = 5 - len(stay)
    assert (f"deleted {removed} bases" if removed else "nothing to remove: 5 bases") in said
    assert not list(bases["now"].parent.glob(".removed*"))


def test_what_somebody_trains_stays(bases: dict[str, Path]) -> None:
    with take_lease(bases["given up"], "a", Timing()), take_lease(bases["damaged"], "b", Timing()):
        assert main(["bases", "--prune", "--older-than", "0", "--damaged", "--yes"]) == 0
    assert left(bases) == {"now", "given up", "damaged"}


def test_it_asks(bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main(["bases", "--prune", "--older-than", "5"]) == 1
    assert "nothing deleted" in capsys.readouterr().out
    assert len(left(bases)) == 5
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert main(["bases", "--prune", "--older-than", "5"]) == 0
    assert len(left(bases)) == 3


def test_what_is_taken_while_it_asks_stays(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {
        name: make(home, key, 240.0) for name, key in zip(("used", "trained", "mended", "old"), KEYS, strict=False)
    }
    (found["mended"] / "weights-1.safetensors").write_bytes(b"x" * 1000)
    with ExitStack() as lease:

        def answer(question: str) -> str:
            (found["used"] / "used").write_bytes(b"\n")
            lease.enter_context(take_lease(found["trained"], "sweep/7", Timing()))
            os.utime(found["mended"] / "base.json")
            return "y"

        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", answer)
        assert main(["bases", "--prune", "--older-than", "5", "--damaged"]) == 0
    assert left(found) == {"used", "trained", "mended"}
    said = capsys.readouterr().out
    assert "left alone: 3 that were" in said
    assert "deleted 1 bases" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prune"], "--prune needs one of --older-than DAYS, --keep SIZE, --damaged"),
        (["--keep", "1GB"], "--prune is needed with --older-than DAYS"),
        (["--prune", "--keep", "much", "--yes"], "--keep: must be a size such as 20GB or 500MiB, but got 'much'"),
        (["--prune", "--older-than", "-1"], "--older-than: must be a number of days from 0, but got '-1'"),
        (["--prune", "--older-than", "nan"], "--older-than: must be a number of days from 0, but got 'nan'"),
        (["--prune", "--damaged", "--json"], "--json lists, --prune removes"),
        (["--prune", "--older-than", "5"], "--yes is needed to delete without being asked"),
    ],
)
def test_what_is_refused(
    bases: dict[str, Path], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(main, capsys, "bases", *arguments).err
    assert len(left(bases)) == 5


def test_an_empty_store(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bases"]) == 0
    assert f"no bases in {home / 'bases'}" in capsys.readouterr().out
    assert main(["bases", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert not home.exists()


def test_a_quota_that_is_no_size(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWEEPS_BASES_QUOTA", "lots")
    for command in (["bases"], ["run", "quickstart"]):
        assert "SWEEPS_BASES_QUOTA: must be a size such as 20GB" in refusal(main, capsys, *command).err
    assert not home.exists()


@pytest.mark.parametrize(("text", "size"), [("20GB", 20e9), ("1.5 TiB", 1.5 * 2**40), ("500 mb", 5e8), ("7", 7)])
def test_sizes(text: str, size: float) -> None:
    assert size_of(text, "x") == size


def test_a_base_that_goes_while_it_is_looked_at(
    bases: dict[str, Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory = Inventory(home / "bases")
    inventory.remove(KEYS[0])
    inventory.remove(KEYS[0])
    assert KEYS[0] not in {base.key for base in inventory.bases()}

    def another_removes(folder: Path, timing: Timing) -> str | None:
        if folder == bases["recent"]:
            Inventory(home / "bases").remove(KEYS[1])
        return lease_holder(folder, timing)

    monkeypatch.setattr("sweeps.inventory.lease_holder", another_removes)
    inventory.make_room(1000, 10000)
    assert [base.key for base in inventory.bases()] == KEYS[2:]
