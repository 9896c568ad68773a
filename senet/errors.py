"""Errors that a user can cause or mend; a command prints them as one line."""

from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


class InputError(Exception):
    """The input was wrong: says what, where, and what would be right. Exit code 2."""


class NonFiniteError(Exception):
    """Training left the finite numbers: a failed run, exit code 1."""


# What allocators, and the libraries that call them, say of memory that they did not get.
_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    # Handles of libraries take memory that torch neither counts nor limits.
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    # Convolutions try one algorithm after the other, and keep to themselves what each has died of.
    "unable to find an engine",
)


def out_of_memory(error: Exception) -> bool:
    """Whether there was too little memory, on the host or on a GPU."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OF_MEMORY)


def first_problem(error: ValidationError, source: str, model: type[BaseModel]) -> InputError:
    """Turn pydantic's first complaint into one line that names source, key and value.

    Args:
        error: the validation error.
        source: the file (or command line) that the value came from.
        model: what was to be read.
    """
    # Of the types that a union tried, the one that got furthest is the one that was meant.
    problems = error.errors(include_url=False)
    where = _keys(problems[0])
    problem = max((one for one in problems if _keys(one)[: len(where)] == where), key=lambda one: len(_keys(one)))
    parts = _keys(problem)
    key = ".".join(parts)
    if problem["type"] == "extra_forbidden":
        known = _known(model, parts[:-1])
        near = get_close_matches(parts[-1], known, 1)
        right = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(known)}"
        return InputError(f"{source}: unknown key `{key}`; {right}")
    if problem["type"] == "missing":
        return InputError(f"{source}: `{key}` is missing")
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    shown = "" if isinstance(problem["input"], dict) else f", but got {problem['input']!r}"
    return InputError(f"{source}: {f'`{key}`: ' if key else ''}{message}{shown}")


def _known(model: type[BaseModel], groups: list[str]) -> list[str]:
    """The keys within a group of a model's groups."""
    for group in groups:
        annotation = model.model_fields[group].annotation if group in model.model_fields else None
        inner = (one for one in (annotation, *get_args(annotation)) if isinstance(one, type))
        model = next((one for one in inner if issubclass(one, BaseModel)), BaseModel)
    return list(model.model_fields)


def _keys(problem: ErrorDetails) -> list[str]:
    """Where a problem is: a union adds the type it tried to the location, and only real keys count."""
    tried = ("float", "int", "str", "bool", "constrained-int", "constrained-float")
    return [
        str(part) for part in problem["loc"] if part not in tried and not str(part).startswith(("literal[", "tuple["))
    ]
