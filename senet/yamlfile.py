"""YAML as people write it: `1e-3` is a number, a key stands once, nothing constructs objects."""

import re
from pathlib import Path
from typing import Any

import yaml

from senet.errors import InputError

# More than any recipe or config has.
_MOST_VALUES = 1_000_000


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 floats; a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key}` stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def parse_yaml(text: str, source: str) -> Any:
    """The value that `text` holds. Raises InputError with line and reason."""
    try:
        value = yaml.load(text, _Loader)
        _check_length(value)
        return value
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        # Besides its own errors the library lets those of dates and of unhashable keys through.
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        reason = str(getattr(error, "problem", None) or error).partition("\n")[0]
        raise InputError(f"{source}:{where} is not valid YAML: {reason}") from None


def _check_length(value: Any) -> None:
    """Raise ValueError where aliases (`*name`) make a short text a long value, or one without an end."""
    waiting, count = [value], 0
    while waiting:
        one = waiting.pop()
        count += 1
        if count + len(waiting) > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES:,} values")
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list | tuple | set):
            waiting += one


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises InputError where it is missing, unreadable or no mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}") from None
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        found = "is empty" if value is None else f"holds {type(value).__name__}"
        raise InputError(f"{path}: must hold a mapping of keys to values, but {found}")
    return value
