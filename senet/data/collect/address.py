"""Which addresses may be asked: public ones, and hosts that the spec trusts by name."""

import errno
import ipaddress
import socket
from typing import Any

from yarl import URL

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Reserved for protocols; the metadata service of one cloud answers there, and older Pythons call a part of it global.
_PROTOCOLS = ipaddress.ip_network("192.0.0.0/24")


def web_address(text: str) -> URL:
    """`text` as the address of something on the web. Raises ValueError with the reason why it is none."""
    try:
        url = URL(text)
        host, port = url.host, url.port  # These are read from the text only now.
    except (ValueError, TypeError) as error:
        raise ValueError(f"is no web address ({str(error).partition(chr(10))[0]})") from None
    if url.scheme not in ("http", "https") or not host or not port:
        raise ValueError("must be a web address that begins with http:// or https://")
    if url.user is not None or url.password is not None:
        raise ValueError("must be a web address without a user name or password")
    return url


def authority(url: URL) -> str:
    """Host and port of a web address, as `trusted_hosts` names them: `example.org:443`, `[::1]:8000`."""
    host = url.host or ""
    return f"[{host}]:{url.port}" if ":" in host else f"{host}:{url.port}"


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address belongs to the public internet.

    Private, loopback, link-local, shared, reserved and multicast ranges do not, nor does an IPv6 address that stands
    for an IPv4 address of these (mapped, 6to4, NAT64).
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and ip not in _PROTOCOLS


def guarded_socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket for the address of `info`, an answer of getaddrinfo that is connected to next.

    The check sits here, behind every resolution, so that what was checked is what is connected to.

    Raises:
        PermissionError: the address is not public.
    """
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise PermissionError(
            errno.EACCES, "its address is not on the public internet (`trusted_hosts` could allow it)"
        )
    return socket.socket(family, kind, protocol)
