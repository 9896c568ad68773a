"""Tracking against a real MLflow: in the database, with a server that fails, and in the browser."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sweeps.ledger import Entry
from sweeps.registry import claim_model_name, give_back_model_name, register_model
from sweeps.storage import tracking_uri
from sweeps.tracking import EXPERIMENT, SweepTracking, connect, delete_sweep_runs
from tests.sweeps.commands import Home, wait_for

METRICS = {"joint": 0.7, "original_topk": 0.8, "streaming_topk": 0.5}


def report(phase: str, epoch: int) -> dict[str, Any]:
    return {"phase": phase, "epoch": epoch, "epochs": 2, "train_loss": 1.0 / epoch, "seconds": 1.0}


HISTORY = [report("base", 1), report("base", 2), report("streaming", 1), report("streaming", 2)]


def running(number: int, run_id: str | None = None) -> Entry:
    return Entry(number, "running", {"model.width": 8}, None, run_id, {})


def complete(number: int, run_id: str | None) -> Entry:
    result = {
        "state": "complete", "base_key": "k", "base_reused": number > 0,
        "seconds_saved": 3.0 * number, "metrics": METRICS, "history": HISTORY,
        "seconds": 2.0,
    }  # fmt: skip
    return Entry(number, "complete", {"model.width": 8}, None, run_id, result)


def logged(home: Path) -> tuple[MlflowClient, list[Any]]:
    client, experiment = connect(home)
    return client, client.search_runs([experiment], order_by=["attributes.start_time ASC"])


@pytest.fixture(autouse=True)
def _own_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def track(home: Path, trials: int = 2) -> SweepTracking:
    """A sweep's runs, from beginning to end."""
    tracking = SweepTracking(home, "s", "id1")
    tracking.begin({"data": "x"})
    for number in range(trials):
        run_id = tracking.begin_trial(running(number))
        entry = complete(number, run_id)
        tracking.log_epochs(entry, HISTORY[:1])
        tracking.log_epochs(entry, HISTORY[:1])
        tracking.end_trial(entry)
    tracking.end("FINISHED", {"best_joint": 0.7})
    return tracking


@pytest.mark.slow
def test_runs_are_nested_and_hold_every_epoch_once(tmp_path: Path) -> None:
    track(tmp_path)
    client, (parent, *nested) = logged(tmp_path)
    assert (parent.info.run_name, parent.info.status, len(nested)) == ("s", "FINISHED", 2)
    assert parent.data.metrics == {"best_joint": 0.7}
    for number, run in enumerate(nested):
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["base_reused"] == str(number > 0).lower()
        assert run.data.metrics["seconds_saved"] == 3.0 * number
        assert run.data.params == {"model.width": "8"}
        assert {name: run.data.metrics[name] for name in METRICS} == METRICS
        for phase in ("base", "streaming"):
            points = client.get_metric_history(run.info.run_id, f"{phase}/train_loss")
            assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5)]


