"""Mutated specs, answers, pictures, manifests and choices of a collection: an answer in one line, nothing outside."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from senet.cli import main
from tests.senet.collect.server import Handler, Server, as_json, content, image_info, picture, running, wikimedia
from tests.soak.test_fuzz import mutated
from tests.soak.test_imports import picture as any_picture

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

SPEC = """contact: me@example.org
trusted_hosts: ["{host}"]
rate: 100
min_side: 20
timeout: 0.5
wikimedia_api: http://{host}/w/api.php
dog_ceo_api: http://{host}/api
mixes:
  pug+beagle:
    - urls: [http://{host}/1.jpg, "http://{host}/2.jpg"]
    - urls: more.txt
    - dog_ceo: puggle
    - wikimedia: {{search: "puggle dog", limit: 20}}
  pug:
    - urls: [http://{host}/3.jpg]
"""


class Fuzz:
    """A collection that is called again and again, and everything around it, which stays as it is."""

    def __init__(self, root: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
        self.server, self.out, self._capsys = server, root / "out", capsys
        self._root = root
        self.spec = root / "spec.yaml"
        (root / "more.txt").write_text(f"http://{server.host}/4.jpg\n")
        for seed in range(1, 8):
            server.answers[f"/{seed}.jpg"] = content(picture(seed))

    def call(self, *arguments: str) -> int:
        """Call the command; returns the exit code."""
        before = self._outside()
        self._capsys.readouterr()
        code = main(["data", "collect", str(self.spec), "--output", str(self.out), *arguments])
        error = self._capsys.readouterr().err
        assert error.count("\n") == (0 if code == 0 else 1), error
        assert self._outside() == before
        return code

    def whole(self) -> None:
        """Call the command for a collection as it should be."""
        self.spec.write_text(SPEC.format(host=self.server.host))
        assert self.call() == 0

    def _outside(self) -> list[str]:
        return sorted(str(path) for path in self._root.rglob("*") if not path.is_relative_to(self.out))


@pytest.fixture
def fuzz(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A collection from a server on this machine; no mutated address is asked."""
    monkeypatch.setattr("senet.data.collect.address.is_public", lambda _: False)
    with running() as server:
        yield Fuzz(tmp_path, server, capsys)


def test_mutated_specs(fuzz: Fuzz) -> None:
    dice = random.Random(0)
    text = SPEC.format(host=fuzz.server.host).encode()
    for _ in range(3000):
        fuzz.spec.write_bytes(mutated(text, dice))
        # Choices that do not exist stop what is still valid before anything is asked.
        assert fuzz.call("--choices", "none.json") == 2
    assert not fuzz.server.requests


@pytest.mark.parametrize("seed", range(3))
def test_mutated_pictures(fuzz: Fuzz, seed: int) -> None:
    dice = random.Random(seed)
    originals = [any_picture(dice) for _ in range(8)]
    count = 1000
    for i in range(count):
        data = mutated(originals[i % len(originals)], dice)
        fuzz.server.answers[f"/x{i}"] = content(data)
    values = yaml.safe_load(SPEC.format(host=fuzz.server.host))
    urls = [f"http://{fuzz.server.host}/x{i}" for i in range(count)]
    fuzz.spec.write_text(yaml.safe_dump(values | {"limit": count, "mixes": {"a+b": [{"urls": urls}]}}))
    assert fuzz.call() == 0
    records = [json.loads(line) for line in (fuzz.out / "manifest.jsonl").read_text().splitlines()]
    assert len(records) == count
    assert {record["state"] for record in records} == {"kept", "dropped"}
    for record in records:
        if record["state"] == "kept":
            with Image.open(fuzz.out / "mixes" / record["file"]) as image:
                assert list(image.size) == record["size"]


def test_mutated_answers(fuzz: Fuzz) -> None:
    dice = random.Random(1)
    found = [image_info(fuzz.server, f"/{seed}.jpg", author="<a>x</a> ü") for seed in (5, 6)]

    def mutate(answer: Callable[[Handler, int], None]) -> Callable[[Handler, int], None]:
        def mutating(handler: Handler, count: int) -> None:
            send = handler.send
            handler.send = lambda code, data=b"", **headers: send(code, mutated(data, dice), **headers)  # type: ignore[method-assign]
            answer(handler, count)
            handler.send = send  # type: ignore[method-assign]

        return mutating

    fuzz.server.answers["/w/api.php"] = mutate(wikimedia(fuzz.server, found, a_request=1))
    fuzz.server.answers["/api/breed/puggle/images"] = mutate(
        as_json({"message": [f"http://{fuzz.server.host}/7.jpg"], "status": "success"})
    )
    fuzz.whole()
    for _ in range(150):
        (fuzz.out / "manifest.jsonl").unlink()
        assert fuzz.call() == 0


def test_mutated_manifests(fuzz: Fuzz) -> None:
    dice = random.Random(2)
    fuzz.whole()
    manifest = fuzz.out / "manifest.jsonl"
    original, refused = manifest.read_bytes(), 0
    for _ in range(2000):
        manifest.write_bytes(mutated(original, dice))
        code = fuzz.call()
        assert code in (0, 2)
        refused += code == 2
    assert 200 < refused < 2000


def test_mutated_choices(fuzz: Fuzz) -> None:
    dice = random.Random(3)
    fuzz.whole()
    records = [json.loads(line) for line in (fuzz.out / "manifest.jsonl").read_text().splitlines()]
    original = json.dumps({r["file"]: dice.random() < 0.5 for r in records if r["file"]}, indent=1).encode()
    choices = fuzz.spec.with_name("choices.json")
    for _ in range(1000):
        choices.write_bytes(mutated(original, dice))
        assert fuzz.call("--choices", str(choices)) in (0, 2)
