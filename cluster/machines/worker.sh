#!/usr/bin/env bash
# Lets this machine join: worker.sh HEAD[:PORT]. Options of `ray start` may follow.
#
#   SWEEPS_HOME   the folder that all machines share, at the same path as on the head
#
# The token is the head's: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token.
set -euo pipefail

: "${SWEEPS_HOME:?the folder that all machines share}"
head=${1:?the head, as HOST or HOST:PORT}
shift
if [ ! -w "$SWEEPS_HOME" ]; then
    echo "worker.sh: SWEEPS_HOME $SWEEPS_HOME: is no folder that can be written to here; is it mounted?" >&2
    exit 2
fi
if [ -z "${RAY_AUTH_TOKEN:-}" ] && [ ! -s "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" ]; then
    echo "worker.sh: no token: copy ~/.ray/auth_token of the head to this machine, readable for you alone" >&2
    exit 2
fi

PATH=$(cd "$(dirname "$0")/../.." && pwd)/.venv/bin:$PATH
export PATH SWEEPS_HOME RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

case $head in
    *:*) ;;
    *) head=$head:6379 ;;
esac
exec ray start --address="$head" "$@"
