"""What the two commands share: one line for an error, and the exit codes 0 done, 1 failed, 2 wrong input."""

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from senet.errors import InputError, NonFiniteError, out_of_memory


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, and whose options are written out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with exit code 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
"""where commands are added to a parser"""


def run_command(program: str, action: Callable[[], int]) -> int:
    """Run a command's action; turn what a user can cause into one line and an exit code."""
    try:
        _make_writable()
        return action()
    except BrokenPipeError:
        # The reader of a pipe has left: there is nobody to tell.
        sys.stderr.close()
        return 1
    except InputError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except NonFiniteError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1 if error.errno == errno.ENOSPC else 2
    except (RuntimeError, MemoryError) as error:
        # A network that fits no memory was asked for; anything else is a mistake of ours, to be seen whole.
        if not out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0] or "there is not enough"
        print(f"{program}: out of memory: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 1


def _make_writable() -> None:
    """Let nothing fail for its output: one that is closed, or whose encoding lacks a character."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 It stays open until the process ends.
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def confirmed(question: str, yes: bool) -> bool:
    """Whether to delete: asked on a terminal, unless `yes` says so. Raises InputError where nobody can be asked."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise InputError("--yes is needed to delete without being asked")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False
