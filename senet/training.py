"""From a config file to a model folder, as the commands `senet train` and `sweeps train` do it."""

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from senet.config import TrialConfig, parse_trial, read_config
from senet.data.catalogue import check_fits, description, obtain_dataset
from senet.data.store import Dataset, check_name
from senet.device import Runtime, make_runtime
from senet.final import train_final
from senet.loop import OnEpoch, Report
from senet.modelfolder import Model, refuse_existing, save_model
from senet.phases import TRANSFER
from senet.uncertainty import standard_error


def model_target(home: Path, config: Path, name: str | None) -> Path:
    """Where the model goes. Raises InputError if it is there."""
    folder = model_folder(home, config, name)
    refuse_existing(folder)
    return folder


def model_folder(home: Path, config: Path, name: str | None) -> Path:
    """`models/NAME`, by default named like the config file."""
    return (
        home
        / "models"
        / check_name(name or config.stem, "--name" if name else f"{config}: give --name, or the file's name")
    )


def train_from_file(path: Path, folder: Path, home: Path, seed: int | None = None) -> Model:
    """Train the config at `path` in full and write the model at `folder`; says on standard output how it goes.

    A training that was stopped, by Ctrl-C, SIGTERM or worse, goes on from its last epoch.

    Args:
        seed: instead of the config's.
    """
    config, provenance = read_config(path)
    if seed is not None:
        config = parse_trial(config.model_dump(mode="json") | {"seed": seed}, "--seed")
    dataset = dataset_of(config, provenance, home)
    check_fits(config, description(dataset), str(path))
    runtime = make_runtime("auto", config.precision)
    with stoppable(progress_folder(folder)):
        model = train_to_folder(config, provenance, folder, dataset, runtime, print_epoch)
    print_result(folder, model)
    return model


@contextmanager
def stoppable(progress: Path) -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does; either way it is said where the next call begins, and there as well."""
    if _has_epochs(progress):
        print(f"epochs that a stopped call has kept in {progress} are told, not trained again")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        if _has_epochs(progress):
            print("stopped; the same command goes on after the last epoch", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _has_epochs(progress: Path) -> bool:
    return any(progress.glob("[!.]*.pt"))


def dataset_of(config: TrialConfig, provenance: dict[str, Any], home: Path) -> Dataset:
    """The data set of a config; warns if the config was found on another one. Raises InputError."""
    dataset = obtain_dataset(home, config.data)
    if provenance.get("data_fingerprint", dataset.fingerprint) != dataset.fingerprint:
        print(f"warning: data set `{config.data}` is not the one that this config was found on", file=sys.stderr)
    return dataset


def train_to_folder(
    config: TrialConfig,
    provenance: dict[str, Any],
    folder: Path,
    dataset: Dataset,
    runtime: Runtime,
    on_epoch: OnEpoch,
) -> Model:
    """Train a config in full and write the model at `folder`; beside it lies what a stopped training goes on from.

    Of several processes that train together the first one writes.
    """
    if runtime.rank > 0:
        return train_final(config, dataset, runtime, on_epoch, provenance)
    progress = progress_folder(folder)
    model = train_final(config, dataset, runtime, on_epoch, provenance, progress)
    save_model(folder, model)
    shutil.rmtree(progress, ignore_errors=True)
    return model


def progress_folder(folder: Path) -> Path:
    """Where lies what a stopped training of the model at `folder` goes on from."""
    return folder.with_name(f".{folder.name}.progress")


def print_epoch(report: Report) -> None:
    """One line an epoch."""
    accuracy = ", ".join(
        f"{name.replace('_', ' ')} {100 * report[name]:.1f}"
        for name in ("train_topk", "base_topk", "original_topk", "streaming_topk", "joint", *TRANSFER)
        if name in report
    )
    loss = f"loss {report['train_loss']:.4f}, " if "train_loss" in report else ""
    back = f", rollbacks {report['rollbacks']}" if "rollbacks" in report else ""
    print(
        f"{report['phase']} epoch {report['epoch']}/{report['epochs']}: {loss}{accuracy} ({report['seconds']:.0f} s)"
        f"{back}",
        flush=True,
    )


def _bases(model: Model, split: str) -> list[tuple[str, float]]:
    """Top-k accuracy before anything was streamed, and before the last set was, if that is not the same."""
    earlier = [streamed["metrics"][split]["base_topk"] for streamed in model.provenance.get("streamed_into", [])]
    last = model.metrics[split]["base_topk"]
    return [("base at first", earlier[0]), ("base", last)] if earlier else [("base", last)]


def print_result(folder: Path, model: Model) -> None:
    """What the finished model can do, on both splits, and where it is."""
    k = model.config.objective.top_k
    for split, values in model.metrics.items():
        shown = [f"{name} {100 * topk:.1f}" for name, topk in _bases(model, split)]
        if "streaming_topk" in values:
            shown.append(f"after streaming: original {100 * values['original_topk']:.1f}")
            shown += [f"streaming {100 * values['streaming_topk']:.1f}", f"joint {100 * values['joint']:.1f}"]
        shown.append(f"calibration error of all labels {100 * values['calibration_error']:.1f}")
        shown.append(f"of the likeliest {100 * values['top1_calibration_error']:.1f}")
        print(f"{split} (percent, top {k}): {', '.join(shown)}")
    errors = [
        f"{name} ± {100 * standard_error(model.metrics['test'][f'{name}_topk'], count):.1f} ({count} images)"
        for name, count in model.provenance["data"]["images"]["test"].items()
        if f"{name}_topk" in model.metrics["test"]
    ]
    print(f"standard error on the test split: {', '.join(errors)}")
    if note := model.provenance.get("data", {}).get("split"):
        print(note)
    print(f"wrote {folder}; try it: senet predict {folder} IMAGE…")
