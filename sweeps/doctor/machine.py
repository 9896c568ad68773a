"""What a machine of the cluster finds out about itself.

Ray sends these functions as they are, so that a machine on which this package is missing, or another one, can say so:
they use the standard library alone, and import what they ask about where they ask.
"""

import hashlib
import json
import os
import platform
import shutil
import socket
import time
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "ray", "optuna", "senet-sweeps")

_PATIENCE_SECONDS = 2.0
# So long a share may take to show what another machine has written.
_SHARE_SECONDS = 10.0
# What can be called at each of Ray's doors without an argument, and who opens it.
_CALLS = {
    "/ray.rpc.NodeInfoGcsService/CheckAlive": "Ray's head",
    "/ray.rpc.NodeManagerService/GetNodeStats": "Ray",
    "/ray.rpc.RayletDriver/ClusterInfo": "Ray's client server",
}
_PAGES = {
    ("/api/version", "ray_version"): "Ray's dashboard, which starts jobs,",
    ("/api/2.0/mlflow/experiments/search?max_results=1", "experiments"): "MLflow",
}


def describe(home: str, bucket: bool = False) -> dict[str, Any]:
    """Versions, GPUs, and the disk on which `home` lies.

    Args:
        bucket: `home` is this machine's copy of a bucket, which is made when it is needed.
    """
    there = bucket or Path(home).is_dir()
    found: dict[str, Any] = {"versions": _versions(), "exists": there, "gpus": 0, "torch": None}
    try:
        import torch

        found["gpus"] = torch.cuda.device_count()
    except (ImportError, OSError) as error:
        found["torch"] = str(error).partition("\n")[0]
    return found | {"free_bytes": _free(Path(home))}


def own_copy(name: str) -> dict[str, Any]:
    """Where this machine's own copy of a data set lies or will lie, and what there is on that disk.

    Args:
        name: of its folder in the machine's cache.
    """
    cache = os.environ.get("SWEEPS_CACHE") or Path.home() / ".cache" / "senet-sweeps"
    place = Path(cache).resolve()
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        mounts = ""
    exists = (place / name / "manifest.json").exists()
    return {"place": str(place), "mounts": mounts, "exists": exists, "free_bytes": _free(place)}


def _free(folder: Path) -> int:
    """Bytes that are free on the disk on which a folder lies or will lie."""
    return shutil.disk_usage(next(path for path in [folder, *folder.parents] if path.exists())).free


def clock() -> float:
    """Seconds since 1970, by this machine."""
    return time.time()


def write_probe(folder: str) -> str | None:
    """Write a file that is named by Ray's id of this machine; returns why that failed, or None.

    Args:
        folder: a path, or a URL (fsspec).
    """
    import ray

    name = ray.get_runtime_context().get_node_id()
    try:
        if "://" in folder:
            files, root = _files(folder)
            files.pipe_file(f"{root}/{name}", name.encode())
        else:
            Path(folder).mkdir(exist_ok=True)
            (Path(folder) / name).write_text(name)
    except Exception as error:  # noqa: BLE001 Each file system raises errors of its own.
        return getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
    return None


def unread_probes(folder: str, names: list[str]) -> list[str]:
    """Which of the files that others have written cannot be read here."""
    deadline = time.monotonic() + _SHARE_SECONDS
    while True:
        missing = [name for name in names if not _reads(folder, name)]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.5)


def remove_probes(folder: str) -> None:
    """Take the probes away again."""
    if "://" not in folder:
        shutil.rmtree(folder, ignore_errors=True)
        return
    # What was not written cannot be removed, and where nothing can be done the other probes say so.
    with suppress(Exception):
        files, root = _files(folder)
        files.rm(root, recursive=True)


def open_doors(listening: str | None = None) -> list[str]:
    """What answers to anybody: services that other machines reach and that ask for no token and no login.

    Args:
        listening: the text of /proc/net/tcp and tcp6 (proc(5)); not given: this machine's.

    Raises:
        ImportError: the package grpcio is missing.
    """
    text = listening if listening is not None else "".join(Path(f"/proc/net/{t}").read_text() for t in ("tcp", "tcp6"))
    found = []
    for address, port in reachable(text):
        who = _speaks_http(address, port) or _speaks_grpc(address, port)
        if who is not None:
            found.append(f"{who} at port {port}")
    return found


def reachable(listening: str) -> list[tuple[str, int]]:
    """The sockets that listen not only to this machine itself: an address to reach each by, and its port."""
    found = {}
    for line in listening.splitlines():
        fields = line.split()
        if len(fields) < 4 or fields[3] != "0A":
            continue
        packed, port = fields[1].split(":")
        # Words of four bytes in the machine's order, least first; the last is the address where IPv4 is within IPv6.
        last = bytes.fromhex(packed)[-4:][::-1]
        inner = len(packed) == 8 or packed[:24] == "0000000000000000FFFF0000" or set(packed) == {"0"}
        address = socket.inet_ntoa(last) if inner else _ipv6(packed)
        if not address.startswith("127.") and address != "::1":
            found[int(port, 16)] = "127.0.0.1" if address == "0.0.0.0" else address
    return [(address, port) for port, address in sorted(found.items())]


def _ipv6(packed: str) -> str:
    raw = bytes.fromhex(packed)
    return socket.inet_ntop(socket.AF_INET6, b"".join(raw[i : i + 4][::-1] for i in range(0, 16, 4)))


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    if found["senet-sweeps"] != "missing":
        found["senet-sweeps"] += f" ({_code()})"
    return found


def _code() -> str:
    """A hash of our own code: a version number stays while one works on it."""
    total = hashlib.sha256()
    for package in ("senet", "sweeps"):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec is not None else []:
            for path in sorted(Path(folder).rglob("*.py")):
                total.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:8]


def _files(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the folder's key in it; what others have put there meanwhile is seen."""
    import fsspec

    files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return files, str(root)


def _reads(folder: str, name: str) -> bool:
    try:
        if "://" in folder:
            files, root = _files(folder)
            return bool(files.cat_file(f"{root}/{name}") == name.encode())
        # Listing the folder makes a share look again.
        os.listdir(folder)
        return (Path(folder) / name).read_text() == name
    except Exception:  # noqa: BLE001 Each file system raises errors of its own.
        return False


def _speaks_http(address: str, port: int) -> str | None:
    host = f"[{address}]" if ":" in address else address
    # Proxies are for other hosts.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for (page, key), who in _PAGES.items():
        try:
            with opener.open(f"http://{host}:{port}{page}", timeout=_PATIENCE_SECONDS) as answer:
                if key in json.loads(answer.read(1_000_000)):
                    return who
        except (OSError, ValueError, HTTPException):
            # It refuses, or speaks no HTTP, or not of these things.
            continue
    return None


def _speaks_grpc(address: str, port: int) -> str | None:
    import grpc

    host = f"[{address}]" if ":" in address else address
    with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        for call, who in _CALLS.items():
            try:
                channel.unary_unary(call)(b"", timeout=_PATIENCE_SECONDS)
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    return None
                continue
            return who
    return None
