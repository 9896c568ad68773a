"""Where a run writes: data sets, bases, sweeps and tracking lie below one folder."""

import hashlib
import os
from pathlib import Path

from senet.errors import InputError
from senet.files import write_atomically

BUCKETS = ("s3", "gs")
MARK = ".bucket"
"""in a folder that is this machine's copy of a bucket: the bucket's URL"""


def home() -> Path:
    """The folder that everything is written below: `SWEEPS_HOME`, else `./mlruns`; absolute.

    Where `SWEEPS_HOME` is a bucket it is this machine's copy of it. Raises InputError where it is another kind of URL,
    or a path that cannot be part of one.
    """
    place = os.environ.get("SWEEPS_HOME") or "mlruns"
    if "://" in place:
        return copy_of(place)
    folder = Path(place).expanduser().resolve()
    if any(character in str(folder) for character in "?%{}"):
        raise InputError(f"SWEEPS_HOME: {folder}: must be a path without ? % {{ }}: databases below it have URLs")
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"{there}: is no folder, but everything is written below it; set SWEEPS_HOME to another")
    return folder


def cache() -> Path:
    """What this machine keeps for itself lies here: `SWEEPS_CACHE`, else ~/.cache/senet-sweeps."""
    folder = os.environ.get("SWEEPS_CACHE")
    return Path(folder).absolute() if folder else Path.home() / ".cache" / "senet-sweeps"


def copy_of(url: str) -> Path:
    """This machine's copy of the bucket's folder at `url`, in its cache."""
    scheme, _, path = url.rstrip("/").partition("://")
    if scheme not in BUCKETS or not path.strip("/") or "::" in url or not url.isprintable():
        raise InputError(f"SWEEPS_HOME: must be a folder, s3://bucket/folder or gs://bucket/folder, but got {url!r}")
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in path)[-40:].strip("-")
    copy = cache() / f"home-{plain}-{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:12]}"
    copy.mkdir(parents=True, exist_ok=True)
    # Others read it at any moment.
    if not (copy / MARK).exists():
        write_atomically(copy / MARK, url.rstrip("/").encode())
    return copy
