"""The manifest of a data set, and its checksums: a data set is as it was written, or it is refused."""

import hashlib
import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from senet.errors import InputError
from senet.files import write_atomically

FORMAT = 2
MANIFEST = "manifest.json"
ARRAYS = tuple(f"{which}.{what}.npy" for which in ("base", "streaming") for what in ("images", "labels", "split"))
TEXTS = ("base.files.txt", "streaming.files.txt", "duplicates.txt")
"""what an import adds for people"""

_KEYS = {"classes", "size", "kind", "mean", "std", "counts", "images", "most_labels", "split", "source", "fingerprint",
         "checksums"}  # fmt: skip


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a complete folder, with the checksums of all files, and its own."""
    names = [name for name in (*ARRAYS, *TEXTS) if (folder / name).exists()]
    checksums = {name: _checksum(folder / name) for name in names}
    # What is learned from: texts for people do not make it another data set.
    content = [FORMAT, manifest["classes"], *(checksums[name] for name in ARRAYS)]
    manifest = {**manifest, "fingerprint": _digest(content)[:16], "checksums": checksums}
    manifest["checksum"] = _digest(manifest)
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, "utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the data set `folder`.

    Raises:
        InputError: there is none, it is of another format, or it is not as it was written.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise InputError(f"{folder}: no such data set; prepare one with `senet data import` or `senet data breeds`")
    try:
        return parse_manifest(path.read_bytes(), folder)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def parse_manifest(content: bytes, where: Path | str) -> dict[str, Any]:
    """Check the manifest of the data set `where`. Raises InputError as `read_manifest` does."""
    try:
        manifest: Any = json.loads(content)
    except (ValueError, RecursionError):
        raise damaged(where, "manifest.json cannot be read") from None
    if not isinstance(manifest, dict):
        raise damaged(where, "manifest.json cannot be read")
    found = manifest.get("format")
    if found != FORMAT:
        raise InputError(f"{where}: format {found!r} is not {FORMAT}: {_again(manifest)}")
    unsigned = {key: value for key, value in manifest.items() if key != "checksum"}
    if manifest.get("checksum") != _digest(unsigned) or not manifest.keys() >= _KEYS:
        raise damaged(where, "manifest.json is not as it was written", manifest)
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the files with their checksums, unless that was done on this machine and they have not changed since.

    Raises:
        InputError: one is missing or another one.
    """
    stamp = folder / f".verified-{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}.json"
    state = _state(folder, manifest)
    with suppress(OSError, ValueError, RecursionError):
        if json.loads(stamp.read_text("utf-8")) == state:
            return
    verify_files(folder, manifest)
    # A data set may lie where nothing can be written: it is verified again next time.
    with suppress(OSError):
        write_atomically(stamp, json.dumps(state).encode())


def verify_files(folder: Path, manifest: Mapping[str, Any]) -> int:
    """Compare all files with their checksums; returns their length in bytes. Raises InputError where one differs."""
    total = 0
    for name, checksum in manifest["checksums"].items():
        try:
            found = _checksum(folder / name)
            total += (folder / name).stat().st_size
        except OSError as error:
            raise damaged(folder, f"{name}: {error.strerror}", manifest) from None
        if found != checksum:
            raise damaged(folder, f"{name} is not as it was written", manifest)
    return total


def damaged(where: Path | str, what: str, manifest: Mapping[str, Any] | None = None) -> InputError:
    """The error that says what is wrong with a data set and how to make it again."""
    return InputError(f"{where}: the data set is damaged ({what}): {_again(manifest or {})}")


def _again(manifest: Mapping[str, Any]) -> str:
    """How to make a data set again, as far as what is left of its manifest tells."""
    source = manifest.get("source")
    command = source.get("command") if isinstance(source, dict) else None
    return f"prepare it again: {command} --replace" if isinstance(command, str) else "delete it and prepare it again"


def _state(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What changes when a file does: length, time of the last change, inode."""
    files = {}
    for name in manifest["checksums"]:
        try:
            about = (folder / name).stat()
        except OSError as error:
            raise damaged(folder, f"{name}: {error.strerror}", manifest) from None
        files[name] = [about.st_size, about.st_mtime_ns, about.st_ino]
    return {"manifest": manifest["checksum"], "files": files}


def _checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(value: Any) -> str:
    """SHA-256 of a value as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
