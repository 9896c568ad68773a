"""Images a second: our training epoch, the ceiling, and the loop that people write today, interleaved in one run.

    python benchmarks/throughput.py [--sizes 64 128 300] [--batch 32] [--steps 12] [--rounds 7] [--width 64]
        [--colour 0.4] [--stored 500 375] [--device auto] [--precision auto] [--compile] [--output FILE]

- ours: an epoch of `senet.loop.Loop` without evaluation, as its own clock says: shuffling, crops, flips and colour,
  training metrics, the guard against non-finite steps, and one look at the device. The pictures are prepared before.
- ceiling: the same network and a bare step (forward, loss, backward, fused SGD) on one batch that is on the device.
  With `--compile` also by torch.compile; on CUDA also with cuDNN free to choose its algorithms, of which the loop asks
  the same bits every time.
- folder: ImageFolder of the same pictures as JPEG files of the size `--stored`, the same augmentation by torchvision's
  transforms, DataLoader with the number of workers that is fastest here, the same network and bare step. Each piece
  starts its own workers and is timed after as many batches as they read ahead, so that it neither waits for the first
  picture nor is given any.

Every round takes a piece of each in turn, so that what slows the machine slows all alike; ratios are those of one
round, figures are medians with quartiles. The share of the peak is three times the arithmetic of a forward pass
(`senet.complexity`), over the time of a step, against a product of two square matrices in the same precision. Needs
torch, torchvision, NumPy, Pillow and Pydantic.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from senet.complexity import complexity
from senet.config import ModelConfig, TrialConfig, parse_trial
from senet.data.batches import Batches
from senet.data.store import Dataset, open_dataset, writing
from senet.device import Runtime, make_runtime
from senet.loop import Loop, Report, Task
from senet.losses import margin
from senet.models import build_model

CLASSES = 120
Piece = Callable[[], float]
"""Does one piece of work and returns images a second"""


class Bench:
    """One size of pictures: what is timed, and the times of every round."""

    def __init__(self, options: argparse.Namespace, runtime: Runtime, folder: Path, size: int) -> None:
        self.options, self.runtime, self.folder, self.size = options, runtime, folder, size
        self.count = options.steps * options.batch
        self.dataset = prepared(folder, size, self.count)
        self.model = ModelConfig(width=options.width)
        self.rounds: list[dict[str, float]] = []

    def network(self) -> nn.Module:
        """A fresh network on the device."""
        torch.manual_seed(0)
        network = build_model(self.model, CLASSES).train()
        return network.to(self.runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def wait(self) -> None:
        """Until the device has done its work."""
        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize(self.runtime.device)

    def bare_step(self, compiled: bool = False) -> Callable[[Tensor, Tensor], None]:
        """Forward, loss, backward, fused SGD, and nothing else."""
        network = self.network()
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, fused=True)
        called = torch.compile(network) if compiled else network

        def step(images: Tensor, labels: Tensor) -> None:
            with self.runtime.autocast():
                logits = called(images)
            margin(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def ceiling(self, compiled: bool = False, free: bool = False) -> Piece:
        """Steps on one batch; `free` lets cuDNN choose the fastest algorithms."""
        step, device, options = self.bare_step(compiled), self.runtime.device, self.options
        images = torch.randn(options.batch, 3, self.size, self.size, device=device)
        images = images.to(memory_format=torch.channels_last)
        labels = torch.eye(CLASSES, dtype=torch.bool, device=device)[torch.arange(options.batch) % CLASSES]

        def piece() -> float:
            with torch.backends.cudnn.flags(enabled=True, deterministic=not free, benchmark=free, allow_tf32=False):
                start = time.perf_counter()
                for _ in range(options.steps):
                    step(images, labels)
                self.wait()
            return self.count / (time.perf_counter() - start)

        return piece

    def folder_loop(self, workers: int) -> Piece:
        """What people write today, with so many workers."""
        step, device, options = self.bare_step(), self.runtime.device, self.options
        pictures = ImageFolder(self.folder / "pictures", people_transforms(self.size, options.colour, self.dataset))
        sampler = RandomSampler(pictures, replacement=True, num_samples=10**9)
        eye, cuda = torch.eye(CLASSES, dtype=torch.bool), device.type == "cuda"

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            loader = DataLoader(pictures, options.batch, sampler=sampler, num_workers=workers, pin_memory=cuda)
            for images, targets in loader:
                images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
                yield images, eye[targets].to(device, non_blocking=True)

        def piece() -> float:
            stream = batches()
            # Two batches a worker are read ahead: when they are used up, the pace is the loop's own.
            for images, labels in itertools.islice(stream, 2 * workers + 1):
                step(images, labels)
            self.wait()
            start = time.perf_counter()
            for images, labels in itertools.islice(stream, options.steps):
                step(images, labels)
            self.wait()
            seconds = time.perf_counter() - start
            stream.close()  # type: ignore[attr-defined]
            return self.count / seconds

        return piece

    def best_workers(self) -> dict[int, float]:
        """Images a second by the number of workers, the better of two pieces: 0, 1, 2, 4, … up to the cores'."""
        cores = os.cpu_count() or 1
        tried = [0, *(2**i for i in range(8) if 2**i <= cores)]
        pieces = {workers: self.folder_loop(workers) for workers in tried}
        found = [{workers: piece() for workers, piece in pieces.items()} for _ in range(2)]
        return {workers: max(one[workers] for one in found) for workers in tried}

    def peak(self) -> float:
        """Floating-point operations a second of a matrix product in the step's precision."""
        side = 8192 if self.runtime.device.type == "cuda" else 2048
        matrix = torch.randn(side, side, device=self.runtime.device)
        matrix = matrix.bfloat16() if self.runtime.bf16 else matrix
        # A GPU takes some milliseconds to reach its clock.
        times = 50 if self.runtime.device.type == "cuda" else 2
        self.wait()
        start = time.perf_counter()
        for _ in range(times):
            matrix @ matrix
        self.wait()
        return times * 2 * side**3 / (time.perf_counter() - start)

    def run(self) -> dict[str, Any]:
        """All rounds: an epoch of ours, and a piece of everything else after it."""
        workers = self.best_workers()
        best = max(workers, key=lambda number: workers[number])
        others = {"ceiling": self.ceiling(), "folder": self.folder_loop(best), "peak": self.peak}
        if self.options.compile:
            others["ceiling compiled"] = self.ceiling(compiled=True)
        if self.runtime.device.type == "cuda":
            others["ceiling autotuned"] = self.ceiling(free=True)
        for piece in others.values():
            piece()
        seconds = [0.0]

        def after(report: Report) -> None:
            ours = self.count / (report["seconds"] - seconds[-1])
            seconds.append(report["seconds"])
            self.rounds.append({"ours": ours} | {name: piece() for name, piece in others.items()})

        task = Task(
            phase="base",
            model=self.network(),
            train=Batches.of_split(self.dataset, self.dataset.base, "train", self.runtime.device),
            criterion=lambda images, logits, labels: margin(logits, labels),
            evaluate=lambda: dict.fromkeys(("base_topk", "base_loss"), torch.zeros((), device=self.runtime.device)),
            epochs=self.options.rounds + 1,
        )
        Loop(self.config(), self.runtime, task, after, None).run("throughput")
        # The first epoch warms up.
        return self.summary(self.rounds[1:], workers)

    def config(self) -> TrialConfig:
        """The trial whose base phase is timed."""
        base = {"batch_size": self.options.batch, "epochs": self.options.rounds + 1, "learning_rate": 1e-3}
        values = {"model": {"width": self.options.width}, "augment": {"colour": self.options.colour}}
        return parse_trial({"data": "pictures", "base": base, **values}, "benchmark")

    def summary(self, rounds: list[dict[str, float]], workers: dict[int, float]) -> dict[str, Any]:
        """Medians and quartiles of the figures and of their ratios."""
        arithmetic = 3 * complexity(self.model, CLASSES, self.size).flops
        ratios = {
            f"ours / {name}": quartiles([one["ours"] / one[name] for one in rounds]) for name in rounds[0]
            if name not in ("ours", "peak")
        }  # fmt: skip
        return {
            "images_per_second": {
                name: quartiles([one[name] for one in rounds]) for name in rounds[0] if name != "peak"
            },
            "ratios": ratios,
            "peak_flops_per_second": quartiles([one["peak"] for one in rounds]),
            "share_of_peak": {
                name: quartiles([arithmetic * one[name] / one["peak"] for one in rounds])
                for name in ("ours", "ceiling")
            },
            "folder_workers": {str(number): pace for number, pace in workers.items()},
            "n": len(rounds),
        }


