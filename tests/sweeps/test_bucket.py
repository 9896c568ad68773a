"""A sweep whose home is a bucket: driver and trials have disks of their own, and what it comes to is the same."""

import csv
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import s3fs
import yaml
from botocore.exceptions import EndpointConnectionError

from senet.data.remote import send_dataset
from senet.errors import InputError
from senet.home import copy_of
from sweeps.cli import main
from sweeps.config import validate_recipe
from sweeps.sweep import create_sweep, find_sweep
from tests.conftest import TINY_TRIAL, refusal
from tests.sweeps.bucket import GRID, S3, BucketHome, Machines
from tests.sweeps.commands import RECIPE, Home, kill_everything, wait_for
from tests.sweeps.postgres import Postgres
from tests.sweeps.raycluster import free_ports
from tests.sweeps.trackingserver import tracking_server


@pytest.fixture
def server() -> Iterator[str]:
    """A local S3 server with the bucket `lab`."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    # What it holds is the process's, not the server's.
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    running.stop()


@pytest.fixture
def files(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is on it."""
    for name, value in S3.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    # This process may know an earlier server.
    s3fs.S3FileSystem.clear_instance_cache()
    found = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    found.mkdir("lab")
    return found


@pytest.fixture
def bucket(tmp_path: Path, server: str, files: Any) -> BucketHome:
    """A home in a bucket, and the tiny data set in it."""
    home = BucketHome(tmp_path / "machines", server)
    send_dataset(home.folder / "datasets" / "tiny", "s3://lab/tiny")
    return home


@pytest.fixture
def tracked(bucket: BucketHome) -> Iterator[BucketHome]:
    """The home in a bucket, with a tracking server."""
    with tracking_server(bucket.folder / "server.db", free_ports(1)[0]) as bucket.tracking_server:
        yield bucket


def recipe(home: Home, name: str, **search: Any) -> str:
    """The same sweep wherever it runs."""
    return str(home.recipe(name, **GRID | {"search": GRID["search"] | search}))


def leaderboard(text: str) -> list[dict[str, str]]:
    """Its rows without what depends on the clock."""
    return [
        {key: value for key, value in row.items() if "seconds" not in key} for row in csv.DictReader(text.splitlines())
    ]


def on_a_folder(folder: Path) -> list[dict[str, str]]:
    """What the sweep comes to there."""
    home = Home(folder)
    home.call("sweeps", "run", recipe(home, "x"))
    return leaderboard((folder / "sweeps" / "x" / "leaderboard.csv").read_text())


