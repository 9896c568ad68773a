"""The command `sweeps bases`: lists the bases on disk, checks them, removes those that are no longer wanted."""

import json
import math
from argparse import Namespace
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from senet.command import confirmed
from senet.errors import InputError
from senet.home import home
from sweeps.inventory import Inventory, Stored, inventory_of, over, quota, size_of


def bases(arguments: Namespace) -> int:
    """List, check or prune the bases; exit code 1 where a damaged one was found, or pruning was declined."""
    quota()
    limits = (arguments.older_than is not None, arguments.keep is not None, arguments.damaged)
    if arguments.prune != any(limits):
        needs = "needs one of" if arguments.prune else "is needed with"
        raise InputError(f"--prune {needs} --older-than DAYS, --keep SIZE, --damaged: they say what to remove")
    if arguments.prune and arguments.json:
        raise InputError("--json lists, --prune removes: choose one")
    inventory = inventory_of(home())
    if arguments.prune:
        return _prune(inventory, arguments)
    found = inventory.bases(verify=arguments.verify)
    if arguments.json:
        print(json.dumps([_described(base) for base in found], indent=2))
    else:
        _print(found, inventory)
    return 1 if any(base.state == "damaged" for base in found) else 0


def _prune(inventory: Inventory, arguments: Namespace) -> int:
    keep = math.inf if arguments.keep is None else size_of(arguments.keep, "--keep")
    found = inventory.bases(verify=arguments.damaged)
    chosen = _chosen(inventory, found, arguments.damaged, arguments.older_than, keep)
    if not chosen:
        print(f"nothing to remove: {_total(found)} stay; what is being trained or was used within the hour is kept")
        return 0
    for base in chosen:
        print(f"{base.key}: {base.state}, {_size(base.bytes)}, {base.network}, last used {_date(base.used)}")
    if not confirmed(f"delete {_total(chosen)} of {len(found)} in {inventory.place}?", arguments.yes):
        print("nothing deleted")
        return 1
    # While the question stood, somebody may have begun to train or use one: that dates it anew.
    untouched = {(base.key, base.used) for base in inventory.bases() if base.holder is None}
    removed = [base for base in chosen if (base.key, base.used) in untouched]
    for base in removed:
        inventory.remove(base.key)
    if len(removed) < len(chosen):
        print(f"left alone: {len(chosen) - len(removed)} that were trained, used or removed meanwhile")
    print(f"deleted {_total(removed)}; a trial that needs one trains it anew")
    return 0


def _chosen(
    inventory: Inventory, found: list[Stored], damaged: bool, older_than: float | None, keep: float
) -> list[Stored]:
    """Which of `found` to remove.

    Args:
        damaged: those that are.
        older_than: those that were not used for so many days.
        keep: of the rest the least recently used, until no more bytes than these are left.
    """
    idle = inventory.idle(found)
    chosen = [base for base in found if damaged and base.state == "damaged" and base.holder is None]
    if older_than is not None and idle:
        since = inventory.now() - 86400 * older_than
        chosen += [base for base in idle if base.used < since and base not in chosen]
    rest = [base for base in found if base not in chosen]
    return chosen + over(keep, rest, [base for base in idle if base not in chosen])


def _print(found: list[Stored], inventory: Inventory) -> None:
    if not found:
        print(f"no bases in {inventory.place}; a sweep trains them")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("key", "state", "size", "data", "network", "top-k", "seconds", "last use"):
        table.add_column(
            heading, overflow="fold", justify="right" if heading in ("size", "top-k", "seconds") else "left"
        )
    for base in found:
        topk, seconds = base.last.get("base_topk"), base.about.get("seconds")
        table.add_row(
            base.key,
            base.state,
            _size(base.bytes),
            str(base.about.get("data", "?")),
            base.network,
            "" if topk is None else f"{100 * topk:.1f}",
            "" if seconds is None else f"{seconds:.0f}",
            _date(base.used),
        )
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
    for base in found:
        if base.holder is not None:
            print(f"{base.key}: trained by {base.holder}")
    print(f"{_total(found)} in {inventory.place}")
    damaged = [base.key for base in found if base.state == "damaged"]
    if damaged:
        print(f"damaged: {', '.join(damaged)}; remove them: sweeps bases --prune --damaged")


def _described(base: Stored) -> dict[str, Any]:
    return {
        "key": base.key,
        "state": base.state,
        "bytes": base.bytes,
        "data": base.about.get("data"),
        "network": base.network,
        "config": base.about.get("config"),
        "environment": base.about.get("environment"),
        "trainer": base.about.get("trainer"),
        "holder": base.holder,
        "metrics": {name: value for name, value in base.last.items() if name.startswith("base_")},
        "seconds": base.about.get("seconds"),
        "last_used": datetime.fromtimestamp(base.used, UTC).isoformat(timespec="seconds"),
    }


def _total(found: list[Stored]) -> str:
    return f"{len(found)} bases, {_size(sum(base.bytes for base in found))}"


def _size(count: int) -> str:
    """Bytes, readable."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.{0 if unit == 'B' or value >= 99.5 else 1}f} {unit}"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
