"""A recipe: everything that a sweep is, as validated YAML."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError, field_validator

from senet.config import Config, Fraction, ObjectiveConfig, TrialConfig, with_absolute_paths
from senet.data.catalogue import check_data
from senet.data.store import check_name
from senet.errors import InputError, first_problem
from senet.yamlfile import parse_yaml, read_mapping
from sweeps.space import Params, Space, check_sampler, complete, parse_space
from sweeps.storage import check_storage


class PruningConfig(Config):
    """When the training of a base is given up.

    Bases are ranked by probes, short streaming phases from a base in the making, never by their own accuracy, which is
    a poor judge. The configurations of `enqueue` are never given up.
    """

    rungs: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = ()
    """base epochs after which a probe is taken; none: bases are not ranked"""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """of the probes at a rung one in so many goes on, the best ones"""
    probe_epochs: PositiveInt = 1
    """streaming epochs of a probe; all else is as `config.streaming` has it"""
    margin: Annotated[float, Field(gt=0, le=1)] = 0.2
    """a base whose top-k accuracy is so far below the median of the others after the same epoch fails to learn"""
    equal_cost: bool = False
    """rungs are epochs of the network that `config` has; one of twice its FLOPs comes to them after half as many"""

    @field_validator("rungs")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("must ascend")
        return value


class BudgetConfig(Config):
    """What a sweep may use; at a limit no further trial is begun, and those that run are finished."""

    hours: PositiveFloat | None = None
    """of wall time, all sessions together"""
    device_hours: PositiveFloat | None = None
    """of trials, summed"""
    target: Fraction | None = None
    """a joint value that is good enough"""


class SearchConfig(Config):
    """How configurations are chosen."""

    trials: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """trials in all"""
    replicates: PositiveInt = 1
    """with so many seeds every configuration of `enqueue` is tried: the config's, the next one, …; each is a trial"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """seed of the sampler"""
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "qmc", "random", "grid"] = "tpe"
    """`tpe`: tree-structured Parzen estimator; `gp`: Gaussian process; `cmaes`: evolution strategy, for ranges of
    numbers alone; `nsga2`: genetic algorithm; `qmc`: Sobol sequence; `random`: independent draws; `grid`: one after
    the other"""
    concurrency: PositiveInt | None = None
    """trials at a time; not given: as many as the machines hold. A cluster that adds machines on demand needs it"""
    streams_per_base: PositiveInt = 4
    """streaming settings that every base gets; then further ones and new bases follow expected gain a second"""
    repeats: Literal["answer", "seed"] = "answer"
    """what becomes of a suggestion that repeats a finished configuration: `answer`: another is drawn and, where none is
    left, it has that one's result; `seed`: it is run with another seed"""
    pruning: PruningConfig | None = None
    """when the training of a base is given up; not given: never"""
    budget: BudgetConfig = BudgetConfig()
    """what the sweep may use besides its number of trials"""
    alike_failures: PositiveInt = 5
    """so many trials that fail alike, one after the other, pause the sweep"""
    storage: str | None = None
    """where the ledger lies: `postgresql://user@host/database`, the password in PGPASSWORD or ~/.pgpass; not given: in
    the sweep's folder, sqlite on a local disk, a journal file on a mounted share"""


# Of a GPU, what `resources.gpu: auto` gives at least.
SMALLEST_SHARE = 0.125


class ShareOfSize(Config):
    """What networks up to a size get of a GPU."""

    parameters: Annotated[PositiveInt, Field(strict=False)]
    """weights and biases, at most"""
    share: Annotated[float, Field(gt=0, le=1)]
    """of a GPU"""


