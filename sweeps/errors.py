"""Errors that are nobody's wrong input; a command prints them as one line."""


class FailedError(Exception):
    """What was to be run failed: exit code 1."""
