"""Constraints: what fits is tried, what does not is rejected before any training, and each mistake is named."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from senet.complexity import complexity
from senet.config import ModelConfig
from senet.data.catalogue import Description, describe_dataset
from senet.errors import InputError
from sweeps.cli import main
from sweeps.config import Recipe, dump_recipe, load_recipe, validate_recipe
from sweeps.constraints import Constraints
from sweeps.ledger import Entry, Ledger
from sweeps.memory import base_of
from sweeps.samplers import random_draws
from sweeps.search import TRIES, Suggester
from sweeps.space import Params
from tests.conftest import merged, refusal

RECIPE: dict[str, Any] = {
    "data": "breeds",
    "config": {"model": {"name": "resnet18"}},
    "objective": {"top_k": 3},
    "search": {"trials": 9, "streams_per_base": 3, "seed": 1},
    "space": {
        "model.width": {"int": [1, 6]},
        "base.learning_rate": {"log": [0.001, 0.1]},
        "streaming.learning_rate": {"log": [0.001, 0.1]},
    },
}
DATA = Description("breeds", ("a", "b", "c", "d"), 32, {}, 2)


def parameters(width: int) -> int:
    config = validate_recipe(RECIPE, "r").parsed_space("r").config({"model.width": width})
    return complexity(config.model, len(DATA.classes), DATA.size).parameters


BUILT: list[int] = []


def counting_network(config: ModelConfig, classes: int) -> nn.Module:
    """A network that cannot be had with a width of 4."""
    BUILT.append(config.width)
    if config.width == 4:
        raise ValueError("four")
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))


def two_logits(config: ModelConfig, classes: int) -> nn.Module:
    """A network that gives two logits whatever the number of classes."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))


def recipe_of(**changes: Any) -> Recipe:
    return validate_recipe(merged(RECIPE, changes), "r")


def tried(recipe: Recipe, folder: Path, fits: Callable[[Params], bool], joint: float | None = 0.5) -> list[Entry]:
    """All trials of a search, one at a time."""
    space, ledger = recipe.parsed_space("r"), Ledger(folder, "s", create=True)
    suggester, entries = Suggester(recipe, space, ledger, fits), []
    while (entry := suggester.next()) is not None:
        entries.append(entry)
        if joint is None:
            ledger.finish(entry.number, {"state": "failed", "error": "error: x"})
        else:
            suggester.base_stands(entry)
            base = base_of(space, entry.params, entry.seed)
            ledger.finish(entry.number, {"state": "complete", "base_key": base, "metrics": {"joint": joint}})
        suggester.ended(ledger.entry(entry.number))
    assert suggester.done()
    return entries


@pytest.mark.parametrize("value", [[2, 1], [-1, 2], [1], [1, 2, 3], "x", 3, [0, float("inf")], [True, 2], ["1", 2], []])
def test_each_wrong_constraint_is_named(value: Any) -> None:
    with pytest.raises(InputError) as caught:
        recipe_of(constraints={"flops": value})
    assert str(caught.value) == (
        f"r: `constraints.flops`: must be two numbers [least, most], 0 <= least <= most, but got {value!r}"
    )


def test_constraints_survive_being_written() -> None:
    recipe = recipe_of(constraints={"parameters": [0, 12e6], "activations": [5, 5]})
    assert recipe.constraints.given() == {"parameters": (0, 12e6), "activations": (5, 5)}
    assert validate_recipe(yaml.safe_load(dump_recipe(recipe)), "copy") == recipe
    with pytest.raises(InputError, match=r"unknown key `constraints\.params`"):
        recipe_of(constraints={"params": [0, 1]})


@pytest.mark.slow
def test_only_what_fits_is_tried(tmp_path: Path) -> None:
    bounds = [parameters(2), parameters(3)]
    recipe = recipe_of(constraints={"parameters": bounds, "flops": [0, 1e12]}, search={"trials": 6})
    constraints = Constraints(recipe, recipe.parsed_space("r"), DATA)
    constraints.check("r")
    entries = tried(recipe, tmp_path, constraints.fits)
    assert {entry.params["model.width"] for entry in entries} <= {2, 3}
    # Rejected draws do not keep the search from new bases.
    assert len({entry.params["base.learning_rate"] for entry in entries}) == 2
    assert len({entry.params["streaming.learning_rate"] for entry in entries}) == 6


@pytest.mark.slow
def test_one_that_fits_is_found_among_very_many(tmp_path: Path) -> None:
    recipe = recipe_of(space={"model.width": {"int": [1, 10**6]}}, search={"trials": 2})
    only = [draw["model.width"] for draw in random_draws(recipe.parsed_space("r"), recipe.search.seed, TRIES)][-1]
    entries = tried(recipe, tmp_path, lambda params: params["model.width"] == only)
    assert [entry.params["model.width"] for entry in entries] == [only] * 2


