"""The search space: dotted paths into the trial config, each with the values that it may take."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BaseModel

from senet.config import TrialConfig, parse_trial
from senet.errors import InputError

Value = bool | int | float | str
Params = dict[str, Value]

# What is compared cannot be searched: a search would pick the easiest data and the luckiest seed.
_FIXED = ("data", "seed", "precision", "objective")
_MOST_TRIED = 256


def is_reference(params: Params) -> bool:
    """Whether a trial sees the old images again while streaming, where the sweep searches over that: it is looked at,
    and wins nothing.
    """
    return bool(params.get("streaming.replay"))


@dataclass(frozen=True)
class Space:
    """What a sweep varies, on top of the config that it does not vary."""

    constants: dict[str, Any]
    """values of a complete or partial trial config"""
    distributions: dict[str, BaseDistribution]
    """by dotted path"""
    conditions: dict[str, dict[str, tuple[Value, ...]]] = field(default_factory=dict)
    """by path that not all configurations have: the values that other paths must have for it to be there"""

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
        return {path: value_at(config, path) for path in self.distributions}

    def is_active(self, path: str, params: Params) -> bool:
        """Whether a configuration that begins with `params` has a parameter at `path`."""
        return all(
            other in params and _among(params[other], values) for other, values in self.conditions.get(path, {}).items()
        )

    def only_active(self, params: Params) -> Params:
        """`params` without those whose condition does not hold."""
        kept: Params = {}
        for path in self.distributions:
            if path in params and self.is_active(path, kept):
                kept[path] = params[path]
        return kept

    def is_finite(self, without: Container[str] = ()) -> bool:
        """Whether there are only so many configurations; `without` some paths, that have been given a value."""
        return not any(
            isinstance(d, FloatDistribution) for path, d in self.distributions.items() if path not in without
        )

    def cells(self, begun: Params | None = None) -> Iterator[Params]:
        """All configurations of a finite space; those with the same base follow each other."""
        begun = {} if begun is None else begun
        order = sorted(self.distributions, key=lambda path: path.startswith("streaming."))
        path = next((p for p in order if p not in begun and self.is_active(p, begun)), None)
        if path is None:
            yield {path: begun[path] for path in self.distributions if path in begun}
            return
        for value in whole_values(self.distributions[path]):
            yield from self.cells(begun | {path: value})

    def base_paths(self) -> list[str]:
        """The paths that a base depends on."""
        return [path for path in self.distributions if not path.startswith("streaming.")]


def parse_space(constants: dict[str, Any], entries: dict[str, Any], source: str) -> Space:
    """Validate a recipe's `space`. Raises InputError, one line that names source, path and value."""
    conditions = {path: entry["when"] for path, entry in entries.items() if isinstance(entry, dict) and "when" in entry}
    plain = {
        path: {key: value for key, value in entry.items() if key != "when"} if path in conditions else entry
        for path, entry in entries.items()
    }
    distributions = {path: _distribution(path, entry, source) for path, entry in plain.items()}
    when = {path: _condition(path, value, distributions, source) for path, value in conditions.items()}
    space = Space(constants, distributions, when)
    for path, distribution in distributions.items():
        for value in _tried(distribution):
            space.config({path: value}, f"{source}: `space.{path}`")
    return space


def complete(space: Space, entry: dict[str, Any], source: str) -> Params:
    """A configuration to try first: `entry` over the defaults. Raises InputError where it lies outside the space."""
    for path in entry:
        if path not in space.distributions:
            raise InputError(f"{source}: `{path}` is not in `space`; there are: {', '.join(space.distributions)}")
    params = space.only_active(space.defaults() | entry)
    for path in entry:
        if path not in params:
            raise InputError(f"{source}: `{path}` does not exist here: {_in_words(space.conditions[path])}")
    for path, value in params.items():
        distribution = space.distributions[path]
        if not _contains(distribution, value):
            raise InputError(f"{source}: `{path}`: {value!r} is outside of {describe(distribution)}")
    space.config(params, source)
    return params


def check_sampler(name: str, space: Space, source: str, objectives: int = 1) -> None:
    """Raise InputError where a sampler cannot search a space, or not for so many objectives."""
    if name == "grid":
        for path, distribution in space.distributions.items():
            if isinstance(distribution, FloatDistribution):
                raise InputError(
                    f"{source}: `search.sampler`: grid needs choices, but `space.{path}` is a range of reals"
                )
    if name == "cmaes":
        if objectives > 1:
            raise InputError(
                f"{source}: `search.sampler`: cmaes has one objective, but `objective.mode` is pareto; use tpe"
            )
        words = [path for path, d in space.distributions.items() if isinstance(d, CategoricalDistribution)]
        if words or space.conditions:
            raise InputError(
                f"{source}: `search.sampler`: cmaes needs ranges of numbers that all configurations have, but "
                f"`space.{next(iter(words or space.conditions))}` is none; use tpe"
            )


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


def _condition(
    path: str, when: Any, distributions: dict[str, BaseDistribution], source: str
) -> dict[str, tuple[Value, ...]]:
    """The values that other paths must have; those paths stand before this one, so that they are chosen first."""
    where = f"{source}: `space.{path}`"
    before = list(distributions)[: list(distributions).index(path)]
    if not isinstance(when, dict) or not when:
        raise InputError(
            f"{where}: `when` must name a path and its values, such as {{model.name: senet18}}, not {when!r}"
        )
    found = {}
    for other, wanted in when.items():
        distribution = distributions.get(other) if other in before else None
        if not isinstance(distribution, CategoricalDistribution):
            raise InputError(
                f"{where}: `when` needs a path of `space` with choices that stands before it, not `{other}`"
            )
        values = tuple(wanted) if isinstance(wanted, list) else (wanted,)
        for value in values:
            if not _contains(distribution, value):
                raise InputError(f"{where}: `when.{other}`: {value!r} is outside of {describe(distribution)}")
        found[other] = values
    return found


def _in_words(condition: dict[str, tuple[Value, ...]]) -> str:
    parts = [f"`{path}` must be {' or '.join(map(repr, values))}" for path, values in condition.items()]
    return " and ".join(parts)


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


def extremes(distribution: BaseDistribution) -> list[Value]:
    """All choices, or both ends of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return [value for value in distribution.choices if value is not None]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return [distribution.low, distribution.high]


def _tried(distribution: BaseDistribution) -> list[Value]:
    """The values by which a distribution is checked: not the ends alone where some keys take only some between them."""
    if isinstance(distribution, IntDistribution):
        return [*whole_values(distribution)[:_MOST_TRIED], distribution.high]
    return extremes(distribution)


def whole_values(distribution: BaseDistribution) -> Sequence[Value]:
    """All values of a choice or a range of whole numbers."""
    if isinstance(distribution, CategoricalDistribution):
        return [value for value in distribution.choices if value is not None]
    assert isinstance(distribution, IntDistribution)
    return range(distribution.low, distribution.high + 1)


def _among(value: Any, values: Sequence[Any]) -> bool:
    return any(value == other and isinstance(value, str) == isinstance(other, str) for other in values)


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return _among(value, distribution.choices)
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


def value_at(config: TrialConfig, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value
