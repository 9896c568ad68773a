"""Files that are written whole: on a full disk, and for whoever may read them."""

import errno
import os
from pathlib import Path

import pytest
import torch

from senet.checkpoint import load_progress, save_progress
from senet.files import write_atomically


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


def test_a_file_that_does_not_fit_spares_the_last_one(tmp_path: Path, small_files: None) -> None:
    write_atomically(tmp_path / "result.json", b"old")
    with pytest.raises(OSError, match="File too large"):
        write_atomically(tmp_path / "result.json", bytes(200_000))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("result.json", b"old")]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "result.json", b"{}")
    finally:
        os.umask(before)
    assert (tmp_path / "result.json").stat().st_mode & 0o777 == mode
