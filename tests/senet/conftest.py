"""What several tests of senet begin with."""

from pathlib import Path

import pytest

from tests.senet.photo_folders import Folders


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Photos in folders, ready to be imported."""
    return Folders(tmp_path)
