"""Polite and bounded requests: one at a time to a host, spaced, repeated, no longer and no larger than agreed."""

import asyncio
import errno
import random
from collections import defaultdict
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self

import aiohttp
from yarl import URL

from senet import __version__
from senet.data.collect.address import authority, guarded_socket, web_address
from senet.data.collect.spec import Spec

REDIRECTS = 5
TRIES = 4

_REQUESTS_AT_ONCE = 8
_LONGEST_PAUSE_SECONDS = 30.0
_LONGEST_RETRY_AFTER_SECONDS = 120.0
_FAILURES_IN_A_ROW = 3 * TRIES
_CHUNK = 1 << 16


class FetchError(Exception):
    """There was no answer, and asking again at once is no use: a later call may ask again."""


class _PassingError(FetchError):
    """There was no good answer, but the next try may bring one."""


class LastingError(FetchError):
    """There will be no good answer, whenever one asks."""


class _Gate:
    """The way to one host: one request at a time, starts at least an interval apart."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.next_start = 0.0
        """when the next request may start, on the clock of the event loop, seconds"""
        self.failures = 0
        """requests in a row that brought no answer"""
        self.closed = ""
        """why this host is left alone for the rest of the call"""


class Fetcher:
    """Requests by the rules of a spec; an asynchronous context manager."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._largest = int(spec.max_megabytes * 1e6)
        self._interval = 1 / spec.rate
        self._gates: defaultdict[str, _Gate] = defaultdict(_Gate)
        self._slots = asyncio.Semaphore(_REQUESTS_AT_ONCE)
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._guarded = await self._open.enter_async_context(
            self._session(aiohttp.TCPConnector(socket_factory=guarded_socket))
        )
        self._trusted = await self._open.enter_async_context(self._session(aiohttp.TCPConnector()))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=self._spec.timeout),
            headers={
                "User-Agent": f"senet-sweeps/{__version__} ({self._spec.contact}) aiohttp/{aiohttp.__version__}",
                # What comes compressed could grow without bounds; pictures are compressed as they are.
                "Accept-Encoding": "identity",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def get(self, address: str) -> bytes:
        """What lies at a web address, after up to five redirects, each checked as the address itself is.

        Raises:
            LastingError: there is nothing there, or it is too large.
            FetchError: there was no answer, but there may be one another time.
        """
        for attempt in range(TRIES):
            try:
                return await self._follow(address)
            except _PassingError as error:
                if attempt == TRIES - 1:
                    raise FetchError(f"{error}, {TRIES} times") from None
            pause = min(_LONGEST_PAUSE_SECONDS, self._interval * 2**attempt)
            await asyncio.sleep(pause * random.uniform(0.5, 1))
        raise AssertionError("unreachable")

    async def _follow(self, address: str) -> bytes:
        for _ in range(REDIRECTS + 1):
            try:
                url = web_address(address)
            except ValueError as error:
                raise LastingError(f"`{address}` {error}") from None
            answer = await self._request(url)
            if isinstance(answer, bytes):
                return answer
            address = answer
        raise LastingError(f"more than {REDIRECTS} redirects")

    async def _request(self, url: URL) -> bytes | str:
        """The content at `url`, or where it redirects to."""
        gate = self._gates[authority(url)]
        clock = asyncio.get_running_loop().time
        async with gate.lock:
            if gate.closed:
                raise FetchError(gate.closed)
            await asyncio.sleep(gate.next_start - clock())
            try:
                async with self._slots:
                    # No earlier: a slot may be long in coming, and the next request keeps its distance from this one.
                    gate.next_start = clock() + self._interval
                    answer = await self._exchange(url, gate)
            except _PassingError:
                gate.failures += 1
                if gate.failures >= _FAILURES_IN_A_ROW:
                    gate.closed = f"{authority(url)} did not answer {gate.failures} times in a row"
                raise
            gate.failures = 0
            return answer

    async def _exchange(self, url: URL, gate: _Gate) -> bytes | str:
        session = self._trusted if authority(url) in self._spec.trusted_hosts else self._guarded
        try:
            async with session.get(url, allow_redirects=False) as response:
                location = response.headers.get("Location")
                if response.status in (301, 302, 303, 307, 308) and location:
                    return str(url.join(URL(location)))
                if response.status != 200:
                    raise self._refusal(response, gate)
                return await self._content(response)
        except TimeoutError:
            raise _PassingError(f"no whole answer within {self._spec.timeout:g} seconds") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise FetchError(f"{authority(url)}: {_brief(error.certificate_error)}") from None
        except aiohttp.ClientConnectorError as error:
            refused = error.os_error.errno == errno.EACCES
            kind = FetchError if refused else _PassingError
            raise kind(f"{authority(url)}: {error.os_error.strerror or error.os_error}") from None
        except ValueError as error:
            raise LastingError(f"no usable address: {_brief(error)}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _PassingError(f"the connection broke off ({_brief(error)})") from None

    def _refusal(self, response: aiohttp.ClientResponse, gate: _Gate) -> FetchError:
        """What an answer other than a good one means."""
        reason = f"HTTP {response.status}"
        if response.status not in (408, 425, 429) and response.status < 500:
            gate.failures = 0
            return LastingError(reason) if response.status in (404, 410) else FetchError(reason)
        wait = _seconds(response.headers.get("Retry-After", ""))
        if wait > _LONGEST_RETRY_AFTER_SECONDS:
            gate.closed = f"{reason}, to be asked again in {wait:.0f} seconds"
            return FetchError(gate.closed)
        gate.next_start = max(gate.next_start, asyncio.get_running_loop().time() + wait)
        return _PassingError(reason)

    async def _content(self, response: aiohttp.ClientResponse) -> bytes:
        content = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            content += chunk
            if len(content) > self._largest:
                raise LastingError(f"too large: more than {self._spec.max_megabytes:g} MB")
        return bytes(content)


def _seconds(retry_after: str) -> float:
    """The wait that a Retry-After header asks for, as a number or a date; 0 if it says nothing."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0][:200]
