"""Files that are whole or not there."""

import os
import secrets
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path` whole or not at all; others may read it as far as the umask lets them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = aside(path)
    try:
        with temporary.open("xb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def aside(path: Path) -> Path:
    """A hidden name beside `path` that nobody else uses, for what is to become `path`."""
    return path.with_name(f".{path.name}-{secrets.token_hex(8)}")
