"""What to train next: one more streaming setting on a base that stands, or a new base.

Both are judged by their expected gain a second. Joint values are taken as normal: x = base + setting, the base's part
with one variance, the setting's with another (a random-effects model), estimated from the trials so far. Of a choice
that is followed by k streaming settings, the gain is E max(0, best of the k − best so far), for the k at which gain
over seconds is largest.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Floats = npt.NDArray[np.float64]

_SETTINGS = np.array([1, 2, 4, 8, 16])
# Bases beyond the best so many, by their mean, are not worth a look.
_CANDIDATES = 32
_STEPS = 48
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
# Deviations are estimated from few values, that between bases from the fewest: neither is taken for less than such a
# share of the other.
_LEAST_WITHIN, _LEAST_BETWEEN = 0.05, 0.5


def next_base(
    joints: Mapping[str, Sequence[float]], open_bases: Sequence[str], base_seconds: float, streaming_seconds: float
) -> str | None:
    """The base, among `open_bases`, that the next streaming setting belongs to; None: a new base.

    Args:
        joints: finished joint values by base; at least two bases, one of them with two values.
        open_bases: bases that a setting can be tried on.
        base_seconds, streaming_seconds: what a base and a streaming phase cost.
    """
    values = {base: np.asarray(found, float) for base, found in joints.items() if len(found)}
    means = np.array([v.mean() for v in values.values()])
    counts = np.array([len(v) for v in values.values()])
    within, between = _deviations(list(values.values()), means, counts)
    centre, best = float(means.mean()), max(float(v.max()) for v in values.values())
    known = {base: i for i, base in enumerate(values)}
    candidates = [base for base in open_bases if base in known]
    candidates = sorted(candidates, key=lambda base: -means[known[base]])[:_CANDIDATES]
    # What is known of a base: its mean, drawn to the centre by how little it has been tried.
    shrink = within**2 / between**2
    rows = np.array([known[base] for base in candidates], dtype=int)
    expected = (counts[rows] * means[rows] + shrink * centre) / (counts[rows] + shrink)
    unsure = within / np.sqrt(counts[rows] + shrink)
    rates = _rates(
        np.append(expected, centre),
        np.append(unsure, between),
        within,
        best,
        np.append(np.zeros(len(rows)), base_seconds),
        streaming_seconds,
    )
    chosen = int(np.argmax(rates))
    return candidates[chosen] if chosen < len(candidates) else None


def _deviations(values: list[Floats], means: Floats, counts: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Standard deviations within and between bases."""
    residuals = np.concatenate([v - m for v, m in zip(values, means, strict=True)])
    within = float(np.square(residuals).sum() / max(1, len(residuals) - len(values))) ** 0.5
    spread = float(means.var(ddof=1)) - within**2 * float((1 / counts).mean())
    between = max(spread, 0.0) ** 0.5
    floor = 1e-4
    return max(within, _LEAST_WITHIN * between, floor), max(between, _LEAST_BETWEEN * within, floor)


def _rates(
    centres: Floats, unsure: Floats, within: float, best: float, first_seconds: Floats, streaming_seconds: float
) -> Floats:
    """Expected gain a second of each choice, (N,), for its best number of settings."""
    base = centres[:, None] + unsure[:, None] * _NODES  # (N, nodes)
    high = np.maximum(base.max(axis=1) + 6 * within, best + 1e-9)
    x = best + (high - best)[:, None] * np.linspace(0, 1, _STEPS)  # (N, steps)
    below = ndtr((x[:, None, :] - base[:, :, None]) / within)  # (N, nodes, steps)
    above = 1 - below[..., None, :] ** _SETTINGS[:, None]  # (N, nodes, k, steps)
    gains = np.trapezoid(above, x[:, None, None, :], axis=-1)  # (N, nodes, k)
    expected = np.einsum("nwk,w->nk", gains, _WEIGHTS / _WEIGHTS.sum())
    seconds = first_seconds[:, None] + _SETTINGS * streaming_seconds
    rates: Floats = (expected / seconds).max(axis=1)
    return rates