def people_transforms(size: int, colour: float, dataset: Dataset) -> transforms.Compose:
    """Resize and crop, shift with the border repeated, flip and colour as ours."""
    jitter = [transforms.ColorJitter(colour, colour, colour)] if colour else []
    return transforms.Compose(
        [
            transforms.Resize(size),
            transforms.CenterCrop(size),
            transforms.RandomCrop(size, padding=round(0.1 * size), padding_mode="edge"),
            transforms.RandomHorizontalFlip(),
            *jitter,
            transforms.ToTensor(),
            transforms.Normalize(dataset.mean, dataset.std),
        ]
    )


def draw_pictures(folder: Path, count: int, stored: tuple[int, int]) -> None:
    """JPEG files of random blobs with some grain, in a folder for each of the classes that they go round."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(stored, Image.Resampling.BICUBIC)
        grain = rng.normal(0, 6, (stored[1], stored[0], 1))
        picture = Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))
        path = folder / f"class{number % CLASSES:03}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)


def prepared(folder: Path, size: int, count: int) -> Dataset:
    """A prepared data set of `count` training images, made of the pictures in turn."""
    files = sorted((folder / "pictures").rglob("*.jpg"), key=lambda path: int(path.stem))
    small = [np.asarray(Image.open(path).resize((size, size))) for path in files]
    target = folder / f"prepared-{size}"
    with writing(target) as writer:
        for which, number in (("base", count), ("streaming", 1)):
            images = writer.create_images(which, number, size)  # type: ignore[arg-type]
            for i in range(number):
                images[i] = small[i % len(small)]
            labels = np.eye(CLASSES, dtype=np.bool_)[np.arange(number) % len(small) % CLASSES]
            writer.write_labels(which, labels, np.zeros(number, np.uint8))  # type: ignore[arg-type]
        classes = [f"class{i:03}" for i in range(CLASSES)]
        writer.finish(classes, "one object of mixed kind", {"drawn": "throughput"}, {"name": "none"})
    return open_dataset(target)


def quartiles(values: list[float]) -> dict[str, float]:
    """Median, and the quartiles around it."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def print_table(sizes: dict[str, Any]) -> None:
    """One row a size."""
    print(f"{'pixels':>6} {'what':<20} {'images/s':>10} {'quartiles':>17} {'ours / it':>10} {'quartiles':>15}")
    for size, found in sizes.items():
        for name, pace in found["images_per_second"].items():
            line = f"{size:>6} {name:<20} {pace['median']:>10.1f} {pace['low']:>8.1f} {pace['high']:>8.1f}"
            if (ratio := found["ratios"].get(f"ours / {name}")) is not None:
                line += f" {ratio['median']:>10.3f} {ratio['low']:>7.3f} {ratio['high']:>7.3f}"
            print(line)
        shares = {name: f"{100 * share['median']:.0f} %" for name, share in found["share_of_peak"].items()}
        peak = found["peak_flops_per_second"]["median"] / 1e9
        print(f"       share of the peak ({peak:.0f} GFLOP/s, matrix product): {shares}")
        print(f"       folder, images/s by workers: { {k: round(v, 1) for k, v in found['folder_workers'].items()} }")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 300])
    for name, default in (("batch", 32), ("steps", 12), ("rounds", 7), ("width", 64), ("pictures", 240)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--colour", type=float, default=0.4)
    parser.add_argument("--stored", type=int, nargs=2, default=[500, 375], help="width and height of the JPEG files")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--compile", action="store_true", help="also a ceiling by torch.compile")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def main() -> None:
    """Time all sizes."""
    options = parse()
    runtime = make_runtime(options.device, options.precision)
    result: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/throughput.py", *sys.argv[1:]]),
        "machine": runtime.identity() | {"processor": platform.machine(), "cores": os.cpu_count()},
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__, "numpy": np.__version__},
        "options": {k: v for k, v in vars(options).items() if k != "output"},
        "sizes": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        draw_pictures(Path(folder) / "pictures", options.pictures, tuple(options.stored))
        for size in options.sizes:
            result["sizes"][str(size)] = Bench(options, runtime, Path(folder), size).run()
            print_table({str(size): result["sizes"][str(size)]})
            if options.output is not None:
                options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
