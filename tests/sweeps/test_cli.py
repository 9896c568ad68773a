"""The command `sweeps` given wrong input, in an empty home: one line, exit code 2, nothing written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.cli import main
from sweeps.config import load_recipe, validate_recipe
from sweeps.sweep import create_sweep
from tests.conftest import refusal
from tests.sweeps.commands import RECIPE
from tests.sweeps.made_up import made_up, result


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
        (["run", "quickstart", "--set", "search.trails=3"], "unknown key `search.trails`; did you mean `trials`?"),
        (["run", "quickstart", "--set", "base.epochs=3"], "did you mean `config.base.epochs`, for all trials, or"),
        (["run", "quickstart", "--set", "search.pruning.x=3"], "unknown key `search.pruning.x`; there are: rungs,"),
        (["run", "quickstart", "--set", "space={}"], "`space`: is empty"),
        (["run", "quickstart", "--name", "a/b"], "--name `a/b` must be 1 to 64 letters"),
        (["run", "quickstart", "--name", ""], "--name `` must be 1 to 64 letters"),
        (["run", "quickstart", "--set", f"search.trials={10**20}"], "`search.trials`: should be less than or equal to"),
        (["run", "quickstart", "--set", f"config.base.epochs={10**20}"], "`base.epochs`: should be less than or equal"),
        (["run", "."], ".: cannot be read: Is a directory"),
        (["resume", "x"], "no sweep `x`"),
        (["status", "x"], "no sweep `x`"),
        (["export", "../x"], "no sweep `../x`"),
        (["delete", "x", "--yes"], "no sweep `x`"),
        (["train", "none.yaml"], "none.yaml: no such file"),
        (["ui", "--port", "99999"], "--port 99999: must be 0 to 65535"),
        (["fly"], "invalid choice: 'fly'"),
        (["thesis", "--set", "search.trials=5"], "--set search.trials=5: follows from the thesis' configurations"),
        *(
            (
                [action, "x", "--address", address],
                f"--address {address}: must be the address of the cluster's dashboard",
            )
            for action, address in (("pause", "head:8265"), ("stop", "auto"), ("status", "127.0.0.1:8265"))
        ),
        (["confirm", "x", "--address", "HTTP://head:8265"], "call it on one of its machines with --address auto"),
        (["status", "x", "--addr", "http://127.0.0.1:8265"], "unrecognized arguments: --addr"),
    ],
)
def test_wrong_input(home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert message in line_of(capsys, *arguments)
    assert not home.exists()


def test_a_file_that_is_meant_for_another_command(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "best.yaml"
    config.write_text("data: breeds\nprovenance: {sweep: s}\n")
    assert f"is the config of one trial, not a recipe; train it: sweeps train {config}" in line_of(
        capsys, "run", str(config)
    )
    recipe = tmp_path / "my recipe.yaml"
    recipe.write_text("data: breeds\nspace: {model.width: {choice: [8, 16]}}\n")
    assert "is a recipe, not the config of one trial; search by it: sweeps run" in line_of(capsys, "train", str(recipe))
    assert "give --name, or the file's name `my recipe` must be" in line_of(capsys, "run", str(recipe))
    assert load_recipe(str(recipe), [], "mine")[1] == "mine"


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
    assert "x: cannot be read: " in captured.err
    assert captured.out == "", "there is one"


def test_a_password_in_the_address_of_the_tracking_is_not_passed_on(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:sesame@mlflow.example.org")
    said = line_of(capsys, "ui")
    assert "MLFLOW_TRACKING_URI: holds a password" in said
    assert "sesame" not in said


def test_a_sweep_that_has_used_its_budget_is_not_extended(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = validate_recipe(RECIPE | {"search": {"trials": 4, "budget": {"target": 0.5}}}, "r")
    sweep = create_sweep(home, None, "x", recipe, "f")
    sweep.set_ending("ended: the joint value 0.5 is reached (`search.budget.target`)")
    said = line_of(capsys, "extend", "x", "--trials", "4")
    assert "ended: the joint value 0.5 is reached (`search.budget.target`), and would end again at once" in said
    assert sweep.recipe() == recipe


def test_a_home_that_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for home, command in (
        (file, ["status", "x"]),
        (file, ["status"]),
        (file, ["run", "quickstart"]),
        (file / "below", ["status"]),
    ):
        monkeypatch.setenv("SWEEPS_HOME", str(home))
        assert f"{file}: is no folder, but everything is written below it" in line_of(capsys, *command)
    assert str(file) in line_of(capsys, "run", "quickstart", "--set", "data=pets")


def test_a_home_below_that_of_the_user(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SWEEPS_HOME", "~/mine")
    create_sweep(tmp_path / "mine", None, "x", validate_recipe(RECIPE, "r"), "f")
    assert main(["status", "x"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("end", [">&-", "2>&-", "| cat"])
def test_an_output_that_is_closed_or_lacks_a_character_fails_nothing(home: Path, end: str) -> None:
    made_up(home, [(1, 0, result(0.5, 0.4)), (1, 1, result(0.6, 0.4))])
    command = f'"{Path(sys.executable).with_name("sweeps")}" status s {end}'
    environment = os.environ | {"SWEEPS_HOME": str(home), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert ("\\xb1 4.9 (n=2)" in done.stdout) == (end != ">&-")
