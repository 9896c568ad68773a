"""The search space: dotted paths into the trial config, each with the values that it may take."""

from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BaseModel

from senet.config import TrialConfig, parse_trial
from senet.errors import InputError

Value = bool | int | float | str
Params = dict[str, Value]

# What is compared cannot be searched: a search would pick the easiest data and the luckiest seed.
_FIXED = ("data", "seed", "precision", "objective")


@dataclass(frozen=True)
class Space:
    """What a sweep varies, on top of the config that it does not vary."""

    constants: dict[str, Any]
    """values of a complete or partial trial config"""
    distributions: dict[str, BaseDistribution]
    """by dotted path"""

    @property
    def seed(self) -> int:
        """The seed of trials that have none of their own."""
        return self.config({}).seed

    def config(self, params: Params, source: str = "space", seed: int | None = None) -> TrialConfig:
        """The trial config in which `params` stand at their paths, with `seed` if one is given. Raises InputError."""
        values = self.constants if seed is None else self.constants | {"seed": seed}
        for path, value in params.items():
            values = _with_value(values, path.split("."), value)
        return parse_trial(values, source)

    def defaults(self) -> Params:
        """For every path the value that the constants, or the config's own defaults, give it."""
        config = self.config({})
        return {path: _value_at(config, path) for path in self.distributions}

    def base_paths(self) -> list[str]:
        """The paths that a base depends on."""
        return [path for path in self.distributions if not path.startswith("streaming.")]


def parse_space(constants: dict[str, Any], entries: dict[str, Any], source: str) -> Space:
    """Validate a recipe's `space`. Raises InputError, one line that names source, path and value."""
    distributions = {path: _distribution(path, entry, source) for path, entry in entries.items()}
    space = Space(constants, distributions)
    for path, distribution in distributions.items():
        for value in _extremes(distribution):
            space.config({path: value}, f"{source}: `space.{path}`")
    return space


def complete(space: Space, entry: dict[str, Any], source: str) -> Params:
    """A configuration to try first: `entry` over the defaults. Raises InputError where it lies outside the space."""
    for path in entry:
        if path not in space.distributions:
            raise InputError(f"{source}: `{path}` is not in `space`; there are: {', '.join(space.distributions)}")
    params = space.defaults() | entry
    for path, value in params.items():
        distribution = space.distributions[path]
        if not _contains(distribution, value):
            raise InputError(f"{source}: `{path}`: {value!r} is outside of {describe(distribution)}")
    space.config(params, source)
    return params


def describe(distribution: BaseDistribution) -> str:
    """A distribution as a recipe writes it."""
    if isinstance(distribution, CategoricalDistribution):
        return f"choice: {list(distribution.choices)}"
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    kind = "log" if distribution.log else "int" if isinstance(distribution, IntDistribution) else "float"
    return f"{kind}: [{distribution.low}, {distribution.high}]"


def _distribution(path: str, entry: Any, source: str) -> BaseDistribution:
    where = f"{source}: `space.{path}`"
    _check_path(path, where)
    if not isinstance(entry, dict) or len(entry) != 1 or next(iter(entry)) not in ("choice", "int", "float", "log"):
        raise InputError(f"{where}: must be one of choice, int, float or log with a list, but got {entry!r}")
    kind, values = next(iter(entry.items()))
    if not isinstance(values, list) or not values:
        raise InputError(f"{where}: `{kind}` needs a list that is not empty, but got {values!r}")
    if kind == "choice":
        if any(not isinstance(value, bool | int | float | str) for value in values):
            raise InputError(f"{where}: choices must be numbers, words, true or false, but got {values!r}")
        if len(set(map(repr, values))) < len(values):
            raise InputError(f"{where}: a choice stands twice in {values!r}")
        return CategoricalDistribution(values)
    number = int if kind == "int" else (int, float)
    if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, number) for v in values):
        raise InputError(f"{where}: `{kind}` needs two numbers [low, high], but got {values!r}")
    low, high = values
    if not low < high or (kind == "log" and low <= 0):
        rule = "0 < low < high" if kind == "log" else "low < high"
        raise InputError(f"{where}: {rule} must hold for `{kind}`, but got {values!r}")
    try:
        return IntDistribution(low, high) if kind == "int" else FloatDistribution(low, high, log=kind == "log")
    except OverflowError:
        raise InputError(f"{where}: a number of `{kind}` is too large") from None


def _check_path(path: str, where: str) -> None:
    first, *rest = path.split(".")
    if first in _FIXED:
        raise InputError(f"{where}: `{first}` is the same for all trials and cannot be searched")
    model: Any = TrialConfig
    for i, part in enumerate([first, *rest]):
        fields = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
        if part not in fields:
            parent = ".".join([first, *rest][:i]) or "the trial config"
            raise InputError(
                f"{where}: no such path in the trial config; {parent} has: {', '.join(fields) or 'no keys'}"
            )
        model = fields[part].annotation
    if isinstance(model, type) and issubclass(model, BaseModel):
        raise InputError(f"{where}: is a group; search one of its keys: {', '.join(model.model_fields)}")


def _extremes(distribution: BaseDistribution) -> list[Value]:
    if isinstance(distribution, CategoricalDistribution):
        return [value for value in distribution.choices if value is not None]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return [distribution.low, distribution.high]


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return any(
            value == choice and isinstance(value, str) == isinstance(choice, str) for choice in distribution.choices
        )
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and distribution.low <= value <= distribution.high
    )


def _with_value(values: dict[str, Any], path: list[str], value: Value) -> dict[str, Any]:
    first, *rest = path
    if not rest:
        return values | {first: value}
    return values | {first: _with_value(values.get(first, {}), rest, value)}


def _value_at(config: TrialConfig, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value
