"""Collecting from servers that fail in every way: what is repeated, what is given up, how long it takes."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from tests.senet.collect.conftest import Collection
from tests.senet.collect.server import (
    Answer,
    Handler,
    content,
    drip,
    drip_headers,
    first,
    flood,
    picture,
    redirect,
    stall,
    status,
    truncate,
)

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

GOOD = content(picture(1))


def mix(*urls: str) -> dict[str, Any]:
    return {"pug+beagle": [{"urls": list(urls)}]}


@pytest.mark.parametrize(
    "answer",
    [
        first(status(500), GOOD),
        first(status(503), GOOD, times=3),
        first(status(429, Retry_After="0"), GOOD),
        first(stall, GOOD),
        first(drip, GOOD),
        first(drip_headers, GOOD),
        first(truncate(picture(1)), GOOD),
    ],
    ids=["500", "503 thrice", "429", "stall", "drip", "drip headers", "truncate"],
)
def test_what_passes_is_asked_again(collection: Collection, answer: Answer) -> None:
    collection.server.answers["/x"] = answer
    collection.run(mix(collection.server.url("/x")))
    times = [when for when, _, _ in collection.server.requests]
    assert max(times) - min(times) < 1.4
    assert collection.states() == {"/x": ("kept", "")}


@pytest.mark.parametrize(
    ("answer", "reason", "asked"),
    [
        (status(500), "HTTP 500, 4 times", 4),
        (drip_headers, "no whole answer within 0.15 seconds, 4 times", 4),
        (truncate(picture(1)), "the connection broke off", 4),
        (status(403), "HTTP 403", 1),
        (status(302), "HTTP 302", 1),
        (status(429, Retry_After="3600"), "HTTP 429, to be asked again in 3600 seconds", 1),
        (status(503, Retry_After="Fri, 31 Dec 99999999999 23:59:59 GMT"), "HTTP 503, 4 times", 4),
    ],
    ids=["500", "drip headers", "truncate", "403", "302 to nowhere", "an hour", "no date"],
)
def test_what_failed_is_asked_again_by_the_next_call(
    collection: Collection, answer: Answer, reason: str, asked: int
) -> None:
    collection.server.answers["/x"] = answer
    (good,) = collection.serve(7)
    mixes = mix(good, collection.server.url("/x"))
    out = collection.run(mixes, timeout=0.15)
    state, found = collection.states()["/x"]
    assert (state, found[: len(reason)]) == ("failed", reason)
    assert collection.server.asked["/x"] == asked
    assert "1 kept (1 new), 0 rejected, 0 dropped, 1 failed" in out
    assert f"pug+beagle, {collection.server.url('/x')}: {reason}" in out

    collection.server.answers["/x"] = GOOD
    assert "2 kept (1 new)" in collection.run(mixes)
    assert collection.states()["/x"] == ("kept", "")
    assert collection.server.asked["/7.jpg"] == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status(404), "HTTP 404"),
        (status(410), "HTTP 410"),
        (flood, "too large: more than 0.2 MB"),
        (content(bytes(300_000)), "too large: more than 0.2 MB"),
        (redirect("ftp://example.org/x"), "`ftp://example.org/x` must be a web address"),
        (redirect("http://[::1/x"), "no usable address"),
    ],
    ids=["404", "410", "flood", "large", "ftp", "no address"],
)
def test_what_lasts_is_never_asked_again(collection: Collection, answer: Answer, reason: str) -> None:
    collection.server.answers["/x"] = answer
    mixes = mix(*collection.serve(7), collection.server.url("/x"))
    for _ in range(2):
        collection.run(mixes, max_megabytes=0.2, timeout=5)
        state, found = collection.states()["/x"]
        assert (state, found[: len(reason)]) == ("dropped", reason)
    assert collection.server.asked["/x"] == 1


def test_redirects_are_followed_five_times(collection: Collection) -> None:
    answers = collection.server.answers
    for i in range(7):
        answers[f"/{i}"] = redirect(f"/{i + 1}")
    answers["/5"] = content(picture(5))
    answers["/circle"] = redirect("/circle")
    answers["/long"] = redirect("/long1")
    for i in range(1, 6):
        answers[f"/long{i}"] = redirect(f"/long{i + 1}")
    answers["/long6"] = content(picture(6))
    collection.run(mix(*(collection.server.url(path) for path in ("/0", "/circle", "/long"))))
    assert collection.states() == {
        "/0": ("kept", ""),
        "/circle": ("dropped", "more than 5 redirects"),
        "/long": ("dropped", "more than 5 redirects"),
    }
    assert collection.server.asked["/circle"] == 6
    assert collection.server.asked["/long6"] == 0


def test_a_host_is_asked_at_the_rate_and_told_who_asks(collection: Collection) -> None:
    collection.run({"a+b": [{"urls": collection.serve(1, 2, 3)}], "a+c": [{"urls": collection.serve(4, 5)}]}, rate=10)
    times = sorted(when for when, _, _ in collection.server.requests)
    assert len(times) == 5
    assert times[-1] - times[0] > 0.35
    agents = {headers["User-Agent"] for _, _, headers in collection.server.requests}
    assert len(agents) == 1
    assert agents.pop().startswith("senet-sweeps/0.1.0 (tester@example.org) aiohttp/")


def test_a_host_is_asked_at_the_rate_though_slots_are_long_in_coming(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("senet.data.collect.fetch._REQUESTS_AT_ONCE", 1)
    server = collection.server

    def slow(handler: Handler, _: int) -> None:
        time.sleep(0.8)
        handler.send(200, picture(9))

    server.answers["/slow"] = slow
    other = f"localhost:{server.server_port}"
    urls = [f"http://{other}/slow", *collection.serve(1, 2)]
    collection.run(mix(*urls), rate=3, timeout=5, trusted_hosts=[server.host, other])
    asked = [(target, when) for when, target, _ in server.requests]
    assert [target for target, _ in asked] == ["/slow", "/1.jpg", "/2.jpg"]
    assert asked[2][1] - asked[1][1] > 0.3


def test_retry_after_is_waited_for(collection: Collection) -> None:
    # A date has no fractions: one in two seconds means a wait of one to two.
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    server = collection.server
    server.answers |= {
        "/seconds": first(status(429, Retry_After="1"), GOOD),
        "/date": first(status(503, Retry_After=date), content(picture(2))),
    }
    # Two names of the server are two hosts, which are asked side by side.
    other = f"localhost:{server.server_port}"
    collection.run(mix(server.url("/seconds"), f"http://{other}/date"), trusted_hosts=[server.host, other])
    for path in ("/seconds", "/date"):
        begin, again = [when for when, target, _ in server.requests if target == path]
        assert 0.5 < again - begin < 2.5


def test_a_host_that_never_answers_is_left_alone(collection: Collection) -> None:
    paths = [f"/{i}" for i in range(20)]
    collection.server.answers |= dict.fromkeys(paths, status(500))
    collection.run(mix(*(collection.server.url(path) for path in paths)), code=1)
    assert len(collection.server.requests) == 12
    reasons = {reason for _, reason in collection.states().values()}
    assert f"{collection.server.host} did not answer 12 times in a row" in reasons


def test_a_host_that_answers_in_between_is_asked_on(collection: Collection) -> None:
    bad = [f"/{i}" for i in range(5)]
    collection.server.answers |= {path: status(404 if i % 2 else 500) for i, path in enumerate(bad)}
    # One source after the other: the good one is asked for when all others have been.
    urls = [collection.server.url(path) for path in bad]
    out = collection.run({"pug+beagle": [{"urls": urls}, {"urls": collection.serve(7)}]})
    assert "1 kept (1 new), 0 rejected, 2 dropped, 3 failed" in out


def test_nothing_at_all_is_a_failure(collection: Collection) -> None:
    error = collection.run(mix(collection.server.url("/none")), code=1)
    assert error == f"senet: {collection.out}: no picture was got\n"
