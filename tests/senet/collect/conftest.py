"""A collection from a server on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from senet.cli import main
from tests.senet.collect.server import Server, content, picture, running


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that a test tells what to answer."""
    with running() as found:
        yield found


class Collection:
    """A spec that asks the server, and what the command makes of it."""

    def __init__(self, folder: Path, home: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
        self.spec, self.out = folder / "dogs.yaml", home / "collected" / "dogs"
        self.server, self._capsys = server, capsys
        self.values: dict[str, Any] = {
            "contact": "tester@example.org",
            "min_side": 40,
            "rate": 100,
            "timeout": 0.3,
            "trusted_hosts": [server.host],
            "wikimedia_api": server.url("/w/api.php"),
            "dog_ceo_api": server.url("/api"),
        }

    def serve(self, *seeds: int) -> list[str]:
        """Serve a picture for each seed; returns their addresses."""
        for seed in seeds:
            self.server.answers[f"/{seed}.jpg"] = content(picture(seed))
        return [self.server.url(f"/{seed}.jpg") for seed in seeds]

    def run(self, mixes: dict[str, Any], *arguments: str, code: int = 0, **values: Any) -> str:
        """Call the command with a spec; returns what it printed, for a failure to standard error."""
        self.spec.write_text(yaml.safe_dump(self.values | values | {"mixes": mixes}, allow_unicode=True))
        return self.call(*arguments, code=code)

    def call(self, *arguments: str, code: int = 0) -> str:
        """Call the command with the spec as it is."""
        self._capsys.readouterr()
        found = main(["data", "collect", str(self.spec), *arguments])
        captured = self._capsys.readouterr()
        assert found == code, captured
        assert captured.err.count("\n") == (1 if code else 0), captured.err
        return str(captured.err if code else captured.out)

    def records(self) -> list[dict[str, Any]]:
        """The lines of the manifest."""
        return [json.loads(line) for line in (self.out / "manifest.jsonl").read_text("utf-8").splitlines()]

    def states(self) -> dict[str, tuple[str, str]]:
        """State and reason of each address, by its path and query."""
        return {r["url"].partition(self.server.host)[2]: (r["state"], r["reason"]) for r in self.records()}

    def files(self, folder: str = "mixes") -> list[str]:
        """The files in a folder of the collection."""
        root = self.out / folder
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


@pytest.fixture
def collection(tmp_path: Path, home: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> Collection:
    """An empty collection."""
    return Collection(tmp_path, home, server, capsys)
