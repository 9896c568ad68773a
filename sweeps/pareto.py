"""Who is beaten by whom where two things are wanted."""

from bisect import bisect_right
from collections.abc import Sequence


def ranks(points: Sequence[tuple[float, float]]) -> list[int]:
    """Non-dominated rank of every point (Deb et al. 2002): 0 for those that no other beats, 1 for those that only these
    beat, and so on. More is better in both coordinates; a point that is as good in one and better in the other beats.
    """
    found = [0] * len(points)
    # Of every rank the largest second coordinate so far, negated: ascending.
    tops: list[float] = []
    before = None
    for i in sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1])):
        if before is not None and points[before] == points[i]:
            found[i] = found[before]
            continue
        # All that came before are at least as good in the first coordinate.
        found[i] = bisect_right(tops, -points[i][1])
        tops[found[i] : found[i] + 1] = [-points[i][1]]
        before = i
    return found
