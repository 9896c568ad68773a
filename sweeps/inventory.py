"""The bases on disk or in a bucket, without what trains them: which there are, who trains them, and which can go.

bases/KEY/
    base.json                  written last: a folder that has it is a complete base; it names the weights
    weights-….safetensors      importance.safetensors joins them where it is asked for
    used                       dated by the last use
    making.json, progress.pt   of a base in the making: what it will be, and where a later trial goes on from
    lease-N.json, .clock       of who trains it, and of who asked (`sweeps.lease`)
"""

import hashlib
import json
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senet.config import ModelConfig
from senet.errors import InputError
from sweeps.lease import DEFAULT, Timing, file_system_time, lease_holder
from sweeps.shared import Shared

QUOTA = "SWEEPS_BASES_QUOTA"

_UNITS: dict[str, int] = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}
# Whoever has used a base lately may want it again in a moment.
_RECENTLY_SECONDS = 3600.0


@dataclass(frozen=True)
class Stored:
    """One base, complete or not."""

    key: str
    state: str
    """complete, training, abandoned (in the making, and nobody trains it) or damaged"""
    bytes: int
    """of all its files"""
    used: float
    """when it was last used or worked on, seconds since the epoch"""
    about: dict[str, Any]
    """config (what of it matters to the base), data, environment, trainer; complete ones also history and seconds"""
    holder: str | None
    """who trains it"""

    @property
    def network(self) -> str:
        """Its network in words: the name, and what differs from the defaults."""
        model = self.about.get("config", {}).get("model", {})
        defaults = ModelConfig().model_dump(mode="json")
        named = [f"{key} {value}" for key, value in model.items() if key != "name" and value != defaults.get(key)]
        return ", ".join([str(model.get("name", "?")), *named])

    @property
    def last(self) -> dict[str, Any]:
        """The report of its last epoch; empty for one in the making."""
        history: list[dict[str, Any]] = self.about.get("history") or [{}]
        return history[-1]


class Inventory:
    """The bases below one folder."""

    def __init__(self, folder: Path, timing: Timing = DEFAULT) -> None:
        self.folder, self._timing = folder, timing
        self.place = str(folder)

    def now(self) -> float:
        """The time by the clock that dates the files."""
        return file_system_time(self.folder)

    def bases(self, verify: bool = False) -> list[Stored]:
        """All bases, by key.

        Args:
            verify: read all weights and compare their checksums; otherwise a base whose files are there is complete.
        """
        found = []
        for folder in sorted(self.folder.glob("*/")) if self.folder.is_dir() else []:
            # Somebody else may be removing it.
            with suppress(FileNotFoundError):
                if _is_key(folder.name):
                    found.append(self._stored(folder, verify))
        return found

    def idle(self, bases: list[Stored]) -> list[Stored]:
        """Those that can go, the least recently used first: nobody trains them, or has used them within the hour."""
        if not bases:
            return []
        since = self.now() - _RECENTLY_SECONDS
        return sorted((b for b in bases if b.holder is None and b.used < since), key=lambda base: base.used)

    def make_room(self, needed: int, quota: float) -> None:
        """Remove complete bases, the least recently used first, until `needed` more bytes fit into `quota`, or none
        that can go is left."""
        if quota < math.inf:
            complete = [base for base in self.bases() if base.state == "complete"]
            for base in over(quota - needed, complete, self.idle(complete)):
                self.remove(base.key)

    def remove(self, key: str) -> None:
        """Delete a base, whole or not at all for whoever looks meanwhile."""
        try:
            os.rename(self.folder / key, self.folder / f".removed-{key}-{uuid.uuid4().hex}")
        except FileNotFoundError:
            # Somebody else has removed it.
            return
        for removed in self.folder.glob(".removed-*"):
            shutil.rmtree(removed, ignore_errors=True)

    def _stored(self, folder: Path, verify: bool) -> Stored:
        holder = lease_holder(folder, self._timing)
        about = _json_of(folder / "base.json")
        if about is not None and _has_weights(folder, about, verify):
            state = "complete"
        elif holder is not None:
            state = "training"
        else:
            state = "damaged" if (folder / "base.json").exists() else "abandoned"
        files = _files(folder)
        last = [status.st_mtime for name, status in files.items() if name in ("used", "base.json", "progress.pt")]
        return Stored(
            key=folder.name,
            state=state,
            bytes=sum(status.st_size for status in files.values()),
            used=max(last, default=folder.stat().st_mtime),
            about=about or _json_of(folder / "making.json") or {},
            holder=holder,
        )


