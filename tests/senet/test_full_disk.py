"""A disk that is full while a checkpoint is written."""

import errno
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from senet.checkpoint import load_progress, save_progress


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 100 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_does_not_fit_is_the_disks_error_and_spares_the_last_one(
    tmp_path: Path, small_files: None
) -> None:
    path = tmp_path / "progress.pt"
    save_progress(path, {"identity": "x", "weights": torch.zeros(10)})
    with pytest.raises(OSError, match="File too large") as caught:
        save_progress(path, {"identity": "x", "weights": torch.zeros(100_000)})
    assert caught.value.errno == errno.EFBIG
    kept = load_progress(path, "x")
    assert kept is not None
    assert len(kept["weights"]) == 10
    assert [file.name for file in tmp_path.iterdir()] == ["progress.pt"], "nothing half-written is left"
