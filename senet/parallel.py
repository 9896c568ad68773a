"""Data parallelism: several processes train one network together, each on its part of every batch (torch.distributed).

Whoever starts the processes joins them in a process group, and tells each by its `Runtime` which one it is. All then do
the same in the same order, and have the same weights after every step: those of one process with the whole batches, but
for batch-norm on a CPU, which sees a process's own part alone. A process that trains alone is left as it is.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from senet.device import Runtime
from senet.errors import InputError


def check_workers(batch_size: int, workers: int, what: str) -> None:
    """Raise InputError, which names `what`, where a batch has less than two images for one of several processes."""
    if workers > 1 and batch_size // workers < 2:
        most = f"at most {batch_size // 2} workers" if batch_size >= 4 else "one worker"
        raise InputError(f"{what}: {batch_size} images a step are for {most}, two each, but there are {workers}")


def synchronised(model: nn.Module, runtime: Runtime) -> nn.Module:
    """`model` with batch-norm over all processes' images, where that exists: on GPUs."""
    if runtime.workers == 1 or runtime.device.type != "cuda":
        return model
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted


def replicated(model: nn.Module, runtime: Runtime) -> nn.Module:
    """What computes `model` in training, so that its gradients become the mean over all processes.

    All begin with the weights and buffers of the first one.
    """
    if runtime.workers == 1:
        return model
    # A static graph may leave parameters out: parts that a network of the user's own has and does not use.
    return DistributedDataParallel(model, static_graph=True)


def same_buffers(model: nn.Module, runtime: Runtime) -> None:
    """Give all processes the batch-norm statistics of the first one."""
    for buffer in model.buffers() if runtime.workers > 1 else ():
        dist.broadcast(buffer, 0)


def total(values: Tensor, runtime: Runtime) -> Tensor:
    """The sum over all processes, in place."""
    if runtime.workers > 1:
        dist.all_reduce(values)
    return values


def gathered(rows: Tensor, own: slice, count: int, runtime: Runtime) -> Tensor:
    """All processes' rows together: those at `own` of `count`, (M, C), from each → (N, C)."""
    if runtime.workers == 1:
        return rows
    whole = torch.zeros((count, *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
    whole[own] = rows
    return total(whole, runtime)


def decided(values: Tensor, runtime: Runtime) -> Tensor:
    """The first process's values, in place: what follows from them is the same everywhere."""
    if runtime.workers > 1:
        dist.broadcast(values, 0)
    return values


def told(value: Any, runtime: Runtime) -> Any:
    """The first process's value, of any kind; the others' is not looked at."""
    if runtime.workers == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0, device=runtime.device)
    return box[0]
