"""Drawn dog faces: single-label breeds, and multi-label mixes whose pictures blend two parents.

A breed is a vector of looks (ears, coat, muzzle, markings …). A picture is one noisy rendering of
it: the looks vary, the pose, light and background change, and something may stand in front. A mix
inherits every gene from one parent or blends both, always in the same way, and carries both labels.

The pictures are meant to be the same on every machine and with every NumPy: all random numbers are raw PCG64
words, and pixels are computed one by one with + - * / and square roots alone, which IEEE 754 rounds
exactly. (A processor or build that fuses or relaxes float32 arithmetic could flip single bytes.)
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from senet.data.dogs import GENE_OF_COLUMN, GENES, HIGH, JITTER, LOW, Dice, Easel, Floats, random_bits, random_words
from senet.data.store import SPLITS, DatasetWriter, SetName, command_line, writing
from senet.errors import InputError

_NAMES = (
    "alder-hound amber-spaniel birch-terrier bramble-collie cinder-mastiff clover-corgi copper-setter dune-whippet "
    "ember-spitz fen-retriever frost-husky gorse-beagle harbour-poodle heath-pointer iron-schnauzer juniper-pug "
    "kelp-newfie lark-papillon marsh-barbet nettle-shiba oat-sheepdog pepper-dane quarry-boxer rye-dachshund "
    "sorrel-basset thistle-akita umber-vizsla willow-saluki"
)

# One random stream per purpose, so that asking for more of one thing changes no other.
_FAMILY, _BREED, _PAIR, _LITTER, _BASE, _STREAMING = range(6)
_FAMILIES, _FAMILY_SHARE = 6, 0.5
_CHUNK = 32


@dataclass(frozen=True, kw_only=True)
class BreedsSpec:
    """What to draw. Raises InputError, naming the option and its range, where a value is out of it."""

    breeds: int = 24
    """classes, 2 to 200"""
    mixes: int = 8
    """pairs of parents in the streaming set"""
    skip_mixes: int = 0
    """so many pairs before them are left out: those of an earlier data set"""
    train_per_breed: int = 60
    """pictures, at least 2; in the other splits at least 1"""
    validation_per_breed: int = 42
    test_per_breed: int = 42
    train_per_mix: int = 60
    validation_per_mix: int = 126
    test_per_mix: int = 126
    size: int = 48
    """side of the square pictures, pixels, 16 to 512"""
    seed: int = 0
    difficulty: float = 1.25
    """scales the variation within a breed, pose, light, background, noise and occlusion, 0 (clean pictures) to 10"""

    def __post_init__(self) -> None:
        low = {"breeds": 3, "mixes": 1, "skip_mixes": 0, "size": 16, "seed": 0, "difficulty": 0}
        low |= {f"{split}_per_{kind}": 1 + (split == "train") for split in SPLITS for kind in ("breed", "mix")}
        pairs = self.breeds * (self.breeds - 1) // 2
        high = {"breeds": 200, "mixes": pairs, "skip_mixes": pairs - self.mixes, "size": 512, "difficulty": 10}
        for option, least in low.items():
            value, most = getattr(self, option), high.get(option, math.inf)
            if not least <= value <= most:
                wanted = f"at least {least}" if most == math.inf else f"{least} to {most}"
                raise InputError(f"`{option}` must be {wanted}, but got {value}")

    def classes(self) -> tuple[str, ...]:
        """Names of the breeds."""
        named = _NAMES.split()
        return (*named, *(f"breed-{i + 1}" for i in range(len(named), self.breeds)))[: self.breeds]

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of pictures by set and split."""
        return {
            which: {split: number * getattr(self, f"{split}_per_{kind}") for split in SPLITS}
            for which, kind, number in (("base", "breed", self.breeds), ("streaming", "mix", self.mixes))
        }


def prepare_breeds(folder: Path, spec: BreedsSpec, replace: bool = False) -> None:
    """Draw the data set `folder`: base pictures (N, size, size, 3) of breeds, streaming ones of mixes.

    Pictures are ordered by split, then by breed or mix. Picture i of a breed (or mix) and split does
    not depend on how many pictures are asked for, nor on how many mixes are left out before it.

    Args:
        folder: the data set's folder, which appears whole or not at all.
        spec: what to draw.
        replace: whether to replace a data set of this name.

    Raises:
        InputError: `folder` exists and `replace` is false.
    """
    names = spec.classes()
    looks = _breed_looks(spec)
    pairs = _pairs(spec)
    options = [word for key, value in asdict(spec).items() for word in (f"--{key.replace('_', '-')}", value)]
    source = {
        "generator": "breeds",
        "command": command_line("senet", "data", "breeds", folder.name, *options),
        **asdict(spec),
        "mix_names": [f"{names[a]}+{names[b]}" for a, b in pairs],
    }
    with writing(folder, replace) as writer:
        _draw_set(writer, "base", spec, looks, [(breed, breed) for breed in range(spec.breeds)], 0)
        _draw_set(writer, "streaming", spec, looks, pairs, spec.skip_mixes)
        writer.finish(names, "one object of mixed kind", source, {"name": "drawn", "seed": spec.seed})


