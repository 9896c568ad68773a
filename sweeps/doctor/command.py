"""The command `sweeps doctor`."""

from argparse import Namespace

from rich.console import Console
from rich.table import Table

from senet.home import home
from sweeps.config import load_recipe
from sweeps.environment import set_ray_environment


def doctor(arguments: Namespace) -> int:
    """Look at every machine of a cluster, and print what was found; exit code 1 where something is wrong."""
    recipe, source = None, ""
    if arguments.recipe is not None:
        recipe, _, source = load_recipe(arguments.recipe, arguments.settings)
    set_ray_environment(local=arguments.address is None)

    from sweeps.doctor.examine import examine
    from sweeps.run import ray_cluster

    console = Console() if Console().is_terminal else Console(width=160)
    with ray_cluster(arguments.address), console.status("looking at every machine"):
        findings = list(examine(home(), recipe, source))

    table = Table(title="sweeps doctor", title_justify="left")
    for heading in ("", "check", "where", "found"):
        table.add_column(heading, overflow="fold")
    bad = [finding for finding in findings if finding.advice]
    for finding in findings:
        table.add_row("FAIL" if finding in bad else "ok", finding.check, finding.where, finding.found)
    console.print(table, markup=False)
    for finding in bad:
        console.print(f"{finding.check}, {finding.where}: {finding.advice}", soft_wrap=True, markup=False)
    return 1 if bad else 0