def test_nothing_that_fits_ends_the_search(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no configuration of `space` fits"):
        tried(recipe_of(), tmp_path, lambda params: False)


def test_a_search_whose_only_base_fails_ends(tmp_path: Path) -> None:
    space = {"model.width": {"choice": [1]}, "streaming.learning_rate": {"log": [0.001, 0.1]}}
    recipe = validate_recipe(RECIPE | {"space": space, "search": {"trials": 3}}, "r")
    assert len(tried(recipe, tmp_path, lambda params: True, joint=None)) == 3


def test_no_network_is_counted_twice(tmp_path: Path) -> None:
    BUILT.clear()
    recipe = recipe_of(config={"model": {"name": f"{__name__}:counting_network"}}, constraints={"flops": [0, 1e12]})
    constraints = Constraints(recipe, recipe.parsed_space("r"), DATA)
    for rate in (0.01, 0.02, 0.03):
        for width in (3, 4):
            assert constraints.fits({"model.width": width, "base.learning_rate": rate}) == (width == 3)
    assert BUILT == [3, 4]


def test_an_enqueued_configuration_outside_is_named() -> None:
    rates = {"base.learning_rate": 0.01, "streaming.learning_rate": 0.01}
    first = [{"model.width": 2} | rates, {"model.width": 3} | rates]
    recipe = recipe_of(enqueue=first, constraints={"parameters": [10, parameters(2)]})
    with pytest.raises(InputError) as caught:
        Constraints(recipe, recipe.parsed_space("r"), DATA).check("r.yaml")
    assert str(caught.value) == (
        f"r.yaml: `enqueue[1]`: has {parameters(3):,} parameters, outside of `constraints.parameters`,"
        f" [10, {parameters(2):,}]"
    )


@pytest.mark.slow
def test_a_space_in_which_nothing_fits_is_named() -> None:
    recipe = recipe_of(constraints={"parameters": [0, 100], "activations": [0, 1e9]})
    with pytest.raises(InputError) as caught:
        Constraints(recipe, recipe.parsed_space("r"), DATA).check("r.yaml")
    message = str(caught.value)
    assert message.startswith("r.yaml: `constraints`: no random configuration of `space` fits: parameters are from ")
    assert f"from {parameters(1):,} to {parameters(6):,}, but must be in [0, 100]; activations are from" in message
    recipe = recipe_of(config={"model": {"name": "vgg16"}}, constraints={"parameters": [0, 1e12]})
    small = Description("small", DATA.classes, 24, {}, 2)
    with pytest.raises(
        InputError, match=r"no random configuration of `space` fits: .*vgg16 needs images of at least 32"
    ):
        Constraints(recipe, recipe.parsed_space("r"), small).check("r.yaml")


@pytest.mark.slow
def test_without_constraints_the_driver_does_without_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from senet.data.catalogue import describe_dataset
from sweeps.config import load_recipe
from sweeps.constraints import Constraints
recipe, _, source = load_recipe("quickstart", [])
space = recipe.parsed_space(source)
constraints = Constraints(recipe, space, describe_dataset(Path({str(tmp_path)!r}), recipe.data))
constraints.check(source)
print(constraints.fits(space.defaults()), "torch" in sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "True False\n"


def test_the_command_refuses_before_it_begins(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = refusal(main, capsys, "run", "quickstart", "--set", "constraints.parameters=[0, 10]")
    assert "quickstart.yaml with --set: `enqueue[0]`: has " in shown.err
    shown = refusal(main, capsys, "run", "quickstart", "--set", "config.model.initial=none.pth")
    missing = Path("none.pth").absolute()
    assert f"quickstart.yaml with --set: `model.initial`: {missing}: no such file or model folder" in shown.err
    mine = f"{__name__}:two_logits"
    shown = refusal(main, capsys, "run", "quickstart", "--set", f"config.model.name={mine}")
    assert f"`model.name`: {mine}: must give logits (2, 24), but gave a tensor (2, 2)" in shown.err
    assert not home.exists()


def test_initial_weights_of_a_recipe_are_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe, _, _ = load_recipe("quickstart", ["config.model.initial=weights/a.pth"])
    assert recipe.config["model"]["initial"] == str(tmp_path / "weights" / "a.pth")
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.pth")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(merged(RECIPE, {"config": {"model": {"initial": "part.pth"}}})))
    recipe, _, _ = load_recipe("r.yaml", [])
    assert recipe.config["model"] == {"name": "resnet18", "initial": str(tmp_path / "part.pth")}


@pytest.mark.slow
def test_a_dry_run_shows_the_complexity(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "quickstart", "--dry-run"]) == 0
    recipe, _, source = load_recipe("quickstart", [])
    data = describe_dataset(home, recipe.data)
    counted = complexity(recipe.parsed_space(source).config({}).model, len(data.classes), data.size)
    shown = capsys.readouterr().out
    assert f"{counted.parameters:,} parameters, {counted.flops / 1e6:.1f} MFLOPs and {counted.activations:,}" in shown