@pytest.mark.slow
def test_trials_go_on_and_bases_serve_on_other_machines(
    tmp_path: Path, files: Any, bucket: BucketHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Machines(tmp_path / "plain", monkeypatch, None)
    whole = plain.run("driver", 0)
    assert whole == [("base", 1), ("base", 2), ("base", 3), ("streaming", 1), ("streaming", 2)]
    wanted = plain.sweep.result(0)
    assert wanted is not None
    assert wanted["error"] is None

    machines = Machines(tmp_path / "machines", monkeypatch, "s3://lab/home")
    # Each machine is lost; the next one hears of the epochs so far, and does the others.
    assert machines.run("first", 0, ("base", 2)) == whole[:2]
    assert machines.sweep.result(0) is None
    progress = machines.sweep.progress(0)
    assert progress is not None
    assert (progress["phase"], progress["epoch"]) == ("base", 2)
    (key,) = {Path(name).parent.name for name in files.find("lab/home/bases")}
    assert [Path(name).name for name in files.find(f"lab/home/bases/{key}")] == ["making.json", "progress.pt"]
    assert machines.run("second", 0, ("streaming", 1)) == whole[:4]
    assert machines.run("third", 0) == whole[3:]
    found = machines.sweep.result(0)
    assert found is not None
    assert (found["metrics"], found["base_key"]) == (wanted["metrics"], key), "to the bit"
    # It was trained where this trial was before.
    assert found["base_reused"] is False
    there = {Path(name).name for name in files.find(f"lab/home/bases/{key}")}
    assert {name.partition("-")[0] for name in there} == {"base.json", "weights"}
    assert machines.run("fourth", 0) == [], "what has a result is not run again"

    assert machines.run("fifth", 1) == whole[3:]
    reused = machines.sweep.result(1)
    assert reused is not None
    assert (reused["base_reused"], reused["metrics"]) == (True, wanted["metrics"])
    assert not [name for name in files.find("lab/home/sweeps/x/trials") if name.endswith(".pt")]


@pytest.mark.slow
def test_a_trial_is_tried_again_where_it_ran_out_of_memory(
    tmp_path: Path, files: Any, bucket: BucketHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = Machines(tmp_path / "machines", monkeypatch, "s3://lab/home")
    with monkeypatch.context() as cramped:
        cramped.setattr("senet.phases.stream", no_memory)
        epochs = machines.run("first", 0)
    assert epochs == [("base", 1), ("base", 2), ("base", 3)]
    failed = machines.sweep.result(0)
    assert failed is not None
    assert failed["error"] == "out of memory: it is all used"
    assert [report["epoch"] for report in failed["history"]] == [1, 2, 3], "its logs show how far it came"
    machines.sweep.set_attempt_aside(0, {"cpu": 2, "gpu": 0})
    # The machine has its own copy of what was set aside.
    assert machines.run("first", 0) == [("streaming", 1), ("streaming", 2)]
    found = machines.sweep.result(0)
    assert found is not None
    assert found["state"] == "complete"
    # Another machine drives now.
    machines.at("other")
    other = find_sweep(copy_of("s3://lab/home"), "x")
    assert [attempt["next_resources"]["cpu"] for attempt in other.attempts(0)] == [2]
    machines.at("driver")


def no_memory(*_: Any) -> None:
    raise MemoryError("it is all used")


def unanswered(monkeypatch: pytest.MonkeyPatch, bucket: BucketHome, when: Callable[[str], bool]) -> None:
    """Let the bucket not answer to who puts a file there, if `when` says so of its path."""
    put = s3fs.S3FileSystem._put_file

    async def put_or_fail(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        if when(path):
            raise EndpointConnectionError(endpoint_url=bucket.server)
        return await put(self, path, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_put_file", put_or_fail)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_a_trial_waits_where_the_bucket_does_not_answer(
    tmp_path: Path, files: Any, bucket: BucketHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, Any]] = []
    unanswered(monkeypatch, bucket, lambda path: bool(said) and "progress.json" in path)
    machines = Machines(tmp_path / "machines", monkeypatch, "s3://lab/home")
    assert machines.run("first", 0, everything=said) == [("base", 1)]
    assert said[-1]["phase"] == "blocked", "the sweep pauses"
    assert "Could not connect" in said[-1]["reason"]
    assert machines.sweep.result(0) is None, "it has not failed"


@pytest.mark.slow
def test_what_a_trial_left_on_its_machine_is_passed_on_later_and_is_no_other_sweeps(
    tmp_path: Path, files: Any, bucket: BucketHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, Any]] = []
    machines = Machines(tmp_path / "machines", monkeypatch, "s3://lab/home")
    with monkeypatch.context() as patch:
        unanswered(patch, bucket, lambda path: "result.json" in path)
        epochs = machines.run("first", 0, everything=said)
    s3fs.S3FileSystem.clear_instance_cache()
    assert (said[-1]["phase"], machines.sweep.result(0)) == ("blocked", None)
    assert machines.run("first", 0, everything=said) == []
    assert said[-1] == {"phase": "end"}
    left = machines.sweep.result(0)
    assert left is not None
    assert left["state"] == "complete"
    assert not [name for name in files.find("lab/home/sweeps/x/trials") if "streaming" in name]

    # Deleted from elsewhere: this machine does not hear of it. The base stays.
    files.rm("lab/home/sweeps/x/trials", recursive=True)
    machines.trainer = "another x"
    assert machines.run("first", 0) == [epoch for epoch in epochs if epoch[0] == "streaming"]


@pytest.mark.slow
def test_a_trial_waits_where_there_are_no_data(
    tmp_path: Path, files: Any, bucket: BucketHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, Any]] = []
    machines = Machines(tmp_path / "machines", monkeypatch, "s3://lab/home")
    manifest = files.cat_file("lab/tiny/manifest.json")
    files.rm_file("lab/tiny/manifest.json")
    assert machines.run("first", 0, everything=said) == []
    assert said == [{"phase": "blocked", "reason": said[0]["reason"]}]
    assert said[0]["reason"].startswith("cannot begin: s3://lab/tiny: there is no data set")
    assert machines.sweep.result(0) is None
    files.pipe_file("lab/tiny/manifest.json", manifest)
    # Where the disk does not take the copy it is the disk that is named.
    monkeypatch.setattr("senet.data.remote._Remote._chunks", full_disk)
    assert machines.run("first", 0, everything=said) == []
    assert said[-1]["reason"].startswith("cannot write: No space left on device")


