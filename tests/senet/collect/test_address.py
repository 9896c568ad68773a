"""Addresses that point into private ranges, in all the ways that they may be written or found."""

import socket
from typing import Any

import pytest

from senet.data.collect.address import is_public
from tests.senet.collect.conftest import Collection
from tests.senet.collect.server import redirect

REFUSED = "its address is not on the public internet"


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.0.9", "169.254.169.254", "172.16.0.1"),
        *("192.0.0.192", "192.0.2.1", "192.168.1.1", "198.18.0.1", "203.0.113.9", "224.0.0.251", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "2001:db8::1"),
        *("2001::1", "2002:7f00:1::", "2002:a00:1::1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "fc00::1", "fd12::1"),
        *("fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1"),
    ],
)
def test_ranges_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "208.80.154.224", "2620:0:861:ed1a::1", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_ranges_that_are_public(address: str) -> None:
    assert is_public(address)


def resolving(monkeypatch: pytest.MonkeyPatch, **hosts: list[str]) -> list[str]:
    """Names below `.example` have these addresses; returns the list of what was asked for, which grows."""
    real, asked = socket.getaddrinfo, []

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        name = str(host).removesuffix(".example")
        if name not in hosts:
            return real(host, port, *arguments, **options)
        asked.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in hosts[name]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "127.0.0.1.", "127.1", "2130706433"),
        *("0x7f000001", "0177.0.0.1", "public.example", "several.example"),
    ],
)
def test_no_request_reaches_a_private_address(
    collection: Collection, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, public=["127.0.0.1"], several=["10.0.0.1", "127.0.0.1"])
    # Another port is trusted than the one that is asked.
    url = f"http://{host}:{collection.server.server_port}/1.jpg"
    collection.serve(1)
    collection.run({"a+b": [{"urls": [url]}]}, code=1, trusted_hosts=["127.0.0.1:9"])
    assert not collection.server.requests
    (record,) = collection.records()
    assert REFUSED in record["reason"] or "no usable address" in record["reason"], record


@pytest.mark.parametrize(
    "target",
    ["10.0.0.1/x", "localhost:{port}/1.jpg", "[fe80::1]/", "public.example:{port}/1.jpg"],
)
def test_a_redirect_into_a_private_range_is_refused(
    collection: Collection, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, public=["127.0.0.1"])
    collection.serve(1)
    collection.server.answers["/x"] = redirect("http://" + target.format(port=collection.server.server_port))
    collection.run({"a+b": [{"urls": [collection.server.url("/x")]}]}, code=1)
    assert [target for _, target, _ in collection.server.requests] == ["/x"]
    (record,) = collection.records()
    assert record["state"] == "failed"
    assert REFUSED in record["reason"]


def test_an_api_at_a_private_address_is_refused(collection: Collection) -> None:
    out = collection.run(
        {"a+b": [{"dog_ceo": "puggle"}, {"wikimedia": {"search": "puggle"}}]}, code=1, trusted_hosts=[]
    )
    assert "no picture was got" in out
    assert not collection.server.requests


def test_a_trusted_name_may_have_a_private_address(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolving(monkeypatch, intranet=["127.0.0.1"])
    host = f"intranet.example:{collection.server.server_port}"
    collection.serve(1)
    collection.run({"a+b": [{"urls": [f"http://{host}/1.jpg"]}]}, trusted_hosts=[host])
    assert asked
    assert [record["state"] for record in collection.records()] == ["kept"]


def test_the_address_that_was_checked_is_the_one_connected_to(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The name has a public address (one that leads nowhere) when it is asked for the first time, then a private one.
    addresses = iter(["203.0.113.80", *["127.0.0.1"] * 20])
    real = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host != "rebinding.example":
            return real(host, port, *arguments, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(addresses), port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr("senet.data.collect.address.is_public", lambda address: address == "203.0.113.80")
    collection.serve(1)
    url = f"http://rebinding.example:{collection.server.server_port}/1.jpg"
    collection.run({"a+b": [{"urls": [url]}]}, code=1, timeout=0.1)
    assert next(addresses) == "127.0.0.1", "the name was never asked for"
    assert not collection.server.requests