@pytest.mark.slow
def test_a_later_session_finds_its_runs_again(tmp_path: Path) -> None:
    first = SweepTracking(tmp_path, "s", "id1")
    first.begin({"data": "x"})
    run_id = first.begin_trial(running(0))
    first.log_epochs(running(0, run_id), HISTORY[:1])
    # Too soon after the first: they go together, and none is lost when the trial is cut off.
    first.log_epochs(running(0, run_id), HISTORY[:2])
    first.kill_trial(running(0, run_id), HISTORY[:2])
    first.end("KILLED", {})
    later = SweepTracking(tmp_path, "s", "id1")
    later.begin({"data": "x"})
    assert later.begin_trial(running(0, run_id)) == run_id
    client, runs = logged(tmp_path)
    assert [run.info.status for run in runs] == ["RUNNING", "RUNNING"]
    points = client.get_metric_history(str(run_id), "base/train_loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5)]


@pytest.mark.slow
def test_a_resumed_trial_repeats_no_epoch(tmp_path: Path) -> None:
    first = SweepTracking(tmp_path, "s", "id1")
    first.begin({})
    run_id = first.begin_trial(running(0))
    first.log_epochs(running(0, run_id), HISTORY[:1])
    later = SweepTracking(tmp_path, "s", "id1")
    later.begin({})
    later.begin_trial(running(0, run_id))
    for count in range(1, len(HISTORY) + 1):
        later.log_epochs(running(0, run_id), HISTORY[:count])
    later.end_trial(complete(0, run_id))
    client, _ = logged(tmp_path)
    assert [point.step for point in client.get_metric_history(str(run_id), "base/train_loss")] == [1, 2]


@pytest.mark.slow
def test_a_database_that_was_killed_in_the_making_is_made_anew(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from sweeps.tracking import connect; connect(Path({str(tmp_path)!r}))"
    for seconds in (0.0, 0.1, 0.3):
        making = subprocess.Popen([sys.executable, "-c", code])
        wait_for(lambda: list(tmp_path.glob(".mlflow-new.db*")))
        time.sleep(seconds)
        making.kill()
        making.wait()
        assert not (tmp_path / "mlflow.db").exists()
    track(tmp_path)
    assert len(logged(tmp_path)[1]) == 3
    assert not list(tmp_path.glob(".mlflow-new*"))


@pytest.mark.slow
def test_what_a_failing_server_missed_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nobody)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking = SweepTracking(tmp_path, "s", "id1")
    tracking.begin({"data": "x"})
    assert tracking.begin_trial(running(0)) is None
    tracking.end_trial(complete(0, None))
    assert capsys.readouterr().err.count("the sweep goes on") == 1

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    later = SweepTracking(tmp_path, "s", "id1")
    later.begin({"data": "x"})
    later.reconcile([complete(0, None)])
    later.reconcile([complete(0, None)])
    _, (_, trial) = logged(tmp_path)
    assert (trial.info.status, trial.data.metrics["joint"]) == ("FINISHED", 0.7)


@pytest.mark.slow
def test_what_was_done_though_its_answer_was_lost_is_not_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = SweepTracking(tmp_path, "s", "id1")
    tracking.begin({"data": "x"})
    for name in ("create_run", "log_batch"):
        done = getattr(MlflowClient, name)

        def lost(*arguments: Any, done: Any = done, **options: Any) -> None:
            done(*arguments, **options)
            raise MlflowException("no answer")

        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, name, lost)
            tracking.begin_trial(running(0))
            _, (_, run) = logged(tmp_path)
            tracking.log_epochs(running(0, run.info.run_id), HISTORY[:1])
        tracking.reconcile([])
    tracking.reconcile([complete(0, None)])
    client, (_, run) = logged(tmp_path)
    assert (run.info.status, run.data.metrics["joint"]) == ("FINISHED", 0.7)
    assert [point.step for point in client.get_metric_history(run.info.run_id, "base/train_loss")] == [1, 2]


@pytest.mark.slow
def test_deleting_leaves_other_sweeps(tmp_path: Path) -> None:
    track(tmp_path)
    other = SweepTracking(tmp_path, "t", "id2")
    other.begin({"data": "x"})
    assert delete_sweep_runs(tmp_path, "id1") == 3
    _, runs = logged(tmp_path)
    assert [run.info.run_name for run in runs] == ["t"]
    client = MlflowClient(tracking_uri(tmp_path))
    gone = client.search_runs(["1"], run_view_type=2)  # Deleted ones are gone for good.
    assert gone == []


