"""Work of a sweep that is no trial, in Ray's workers."""

import subprocess
import sys
from pathlib import Path

import pytest

# A GPU that Ray counts, and that nobody touches, is enough for whom Ray gives a call to.
FOUR_CALLS = """
import os
import sys
from pathlib import Path

from sweeps.environment import set_ray_environment

set_ray_environment(local=True)

import ray

from sweeps.tasks import run_tasks


def note(argument):
    Path(argument["file"]).write_text(str(os.getpid()))


ray.init(num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
run_tasks(note, [{"file": f"{sys.argv[1]}/{i}", "gpu": float(sys.argv[2])} for i in range(4)], 1)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("gpu", "processes"), [(0.5, 4), (0.0, 1)])
def test_a_process_that_had_a_gpu_is_called_once(tmp_path: Path, gpu: float, processes: int) -> None:
    command = [sys.executable, "-c", FOUR_CALLS, str(tmp_path), str(gpu)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
    assert len({file.read_text() for file in tmp_path.iterdir()}) == processes
