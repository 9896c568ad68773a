"""MLflow's model registry: one registered model a name, one version of it a final training."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from sweeps.tracking import connect

# So long a server may take for one file of a model, which it passes on to a bucket.
_UPLOAD_SECONDS = 600


def claim_model_name(home: Path, name: str) -> bool:
    """Make the registered model `name` if there is none yet, and returns whether there was none: on a server it may be
    somebody else's to write."""
    client, _ = connect(home)
    try:
        client.create_registered_model(name)
        made = True
    except MlflowException:
        made = False
    client.set_registered_model_tag(name, "made_by", "senet-sweeps")
    return made


def give_back_model_name(home: Path, name: str) -> None:
    """Remove a registered model that was made, and has no versions."""
    client, _ = connect(home)
    client.delete_registered_model(name)


def register_model(
    home: Path,
    folder: Path,
    provenance: dict[str, Any],
    metrics: dict[str, dict[str, float]],
    params: dict[str, Any],
) -> str:
    """Register a model folder under its name (`claim_model_name`), with where it comes from; returns `NAME version N`.

    Args:
        metrics: by split, then by name.
        params: the complete trial config, by dotted path.
    """
    client, experiment = connect(home)
    origin = {key: str(provenance[key]) for key in ("sweep", "sweep_id", "trial", "base_key") if key in provenance}
    tags = origin | {"data_fingerprint": provenance["data"]["fingerprint"]}
    # The tag `trial` tells a sweep's runs apart; a model's run only names where it comes from.
    run_tags = {f"from_{key}": value for key, value in tags.items()} | {"model": folder.name}
    run = client.create_run(experiment, run_name=folder.name, tags=run_tags)
    run_id, now = run.info.run_id, int(time.time() * 1000)
    numbers = [(f"{split}/{key}", value) for split, values in metrics.items() for key, value in values.items()]
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, now, 0) for key, value in numbers],
        params=[Param(key, str(value)) for key, value in params.items()],
    )
    try:
        with _patience():
            client.log_artifacts(run_id, str(folder), "model")
        source = f"{run.info.artifact_uri}/model"
        version = client.create_model_version(folder.name, source, run_id=run_id, tags=tags)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)
    return f"{folder.name} version {version.version}"


@contextmanager
def _patience() -> Iterator[None]:
    """Wait longer for an answer; MLflow reads at every call how long."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    short = os.environ[name]
    os.environ[name] = str(max(_UPLOAD_SECONDS, int(short)))
    try:
        yield
    finally:
        os.environ[name] = short
