"""What each command of `sweeps` does. Heavy packages are imported by the command that needs them."""

import json
import os
import socket
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.console import Console

from senet.command import confirmed
from senet.data.catalogue import describe_dataset, obtain_dataset
from senet.data.store import check_name
from senet.errors import InputError
from senet.home import home
from sweeps.config import Recipe, load_recipe
from sweeps.environment import set_ray_environment
from sweeps.fit import check_recipe, check_stages
from sweeps.inventory import quota
from sweeps.shared import Shared, bucket_of
from sweeps.storage import check_bucket, is_server, open_database, tracking_uri
from sweeps.sweep import Sweep, check_same_data, create_sweep, find_sweep, refuse_name, remove_sweep, sweep_names


def run(arguments: Namespace) -> int:
    """Start a sweep."""
    recipe, name, source = load_recipe(arguments.recipe, arguments.settings, arguments.name)
    if arguments.name is not None:
        refuse_name(home(), name)
    return _start(recipe, name, source, arguments)


def _start(recipe: Recipe, name: str, source: str, arguments: Namespace) -> int:
    check_bucket(bucket_of(home()), recipe.search.storage, recipe.data)
    check_recipe(recipe, source, describe_dataset(home(), recipe.data))
    console = Console()
    warm = getattr(arguments, "warm_start", None)
    if warm is not None:
        find_sweep(home(), warm)
    left = len(recipe.enqueue) - recipe.search.trials
    if left > 0:
        _say(console, f"warning: the last {left} configurations of `enqueue` are not tried: `search.trials` is lower")
    if arguments.dry_run:
        from sweeps.plan import plan

        _say(console, plan(recipe, home(), name, arguments.address))
        return 0
    quota()
    tracking_uri(home())
    if recipe.search.storage is not None:
        open_database(recipe.search.storage)
    set_ray_environment(local=arguments.address is None)

    from sweeps.run import possible_concurrency, ray_cluster

    _say(console, f"starting Ray, {recipe.search.trials} trials; everything is written below {home()}")
    with ray_cluster(arguments.address):
        concurrency = possible_concurrency(recipe, source, arguments.address)
        dataset = obtain_dataset(home(), recipe.data)
        check_stages(recipe, source, dataset)
        sweep = create_sweep(home(), arguments.name, name, recipe, dataset.fingerprint, warm)
        return _drive(sweep, concurrency, console)


def resume(arguments: Namespace) -> int:
    """Go on with an interrupted sweep."""
    sweep = find_sweep(home(), arguments.name)
    if sweep.is_driven():
        raise InputError(f"sweep `{sweep.name}` is running already; watch it: sweeps status {sweep.name}")
    return _go_on(sweep, arguments.address)


def _go_on(sweep: Sweep, address: str | None, further: int = 0) -> int:
    """Drive a sweep again, with further trials planned once nothing stands in their way."""
    console = Console()
    quota()
    tracking_uri(home())
    set_ray_environment(local=address is None)

    from sweeps.run import close, possible_concurrency, ray_cluster
    from sweeps.status import sweep_status

    if not further and sweep_status(sweep)["state"] == "finished":
        _say(console, f"sweep {sweep.name} is finished: nothing is run again")
        close(sweep)
        return _report(sweep, console)
    check_same_data(sweep)
    _say(console, f"starting Ray to go on with {sweep.name}")
    with ray_cluster(address):
        concurrency = possible_concurrency(sweep.extended(further), "recipe", address)
        if further:
            sweep.extend(further)
        return _drive(sweep, concurrency, console)


def extend(arguments: Namespace) -> int:
    """Go on with a sweep beyond what was planned."""
    if arguments.trials < 1:
        raise InputError(f"--trials {arguments.trials}: must be 1 or more")
    sweep = find_sweep(home(), arguments.name)
    if sweep.is_driven():
        raise InputError(f"sweep `{sweep.name}` is running; wait for its end, or stop it: sweeps stop {sweep.name}")
    ending = str(sweep.ending())
    if "`search.budget" in ending:
        raise InputError(
            f"sweep `{sweep.name}` {ending}, and would end again at once; begin one that knows it: sweeps run RECIPE "
            f"--warm-start {sweep.name}"
        )
    return _go_on(sweep, arguments.address, arguments.trials)


def status(arguments: Namespace) -> int:
    """Print what one sweep, or each, has come to."""
    from sweeps.status import sweep_status

    console = Console()
    if arguments.name is None:
        return _print_all(arguments.json, console)
    found = sweep_status(find_sweep(home(), arguments.name))
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0

    from sweeps.report import print_leaderboard

    _say(console, _in_a_line(found))
    for trial in found["trials"]:
        if trial["state"] == "running":
            at = trial["progress"]
            where = f"{at['phase']} epoch {at['epoch']}/{at['epochs']}" if at else "starting"
            _say(console, f"trial {trial['number']}: {found['state']}, {where}")
    print_leaderboard(_wide(console), found)
    if found["state"] in ("interrupted", "paused"):
        _say(console, f"{found['ending'] or 'interrupted'}; go on: sweeps resume {arguments.name}")
    return 0


