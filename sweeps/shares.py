"""What share of a GPU a trial gets: what the recipe says of its size, or, for `auto`, by what trials were seen to use.

Memory grows with a network's weights and with what it keeps of a batch for the way back. A trial whose network has no
more of either than one that was measured needs no more than that one needed.
"""

import math
from collections.abc import Callable

from sweeps.config import SMALLEST_SHARE, ResourcesConfig
from sweeps.ledger import Entry
from sweeps.space import Params

_SHARES = (SMALLEST_SHARE, 0.25, 0.5, 1.0)
# What is not seen in the peak: fragments, and the other settings of a trial, such as a teacher for distillation.
_MARGIN = 1.25

Size = tuple[int, int]
"""parameters of a network, and activations of a batch"""


class Shares:
    """Shares for the trials of one sweep; learns from their results.

    Args:
        resources: what the recipe says.
        size_of: of a configuration's network.
    """

    def __init__(self, resources: ResourcesConfig, size_of: Callable[[Params], Size]) -> None:
        self._resources, self._size_of = resources, size_of
        self._peaks: dict[Size, float] = {}

    def learn(self, entry: Entry) -> None:
        """What a trial has used, if it was measured and trained its own base."""
        memory = entry.result.get("gpu_memory")
        if self._resources.gpu == "auto" and memory is not None and entry.result.get("base_reused") is False:
            size = self._size_of(entry.params)
            self._peaks[size] = max(self._peaks.get(size, 0.0), memory["fraction"])

    def of(self, params: Params) -> dict[str, float]:
        """Cores and GPUs for a trial; for `auto` a whole GPU where none of its size was measured."""
        if not self._resources.by_size:
            return self._resources.most()
        size = self._size_of(params)
        measured = {"gpu": self._measured(size)} if self._resources.gpu == "auto" else {}
        return self._resources.of(size[0]) | measured

    def _measured(self, size: Size) -> float:
        parameters, activations = size
        bounds = [peak for size, peak in self._peaks.items() if size[0] >= parameters and size[1] >= activations]
        needed = _MARGIN * min(bounds, default=math.inf)
        return next((share for share in _SHARES if share >= needed), 1.0)
