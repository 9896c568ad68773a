"""How fast is an import against bare decoding, and how much memory does it take?

    python benchmarks/import_speed.py BASE STREAM [--size 96] [--rounds 5] [--files 20000] [--output FILE]

In every round, one after the other and in processes of their own: (a) all files of both folders opened, converted,
cropped and scaled with Pillow, in one thread a core; (b) `senet data import` of the same files, from an empty home. The
import's time is that of the whole call without the search for duplicates, which is given apart. Neither uses JPEG's
draft mode. Seconds of processor time, the search included, are given beside the clock's. Then the peak resident memory,
mapped pages included, of an import of many small generated files.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

CORES = len(os.sched_getaffinity(0))


def decode(path: Path, size: int) -> None:
    """What cannot be spared: decode, cut the centre out, scale."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    side = min(rgb.size)
    left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
    np.asarray(rgb.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side)))


def measured(what: str, base: Path, stream: Path, size: int) -> dict[str, float]:
    """Run `bare` or `import` in this process; returns seconds and memory."""
    searched = 0.0
    if what == "bare":
        files = [path for root in (base, stream) for path in sorted(root.glob("*/*"))]
        start, processor = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(decode, files, [size] * len(files)))
    else:
        from senet.data.folder import import_folders

        with tempfile.TemporaryDirectory() as home:
            start, processor = time.perf_counter(), time.process_time()
            report = import_folders(Path(home) / "datasets" / "x", base, stream, size=size)
            searched = report.duplicate_seconds
    return {
        "seconds": time.perf_counter() - start - searched,
        "processor_seconds": time.process_time() - processor,
        "duplicates_seconds": searched,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def in_process(what: str, base: Path, stream: Path, size: int) -> dict[str, float]:
    """`measured` in a process of its own, so that neither warms the other up and memory is counted anew."""
    command = [sys.executable, __file__, str(base), str(stream), "--size", str(size), "--measure", what]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def draw_files(root: Path, count: int) -> tuple[Path, Path]:
    """`count` small JPEG files, all different, in three classes and one combination."""
    rng = np.random.default_rng(0)
    names = ["base/a", "base/b", "base/c", "stream/a+b"]
    for name in names:
        (root / name).mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(root / names[i % 4] / f"{i}.jpg")
    return root / "base", root / "stream"


def spread(values: list[float]) -> dict[str, float]:
    """Median and extremes."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("stream", type=Path)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=20_000, help="small files for the measurement of memory")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", choices=["bare", "import"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    base, stream, size = arguments.base, arguments.stream, arguments.size
    if arguments.measure:
        print(json.dumps(measured(arguments.measure, base, stream, size)))
        return
    rounds: dict[str, list[dict[str, float]]] = {"bare": [], "import": []}
    for _ in range(arguments.rounds):
        for what, found in rounds.items():
            found.append(in_process(what, base, stream, size))
            print(what, {key: round(value, 2) for key, value in found[-1].items()}, flush=True)
    folder = Path(tempfile.mkdtemp())
    try:
        small = in_process("import", *draw_files(folder, arguments.files), 300)
    finally:
        shutil.rmtree(folder)
    print("small files", {key: round(value, 2) for key, value in small.items()})
    result: dict[str, Any] = {
        "command": f"python benchmarks/import_speed.py {base.name} {stream.name} --size {size} "
        f"--rounds {arguments.rounds} --files {arguments.files}",
        "machine": {
            "processor": platform.machine(),
            "cores": CORES,
            "pillow": PIL.__version__,
            "numpy": np.__version__,
        },
        "files": sum(1 for root in (base, stream) for _ in root.glob("*/*")),
        "size": size,
        "n": arguments.rounds,
        **{what: {key: spread([found[key] for found in each]) for key in each[0]} for what, each in rounds.items()},
        "ratio": spread([b["seconds"] / a["seconds"] for a, b in zip(rounds["bare"], rounds["import"], strict=True)]),
        "many_small_files": {"files": arguments.files, "prepared_pixels": 300, **small},
    }
    print("import / bare:", {key: round(value, 3) for key, value in result["ratio"].items()})
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
