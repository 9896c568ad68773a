"""Work of a sweep that is no trial, on the Ray that this process has joined."""

from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from sweeps.errors import FailedError


def run_tasks(function: Callable[[Any], None], arguments: Sequence[dict[str, Any]], cpu: float) -> None:
    """Call `function` with each of the arguments, in workers, as many at a time as fit.

    A call whose process dies is made again.

    Args:
        arguments: `gpu` is the share of a GPU that the call gets.
        cpu: cores for each.

    Raises:
        FailedError: a process died whenever a call was made.
        Exception: whatever a call raises.
    """
    # A process that has used a GPU keeps to that one, and holds memory there: it makes no second call. Ray sees to that
    # where a GPU is asked for in the decorator, but here every call has its own share.
    once = 1 if any(argument["gpu"] for argument in arguments) else 0
    task = ray.remote(num_cpus=cpu, max_calls=once)(function)
    try:
        ray.get([task.options(num_gpus=argument["gpu"]).remote(argument) for argument in arguments])
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        reason = str(error).partition("\n")[0]
        raise FailedError(f"a process died while it measured: {reason}") from None