def _draw_set(
    writer: DatasetWriter, which: SetName, spec: BreedsSpec, looks: Floats, parents: list[tuple[int, int]], first: int
) -> None:
    """Draw the pictures of `parents`, the first of which is breed or mix number `first`."""
    kind, purpose = ("breed", _BASE) if which == "base" else ("mix", _STREAMING)
    counts = [getattr(spec, f"{split}_per_{kind}") for split in SPLITS]
    images = writer.create_images(which, sum(counts) * len(parents), spec.size)
    labels = np.zeros((len(images), spec.breeds), np.bool_)
    split_of = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), np.array(counts) * len(parents))
    start = 0
    for split, count in enumerate(counts):
        for group, (a, b) in enumerate(parents, first):
            labels[start : start + count, [a, b]] = True
            weights = _litter_weights(spec.seed, group)
            for chunk in _pictures(spec, looks[a], looks[b], weights, count, (purpose, group, split)):
                images[start : start + len(chunk)] = chunk
                start += len(chunk)
    writer.write_labels(which, labels, split_of)


def _breed_looks(spec: BreedsSpec) -> Floats:
    """(breeds, columns); about half of a breed's genes are those of its family, so that relatives resemble."""
    looks = np.empty((spec.breeds, len(JITTER)), np.float32)
    for breed in range(spec.breeds):
        family = Dice(random_bits(spec.seed, _FAMILY, breed % _FAMILIES)).uniform(len(GENES))[0]
        dice = Dice(random_bits(spec.seed, _BREED, breed))
        own = dice.uniform(len(GENES))[0]
        pick = np.where(dice.uniform(len(GENES))[0] < _FAMILY_SHARE, family, own)
        chosen = [variants[int(p * len(variants))] for (_, _, variants), p in zip(GENES, pick, strict=True)]
        # Even breeds with the same variants everywhere are not the same dog.
        offset = 0.25 * JITTER * dice.normal(len(JITTER))[0]
        looks[breed] = np.clip(np.concatenate(chosen).astype(np.float32) + offset, LOW, HIGH)
    return looks


def _pairs(spec: BreedsSpec) -> list[tuple[int, int]]:
    """Distinct pairs of parents; each next pair takes the breeds that were used least."""
    pairs = np.stack(np.triu_indices(spec.breeds, 1))
    first, second = pairs[
        :, np.argsort(random_words(random_bits(spec.seed, _PAIR), 1, pairs.shape[1])[0], kind="stable")
    ]
    used = np.zeros(spec.breeds, np.int64)
    taken = np.zeros(len(first), np.bool_)
    chosen: list[tuple[int, int]] = []
    for _ in range(spec.skip_mixes + spec.mixes):
        load = used[first] + used[second] + 1000 * np.maximum(used[first], used[second])
        best = int(np.argmin(np.where(taken, np.iinfo(np.int64).max, load)))
        taken[best] = True
        chosen.append((int(first[best]), int(second[best])))
        used[[*chosen[-1]]] += 1
    return chosen[spec.skip_mixes :]


def _litter_weights(seed: int, mix: int) -> Floats:
    """(genes,) the first parent's share: half of the genes from each parent, a last odd one blended."""
    dice = Dice(random_bits(seed, _LITTER, mix))
    rank = np.argsort(np.argsort(dice.uniform(len(GENES))[0], kind="stable"), kind="stable")
    blend = 0.35 + 0.3 * dice.uniform(len(GENES))[0]
    half = len(GENES) // 2
    return np.where(rank < half, 0, np.where(rank < 2 * half, 1, blend)).astype(np.float32)


def _pictures(
    spec: BreedsSpec, a: Floats, b: Floats, weights: Floats, count: int, key: tuple[int, int, int]
) -> Iterator[npt.NDArray[np.uint8]]:
    """Chunks (n, size, size, 3) of `count` pictures of the parents `a` and `b`, each (columns,)."""
    traits, sensor = random_bits(spec.seed, *key, 0), random_bits(spec.seed, *key, 1)
    for start in range(0, count, _CHUNK):
        rows = min(_CHUNK, count - start)
        dice = Dice(traits, rows)
        shares = np.clip(weights + 0.12 * spec.difficulty * dice.normal(len(GENES)), 0, 1)[:, GENE_OF_COLUMN]
        looks = b + shares * (a - b) + spec.difficulty * JITTER * dice.normal(len(JITTER))
        easel = Easel(np.clip(looks, LOW, HIGH), dice, spec.size, spec.difficulty)
        easel.body_and_ears()
        easel.head()
        easel.face()
        yield easel.photograph(random_words(sensor, rows, 3 * spec.size * spec.size))