class ResourcesConfig(Config):
    """What one trial needs."""

    cpu: Annotated[float, Field(ge=0.01)] = 1
    """CPU cores"""
    gpu: NonNegativeFloat | Literal["auto"] | Annotated[tuple[ShareOfSize, ...], Field(strict=False, min_length=1)] = 0
    """GPUs; a fraction shares one, and a trial gets no more memory than its share; `auto`: the smallest share, down to
    an eighth, that holds what a trial of a network of the same size or a larger one was seen to use; the first of its
    size has a whole GPU; a list of `{parameters: …, share: …}`: by the size of a trial's network, a larger one than
    all of the list has a whole GPU"""

    @field_validator("gpu", mode="before")
    @classmethod
    def _kind(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number and value != "auto" and not (isinstance(value, list | tuple) and value):
            raise ValueError("must be a number, auto, or a list of {parameters: …, share: …}")
        return value

    @field_validator("gpu")
    @classmethod
    def _share(cls, value: Any) -> Any:
        if isinstance(value, tuple):
            sizes, shares = [row.parameters for row in value], [row.share for row in value]
            if sizes != sorted(set(sizes)) or shares != sorted(shares):
                raise ValueError("`parameters` must ascend from row to row, and `share` with them")
        elif value != "auto" and value > 1 and value != int(value):
            raise ValueError("more than one GPU must be a whole number of them")
        return value

    @property
    def by_size(self) -> bool:
        """Whether trials get unlike shares of a GPU."""
        return not isinstance(self.gpu, int | float)

    def of(self, parameters: float) -> dict[str, float]:
        """Cores and GPUs of a trial whose network has so many weights and biases, as long as nothing is measured."""
        rows = self.gpu if isinstance(self.gpu, tuple) else ()
        whole = 1.0 if self.by_size else float(self.gpu)  # type: ignore[arg-type]
        return {"cpu": self.cpu, "gpu": next((row.share for row in rows if parameters <= row.parameters), whole)}

    def most(self) -> dict[str, float]:
        """Cores and GPUs that a trial gets at most, before it runs out of memory."""
        return self.of(math.inf)

    def room(self, machine: Mapping[str, float]) -> int:
        """How many trials a machine with such Ray resources (`CPU`, `GPU`) holds at a time, if all are small."""
        least = self.of(0) | ({"gpu": SMALLEST_SHARE} if self.gpu == "auto" else {})
        # 0.1 goes ten times into 1.
        rooms = [int(machine.get(name.upper(), 0) / share + 1e-6) for name, share in least.items() if share]
        return min(rooms) if all(machine.get(k.upper(), 0) >= share for k, share in self.most().items()) else 0


class SweepObjective(ObjectiveConfig):
    """What a sweep looks for."""

    mode: Literal["joint", "pareto"] = "joint"
    """`joint`: the configuration with the largest joint; `pareto`: all configurations that no other beats both on
    original and on streaming accuracy, joint then being for information"""

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is maximised."""
        return ("joint",) if self.mode == "joint" else ("original_topk", "streaming_topk")

    def of_trials(self) -> dict[str, Any]:
        """What of it a trial config has."""
        return self.model_dump(exclude={"mode"})


Range = Annotated[tuple[float, float], Field(strict=False)]


class ConstraintsConfig(Config):
    """What a network may cost, [least, most]; a configuration outside is rejected before anything is trained."""

    parameters: Range | None = None
    """weights and biases"""
    flops: Range | None = None
    """floating-point operations of one image, forward"""
    activations: Range | None = None
    """output elements of all convolution and linear layers, for one image"""

    @field_validator("parameters", "flops", "activations", mode="before")
    @classmethod
    def _range(cls, value: Any) -> Any:
        numbers = isinstance(value, list | tuple) and all(
            isinstance(number, int | float) and not isinstance(number, bool) for number in value
        )
        if value is not None and not (numbers and len(value) == 2 and 0 <= value[0] <= value[1] <= sys.float_info.max):
            raise ValueError("must be two numbers [least, most], 0 <= least <= most")
        return value

    def given(self) -> dict[str, tuple[float, float]]:
        """The constraints that there are, least and most by name."""
        return {name: bounds for name, bounds in self if bounds is not None}


class Recipe(Config):
    """A sweep, complete."""

    description: str = ""
    """purpose and cost, for people"""
    data: Annotated[str, Field(min_length=1)]
    """name of the prepared data set"""
    config: Annotated[dict[str, Any], Field(default_factory=dict)]
    """what is the same in all trials: a partial trial config"""
    objective: SweepObjective = SweepObjective()
    """what is wanted"""
    search: SearchConfig = SearchConfig()
    """how configurations are chosen"""
    resources: ResourcesConfig = ResourcesConfig()
    """what one trial needs"""
    constraints: ConstraintsConfig = ConstraintsConfig()
    """what a network may cost"""
    space: dict[str, Any]
    """dotted path into the trial config: {choice: […]}, {int: [low, high]}, {float: […]} or {log: […]}; with
    `when: {path: values}` only where another path has one of these values"""
    enqueue: Annotated[list[dict[str, Any]], Field(default_factory=list)]
    """configurations to try first; what they leave out comes from `config`; the best of them is the baseline"""

    def parsed_space(self, source: str) -> Space:
        """The space over this recipe's constants. Raises InputError."""
        for key in ("data", "objective"):
            if key in self.config:
                raise InputError(f"{source}: `config.{key}`: belongs to the top level of the recipe, as `{key}`")
        constants = self.config | {"data": self.data, "objective": self.objective.of_trials()}
        if not self.space:
            raise InputError(f"{source}: `space`: is empty, there is nothing to search; name a path and its values")
        Space(constants, {}).config({}, f"{source}: `config`")
        return parse_space(constants, self.space, source)

    def first_configurations(self, space: Space, source: str) -> list[Params]:
        """`enqueue`, each entry completed. Raises InputError."""
        return [complete(space, entry, f"{source}: `enqueue[{i}]`") for i, entry in enumerate(self.enqueue)]

    def seeds(self, space: Space) -> list[int]:
        """The seeds that each configuration of `enqueue` is tried with; all other trials have the first."""
        return [space.seed + i for i in range(self.search.replicates)]


def bundled_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


def load_recipe(name_or_path: str, settings: list[str], called: str | None = None) -> tuple[Recipe, str, str]:
    """Read and validate a recipe.

    Args:
        name_or_path: a bundled recipe's name, or a file.
        settings: `key=value` overrides with dotted keys; values are YAML.

    Returns:
        The recipe, its name, and how errors name it. `model.initial` in its `config` is absolute.

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
    if isinstance(values.get("config"), dict):
        values["config"] = with_absolute_paths(values["config"])
    source = f"{path} with --set" if settings else str(path)
    if "provenance" in values and "space" not in values:
        raise InputError(f"{path}: is the config of one trial, not a recipe; train it: sweeps train {path}")
    recipe = validate_recipe(values, source)
    name, what = (path.stem, f"{path}: give --name, or the file's name") if called is None else (called, "--name")
    return recipe, check_name(name, what), source


def validate_recipe(values: dict[str, Any], source: str) -> Recipe:
    """A recipe from its values, checked in all its parts. Raises InputError."""
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise first_problem(error, source, Recipe) from None
    check_storage(recipe.search.storage, source)
    space = recipe.parsed_space(source)
    recipe.first_configurations(space, source)
    _check_replicates(recipe, space, source)
    check_sampler(recipe.search.sampler, space, source, len(recipe.objective.metrics))
    check_data(recipe.data, f"{source}: `data`:")
    return recipe


def _check_replicates(recipe: Recipe, space: Space, source: str) -> None:
    """Raise InputError where the trials do not hold every configuration of `enqueue` with each of several seeds."""
    search, count = recipe.search, len(recipe.enqueue)
    if search.replicates > 1 and count * search.replicates > search.trials:
        raise InputError(
            f"{source}: `search.trials`: must be at least {count * search.replicates}, {count} configurations in "
            f"`enqueue` × {search.replicates} in `search.replicates`, but got {search.trials}"
        )
    space.config({}, f"{source}: `search.replicates`", seed=recipe.seeds(space)[-1])


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, complete."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _override(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise InputError(f"--set {setting}: must be key=value, such as search.trials=8")
    first = key.partition(".")[0]
    if first in TrialConfig.model_fields and first not in Recipe.model_fields:
        raise InputError(
            f"--set {setting}: did you mean `config.{key}`, for all trials, or `space.{key}`, to search it?"
        )
    # A path in the space has dots of its own: it is one key.
    parts = ["space", key.removeprefix("space.")] if key.startswith("space.") else key.split(".")
    for part in parts[:-1]:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InputError(f"--set {setting}: `{part}` is no group of keys")
        values = inner
    values[parts[-1]] = parse_yaml(text, f"--set {setting}")
