"""How sure the difference of two configurations is, trained with the same seeds and judged on the same pictures."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

REPLICATES = 10_000
# Random numbers that are drawn at a time.
_CHUNK = 2_000_000

Differences = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A mean difference of joints with its 95 % interval, as fractions."""

    mean: float
    low: float
    high: float


def paired_interval(original: Differences, streaming: Differences, weight: float, seed: int = 0) -> Interval:
    """Mean and 95 % interval of weight · original + (1 − weight) · streaming.

    Every replicate draws seeds anew and pictures anew, with replacement, each picture for all seeds at once: all seeds
    are judged on the same pictures, so that their errors on a picture go together (the pigeonhole bootstrap, Owen 2007,
    The Annals of Applied Statistics 1(2), 386–411).

    Of the replicates the variance counts: percentiles of two or three seeds drawn from themselves say little. The
    interval is Student's t, with degrees of freedom after Satterthwaite (1946): S − 1 where the luck of the seeds is
    all, many where the pictures are.

    Args:
        original: (S, N) first − second of the hits (0 or 1) of every seed on the base pictures; two seeds or more.
        streaming: (S, M) the same on the streaming pictures.
        weight: of the original accuracy in the joint.
        seed: of the replicates; the same arguments give the same interval.
    """
    count, rng = len(original), np.random.default_rng(seed)
    # A few values drawn from themselves vary less than what they stand for, by (S − 1) / S in variance.
    widening = np.sqrt(count / (count - 1))
    chunk = max(1, _CHUNK // max(original.shape[1], streaming.shape[1]))
    replicates = list[Differences]()
    for start in range(0, REPLICATES, chunk):
        size = min(chunk, REPLICATES - start)
        seeds = 1 / count + widening * (rng.multinomial(count, np.full(count, 1 / count), size) - 1) / count
        parts = (_resampled(part, seeds, rng) for part in (original, streaming))
        replicates.append(np.average([*parts], axis=0, weights=[weight, 1 - weight]))
    found = np.concatenate(replicates)
    by_seed = weight * original.mean(axis=1) + (1 - weight) * streaming.mean(axis=1)
    mean, of_seeds, whole = float(by_seed.mean()), by_seed.var(ddof=1) / count, found.var()
    freedom = (count - 1) * (whole / of_seeds) ** 2 if of_seeds else np.inf
    half = float(student.ppf(0.975, max(count - 1, freedom)) * np.sqrt(whole))
    return Interval(mean, mean - half, mean + half)


def _resampled(differences: Differences, seeds: Differences, rng: np.random.Generator) -> Differences:
    """(R,) means over seeds with the weights `seeds`, (R, S), and over as many pictures as there are."""
    by_picture = seeds @ differences
    drawn = rng.integers(by_picture.shape[1], size=by_picture.shape)
    found: Differences = np.take_along_axis(by_picture, drawn, axis=1).mean(axis=1)
    return found
