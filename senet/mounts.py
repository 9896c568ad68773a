"""Mounted shares: what several machines see, and whose locks and speed are not those of a disk."""

from pathlib import Path

_SHARES = {"9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4",
           "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs", "wekafs"}  # fmt: skip
# Mounted through FUSE, and yet a local disk: the root of a container without privileges.
_LOCAL_FUSE = {"fuse.fuse-overlayfs"}


def share_of(folder: Path) -> str | None:
    """What kind of mounted share a folder lies on, or will lie on; None on a local disk."""
    return kind_of_share(folder.resolve(), mounts())


def kind_of_share(folder: Path, mounts: str) -> str | None:
    """What kind of mounted share a folder lies on; None on a local disk.

    Args:
        folder: absolute, its symbolic links resolved.
        mounts: the text of /proc/self/mountinfo (proc(5)).
    """
    found, longest = None, -1
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")[0]
        if len(fields) < 5:
            continue
        point = _unescaped(fields[4])
        # Of two mounts at one point the later one is seen.
        if folder.is_relative_to(point) and len(point) >= longest:
            found, longest = kind, len(point)
    if found is None or found in _LOCAL_FUSE:
        return None
    return found if found in _SHARES or found == "fuse" or found.startswith("fuse.") else None


def mounts() -> str:
    """The mounts of this process; empty where the system does not tell, and every disk then counts as local."""
    try:
        return Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return ""


def _unescaped(text: str) -> str:
    """A path of mountinfo, in which space, tab, newline and backslash are octal."""
    for code in ("040", "011", "012", "134"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return text
