"""Which pictures train, which validate, which test: stratified, seeded, near-duplicates never apart.

default    60 % train, 20 % validation, 20 % test
thesis     80 % train; the other 20 % are validation and test at once
official   test is given; of the other base pictures 80 % train, 20 % validate
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from senet.data.store import PARTS, UNUSED, SetName
from senet.errors import InputError

SplitName = Literal["default", "thesis", "official"]
Shares = tuple[float, ...]

_TEST = PARTS.index("test")
# Of every class or combination, in the order of PARTS.
_DEFAULT: Shares = (0.6, 0.2, 0.2, 0.0)
SHARES: dict[SplitName, dict[SetName, Shares]] = {
    "default": {"base": _DEFAULT, "streaming": _DEFAULT},
    "thesis": {"base": (0.8, 0.0, 0.0, 0.2), "streaming": (0.8, 0.0, 0.0, 0.2)},
    "official": {"base": (0.8, 0.2, 0.0, 0.0), "streaming": _DEFAULT},
}


def least_pictures(name: SplitName) -> int:
    """How many pictures a class or combination needs at least."""
    return max(sum(share > 0 for share in shares) for shares in SHARES[name].values())


def split_pictures(
    name: SplitName,
    strata: Mapping[SetName, Sequence[str]],
    groups: npt.NDArray[np.int64],
    base_groups: npt.NDArray[np.int64],
    digests: Sequence[str],
    seed: int,
    test: npt.NDArray[np.bool_] | None = None,
) -> dict[SetName, npt.NDArray[np.uint8]]:
    """Split base and streaming pictures together.

    Args:
        strata: by set, the class or combination of each picture.
        groups: (N,) of the base pictures, then the streaming ones: those of one number are duplicates of each other.
        base_groups: (B,) of the base pictures alone. A streaming picture that is nearly two of them, which are not each
            other, joins them in `groups`, and not here.
        digests: (N,) of the pictures' files. They decide the order, so that the same picture is in the same part of
            another data set too, wherever their strata are alike, and whatever is streamed there.
        seed: of that order.
        test: (N,) whether the `official` split says that a picture tests. Base pictures that it keeps for training,
            but that duplicate one of these, are in no part; streaming ones test as well.

    Returns:
        By set, (N,): an index into PARTS, or UNUSED. Streaming pictures that duplicate base pictures of several parts
        are in none.

    Raises:
        InputError: a class or combination has too few pictures that are no duplicates of each other.
    """
    names = np.array([f"{which} `{stratum}`" for which, part in strata.items() for stratum in part], np.str_)
    shares = {f"{which} `{stratum}`": SHARES[name][which] for which, part in strata.items() for stratum in part}
    keys = np.array([hashlib.sha256(f"{seed} {digest}".encode()).hexdigest() for digest in digests], np.str_)
    split = np.full(len(names), UNUSED, np.uint8)
    base = np.arange(len(names)) < len(base_groups)
    tied = np.zeros(len(names), np.bool_)
    if test is not None:
        tied[base] = np.isin(base_groups, base_groups[test[base]])
        tied[~base] = np.isin(groups[~base], groups[test])
        split[test] = _TEST
    # The base pictures' parts do not depend on what is streamed.
    alone = np.concatenate([base_groups, groups[~base]])
    split[base & ~tied] = _stratified(base & ~tied, names, shares, alone, keys, split)
    # Streaming pictures go where the base pictures are that they duplicate.
    follows = np.flatnonzero(~base & np.isin(groups, groups[base]))
    split[follows] = _where_they_are(groups[follows], groups[base], split[base])
    free = ~base & ~tied
    free[follows] &= split[follows] != UNUSED
    split[free] = _stratified(free, names, shares, groups, keys, split)
    _check_filled(split, names, shares, alone, tied)
    return {"base": split[base], "streaming": split[~base]}


def _where_they_are(
    wanted: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], parts: npt.NDArray[np.uint8]
) -> list[int]:
    """The part in which each of the wanted groups is; UNUSED: in several, or in none."""
    found = defaultdict[int, set[int]](set)
    for group, part in zip(groups.tolist(), parts.tolist(), strict=True):
        found[group] |= {part} - {UNUSED}
    return [min(found[group]) if len(found[group]) == 1 else UNUSED for group in wanted.tolist()]


def _stratified(
    where: npt.NDArray[np.bool_],
    names: npt.NDArray[np.str_],
    shares: dict[str, Shares],
    groups: npt.NDArray[np.int64],
    keys: npt.NDArray[np.str_],
    given: npt.NDArray[np.uint8],
) -> npt.NDArray[np.uint8]:
    """Parts of the pictures at `where`, given the stratum and the group of each, the keys by which they are ordered,
    and the parts that some are in already."""
    names, groups, keys, split = names[where], groups[where], keys[where], given[where]
    distinct, stratum = np.unique(names, return_inverse=True)
    wanted = np.array([shares[name] for name in distinct]).reshape(-1, len(PARTS)) > 0
    left = np.array([_quota(int(n), shares[name]) for name, n in zip(distinct, np.bincount(stratum), strict=True)])
    left, empty = left.reshape(-1, len(PARTS)), wanted.copy()
    placed, free = np.flatnonzero(split != UNUSED), np.flatnonzero(split == UNUSED)
    np.subtract.at(left, (stratum[placed], split[placed]), 1)
    empty[stratum[placed], split[placed]] = False
    _, group, sizes = np.unique(groups[free], return_inverse=True, return_counts=True)

    # Duplicates first, the largest groups first: where they overfill a part, single pictures make up for it.
    order = np.argsort(group, kind="stable")
    members = [free[pictures] for pictures in np.split(order, np.cumsum(sizes)[:-1])] if len(sizes) else []
    waiting = np.bincount(np.unique(np.stack([stratum[free], group]), axis=1)[0], minlength=len(distinct))
    several = [pictures for pictures in members if len(pictures) > 1]
    for pictures in sorted(several, key=lambda pictures: (-len(pictures), min(keys[pictures]))):
        counts = np.bincount(stratum[pictures], minlength=len(distinct))
        here = counts > 0
        # Where no more groups are left than parts that have nothing yet, one of those is due.
        part = _best_part(counts, left, wanted, due=empty[here & (waiting <= empty.sum(axis=1))])
        split[pictures] = part
        left[:, part] -= counts
        empty[here, part] = False
        waiting -= here

    single = free[sizes[group] == 1]
    for i in range(len(distinct)):
        pictures = single[stratum[single] == i]
        pictures = pictures[np.argsort(keys[pictures], kind="stable")]
        split[pictures] = _filled(left[i], empty[i], len(pictures))
    return split


def _check_filled(
    split: npt.NDArray[np.uint8],
    names: npt.NDArray[np.str_],
    shares: dict[str, Shares],
    groups: npt.NDArray[np.int64],
    tied: npt.NDArray[np.bool_],
) -> None:
    """Raise InputError where a class or combination has nothing in a part; `tied` are for testing alone, or for
    nothing."""
    for name, wanted in shares.items():
        pictures = names == name
        for part, share in enumerate(wanted):
            if share > 0 and not (split[pictures] == part).any():
                different = len(np.unique(groups[pictures]))
                test = (
                    f", {np.sum(tied & pictures)} are on the test list or duplicate one that is" if tied.any() else ""
                )
                raise InputError(
                    f"{name}: {np.sum(pictures)} pictures, {different} without counting duplicates, which stay "
                    f"together{test}: none is left for {PARTS[part]}; add others"
                )


def _quota(count: int, shares: Shares) -> list[int]:
    """How many of `count` pictures belong in each part: at least one where a share is wanted, the rest in the first."""
    quota = [max(1, round(count * share)) if share > 0 else 0 for share in shares]
    if sum(quota[1:]) >= count:
        quota = [int(share > 0) for share in shares]
    quota[0] = max(0, count - sum(quota[1:]))
    return quota


def _best_part(
    counts: npt.NDArray[np.int64],
    left: npt.NDArray[np.int64],
    wanted: npt.NDArray[np.bool_],
    due: npt.NDArray[np.bool_],
) -> int:
    """The part that is due; of several alike, the one that a group overfills least, then the one that lacks most, and
    of those the first."""
    here = counts > 0
    possible = np.flatnonzero(wanted[here].all(axis=0))
    excess = np.maximum(0, counts[here, None] - np.maximum(left[here], 0)).sum(axis=0)
    lack = left[here].sum(axis=0)
    return int(min(possible, key=lambda part: (-due[:, part].sum(), excess[part], -lack[part])))


def _filled(left: npt.NDArray[np.int64], empty: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.uint8]:
    """(count,) parts for single pictures: the later parts get what they lack, the first one the rest."""
    room = np.maximum(left, 0)
    # What other parts were overfilled by is missing here: the first part gives it, then the others, and only then what
    # is the only picture of its part.
    short = int(room.sum()) - count
    for least in (np.minimum(room, empty), np.zeros_like(room)):
        for part in range(len(room)):
            taken = max(0, min(short, int(room[part] - least[part])))
            room[part] -= taken
            short -= taken
    return np.repeat(np.arange(len(room), dtype=np.uint8), room)
