#!/usr/bin/env bash
# Starts Ray's head on this machine: with a token, its dashboard on loopback. Options of `ray start` may follow.
#
#   SWEEPS_HOME   the folder that all machines share
#   PORT          where the others join, 6379 unless told
#
# The token is RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token, which is made where there is none.
set -euo pipefail

: "${SWEEPS_HOME:?the folder that all machines share}"
if [ ! -w "$SWEEPS_HOME" ]; then
    echo "head.sh: SWEEPS_HOME $SWEEPS_HOME: is no folder that can be written to here; is it mounted?" >&2
    exit 2
fi

PATH=$(cd "$(dirname "$0")/../.." && pwd)/.venv/bin:$PATH
export PATH SWEEPS_HOME RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

if [ -z "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ]; then
    # It prints the token, which is nobody's business.
    (umask 077 && ray get-auth-token --generate >/dev/null)
    chmod 600 ~/.ray/auth_token
fi

exec ray start --head --port="${PORT:-6379}" --dashboard-host=127.0.0.1 "$@"
