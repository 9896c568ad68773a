"""Bases: trained once, whoever wants them; continued by another; never damaged by one that was too late."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from senet.config import TrialConfig
from senet.data.breeds import prepare_breeds
from senet.data.store import Dataset
from senet.device import make_runtime
from sweeps.bases import BaseHeld, BaseStore
from sweeps.inventory import Inventory
from sweeps.lease import CLOCK, Timing, take_lease
from tests.conftest import TINY, TINY_TRIAL, merged
from tests.sweeps import contenders
from tests.sweeps.commands import wait_for

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

QUICK = Timing(expiry_seconds=1.0, beat_seconds=0.1, poll_seconds=0.05)
RUNTIME = make_runtime("cpu", "fp32")
MakeConfig = Callable[..., TrialConfig]


def nothing(report: dict[str, Any]) -> None:
    """An epoch that nobody asks about."""


def folder_of(store: Path) -> Path:
    (folder,) = (path for path in store.iterdir() if path.is_dir())
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in folder.iterdir() if path.name != CLOCK)


def about(store: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder_of(store) / "base.json").read_text())
    return found


def without_seconds(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in report.items() if key != "seconds"} for report in history]


def test_a_base_is_trained_once(tmp_path: Path, tiny: Dataset, trial_config: MakeConfig) -> None:
    store = BaseStore(tmp_path)
    (tmp_path / "anything").touch()
    epochs: list[int] = []

    def on_epoch(report: dict[str, Any]) -> None:
        epochs.append(report["epoch"])
        assert Inventory(tmp_path).bases()[0].holder is not None

    key, first, reused = store.obtain(trial_config(), tiny, RUNTIME, on_epoch, "a")
    assert not reused
    assert epochs == [1, 2, 3]
    assert Inventory(tmp_path).bases()[0].holder is None
    assert names(tmp_path / key) == ["base.json", "weights"], "nothing is left of the making"
    open_to = (tmp_path / "anything").stat().st_mode & 0o777
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / key).iterdir()} == {open_to}, "others may read them"
    again = store.obtain(trial_config(streaming={"epochs": 7}), tiny, RUNTIME, on_epoch, "b")
    assert epochs == [1, 2, 3]
    assert (again[0], again[2]) == (key, True)
    assert all(torch.equal(again[1].state[name], value) for name, value in first.state.items())
    assert again[1].history == first.history
    assert not store.obtain(trial_config(), tiny, RUNTIME, on_epoch, "a")[2], "a trial started again trained it still"


def test_bases_of_earlier_versions_are_used(tmp_path: Path, tiny: Dataset, trial_config: MakeConfig) -> None:
    key, first, _ = BaseStore(tmp_path).obtain(trial_config(base={"epochs": 1}), tiny, RUNTIME, nothing, "a")
    known = about(tmp_path)
    (tmp_path / key / known.pop("weights")).rename(tmp_path / key / "weights.safetensors")
    (tmp_path / key / "base.json").write_text(json.dumps(known))
    loaded = BaseStore(tmp_path).load(key)
    assert loaded is not None
    assert loaded.history == first.history


def test_who_finds_it_held_is_told_by_whom(tmp_path: Path, tiny: Dataset, trial_config: MakeConfig) -> None:
    config = trial_config()
    seen: list[BaseHeld] = []

    def on_epoch(report: dict[str, Any]) -> None:
        with pytest.raises(BaseHeld) as raised:
            BaseStore(tmp_path).obtain(config, tiny, RUNTIME, nothing, "b")
        seen.append(raised.value)

    key, *_ = BaseStore(tmp_path).obtain(config, tiny, RUNTIME, on_epoch, "sweep/7")
    assert [held.key for held in seen] == [key] * 3
    assert seen[0].holder.startswith(f"sweep/7, process {os.getpid()} on ")
    assert str(seen[0]).startswith(f"base {key} is being trained by sweep/7")


def test_a_trial_that_is_given_up_leaves_its_progress(tmp_path: Path, tiny: Dataset, trial_config: MakeConfig) -> None:
    def give_up(report: dict[str, Any]) -> None:
        if report["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BaseStore(tmp_path).obtain(trial_config(), tiny, RUNTIME, give_up, "a")
    assert names(folder_of(tmp_path)) == ["making.json", "progress.pt"]
    (left,) = Inventory(tmp_path).bases()
    assert (left.state, left.network, left.about["data"]) == ("abandoned", "senet18, width 8", "tiny")
    began = time.perf_counter()
    _, base, _ = BaseStore(tmp_path).obtain(trial_config(), tiny, RUNTIME, nothing, "b")
    _, whole, _ = BaseStore(tmp_path / "whole").obtain(trial_config(), tiny, RUNTIME, nothing, "b")
    assert time.perf_counter() - began < Timing().expiry_seconds, "nobody waits for a lease that was given back"
    assert all(torch.equal(base.state[name], value) for name, value in whole.state.items())


@pytest.mark.parametrize("last", [False, True])
def test_who_wakes_up_too_late_does_no_harm(
    tmp_path: Path, tiny: Dataset, trial_config: MakeConfig, last: bool
) -> None:
    """A stopped holder is overtaken, after its second epoch or after its last one, and then goes on."""
    config, before = trial_config(), list[bytes]()

    def on_epoch(report: dict[str, Any]) -> None:
        if report["epoch"] == (3 if last else 2):
            (lease,) = folder_of(tmp_path).glob("lease-*.json")
            os.utime(lease, (0, 0))
            _, _, reused = BaseStore(tmp_path).obtain(config, tiny, RUNTIME, nothing, "second")
            assert not reused
            before.append((folder_of(tmp_path) / "base.json").read_bytes())

    _, base, reused = BaseStore(tmp_path).obtain(config, tiny, RUNTIME, on_epoch, "first")
    assert reused
    assert about(tmp_path)["trainer"] == "second"
    assert [(folder_of(tmp_path) / "base.json").read_bytes()] == before
    assert names(folder_of(tmp_path)) == ["base.json", "used", "weights"]
    _, whole, _ = BaseStore(tmp_path / "whole").obtain(config, tiny, RUNTIME, nothing, "x")
    assert all(torch.equal(base.state[name], value) for name, value in whole.state.items())


@pytest.mark.parametrize("what", ["weights", "base.json", "truncated", "gone"])
def test_a_damaged_base_is_trained_anew(tmp_path: Path, tiny: Dataset, trial_config: MakeConfig, what: str) -> None:
    config = trial_config(base={"epochs": 1})
    key, first, _ = BaseStore(tmp_path).obtain(config, tiny, RUNTIME, nothing, "a")
    (weights,) = (tmp_path / key).glob("weights-*")
    if what == "weights":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif what == "base.json":
        (tmp_path / key / "base.json").write_text("{")
    elif what == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        weights.unlink()
    assert [base.state for base in Inventory(tmp_path).bases(verify=True)] == ["damaged"]
    _, second, reused = BaseStore(tmp_path).obtain(config, tiny, RUNTIME, nothing, "b")
    assert not reused
    assert all(torch.equal(second.state[name], value) for name, value in first.state.items())
    assert BaseStore(tmp_path).load(key) is not None
    assert [base.state for base in Inventory(tmp_path).bases(verify=True)] == ["complete"]


def test_a_share_without_hard_links(
    tmp_path: Path, tiny: Dataset, trial_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    key, *_ = BaseStore(tmp_path).obtain(trial_config(base={"epochs": 1}), tiny, RUNTIME, nothing, "a")
    assert names(tmp_path / key) == ["base.json", "weights"]
    assert BaseStore(tmp_path).load(key) is not None


def test_the_quota_evicts_what_was_used_least_recently(
    tmp_path: Path, tiny: Dataset, trial_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def obtain(seed: int) -> str:
        return BaseStore(tmp_path).obtain(trial_config(seed=seed, base={"epochs": 1}), tiny, RUNTIME, nothing, "a")[0]

    def used(key: str, hours_ago: float) -> None:
        then = time.time() - 3600 * hours_ago
        for path in (tmp_path / key).iterdir():
            os.utime(path, (then, then))

    first, second, third = (obtain(seed) for seed in range(3))
    size = Inventory(tmp_path).bases()[0].bytes
    for key, hours in ((first, 3.0), (second, 9.0), (third, 0.5)):
        used(key, hours)
    # Loaded a moment ago, though written long before.
    assert BaseStore(tmp_path).load(first) is not None
    monkeypatch.setenv("SWEEPS_BASES_QUOTA", f"{3.5 * size:.0f}B")
    fourth = obtain(3)
    assert {base.key for base in Inventory(tmp_path).bases()} == {first, third, fourth}
    # What was used within the hour stays, though it is too much.
    monkeypatch.setenv("SWEEPS_BASES_QUOTA", "1kB")
    fifth = obtain(4)
    assert {base.key for base in Inventory(tmp_path).bases()} == {first, third, fourth, fifth}
    assert not list(tmp_path.glob(".removed*"))
    # Nor does one go that somebody trains anew.
    used(first, 5.0)
    with take_lease(tmp_path / first, "somebody", Timing()):
        obtain(5)
        assert first in {base.key for base in Inventory(tmp_path).bases()}


def trial(epochs: int) -> dict[str, Any]:
    return merged(TINY_TRIAL, {"base": {"epochs": epochs}})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    prepare_breeds(folder, TINY)
    return folder


def undisturbed(folder: Path, data: Path, epochs: int) -> dict[str, Any]:
    folder.mkdir()
    contenders.start(folder, data, trial(epochs), "x", QUICK).join(100)
    return about(folder)


@pytest.mark.slow
def test_eight_processes_train_one_base_once(tmp_path: Path, data: Path) -> None:
    processes = [contenders.start(tmp_path, data, trial(6), f"p{i}", QUICK, 0.2) for i in range(8)]
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0] * 8
    trainer = about(tmp_path)["trainer"]
    notes = contenders.noted(tmp_path)
    assert sorted(note for note in notes if not note.endswith("done")) == [
        f"{trainer} {epoch}" for epoch in range(1, 7)
    ]
    assert sum(note.endswith("done") for note in notes) == 8


@pytest.mark.slow
def test_a_killed_holder_is_followed_by_another(tmp_path: Path, data: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    first = contenders.start(store, data, trial(8), "first", QUICK, 0.3)
    wait_for(lambda: "first 3" in contenders.noted(store))
    second = contenders.start(store, data, trial(8), "second", QUICK)
    time.sleep(0.5)
    assert not any(note.startswith("second") for note in contenders.noted(store)), "the first works"
    first.kill()
    second.join(100)
    assert second.exitcode == 0
    found, whole = about(store), undisturbed(tmp_path / "whole", data, 8)
    assert found["trainer"] == "second"
    assert found["sha256"] == whole["sha256"]
    assert without_seconds(found["history"]) == without_seconds(whole["history"])


@pytest.mark.slow
def test_a_holder_that_was_stopped_for_too_long_gives_way(tmp_path: Path, data: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    first = contenders.start(store, data, trial(8), "first", QUICK, 0.3)
    wait_for(lambda: "first 3" in contenders.noted(store))
    assert first.pid is not None
    os.kill(first.pid, signal.SIGSTOP)
    second = contenders.start(store, data, trial(8), "second", QUICK)
    second.join(100)
    before = {path.name: path.read_bytes() for path in folder_of(store).iterdir()}
    assert about(store)["trainer"] == "second"
    os.kill(first.pid, signal.SIGCONT)
    first.join(100)
    assert (first.exitcode, second.exitcode) == (0, 0)
    after = {path.name: path.read_bytes() for path in folder_of(store).iterdir()}
    assert after == before | {"used": b"\n"}, "it has read the base, no more"
    assert contenders.noted(store)[-1] == "first done"
    assert about(store)["sha256"] == undisturbed(tmp_path / "whole", data, 8)["sha256"]


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
def test_many_that_are_killed_and_stopped_leave_one_whole_base(tmp_path: Path, data: Path, seed: int) -> None:
    dice = random.Random(seed)
    store = tmp_path / "store"
    store.mkdir()
    processes = [contenders.start(store, data, trial(12), f"p{i}", QUICK, 0.05) for i in range(24)]
    killed, stopped = [], []
    deadline = time.monotonic() + 120
    while not list(store.glob("*/base.json")) and time.monotonic() < deadline:
        time.sleep(dice.uniform(0.1, 0.8))
        # One that was killed may take its time to die.
        alive = [process for process in processes if process.is_alive() and process not in [*killed, *stopped]]
        if len(alive) < 4:
            continue
        notes = [note for note in contenders.noted(store) if not note.endswith("done")]
        holders = [process for i, process in enumerate(processes) if notes and notes[-1].split()[0] == f"p{i}"]
        victim = holders[0] if holders and dice.random() < 0.7 else dice.choice(alive)
        if victim not in alive or victim.pid is None:
            continue
        if dice.random() < 0.5:
            victim.kill()
            killed.append(victim)
        else:
            with suppress(ProcessLookupError):  # It may have ended just now.
                os.kill(victim.pid, signal.SIGSTOP)
                stopped.append(victim)
    for process in stopped:
        assert process.pid is not None
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
    for process in processes:
        process.join(200)
    assert {process.exitcode for process in processes} <= {0, -signal.SIGKILL}
    assert {process.exitcode for process in stopped} <= {0}
    assert about(store)["sha256"] == undisturbed(tmp_path / "whole", data, 12)["sha256"]
    # Who was killed after it had completed the base leaves its lease, which then is nobody's.
    left = [name for name in names(folder_of(store)) if name != "lease"]
    assert left == ["base.json", "used", "weights"]
    assert Inventory(store).bases()[0].holder is None