def _print_all(as_json: bool, console: Console) -> int:
    """Every sweep in a line, or all as a JSON list; one that is damaged does not hide the others."""
    from sweeps.status import sweep_status

    found, damaged = [], []
    for name in sweep_names(home()):
        try:
            found.append(sweep_status(find_sweep(home(), name)))
        except (InputError, OSError) as error:
            damaged.append(f"{name}: cannot be read: {error}")
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        none = [] if damaged else [f"no sweeps below {home()}; start one: sweeps run quickstart"]
        for line in [*map(_in_a_line, found)] or none:
            _say(console, line)
    print("\n".join(damaged), end="\n" if damaged else "", file=sys.stderr)
    return 0


def _in_a_line(found: dict[str, Any]) -> str:
    done = sum(trial["state"] != "running" and trial["answers"] is None for trial in found["trials"])
    best = f", best joint {100 * found['best']['joint_mean']:.1f}" if found["best"] else ""
    if found["front"] and found["objective"]["mode"] == "pareto":
        best = f", {len(found['front'])} on the front{best}"
    note = f" ({found['objective']['split']})" if found["objective"]["split"] else ""
    return f"{found['name']}: {found['state']}, {done}/{found['planned_trials']} trials{best}{note}"


def thesis(arguments: Namespace) -> int:
    """Run the thesis' grid, time its epochs, and write its tables."""
    from sweeps.thesis.rows import thesis_recipe

    recipe, recipe_name, source = thesis_recipe(arguments.data, arguments.settings)
    name = check_name(recipe_name if arguments.name is None else arguments.name, "--name")
    arguments = Namespace(**vars(arguments) | {"name": name})
    begun = name in sweep_names(home())
    if begun and find_sweep(home(), name).recipe() != recipe:
        raise InputError(f"--name {name}: a sweep of this name exists with another recipe; choose another --name")
    code = resume(arguments) if begun and not arguments.dry_run else _start(recipe, name, source, arguments)
    if code:
        _say(Console(), "there are no tables yet: they are written when this command is called again and all has run")
    return code if code or arguments.dry_run else _write_thesis(find_sweep(home(), name))


def _write_thesis(sweep: Sweep) -> int:
    """Time what is not timed yet, and write the tables of a finished sweep over the thesis' grid."""
    import torch

    from sweeps.status import sweep_status
    from sweeps.thesis.write import timed_configs, write_thesis
    from sweeps.timing import time_epochs, timed
    from sweeps.tracking import SweepTracking

    console, gpu = Console(), bool(sweep.recipe().resources.gpu)
    folder, shared = sweep.folder / "thesis", Shared(sweep.home)
    shared.fetch_folder(folder)
    file, configs = folder / "timing.json", timed_configs(sweep)
    if not gpu or torch.cuda.is_available():
        dataset = obtain_dataset(home(), sweep.recipe().data)
        timing = time_epochs(file, configs, dataset, gpu, lambda text: _say(console, text))
    elif not (timing := timed(file, configs)):
        _say(console, "no GPU here: epochs are not timed; call this again on a machine that has one")
    files, summary = write_thesis(sweep, sweep_status(sweep), timing)
    shared.pass_on_folder(folder)
    SweepTracking(sweep.home, sweep.name, sweep.about()["id"]).attach(files)
    _say(console, summary)
    _say(console, "written: " + ", ".join(map(_relative, files)))
    return 0


def confirm(arguments: Namespace) -> int:
    """Run the best configurations and the baseline again on fresh seeds, and judge the best on the test split, once."""
    from sweeps.confirm.drive import confirm_sweep
    from sweeps.confirm.report import extended_since, print_result, write_markdown
    from sweeps.confirm.result import stored_result
    from sweeps.errors import FailedError
    from sweeps.status import sweep_status

    # One seed says nothing of how much seeds differ.
    for option, value, least in (("--top", arguments.top, 1), ("--seeds", arguments.seeds, 2)):
        if value < least:
            raise InputError(f"{option} {value}: must be {least} or more")
    sweep, console = find_sweep(home(), arguments.name), Console()
    result: dict[str, Any] | str | None = stored_result(sweep)
    if isinstance(result, dict):
        read, since = result["read_test_split"], extended_since(result, sweep_status(sweep))
        _say(console, f"the test split was read at {read}, and is not read again{since}; it said:")
    else:
        try:
            result = confirm_sweep(sweep, arguments.top, arguments.seeds, arguments.address, console)
        except FailedError as error:
            print(f"sweeps: {error}", file=sys.stderr)
            return 1
    if isinstance(result, str):
        _say(console, f"{result}; go on: sweeps confirm {sweep.name}")
        return 1

    from sweeps.tracking import SweepTracking

    files = [sweep.folder / "confirm.json", write_markdown(sweep, result)]
    sweep.pass_on()
    SweepTracking(sweep.home, sweep.name, sweep.about()["id"]).attach(files)
    print_result(_wide(console), result)
    _say(console, "written: " + ", ".join(map(_relative, files)))
    _say(console, f"next: sweeps export {sweep.name} -o best.yaml")
    return 0


