"""Where Ray is, and the environment that Ray reads when it is imported: set by the command that needs it, before."""

import os
import secrets


def is_remote(address: str | None) -> bool:
    """Whether an --address is that of a dashboard, and not of a cluster that this machine is in."""
    return address is not None and address.lower().startswith(("http://", "https://"))


def set_ray_environment(local: bool) -> None:
    """Set what Ray shall know.

    Args:
        local: Ray will be started here. It listens on all interfaces, so it asks for a token that only this run knows.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    # Ray Tune would start a trial again by itself, and not say so, whose machine was taken back.
    os.environ.setdefault("RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE", "1")
    # The driver knows how many trials may wait for a process. Ray Tune would start one process after the other.
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "1000")
    if local:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
