"""The command `sweeps` given wrong input, in an empty home: one line, exit code 2, nothing written."""

from pathlib import Path

import pytest

from sweeps.cli import main
from tests.conftest import refusal


def line_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return refusal(main, capsys, *arguments).err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing"], "nothing: no such recipe; there are: photos, quickstart"),
        (["run", "quickstart", "--set", "objective.top_k=99"], "`objective.top_k`: must be from 2"),
        (["run", "quickstart", "--set", "objective.top_k=99", "--dry-run"], "`objective.top_k`: must be from 2"),
        (["run", "quickstart", "--set", "data=pets"], "no data set `pets`"),
        (["run", "quickstart", "--set", "data=../pets"], "`data`: `../pets` must be 1 to 64 letters"),
        (["run", "quickstart", "--set", "search.trails=3"], "unknown key `search.trails`"),
        (["run", "quickstart", "--set", "space={}"], "`space`: is empty"),
        (["run", "quickstart", "--name", "a/b"], "--name `a/b` must be 1 to 64 letters"),
        (["run", "quickstart", "--name", ""], "--name `` must be 1 to 64 letters"),
        (["run", "."], ".: cannot be read: Is a directory"),
        (["resume", "x"], "no sweep `x`"),
        (["status", "x"], "no sweep `x`"),
        (["export", "../x"], "no sweep `../x`"),
        (["delete", "x", "--yes"], "no sweep `x`"),
        (["train", "none.yaml"], "none.yaml: no such file"),
        (["ui", "--port", "99999"], "--port 99999: must be 0 to 65535"),
        (["fly"], "invalid choice: 'fly'"),
    ],
)
def test_wrong_input(home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert message in line_of(capsys, *arguments)
    assert not home.exists()


def test_a_damaged_sweep_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "sweeps" / "x"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text("{")
    (folder / "recipe.yaml").write_text("data: [")
    assert f"{folder / 'recipe.yaml'}: line 1 is not valid YAML" in line_of(capsys, "status", "x")
    (folder / "recipe.yaml").write_text("data: x\nspace: {model.width: {choice: [8]}}\n")
    (folder / "ledger.db").write_bytes(b"no database")
    assert "ledger.db: is no ledger of the sweep `x`" in line_of(capsys, "status", "x")
    assert "sweep.json: cannot be read" in line_of(capsys, "delete", "x", "--yes")
    assert main(["status"]) == 0
    captured = capsys.readouterr()
    assert "x: damaged: " in captured.err
    assert "no sweeps below" in captured.out


def test_a_home_that_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("SWEEPS_HOME", str(file))
    assert str(file) in line_of(capsys, "status", "x")
    assert str(file) in line_of(capsys, "run", "quickstart", "--set", "data=pets")
