"""Final training by several processes together, through Ray Train. Here, and only here, Ray Train and senet meet."""

import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from senet.config import TrialConfig
from senet.data.catalogue import obtain_dataset
from senet.device import make_runtime
from senet.errors import InputError, NonFiniteError
from senet.loop import OnEpoch, Report
from senet.training import progress_folder, train_to_folder
from sweeps.errors import FailedError
from sweeps.shared import Shared, here

# So often the training goes on from its last epoch after a worker or its machine was lost.
_RESTARTS = 3
_POLL_SECONDS = 0.5
# What a worker says of an error that is told in one line.
_KINDS: dict[str, Callable[[str], Exception]] = {"input": InputError, "non-finite": NonFiniteError}


def train_together(
    config: TrialConfig, provenance: dict[str, Any], folder: Path, home: Path, workers: int, on_epoch: OnEpoch
) -> None:
    """Train `config` in full by so many workers on the Ray that this process has joined; the model is at `folder` then.

    Each has a GPU if there are GPUs, else CPU cores, and takes its part of every batch: the result is that of one
    worker, but for the order of sums, dropout and, without GPUs, batch-norm. It goes on from the last epoch where
    workers are lost, and where the same is called again.

    Args:
        folder, home: seen alike by all machines, or copies of a bucket.
        on_epoch: hears every epoch once, here.

    Raises:
        InputError: there are fewer GPUs or cores.
        NonFiniteError: as in training by one.
        FailedError: workers were lost again and again.
    """
    resources = worker_resources([node["Resources"] for node in ray.nodes() if node["Alive"]], workers)
    # Not on a machine that may be lost without this process.
    here_only = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    heard = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here_only})
    storage = folder.with_name(f".{folder.name}.ray")
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    trainer = ray.train.torch.TorchTrainer(
        _work,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "provenance": provenance,
            "folder": str(folder),
            "home": str(home),
            "bucket": Shared(home).url,
            "heard": heard,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu="GPU" in resources, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name="run", storage_path=str(storage), failure_config=ray.train.FailureConfig(max_failures=_RESTARTS)
        ),
    )
    try:
        _listen(_fitting(trainer), heard, on_epoch)
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def worker_resources(nodes: list[dict[str, float]], workers: int) -> dict[str, float]:
    """What each worker gets: a GPU and a core where there are GPUs, else the same number of cores, as many as fit.

    Args:
        nodes: resources by name, of every machine.

    Raises:
        InputError: there is not so much.
    """
    if any(int(node.get("GPU", 0)) for node in nodes):
        places = sum(min(int(node.get("GPU", 0)), int(node.get("CPU", 0))) for node in nodes)
        if workers > places:
            raise InputError(
                f"--workers {workers}: there are {places} GPUs with a CPU core beside them, and every worker needs both"
            )
        return {"CPU": 1, "GPU": 1}
    cores = [int(node.get("CPU", 0)) for node in nodes]
    each = next((n for n in range(max(cores), 0, -1) if sum(have // n for have in cores) >= workers), None)
    if each is None:
        raise InputError(f"--workers {workers}: there are {sum(cores)} CPU cores, and every worker needs one")
    return {"CPU": each}


def _work(order: dict[str, Any]) -> None:
    """One worker; what ends it is told before it is raised."""
    context, heard = ray.train.get_context(), order["heard"]
    rank, workers = context.get_world_rank(), context.get_world_size()
    config = TrialConfig.model_validate(order["config"])
    home, folder = here(order["home"], order["bucket"], order["folder"])
    shared, progress = Shared(home), progress_folder(folder)
    runtime = make_runtime(str(ray.train.torch.get_device()), config.precision, rank, workers)

    def say(report: Report) -> None:
        if rank == 0:
            shared.pass_on_folder(progress)
            heard.put(("epoch", report))

    try:
        if rank == 0:
            shared.fetch_folder(progress)
        train_to_folder(config, order["provenance"], folder, obtain_dataset(home, config.data), runtime, say)
        if rank == 0:
            shared.pass_on_folder(folder, last="model.json")
            shared.remove(progress)
    except InputError as error:
        heard.put(("input", str(error)))
        raise
    except NonFiniteError as error:
        heard.put(("non-finite", str(error)))
        raise


def _fitting(trainer: ray.train.torch.TorchTrainer) -> "Future[None]":
    """The training, under way in a thread of its own: in the main one Ray takes Ctrl-C for itself, and exits with 0."""
    outcome: Future[None] = Future()

    def fit() -> None:
        try:
            trainer.fit()
            outcome.set_result(None)
        except Exception as error:  # noqa: BLE001 Whatever it is, whoever waits for the outcome gets it.
            outcome.set_exception(error)

    Thread(target=fit, name="ray-train", daemon=True).start()
    return outcome


def _listen(outcome: "Future[None]", heard: Queue, on_epoch: OnEpoch) -> None:
    """Pass on what the workers say until the training has ended. Raises what it ended with."""
    told: set[tuple[str, int]] = set()
    while True:
        # Whoever has ended has said everything before.
        ended = outcome.done()
        try:
            kind, what = heard.get(timeout=_POLL_SECONDS)
        except Empty:
            if ended:
                break
            continue
        if kind != "epoch":
            raise _KINDS[kind](what)
        # After a restart the epochs so far are told again.
        epoch = (what["phase"], what["epoch"])
        if epoch not in told:
            told.add(epoch)
            on_epoch(what)
    try:
        outcome.result()
    except ray.train.TrainingFailedError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise FailedError(
            f"the training failed {_RESTARTS + 1} times; the last line of its report: {lines[-1]}"
        ) from None
