"""Processes that train together, as a launcher would start them: one process group on this machine, by gloo."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from senet.device import Runtime

Work = Callable[..., Any]


def together(folder: Path, workers: int, work: Work, *arguments: Any) -> list[Any]:
    """What `work(runtime, *arguments)`, a function of a module, returns in each of so many processes, by rank.

    Args:
        folder: of this call alone.

    Raises:
        AssertionError: with the traceback, if one of them raised anything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mp.spawn(_one, (workers, folder, work, arguments), nprocs=workers)
    answers = [torch.load(folder / f"answer-{rank}", weights_only=False) for rank in range(workers)]
    for failed, answer in answers:
        assert not failed, answer
    return [answer for _, answer in answers]


def _one(rank: int, workers: int, folder: Path, work: Work, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=workers)
    try:
        answer: tuple[bool, Any] = (False, work(Runtime(torch.device("cpu"), False, rank, workers), *arguments))
    except Exception:  # noqa: BLE001 Whatever it is, the test shall see it.
        answer = (True, traceback.format_exc())
    torch.save(answer, folder / f"answer-{rank}")
    dist.destroy_process_group()
