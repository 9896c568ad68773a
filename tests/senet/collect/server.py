"""A server on this machine that answers well, slowly, wrongly or not at all, and pictures to serve."""

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

Answer = Callable[["Handler", int], None]


def picture(seed: int, size: tuple[int, int] = (60, 48), form: str = "JPEG", **options: Any) -> bytes:
    """A coloured picture of `size` (width, height) that no other seed gives."""
    coarse = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, form, **options)
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers each path as the server's `answers` say."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        count = self.server.note(path, dict(self.headers), self.path)
        self.server.answers.get(path, status(404))(self, count)

    def send(self, code: int, content: bytes = b"", **headers: str) -> None:
        """A whole answer."""
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def query(self) -> dict[str, str]:
        """The parameters of the request."""
        return {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


class Server(ThreadingHTTPServer):
    """A server whose answers a test sets by path, and which keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.answers: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        self.requests: list[tuple[float, str, dict[str, str]]] = []
        """time, target and headers of each request"""
        self._lock = threading.Lock()

    def note(self, path: str, headers: dict[str, str], target: str) -> int:
        """Keep a request; returns how many came before it for the same path."""
        with self._lock:
            self.requests.append((time.monotonic(), target, headers))
            self.asked[path] += 1
            return self.asked[path] - 1

    def url(self, path: str) -> str:
        """The address of a path."""
        return f"http://{self.host}{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""


@contextmanager
def running() -> Iterator[Server]:
    """A server for the time of a test."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def content(data: bytes) -> Answer:
    """Serves `data`."""
    return lambda handler, _: handler.send(200, data)


def status(code: int, **headers: str) -> Answer:
    """Answers with a status."""
    return lambda handler, _: handler.send(code, b"<html>no</html>", **headers)


def redirect(location: str) -> Answer:
    """Sends elsewhere."""
    return status(302, Location=location)


def first(bad: Answer, then: Answer, times: int = 1) -> Answer:
    """One answer at first, another later."""
    return lambda handler, count: (bad if count < times else then)(handler, count)


def stall(handler: Handler, _: int) -> None:
    """Takes the request and says nothing."""
    time.sleep(1.5)
    handler.close_connection = True


def drip(handler: Handler, _: int) -> None:
    """Always says something, but never comes to an end."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    _drip(handler, b"x")


def drip_headers(handler: Handler, _: int) -> None:
    """Never comes to the end of the headers."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    _drip(handler, b"X-A: b\r\n")


def _drip(handler: Handler, piece: bytes) -> None:
    handler.close_connection = True
    for _ in range(100):
        handler.wfile.write(piece)
        time.sleep(0.02)


def truncate(data: bytes) -> Answer:
    """Promises `data`, and hangs up in the middle."""

    def answer(handler: Handler, _: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2])
        handler.close_connection = True

    return answer


def flood(handler: Handler, _: int) -> None:
    """Sends without end, and does not say how much."""
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    while True:
        handler.wfile.write(bytes(1 << 16))


def as_json(value: Any) -> Answer:
    """Serves a value as JSON."""
    return content(json.dumps(value).encode())


def wikimedia(server: Server, found: list[dict[str, Any]], a_request: int) -> Answer:
    """The search of Wikimedia Commons: `found` are the image infos, a few of them in each answer."""

    def answer(handler: Handler, _: int) -> None:
        query = handler.query()
        start = int(query.get("gsroffset", 0))
        pages = [
            {"pageid": 1000 + i, "ns": 6, "title": f"File:{i}.jpg", "index": i + 1, "imagerepository": "local",
             "imageinfo": [info]}
            for i, info in enumerate(found)
        ][start : start + a_request]  # fmt: skip
        reply: dict[str, Any] = {"batchcomplete": True, "query": {"pages": pages[::-1]}}
        if start + a_request < len(found):
            reply["continue"] = {"gsroffset": start + a_request, "continue": "gsroffset||"}
        as_json(reply)(handler, 0)

    return answer


def image_info(server: Server, path: str, author: str = "Somebody", licence: str = "CC BY-SA 4.0") -> dict[str, Any]:
    """What the search of Wikimedia Commons tells of a picture."""
    return {
        "url": server.url(f"/original{path}"),
        "thumburl": server.url(path),
        "thumbwidth": 1280,
        "descriptionurl": f"https://commons.wikimedia.org/wiki/File:{path.strip('/')}",
        "descriptionshorturl": "https://commons.wikimedia.org/w/index.php?curid=1",
        "extmetadata": {
            "LicenseShortName": {"value": licence, "source": "commons-desc-page", "hidden": ""},
            "Artist": {"value": author, "source": "commons-desc-page"},
        },
    }
