"""Asks every machine, and puts together what was found."""

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from senet.config import TrialConfig
from senet.data.catalogue import Description, dataset_folder, describe_dataset, own_copy_of
from senet.errors import InputError
from sweeps.config import Recipe
from sweeps.doctor import checks, machine
from sweeps.doctor.checks import Finding
from sweeps.doctor.cluster import Answers, Machine, ask, clock_offset, machines
from sweeps.doctor.corners import Corners
from sweeps.doctor.rehearsal import rehearse
from sweeps.fit import check_recipe
from sweeps.shared import Shared

# A large network takes its time on a CPU; a place for it may first have to become free.
_REHEARSAL_SECONDS = 600


def examine(home: Path, recipe: Recipe | None, source: str) -> Iterator[Finding]:
    """Everything that is looked at, in its order, on the Ray that this process has joined.

    Args:
        recipe: what shall be run; without it, what is the same for all.
        source: how errors name the recipe.
    """
    home.mkdir(parents=True, exist_ok=True)
    there = machines()
    bucket = Shared(home).url
    described = ask(there, machine.describe, str(home), bucket is not None)
    answering = [one for one in there if one.name in described.given]
    yield from checks.reached(there, described)
    yield from checks.versions(machine.describe(str(home))["versions"], described)
    yield from checks.devices(there, described, recipe)
    yield from _storage(bucket or str(home), answering, described)
    yield from checks.ledger(home, recipe, bucket)
    yield from checks.tracking(home, len({one.address for one in there}))
    yield from checks.clocks({one.name: clock_offset(one) for one in answering})
    yield from checks.doors(ask(answering, machine.open_doors))
    if recipe is not None:
        yield from _trials(home, recipe, source, answering, described)


def _storage(place: str, there: list[Machine], described: Answers) -> list[Finding]:
    """Let every machine write a file to a folder or a bucket, and read all the others'."""
    mounted = [one for one in there if described.given[one.name]["exists"]]
    folder = f"{place}/.doctor-{secrets.token_hex(8)}"
    try:
        written = ask(mounted, machine.write_probe, folder)
        names = {one.node_id: one.name for one in mounted if written.given.get(one.name, "") is None}
        unread = ask(mounted, machine.unread_probes, folder, list(names))
        lost = {name: [names[node_id] for node_id in missing] for name, missing in unread.given.items()}
        ask(mounted, machine.remove_probes, folder)
    finally:
        machine.remove_probes(folder)
    return checks.storage(place, described, written, Answers(lost, unread.missing))


def _trials(home: Path, recipe: Recipe, source: str, there: list[Machine], described: Answers) -> Iterator[Finding]:
    """What concerns the recipe's own networks and data."""
    advice = "import the data set (senet data --help), or name another one"
    try:
        data = describe_dataset(home, recipe.data)
        advice = "mend the recipe, or name another data set; this command will say whether they fit"
        check_recipe(recipe, source, data)
    except InputError as error:
        yield Finding("data", "driver", str(error), advice)
        return
    counts = ", ".join(f"{sum(parts.values())} {which}" for which, parts in data.counts.items())
    yield Finding("data", "driver", f"{data.name}: {len(data.classes)} classes, {data.size} px; images: {counts}")
    holding = checks.able(there, recipe)
    corners = Corners(recipe, data)
    at_once = min(
        recipe.search.trials, recipe.search.concurrency or sum(recipe.resources.room(one.resources) for one in holding)
    )
    copy = own_copy_of(home, recipe.data)
    anew = copy is None and not dataset_folder(home, recipe.data).exists()
    needed = corners.disk_bytes(at_once) + (data.image_bytes if anew else 0)
    yield from checks.disk(described, needed, shutil.disk_usage(home).free)
    if copy is not None:
        yield from checks.copies(ask(there, machine.own_copy, copy), data.image_bytes)
    for corner, config in (("smallest", corners.smallest()), ("largest", corners.largest())):
        if holding:
            share = recipe.resources.of(corners.parameters(config))
            yield from checks.network(corner, _rehearsed(share, config, data, holding))


def _rehearsed(share: dict[str, float], config: TrialConfig, data: Description, holding: list[Machine]) -> Answers:
    assignment = {
        "config": config.model_dump(mode="json"),
        "classes": list(data.classes),
        "size": data.size,
        "labels": data.labels,
        "gpu": share["gpu"],
    }
    return ask(holding, rehearse, assignment, cpu=share["cpu"], gpu=share["gpu"], patience_seconds=_REHEARSAL_SECONDS)
