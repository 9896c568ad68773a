"""An MLflow server on loopback, over a database of which the tests read what it has taken."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.sweeps.commands import wait_for


@contextmanager
def tracking_server(database: Path, port: int) -> Iterator[str]:
    """Its address; at the end it is killed."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", f"{database}.artifacts"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    nowhere = subprocess.DEVNULL
    server = subprocess.Popen(command, env=os.environ | quiet, stdout=nowhere, stderr=nowhere, start_new_session=True)
    try:

        def answers() -> bool:
            with socket.socket() as caller:
                return caller.connect_ex(("127.0.0.1", port)) == 0

        wait_for(answers)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(timeout=30)
