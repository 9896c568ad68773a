"""A folder that is really mounted, through FUSE, as shares of several machines are."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def share(folder: Path) -> Iterator[Path]:
    """A share on `folder`, of kind fuse.bindfs; the test is skipped where none can be mounted."""
    if shutil.which("bindfs") is None:
        pytest.skip("bindfs is not installed")
    behind = folder.with_name(f"{folder.name}-behind")
    for made in (folder, behind):
        made.mkdir()
    mounted = subprocess.run(["bindfs", "-o", "subtype=bindfs", behind, folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted through FUSE here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
