#!/usr/bin/env bash
# Starts the tracking server of a team: with logins, closed unless granted, everything in PostgreSQL.
#
#   SECRETS         a folder with the files admin_password (12 characters or more), database_password and session_key
#   PGHOST, PGUSER  where PostgreSQL is, and who we are there; the database is called mlflow
#   ARTIFACTS       a folder, s3://… or gs://…, for files
#   ALLOWED_HOSTS   the names that clients call the server by, as `name` or `name:port`, separated by commas
#   LISTEN, PORT    127.0.0.1 and 5000 unless told; what leaves the machine goes through a TLS proxy (Caddyfile)
set -euo pipefail

secret() {
    if [ ! -s "$SECRETS/$1" ]; then
        echo "serve.sh: $SECRETS/$1 is missing or empty; README.md says how to make it" >&2
        exit 2
    fi
    cat "$SECRETS/$1"
}

: "${SECRETS:?the folder with the secrets}" "${PGHOST:?where PostgreSQL is}" "${PGUSER:?the user in PostgreSQL}"
: "${ARTIFACTS:?a folder or bucket}" "${ALLOWED_HOSTS:?the names of this server, separated by commas}"

# In the environment, not in arguments: those every user of the machine can read.
MLFLOW_AUTH_ADMIN_PASSWORD=$(secret admin_password)
PGPASSWORD=$(secret database_password)
MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret session_key)
export MLFLOW_AUTH_ADMIN_PASSWORD PGPASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY PGHOST PGUSER

MLFLOW_AUTH_CONFIG_PATH=$(cd "$(dirname "$0")" && pwd)/basic_auth.ini
export MLFLOW_AUTH_CONFIG_PATH
export MLFLOW_BACKEND_STORE_URI=postgresql+psycopg:///mlflow
export MLFLOW_ARTIFACTS_DESTINATION=$ARTIFACTS
export MLFLOW_SERVER_ALLOWED_HOSTS=$ALLOWED_HOSTS
# Eight processes less, and nothing of ours runs in them.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
export MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true

exec mlflow server --app-name basic-auth --host "${LISTEN:-127.0.0.1}" --port "${PORT:-5000}" --workers 2