@pytest.mark.slow
def test_models_are_registered_with_their_lineage(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "winner"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"w")
    provenance = {"sweep": "s", "trial": 3, "data": {"name": "x", "fingerprint": "f"}}
    assert claim_model_name(tmp_path, "winner")
    give_back_model_name(tmp_path, "winner")
    for version in (1, 2):
        assert claim_model_name(tmp_path, "winner") == (version == 1)
        named = register_model(tmp_path, folder, provenance, {"test": METRICS}, {"model.width": 8})
        assert named == f"winner version {version}"
    client, runs = logged(tmp_path)
    found = client.get_model_version("winner", "2")
    assert found.tags == {"sweep": "s", "trial": "3", "data_fingerprint": "f"}
    assert found.run_id == runs[-1].info.run_id
    assert runs[-1].data.params == {"model.width": "8"}
    assert runs[-1].data.metrics["test/joint"] == 0.7
    assert (tmp_path / "artifacts" / found.run_id / "artifacts" / "model" / "weights.safetensors").exists()


@pytest.mark.slow
def test_a_model_that_cannot_be_registered_leaves_no_open_run(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "winner"
    folder.mkdir(parents=True)
    provenance = {"data": {"name": "x", "fingerprint": "f"}}
    with pytest.raises(MlflowException):  # Nobody has claimed the name.
        register_model(tmp_path, folder, provenance, {"test": METRICS}, {})
    _, runs = logged(tmp_path)
    assert [run.info.status for run in runs] == ["FAILED"]


@pytest.mark.slow
def test_a_bucket_for_files_that_does_not_answer_stops_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    connect(tmp_path)
    MlflowClient(tracking_uri(tmp_path)).rename_experiment("1", "of-others")
    MlflowClient(tracking_uri(tmp_path)).create_experiment(EXPERIMENT, artifact_location="s3://nobody/has/this")
    tracking = SweepTracking(tmp_path, "s", "without-a-login")
    tracking.begin({"data": "x"})
    report = tmp_path / "report.md"
    report.write_text("# s\n")
    tracking.attach([report])
    assert "the sweep goes on" in capsys.readouterr().err


@pytest.mark.slow
def test_runs_that_were_marked_and_not_swept_go_with_the_sweep(tmp_path: Path) -> None:
    track(tmp_path)
    client, runs = logged(tmp_path)
    client.delete_run(runs[0].info.run_id)
    assert delete_sweep_runs(tmp_path, "id1") == 3
    assert client.search_runs(["1"], run_view_type=3) == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_ui_shows_the_sweep_with_its_nested_trials(tmp_path: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By

    home = Home(tmp_path / "home")
    track(home.folder, trials=3)
    server = home.start("sweeps", "ui", "--port", "0")
    try:
        assert server.stdout is not None
        ((address, port),) = re.findall(r"(http://127\.0\.0\.1:(\d+)\S+)", server.stdout.readline())

        def answers() -> bool:
            with socket.socket() as caller:
                return caller.connect_ex(("127.0.0.1", int(port))) == 0

        wait_for(answers)
        browser.get(address)

        def named(*names: str) -> bool:
            links = [link.text for link in browser.find_elements(By.TAG_NAME, "a")]
            return all(name in links for name in names)

        wait_for(lambda: named("s"))
        assert not named("s-0000"), "trials are folded into their sweep"
        row = browser.find_element(By.LINK_TEXT, "s").find_element(By.XPATH, "./ancestor::*[@role='row'][1]")
        row.find_element(By.CSS_SELECTOR, "[role=button], button").click()
        wait_for(lambda: named("s", "s-0000", "s-0001", "s-0002"))
    finally:
        server.terminate()
        server.communicate(timeout=30)


@pytest.mark.slow
def test_parameters_are_logged_by_who_finds_a_run_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        # The driver dies between a run and its parameters.
        patch.setattr(MlflowClient, "log_batch", lambda *arguments, **options: None)
        tracking = SweepTracking(tmp_path, "s", "id1")
        tracking.begin({"data": "x"})
        tracking.begin_trial(running(0))
    later = SweepTracking(tmp_path, "s", "id1")
    later.begin({"data": "x"})
    later.begin_trial(running(0))
    _, (parent, trial) = logged(tmp_path)
    assert (parent.data.params, trial.data.params) == ({"data": "x"}, {"model.width": "8"})
