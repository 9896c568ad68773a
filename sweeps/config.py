"""A recipe: everything that a sweep is, as validated YAML."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, NonNegativeFloat, PositiveInt, ValidationError

from senet.config import Config, ObjectiveConfig
from senet.data.store import check_name
from senet.errors import InputError, first_problem
from senet.yamlfile import parse_yaml, read_mapping
from sweeps.space import Params, Space, complete, parse_space


class SearchConfig(Config):
    """How configurations are chosen."""

    trials: PositiveInt = 20
    """trials in all"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """seed of the sampler"""
    sampler: Literal["tpe", "random"] = "tpe"
    """`tpe`: tree-structured Parzen estimator; `random`: independent draws"""
    concurrency: PositiveInt | None = None
    """trials at a time; not given: as many as the resources hold"""
    streams_per_base: PositiveInt = 4
    """streaming settings that are tried on a base before the sampler proposes a new base"""


class ResourcesConfig(Config):
    """What one trial needs."""

    cpu: Annotated[float, Field(ge=0.01)] = 1
    """CPU cores"""
    gpu: NonNegativeFloat = 0
    """GPUs; a fraction shares one"""


class Recipe(Config):
    """A sweep, complete."""

    description: str = ""
    """purpose and cost, for people"""
    data: Annotated[str, Field(min_length=1)]
    """name of the prepared data set"""
    config: Annotated[dict[str, Any], Field(default_factory=dict)]
    """what is the same in all trials: a partial trial config"""
    objective: ObjectiveConfig = ObjectiveConfig()
    """what is wanted"""
    search: SearchConfig = SearchConfig()
    """how configurations are chosen"""
    resources: ResourcesConfig = ResourcesConfig()
    """what one trial needs"""
    space: dict[str, Any]
    """dotted path into the trial config: {choice: […]}, {int: [low, high]}, {float: […]} or {log: […]}"""
    enqueue: Annotated[list[dict[str, Any]], Field(default_factory=list)]
    """configurations to try first; what they leave out comes from `config`; the best of them is the baseline"""

    def parsed_space(self, source: str) -> Space:
        """The space over this recipe's constants. Raises InputError."""
        for key in ("data", "objective"):
            if key in self.config:
                raise InputError(f"{source}: `config.{key}`: belongs to the top level of the recipe, as `{key}`")
        constants = self.config | {"data": self.data, "objective": self.objective.model_dump()}
        if not self.space:
            raise InputError(f"{source}: `space`: is empty, there is nothing to search; name a path and its values")
        Space(constants, {}).config({}, f"{source}: `config`")
        return parse_space(constants, self.space, source)

    def first_configurations(self, space: Space, source: str) -> list[Params]:
        """`enqueue`, each entry completed. Raises InputError."""
        return [complete(space, entry, f"{source}: `enqueue[{i}]`") for i, entry in enumerate(self.enqueue)]


def bundled_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


def load_recipe(name_or_path: str, settings: list[str]) -> tuple[Recipe, str, str]:
    """Read and validate a recipe.

    Args:
        name_or_path: a bundled recipe's name, or a file.
        settings: `key=value` overrides with dotted keys; values are YAML.

    Returns:
        The recipe, its name, and how errors name it.

    Raises:
        InputError: anything about it is wrong.
    """
    bundled = bundled_recipes()
    path = bundled.get(name_or_path) or Path(name_or_path)
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        raise InputError(f"{name_or_path}: no such recipe; there are: {', '.join(bundled)}, or give a file")
    values = read_mapping(path)
    for setting in settings:
        _override(values, setting)
    source = f"{path} with --set" if settings else str(path)
    return validate_recipe(values, source), check_name(path.stem, f"{path}: the file's name"), source


def validate_recipe(values: dict[str, Any], source: str) -> Recipe:
    """A recipe from its values, checked in all its parts. Raises InputError."""
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise first_problem(error, source) from None
    space = recipe.parsed_space(source)
    recipe.first_configurations(space, source)
    check_name(recipe.data, f"{source}: `data`:")
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, complete."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _override(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise InputError(f"--set {setting}: must be key=value, such as search.trials=8")
    # A path in the space has dots of its own: it is one key.
    parts = ["space", key.removeprefix("space.")] if key.startswith("space.") else key.split(".")
    for part in parts[:-1]:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InputError(f"--set {setting}: `{part}` is no group of keys")
        values = inner
    values[parts[-1]] = parse_yaml(text, f"--set {setting}")
