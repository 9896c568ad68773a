"""Logins of the tracking server; needs the package `mlflow[auth]` and the login of `admin`.

    export MLFLOW_TRACKING_URI=https://tracking.example.org MLFLOW_TRACKING_USERNAME=admin
    read -rs MLFLOW_TRACKING_PASSWORD && export MLFLOW_TRACKING_PASSWORD
    python users.py add ada         # asks for ada's password, 12 characters or more; or reads it from a pipe
    python users.py grant ada       # lets ada read, write and delete the sweeps of the team
    python users.py remove ada

Whoever runs the first sweep owns the experiment; `grant` makes it where there is none yet. What the team's models are
stays with those who registered them.
"""

import argparse
import getpass
import os
import sys

from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient
from mlflow.tracking import MlflowClient

EXPERIMENT = "senet-sweeps"


def main() -> int:
    """Do what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(description="logins of the tracking server")
    parser.add_argument("action", choices=["add", "grant", "remove"])
    parser.add_argument("name")
    arguments = parser.parse_args()
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        parser.error("MLFLOW_TRACKING_URI must name the server")
    users = AuthServiceClient(uri)
    try:
        if arguments.action == "add":
            users.create_user(arguments.name, _password(arguments.name))
        elif arguments.action == "remove":
            users.delete_user(arguments.name)
        else:
            _grant(users, arguments.name, "experiment", _experiment(uri), "EDIT")
            # Runs are deleted by whoever may manage them, in experiments that she may read.
            _grant(users, arguments.name, "run", "*", "MANAGE")
    except MlflowException as error:
        print(f"users.py: {str(error).partition(chr(10))[0]}", file=sys.stderr)
        return 1
    return 0


def _grant(users: AuthServiceClient, name: str, kind: str, which: str, permission: str) -> None:
    try:
        users.grant_user_permission(name, kind, which, permission)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        # What she was granted before may be less.
        users.revoke_user_permission(name, kind, which)
        users.grant_user_permission(name, kind, which, permission)


def _password(name: str) -> str:
    return getpass.getpass(f"password of {name}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")


def _experiment(uri: str) -> str:
    """The id of the experiment that sweeps write to, as a sweep would make it."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    tags = {"mlflow.experimentKind": "custom_model_development"}
    return str(found.experiment_id if found else client.create_experiment(EXPERIMENT, tags=tags))


if __name__ == "__main__":
    sys.exit(main())
