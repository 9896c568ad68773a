"""Calls on every machine of the Ray cluster that this process has joined."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.doctor import machine

# So long a machine may take to start a worker and import torch.
_PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Machine:
    """A machine of the cluster."""

    node_id: str
    name: str
    """host and address, for people"""
    address: str
    resources: dict[str, float]
    """what Ray may give away there, by its name: CPU, GPU, …"""


@dataclass(frozen=True)
class Answers:
    """What machines said, by their names, and why others said nothing."""

    given: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def machines() -> list[Machine]:
    """The machines that are alive, each under a name of its own."""
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeID"]))
    names = [f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in alive]
    often = Counter(names)
    unique = [
        f"{name} {node['NodeID'][:6]}" if often[name] > 1 else name for name, node in zip(names, alive, strict=True)
    ]
    return [
        Machine(node["NodeID"], name, node["NodeManagerAddress"], node["Resources"])
        for name, node in zip(unique, alive, strict=True)
    ]


def ask(
    asked: list[Machine],
    function: Callable[..., Any],
    *arguments: Any,
    cpu: float = 0,
    gpu: float = 0,
    patience_seconds: float = _PATIENCE_SECONDS,
) -> Answers:
    """Call a function on each of some machines at once, with a share of each."""
    # A machine whose package is another one, or none, runs ours.
    cloudpickle.register_pickle_by_value(machine)
    remote = ray.remote(num_cpus=cpu, num_gpus=gpu, max_retries=0)(function)
    calls = {
        one.name: remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(one.node_id, soft=False)
        ).remote(*arguments)
        for one in asked
    }  # fmt: skip
    deadline = time.monotonic() + patience_seconds
    answers = Answers()
    for name, call in calls.items():
        try:
            answers.given[name] = ray.get(call, timeout=max(0.0, deadline - time.monotonic()))
        except GetTimeoutError:
            ray.cancel(call, force=True)
            answers.missing[name] = f"no answer within {patience_seconds:.0f} s"
        except RayError as error:
            cause = getattr(error, "cause", None) or error
            answers.missing[name] = _last_line(str(cause)) or type(cause).__name__
    return answers


def clock_offset(one: Machine) -> float | None:
    """Seconds that a machine's clock is ahead of this process's, to half the time of a call; None: no answer."""
    best: tuple[float, float] | None = None
    # The first call may start a process.
    for _ in range(3):
        before = time.time()
        told = ask([one], machine.clock).given.get(one.name)
        after = time.time()
        if told is not None and (best is None or after - before < best[0]):
            best = after - before, told - (before + after) / 2
    return None if best is None else best[1]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