def full_disk(remote: Any, name: str) -> Iterator[bytes]:
    """What writing a copy comes to on a full disk."""
    raise OSError(28, "No space left on device", name)
    yield b""


@pytest.mark.slow
def test_bases_are_listed_and_pruned_in_the_bucket(
    tmp_path: Path, files: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWEEPS_HOME", "s3://lab/home")
    monkeypatch.setenv("SWEEPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["bases"]) == 0
    assert "no bases in s3://lab/home/bases; a sweep trains them" in capsys.readouterr().out
    about = {"config": {"model": {"name": "senet34"}}, "data": "pets", "history": [{"base_topk": 0.5}], "seconds": 7}
    whole, broken, making = "a" * 16, "b" * 16, "c" * 16
    for key, weights in ((whole, b"right"), (broken, b"other")):
        complete = about | {"weights": "weights-1.safetensors", "sha256": hashlib.sha256(b"right").hexdigest()}
        files.pipe(f"lab/home/bases/{key}/weights-1.safetensors", weights)
        files.pipe(f"lab/home/bases/{key}/base.json", json.dumps(complete).encode())
    files.pipe(f"lab/home/bases/{making}/making.json", json.dumps(about).encode())
    files.pipe("lab/home/bases/note.txt", b"not a base")

    def listed(*options: str, code: int = 0) -> dict[str, Any]:
        assert main(["bases", "--json", *options]) == code
        return {base["key"]: base for base in json.loads(capsys.readouterr().out)}

    found = listed()
    states = {whole: "complete", broken: "complete", making: "training"}
    assert {key: base["state"] for key, base in found.items()} == states
    assert {key: base["network"] for key, base in found.items()} == dict.fromkeys(states, "senet34")
    assert found[whole]["bytes"] == sum(files.info(name)["size"] for name in files.find(f"lab/home/bases/{whole}"))
    assert {key: base["state"] for key, base in listed("--verify", code=1).items()} == states | {broken: "damaged"}

    assert main(["bases", "--prune", "--damaged", "--yes"]) == 0
    assert "deleted 1 bases" in capsys.readouterr().out
    assert listed().keys() == {whole, making}
    assert main(["bases", "--prune", "--keep", "0GB", "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out, "all were used within the hour"
    now = time.time()
    monkeypatch.setattr("sweeps.inventory.time.time", lambda: now + 7200)
    assert listed()[making]["state"] == "abandoned"
    assert main(["bases", "--prune", "--keep", "0GB", "--yes"]) == 0
    assert "deleted 2 bases" in capsys.readouterr().out
    assert files.find("lab/home/bases") == ["lab/home/bases/note.txt"]


@pytest.mark.slow
def test_a_model_that_another_machine_has_trained_is_not_overwritten(
    tmp_path: Path, files: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWEEPS_HOME", "s3://lab/home")
    monkeypatch.setenv("SWEEPS_CACHE", str(tmp_path / "cache"))
    for name in ("model.json", ".registered"):
        files.pipe(f"lab/home/models/best/{name}", b"theirs")
    config = tmp_path / "best.yaml"
    config.write_text(yaml.safe_dump(TINY_TRIAL))
    said = refusal(main, capsys, "train", str(config)).err
    assert "exists already, in s3://lab/home as well; choose another name or delete both" in said
    assert files.cat("lab/home/models/best/model.json") == b"theirs"


@pytest.mark.slow
@pytest.mark.usefixtures("password")
def test_a_driver_is_seen_and_heard_on_other_machines(
    tmp_path: Path, files: Any, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPS_CACHE", str(tmp_path / "one"))
    search = GRID["search"] | {"storage": postgres.create("drivers")}
    recipe = validate_recipe(RECIPE | GRID | {"search": search}, "r")
    here = create_sweep(copy_of("s3://lab/home"), None, "x", recipe, "data")
    monkeypatch.setenv("SWEEPS_CACHE", str(tmp_path / "two"))
    there = find_sweep(copy_of("s3://lab/home"), "x")
    assert there.folder != here.folder
    for driver, other in ((here, there), (there, here)):
        assert not other.is_driven()
        with driver.driving():
            assert other.is_driven()
            with pytest.raises(InputError, match="sweep `x` is running already"), other.driving():
                pass
            other.ask("pause")
            driver.hear()
            assert driver.asked() == "pause"
            # The next session does not obey what the last one was asked for.
            driver.set_ending(None)
            driver.hear()
            assert driver.asked() is None
        assert not other.is_driven()


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_sweep_in_a_bucket_is_that_on_a_folder(
    tmp_path: Path, tracked: BucketHome, files: Any, postgres: Postgres
) -> None:
    bucket = tracked
    out = bucket.call("sweeps", "run", recipe(bucket, "x", storage=postgres.create("bucket")))
    assert "best: trial" in out
    there = {key.removeprefix("lab/home/sweeps/x/") for key in files.find("lab/home/sweeps/x")}
    assert {"sweep.json", "recipe.yaml", "leaderboard.csv", "report.md", "ending.json"} <= there
    assert {f"trials/{number:04d}/result.json" for number in range(4)} <= there
    assert not [key for key in there if key.endswith((".pt", ".db"))], "nothing is left of what is done, no sqlite"
    bases = {Path(key).parent.name for key in files.find("lab/home/bases") if key.endswith("base.json")}
    found = bucket.status("x")
    assert bases == {trial["base_key"] for trial in found["trials"]}

    assert leaderboard(files.cat("lab/home/sweeps/x/leaderboard.csv").decode()) == on_a_folder(tmp_path / "folder")

    bucket.lose_machines()
    again = bucket.status("x")
    assert (again["state"], again["trials"], again["best"]) == (found["state"], found["trials"], found["best"])
    assert "nothing is run again" in bucket.call("sweeps", "resume", "x")
    # Another sweep on another machine finds the bases.
    bucket.call("sweeps", "run", recipe(bucket, "y", storage=postgres.url("bucket")))
    assert bucket.status("y")["bases"] == found["bases"] | {
        "trained": 0, "reused": 4, "seconds_saved": bucket.status("y")["bases"]["seconds_saved"]
    }  # fmt: skip
    assert "a sweep of this name exists" in bucket.call("sweeps", "run", recipe(bucket, "x"), "--name", "x", code=2)
    bucket.call("sweeps", "delete", "x", "--yes")
    assert not files.find("lab/home/sweeps/x")


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_sweep_in_a_bucket_goes_on_where_its_machines_are_lost(
    tmp_path: Path, tracked: BucketHome, files: Any, postgres: Postgres
) -> None:
    bucket = tracked
    process = bucket.start("sweeps", "run", recipe(bucket, "x", storage=postgres.create("lost")))
    wait_for(lambda: files.exists("lab/home/sweeps/x/trials/0001/result.json") or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    kill_everything(process)
    before = {
        key: files.info(key)["ETag"] for key in files.find("lab/home/sweeps/x/trials") if key.endswith("result.json")
    }
    bucket.lose_machines()
    assert bucket.status("x")["state"] == "interrupted"
    bucket.call("sweeps", "resume", "x")
    assert {key: files.info(key)["ETag"] for key in before} == before, "no finished trial ran again"
    assert leaderboard(files.cat("lab/home/sweeps/x/leaderboard.csv").decode()) == on_a_folder(tmp_path / "folder")


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_doctor_looks_into_the_bucket(tracked: BucketHome, files: Any, postgres: Postgres) -> None:
    bucket = tracked
    out = bucket.call("sweeps", "doctor", recipe(bucket, "x", storage=postgres.create("doctor")))
    assert "s3://lab/home: written and read by all" in out
    assert not [key for key in files.find("lab/home") if ".doctor" in key], "it tidies up"
    process = bucket.start("sweeps", "doctor", recipe(bucket, "y"))
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 1
    assert "where no ledger can lie: name a database" in " ".join(out.replace("│", " ").split())
    assert 'ledger, driver: see "Without a shared folder" in cluster/README.md' in out