def export(arguments: Namespace) -> int:
    """Write the config of the winner, or of another pick."""
    from sweeps.export import export_pick
    from sweeps.status import sweep_status

    sweep = find_sweep(home(), arguments.name)
    text = export_pick(sweep, sweep_status(sweep), arguments.pick)
    if arguments.output is None:
        print(text, end="")
        return 0
    try:
        arguments.output.write_text(text, "utf-8")
    except OSError as error:
        raise InputError(f"--output {arguments.output}: cannot be written: {error.strerror}") from None
    print(f"wrote {arguments.output}; train it: sweeps train {arguments.output}")
    return 0


def ui(arguments: Namespace) -> int:
    """Serve the tracking UI on loopback until interrupted; where there is a tracking server, say its address."""
    from sweeps.tracking import connect, failing_clearly

    uri = tracking_uri(home())
    port = arguments.port if is_server(uri) else _free_port(arguments.port)
    with failing_clearly(home()):
        _, experiment = connect(home())
    if is_server(uri):
        print(f"tracking UI: {uri.rstrip('/')}/#/experiments/{experiment}/runs")
        return 0
    address = f"http://127.0.0.1:{port}/#/experiments/{experiment}/runs"
    print(f"tracking UI of {uri}: {address} (in a few seconds; Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    # The server takes this process's place, so that signals reach it.
    os.execve(sys.executable, command, os.environ | quiet)


def _free_port(port: int) -> int:
    """`port` of loopback, or any that is free for 0. Raises InputError where nothing can listen at it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "must be 0 to 65535"
            raise InputError(f"--port {port}: {reason}; choose another port") from None


def delete(arguments: Namespace) -> int:
    """Remove a sweep everywhere, and what confirmed it."""
    from sweeps.confirm.study import with_study

    sweeps = with_study(find_sweep(home(), arguments.name))
    for sweep in sweeps:
        if sweep.is_driven():
            raise InputError(f"sweep `{sweep.name}` is running; interrupt it first")
    named = " and ".join(f"{sweep.name} ({sweep.folder})" for sweep in sweeps)
    if not confirmed(f"delete sweep {named}, with the tracking runs?", arguments.yes):
        print("nothing deleted")
        return 1

    from sweeps.ledger import delete_ledger
    from sweeps.tracking import delete_sweep_runs, failing_clearly

    # What confirmed it goes first: without the sweep nobody would know what it is.
    for sweep in reversed(sweeps):
        with failing_clearly(home()):
            runs = delete_sweep_runs(home(), sweep.about()["id"])
        delete_ledger(sweep)
        remove_sweep(sweep)
        print(f"deleted sweep {sweep.name} and {runs} tracking runs")
    print(f"the bases that were trained stay in {home() / 'bases'}")
    return 0


def _drive(sweep: Sweep, concurrency: int, console: Console) -> int:
    from sweeps.run import drive
    from sweeps.warmstart import take_over

    taken = take_over(sweep)
    if taken:
        _say(console, taken)
    _say(console, f"sweep {sweep.name}: {concurrency} at a time")
    ending = drive(sweep, concurrency, console)
    if ending is not None:
        _say(console, f"{ending}; go on: sweeps resume {sweep.name}")
        return 1
    return _report(sweep, console)


def _report(sweep: Sweep, console: Console) -> int:
    """Write and print what a finished sweep has come to."""
    from sweeps.report import print_leaderboard, write_report
    from sweeps.status import sweep_status
    from sweeps.tracking import SweepTracking

    found = sweep_status(sweep)
    files = write_report(sweep, found)
    sweep.pass_on()
    SweepTracking(sweep.home, sweep.name, sweep.about()["id"]).attach(files)
    print_leaderboard(_wide(console), found)
    _say(console, "written: " + ", ".join(map(_relative, [sweep.folder, *files])))
    after = f"sweeps confirm {sweep.name} · sweeps export {sweep.name} -o best.yaml · sweeps train best.yaml"
    _say(console, f"next: sweeps ui · {after}")
    return 0 if found["best"] is not None else 1


def _wide(console: Console) -> Console:
    return console if console.is_terminal else Console(width=160)


def _relative(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _say(console: Console, text: str) -> None:
    """Print text as it is, at once."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)
    sys.stdout.flush()