class BucketInventory(Inventory):
    """The bases in the bucket that `folder` is this machine's copy of.

    Nobody has a lease there: a base in the making whose files changed within the hour is taken to be in training.
    """

    def __init__(self, folder: Path, shared: Shared) -> None:
        super().__init__(folder)
        self._shared = shared
        self.place = f"{shared.url}/{folder.name}"

    def now(self) -> float:
        """The time of this machine: a bucket's is the world's."""
        return time.time()

    def bases(self, verify: bool = False) -> list[Stored]:
        """All bases, by key; see `Inventory.bases`."""
        folders: dict[str, dict[str, tuple[int, float]]] = {}
        for name, about in self._shared.listing(self.folder).items():
            key, _, file = name.partition("/")
            if _is_key(key) and file:
                folders.setdefault(key, {})[file] = about
        return [self._of(key, files, verify) for key, files in sorted(folders.items())]

    def remove(self, key: str) -> None:
        """Delete a base in the bucket, from its `base.json` on, and this machine's copy of it."""
        self._shared.remove(self.folder / key / "base.json")
        self._shared.remove(self.folder / key)
        super().remove(key)

    def _of(self, key: str, files: dict[str, tuple[int, float]], verify: bool) -> Stored:
        folder = self.folder / key
        about = _parsed(self._shared.read(folder / "base.json"))
        used = max(changed for _, changed in files.values())
        if about is not None and self._has_weights(folder, about, files, verify):
            state = "complete"
        elif "base.json" in files:
            state = "damaged"
        else:
            state = "training" if used > self.now() - _RECENTLY_SECONDS else "abandoned"
        return Stored(
            key=key,
            state=state,
            bytes=sum(size for size, _ in files.values()),
            used=used,
            about=about or _parsed(self._shared.read(folder / "making.json")) or {},
            holder=None,
        )

    def _has_weights(self, folder: Path, about: dict[str, Any], files: Container[str], verify: bool) -> bool:
        path = weights_path(folder, about)
        if not verify:
            return path.name in files
        content = self._shared.read(path)
        return content is not None and hashlib.sha256(content).hexdigest() == about.get("sha256")


def inventory_of(home: Path) -> Inventory:
    """The bases of a home, a folder or a bucket."""
    shared = Shared(home)
    return Inventory(home / "bases") if shared.url is None else BucketInventory(home / "bases", shared)


def over(limit: float, bases: list[Stored], candidates: list[Stored]) -> list[Stored]:
    """The first of `candidates`, so many that the rest of `bases` is not larger than `limit` bytes, if so many are."""
    size, chosen = sum(base.bytes for base in bases), []
    for base in candidates:
        if size <= limit:
            break
        chosen.append(base)
        size -= base.bytes
    return chosen


def size_of(text: str, source: str) -> float:
    """Bytes that a size such as `20GB` or `1.5 TiB` means. Raises InputError, which names `source`."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([a-z]*)", text.strip().lower())
    if not found or found[2] not in _UNITS:
        raise InputError(f"{source}: must be a size such as 20GB or 500MiB, but got {text!r}")
    return float(found[1]) * _UNITS[found[2]]


def quota() -> float:
    """Bytes that complete bases may take, infinite where `SWEEPS_BASES_QUOTA` is not set. Raises InputError."""
    text = os.environ.get(QUOTA)
    return size_of(text, QUOTA) if text else math.inf


def weights_path(folder: Path, about: dict[str, Any]) -> Path:
    """The weights of a complete base, `about` being its base.json."""
    return folder / str(about.get("weights", "weights.safetensors"))


def _has_weights(folder: Path, about: dict[str, Any], verify: bool) -> bool:
    """Whether the weights are there; with `verify`, whether they are what was written."""
    path = weights_path(folder, about)
    try:
        if not verify:
            return path.is_file()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == str(about["sha256"])
    except (OSError, KeyError):
        return False


def _files(folder: Path) -> dict[str, os.stat_result]:
    """A folder's files, without those that others remove meanwhile."""
    found = {}
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            found[path.name] = path.stat()
    return found


def _json_of(path: Path) -> dict[str, Any] | None:
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return None


def _parsed(content: bytes | None) -> dict[str, Any] | None:
    """The JSON object that a file holds; None where it holds none."""
    try:
        value = json.loads(content or b"")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _is_key(name: str) -> bool:
    return re.fullmatch("[0-9a-f]{16}", name) is not None
