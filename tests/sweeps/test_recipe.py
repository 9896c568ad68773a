"""Recipes and spaces: what is accepted, and how each mistake reads."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from senet.config import fingerprint
from senet.data.store import Dataset
from senet.errors import InputError
from sweeps.config import bundled_recipes, dump_recipe, load_recipe, validate_recipe
from sweeps.fit import check_stages
from sweeps.space import parse_space
from tests.conftest import merged

RECIPE: dict[str, Any] = {
    "data": "tiny",
    "config": {"model": {"width": 8}},
    "objective": {"top_k": 2},
    "search": {"trials": 6},
    "space": {
        "model.expansion": {"choice": [1, 2, 4]},
        "streaming.learning_rate": {"log": [0.001, 0.1]},
        "streaming.epochs": {"int": [1, 3]},
        "streaming.distillation": {"float": [0, 1]},
    },
    "enqueue": [{"streaming.learning_rate": 0.01}],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"serch": {}}, "unknown key `serch`"),
        ({"search": {"trails": 3}}, "unknown key `search.trails`"),
        ({"search": {"trials": "many"}}, "`search.trials`: should be a valid integer, but got 'many'"),
        ({"search": {"trials": 0}}, "`search.trials`: should be greater than or equal to 1, but got 0"),
        ({"search": {"sampler": "magic"}}, "`search.sampler`: should be 'tpe', 'gp', 'cmaes', 'nsga2', 'qmc', 'random' or 'grid'"),
        ({"resources": {"gpu": -1}}, "`resources.gpu`: should be greater than or equal to 0, but got -1"),
        ({"objective": {"original_weight": 1.5}}, "`objective.original_weight`: should be less than or equal to 1"),
        ({"config": {"model": {"widht": 3}}}, "`config`: unknown key `model.widht`"),
        ({"config": {"data": "x"}}, "`config.data`: belongs to the top level of the recipe"),
        ({"space": {"model.depth": {"choice": [1]}}}, "`space.model.depth`: no such path in the trial config; model has"),
        ({"space": {"nothing": {"choice": [1]}}}, "`space.nothing`: no such path in the trial config"),
        ({"search": {"seed": 10**14}}, "`search.seed`: should be less than 2147483648"),
        ({"resources": {"gpu": "all"}}, "`resources.gpu`: must be a number, auto, or a list of {parameters: …, share: …}, but got 'all'"),
        ({"resources": {"gpu": {"share": 0.5}}}, "`resources.gpu`: must be a number, auto, or a list of {parameters: …, share: …}"),
        ({"resources": {"gpu": []}}, "`resources.gpu`: must be a number, auto, or a list"),
        ({"resources": {"gpu": 1.5}}, "`resources.gpu`: more than one GPU must be a whole number of them, but got 1.5"),
        ({"resources": {"gpu": [{"parameters": 5}]}}, "`resources.gpu.0.share` is missing"),
        ({"resources": {"gpu": [{"parameters": 5, "share": 2}]}}, "`resources.gpu.0.share`: should be less than or equal to 1"),
        ({"resources": {"gpu": [{"parameters": 5, "share": 0.5}, {"parameters": 5, "share": 1}]}}, "must ascend from row to row"),
        ({"resources": {"cpu": 0.00001}}, "`resources.cpu`: should be greater than or equal to 0.01"),
        ({"space": {"base.learning_rate": {"log": [1, 10**400]}}}, "is too large"),
        ({"space": {"model": {"choice": [1]}}}, "`space.model`: is a group; search one of its keys"),
        ({"space": {"model.width.x": {"choice": [1]}}}, "`space.model.width.x`: no such path in the trial config"),
        ({"space": {"seed": {"int": [0, 9]}}}, "`space.seed`: `seed` is the same for all trials and cannot be searched"),
        ({"space": {"objective.top_k": {"int": [1, 2]}}}, "`objective` is the same for all trials"),
        ({"space": {"model.width": {"choice": []}}}, "`space.model.width`: `choice` needs a list that is not empty"),
        ({"space": {"model.width": {"choice": [8, 8]}}}, "`space.model.width`: a choice stands twice"),
        ({"space": {"model.width": {"choice": [8, "wide"]}}}, "`space.model.width`: `model.width`: should be a valid"),
        ({"space": {"model.width": {"choice": [[8]]}}}, "choices must be numbers, words, true or false"),
        ({"space": {"model.width": {"int": [16, 8]}}}, "`space.model.width`: low < high must hold for `int`, but got [16, 8]"),
        ({"space": {"model.width": {"int": [8.5, 16]}}}, "`int` needs two numbers [low, high], but got [8.5, 16]"),
        ({"space": {"model.dimension_reduction": {"int": [1, 4]}}}, "`model.dimension_reduction`: should be 1, 2 or 4"),
        ({"space": {"model.width": {"int": [8]}}}, "`int` needs two numbers [low, high], but got [8]"),
        ({"space": {"model.width": {"range": [1, 2]}}}, "must be one of choice, int, float or log"),
        ({"space": {"model.width": 8}}, "must be one of choice, int, float or log with a list, but got 8"),
        ({"space": {"base.learning_rate": {"log": [0, 1]}}}, "0 < low < high must hold for `log`, but got [0, 1]"),
        ({"space": {"augment.shift": {"float": [0, 2]}}}, "`space.augment.shift`: `augment.shift`: should be less than"),
        ({"search": {"replicates": 0}}, "`search.replicates`: should be greater than 0, but got 0"),
        ({"search": {"replicates": 7}}, "`search.trials`: must be at least 7, 1 configurations in `enqueue` × 7 in `search.replicates`, but got 6"),
        ({"search": {"replicates": 2}, "config": {"seed": 2**31 - 1}}, "`search.replicates`: `seed`: should be less than 2147483648"),
        ({"enqueue": [{"model.width": 4}]}, "`enqueue[0]`: `model.width` is not in `space`; there are: model.expansion"),
        ({"enqueue": [{"streaming.epochs": 2}, {"model.expansion": 3, "streaming.epochs": 2}]}, "`enqueue[1]`: `model.expansion`: 3 is outside of choice: [1, 2, 4]"),
        ({"enqueue": [{"streaming.epochs": 2.5}]}, "`enqueue[0]`: `streaming.epochs`: should be a valid integer, but got 2.5"),
        ({"enqueue": [{}]}, "`enqueue[0]`: `streaming.epochs`: 4 is outside of int: [1, 3]"),
    ],
)  # fmt: skip
def test_each_mistake_is_named(changes: dict[str, Any], message: str) -> None:
    recipe = merged(RECIPE | {"enqueue": [{"streaming.epochs": 2}]}, changes)
    with pytest.raises(InputError) as caught:
        validate_recipe(recipe, "r.yaml")
    assert str(caught.value).startswith("r.yaml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_enqueued_configurations_are_completed_from_the_config() -> None:
    recipe = validate_recipe(RECIPE | {"enqueue": [{"streaming.epochs": 2, "model.expansion": 2}]}, "r.yaml")
    space = recipe.parsed_space("r.yaml")
    assert recipe.first_configurations(space, "r.yaml") == [
        {"model.expansion": 2, "streaming.learning_rate": 0.003, "streaming.epochs": 2, "streaming.distillation": 0.0}
    ]


def test_parameters_stand_at_their_paths() -> None:
    space = parse_space({"data": "x", "model": {"width": 8}}, {"model.expansion": {"choice": [1, 2]}}, "r.yaml")
    config = space.config({"model.expansion": 2})
    assert (config.model.width, config.model.expansion) == (8, 2)
    assert space.config({}).model.expansion == 1
    assert space.defaults() == {"model.expansion": 1}


# The thesis' own grid is a comparison, not a search: see test_thesis.py.
@pytest.mark.parametrize("name", sorted(name for name in bundled_recipes() if not name.startswith("thesis")))
def test_bundled_recipes_begin_with_the_thesis(name: str) -> None:
    recipe, loaded, source = load_recipe(name, [])
    assert loaded == name
    space = recipe.parsed_space(source)
    first = recipe.first_configurations(space, source)
    tried = [
        (p["model.expansion"], p["model.reduction"], p["streaming.learning_rate"], p["streaming.distillation"])
        for p in first
    ]
    rates = (0.001, 0.003, 0.01)
    assert tried == [(1, 16, rate, 0.0) for rate in rates] + [(2, 32, rate, 0.0) for rate in rates]
    assert {space.config(p).model.name for p in first} == {"senet18"}
    bases = 1
    for path in space.base_paths():
        bases *= len(space.distributions[path].choices)  # type: ignore[attr-defined]
    assert bases >= 30


def test_settings_override_any_key() -> None:
    settings = ["data=mine", "search.trials=3", "config.base.epochs=2", "space.model.width={choice: [8, 16]}"]
    recipe, _, source = load_recipe("quickstart", [*settings, "objective.original_weight=5e-1"])
    assert source.endswith("quickstart.yaml with --set")
    assert (recipe.data, recipe.search.trials, recipe.config["base"]["epochs"]) == ("mine", 3, 2)
    assert recipe.space["model.width"] == {"choice": [8, 16]}
    assert recipe.objective.original_weight == 0.5
    for wrong, message in (
        ("search.trials", "--set search.trials: must be key=value"),
        ("data.x=1", "`data` is no group of keys"),
        ("data=[", "--set data=[: line 1 is not valid YAML"),
        ("search.foo=1", "unknown key `search.foo`"),
        ("base.epochs=1", "did you mean `config.base.epochs`, for all trials, or `space.base.epochs`, to search it?"),
    ):
        with pytest.raises(InputError) as caught:
            load_recipe("quickstart", [wrong])
        assert message in str(caught.value)


def test_unknown_recipes_are_told_from_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"quickstrat: no such recipe; there are: photos, quickstart"):
        load_recipe("quickstrat", [])
    with pytest.raises(InputError, match=r"none\.yaml: no such file"):
        load_recipe(str(tmp_path / "none.yaml"), [])


def test_a_recipe_survives_being_written(tmp_path: Path) -> None:
    recipe, _, _ = load_recipe("quickstart", [])
    again = validate_recipe(yaml.safe_load(dump_recipe(recipe)), "copy")
    assert again == recipe
    assert fingerprint(again.model_dump(mode="json")) == fingerprint(recipe.model_dump(mode="json"))


def test_more_stages_than_the_data_holds_are_refused(tiny: Dataset) -> None:
    values: dict[str, Any] = {"data": "tiny", "space": {"streaming.stages": {"int": [1, 5]}}}
    with pytest.raises(InputError, match=r"r: `streaming.stages`: must be at most 3 .* but got 5"):
        check_stages(validate_recipe(values, "r"), "r", tiny)
    check_stages(validate_recipe(values | {"space": {"streaming.stages": {"int": [1, 3]}}}, "r"), "r", tiny)
    check_stages(validate_recipe(values | {"config": {"protocol": "single_label"}}, "r"), "r", tiny)
