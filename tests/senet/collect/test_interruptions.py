"""Calls in processes of their own that are interrupted or killed, and the calls after them."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.senet.collect.conftest import Collection
from tests.senet.collect.server import picture
from tests.senet.collect.test_collect import name_of

SEEDS = range(30)

pytestmark = pytest.mark.slow


def start(collection: Collection) -> subprocess.Popen[str]:
    """Start the command with the collection's spec."""
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "senet"), "data", "collect", str(collection.spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"SWEEPS_HOME": str(collection.out.parent.parent)},
        # Where the tests run in the background of a script, SIGINT is ignored, and so it would be here.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def write_spec(collection: Collection) -> None:
    sources = [{"urls": collection.serve(*SEEDS)}]
    values = collection.values | {"rate": 30, "timeout": 5, "mixes": {"pug+beagle": sources}}
    collection.spec.write_text(yaml.safe_dump(values))


def wait_for_requests(collection: Collection, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(collection.server.requests) < count:
        assert time.monotonic() < deadline, "the command asks for nothing"
        time.sleep(0.005)


def test_an_interrupted_call_ends_cleanly(collection: Collection) -> None:
    write_spec(collection)
    process = start(collection)
    wait_for_requests(collection, 6)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (1, "senet: interrupted\n"), out + error
    got = len(collection.files())
    assert 0 < got < len(SEEDS)
    assert f"30 kept ({len(SEEDS) - got} new)" in collection.call()


def test_kills_at_any_moment_lose_nothing(collection: Collection) -> None:
    write_spec(collection)
    dice = random.Random(0)
    for _ in range(5):
        process = start(collection)
        wait_for_requests(collection, len(collection.server.requests) + 1)
        time.sleep(dice.uniform(0, 0.15))
        process.kill()
        process.communicate()
    collection.call()
    assert collection.files() == sorted(name_of(picture(seed)) for seed in SEEDS)
    assert {record["state"] for record in collection.records()} == {"kept"}
    assert len(collection.records()) == len(SEEDS)
    # A kill loses at most what was on its way.
    assert collection.server.asked.total() <= len(SEEDS) + 5 * 4
