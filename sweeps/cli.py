"""The command `sweeps`. Nothing heavy is imported before a command is known."""

import argparse
import sys
from pathlib import Path

from senet.command import Commands, Parser, run_command
from senet.errors import InputError
from sweeps.environment import is_remote

_DASHBOARD = "a cluster that is elsewhere: the address of its dashboard, such as http://127.0.0.1:8265"
_JOIN = f"join the Ray cluster there, or {_DASHBOARD}; else start Ray"
# What can also be done on a cluster that is elsewhere.
_ELSEWHERE = ("doctor", "extend", "logs", "pause", "resume", "status", "stop")
# Of these, what looks at a sweep's folder and joins no cluster.
_NEVER_JOIN = ("logs", "pause", "status", "stop")


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv`; returns the exit code."""
    return run_command("sweeps", lambda: _dispatch(sys.argv[1:] if argv is None else argv))


def _dispatch(argv: list[str]) -> int:
    from importlib import import_module

    arguments = _parser().parse_args(argv)
    arguments.argv = argv
    module, action = arguments.module, arguments.command
    address = getattr(arguments, "address", None)
    if module != "sweeps.submit" and address is not None:
        if is_remote(address):
            if action not in _ELSEWHERE:
                sent = f"; to one elsewhere a sweep can be sent: sweeps submit RECIPE --address {address}"
                raise InputError(
                    f"--address {address}: sweeps {action} joins a cluster from within: call it on one of its machines "
                    f"with --address auto{sent if action == 'run' else ''}"
                )
            module, action = "sweeps.submit", "forward"
        elif action in _NEVER_JOIN:
            raise InputError(
                f"--address {address}: must be the address of the cluster's dashboard, such as http://127.0.0.1:8265"
            )
    result: int = getattr(import_module(module), action)(arguments)
    return result


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="sweeps",
        description="Find, by a distributed search, the network that streams new multi-label images without "
        "forgetting the old ones.",
        epilog="Everything is written below ./mlruns, or below SWEEPS_HOME. Exit codes: 0 done, 1 the run failed or "
        "was interrupted, 2 the input was wrong.",
    )
    parser.set_defaults(module="sweeps.commands")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _add_run(commands)
    _add_submit(commands)
    _add_doctor(commands)

    _add_thesis(commands)

    resume = commands.add_parser("resume", help="go on with an interrupted sweep")
    resume.add_argument("name")
    resume.add_argument("--address", help=_JOIN)

    extend = commands.add_parser("extend", help="go on with a sweep that has ended, or was interrupted")
    extend.add_argument("name")
    extend.add_argument("--trials", type=int, required=True, help="further trials")
    extend.add_argument("--address", help=_JOIN)

    _add_control(commands)

    status = commands.add_parser("status", help="what a sweep has come to, also while it runs")
    status.add_argument("name", nargs="?", help="the sweep; without it, all sweeps in a line each")
    status.add_argument("--json", action="store_true", help="print one JSON object")
    status.add_argument("--address", help=_DASHBOARD)

    _add_commands_of_the_winner(commands)

    ui = commands.add_parser("ui", help="open the tracking UI on this machine")
    ui.add_argument("--port", type=int, default=5000)

    _add_bases(commands)

    delete = commands.add_parser("delete", help="remove a sweep: its folder and its tracking runs")
    delete.add_argument("name")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def _add_thesis(commands: Commands) -> None:
    thesis = commands.add_parser(
        "thesis", help="run the thesis' own grid, and write its tables beside the published ones"
    )
    thesis.add_argument(
        "--data", help="a prepared data set, for the thesis' own sizes; else a small grid on drawn dogs"
    )
    thesis.add_argument(
        "--name", help="the sweep's name, also to go on with it; else thesis-small, or with --data thesis"
    )
    thesis.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
                        help="override a key of the recipe, such as search.replicates=5; may be repeated")  # fmt: skip
    thesis.add_argument("--address", help="join the Ray cluster there; else start Ray")
    thesis.add_argument("--dry-run", action="store_true", help="print what would run; start nothing")


def _add_run(commands: Commands) -> None:
    run = commands.add_parser("run", help="start a sweep from a recipe")
    run.add_argument(
        "recipe", help="a bundled recipe's name (quickstart, photos, thesis, thesis-small), or a YAML file"
    )
    run.add_argument("--name", help="the sweep's name; else the recipe's, with a number if that is taken")
    run.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
                     help="override a key of the recipe, such as search.trials=8; may be repeated")  # fmt: skip
    run.add_argument("--warm-start", metavar="SWEEP", help="take over the trials of another sweep that fit this one")
    run.add_argument("--address", help="join the Ray cluster there (auto: the one of this machine); else start Ray")
    run.add_argument("--dry-run", action="store_true", help="print what would run and what it costs; start nothing")


def _add_submit(commands: Commands) -> None:
    submit = commands.add_parser("submit", help="start a sweep on a cluster that is elsewhere; it runs on without us")
    submit.add_argument("recipe", help="a bundled recipe's name, or a YAML file, which goes with it")
    submit.add_argument("--address", required=True, help=_DASHBOARD)
    submit.add_argument("--name", help="the sweep's name; else the recipe's")
    submit.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
                        help="override a key of the recipe; may be repeated")  # fmt: skip
    submit.add_argument("--follow", action="store_true", help="print what it says until it ends")
    follow = commands.add_parser("follow", help="print what a submitted sweep says until it ends")
    follow.add_argument("name")
    follow.add_argument("--address", required=True, help=_DASHBOARD)
    for command in (submit, follow):
        command.set_defaults(module="sweeps.submit")


def _add_doctor(commands: Commands) -> None:
    doctor = commands.add_parser("doctor", help="look for what would spoil a sweep, on every machine of a cluster")
    doctor.add_argument("recipe", nargs="?", help="what shall be run: its resources and its networks are tried too")
    doctor.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
                        help="override a key of the recipe; may be repeated")  # fmt: skip
    doctor.add_argument("--address", help=_JOIN)
    doctor.set_defaults(module="sweeps.doctor.command")


def _add_control(commands: Commands) -> None:
    for name, text in (
        ("pause", "begin no further trial; those that run are finished"),
        ("stop", "interrupt a running sweep: what runs goes on from its last epoch when it is resumed"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("name")
        command.add_argument("--address", help=_DASHBOARD)
        command.set_defaults(module="sweeps.control")
    logs = commands.add_parser("logs", help="what a trial has said: its epochs, and why it failed")
    logs.add_argument("name")
    logs.add_argument("trial", type=int)
    logs.add_argument("--address", help=_DASHBOARD)
    logs.set_defaults(module="sweeps.control")


def _add_bases(commands: Commands) -> None:
    bases = commands.add_parser("bases", help="list, check or remove the bases that sweeps have trained")
    bases.add_argument("--json", action="store_true", help="print a JSON list")
    bases.add_argument("--verify", action="store_true", help="compare the checksums too; exit code 1 if one is damaged")
    bases.add_argument("--prune", action="store_true",
                       help="remove bases, never one that is being trained or was used within the hour")  # fmt: skip
    bases.add_argument("--older-than", type=_days, metavar="DAYS", help="prune: those not used for so many days")
    bases.add_argument("--keep", metavar="SIZE", help="prune: the least recently used, until so much is left: 20GB")
    bases.add_argument("--damaged", action="store_true", help="prune: those whose checksums differ")
    bases.add_argument("--yes", action="store_true", help="do not ask")
    bases.set_defaults(module="sweeps.basecommand")


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < 1e6:
        raise argparse.ArgumentTypeError(f"must be a number of days from 0, but got {text!r}")
    return days


def _add_commands_of_the_winner(commands: Commands) -> None:
    """What is done with a finished sweep."""
    confirm = commands.add_parser(
        "confirm", help="run the best again on fresh seeds, and judge their best on the test split, once"
    )
    confirm.add_argument("name")
    confirm.add_argument("--top", type=int, default=3, metavar="K", help="so many of the best (3), and the baseline")
    confirm.add_argument("--seeds", type=int, default=5, metavar="S", help="fresh seeds of each (5)")
    confirm.add_argument("--address", help="join the Ray cluster there; else start Ray")

    export = commands.add_parser("export", help="write the winner as a complete trial config")
    export.add_argument("name")
    export.add_argument("--pick", help="confirmed, first on fresh seeds (the default once `sweeps confirm` has run); "
                        "best (else the default); knee, between original and streaming (instead of best, where "
                        "`objective.mode` is pareto); 'original_topk>=0.85', the best streaming under a condition; or "
                        "trial:N")  # fmt: skip
    export.add_argument("-o", "--output", type=Path, help="the file to write; else standard output")

    train = commands.add_parser("train", help="train an exported config in full and register the model")
    train.add_argument("config", type=Path)
    train.add_argument("--name", help="the model's name; else the file's")
    train.add_argument("--workers", type=int, default=1, metavar="N",
                       help="so many train together, each on a GPU or, without GPUs, on CPU cores (1)")  # fmt: skip
    train.add_argument("--address", help="train on the Ray cluster there (auto: the one of this machine)")
    train.set_defaults(module="sweeps.traincommand")


if __name__ == "__main__":
    sys.exit(main())
