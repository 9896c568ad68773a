"""A driver without Ray, and what would be told to it."""

import io
import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console

from senet.data.catalogue import Description
from sweeps.config import validate_recipe
from sweeps.driver import Driver
from sweeps.ledger import Ledger
from sweeps.progress import PlainView, Tally
from sweeps.sweep import Sweep, create_sweep
from sweeps.tracking import SweepTracking
from tests.conftest import merged
from tests.sweeps.commands import RECIPE

DATA = Description("tiny", tuple("abcdef"), 24, {}, 2)


class Session:
    """A driver, and what Ray and the trials would tell it."""

    def __init__(self, home: Path, search: dict[str, Any], resources: dict[str, Any]) -> None:
        recipe = validate_recipe(merged(RECIPE, {"search": search, "resources": resources}), "r")
        self.sweep: Sweep = create_sweep(home, None, "s", recipe, "data")
        self.ledger = Ledger(self.sweep.folder, self.sweep.name, create=True)
        self.said = io.StringIO()
        self.drive()

    def drive(self) -> None:
        """Begin a session."""
        recipe = self.sweep.recipe()
        view = PlainView(Console(file=self.said, width=200), Tally(recipe.search.trials, []))
        self.tracking = tracking = SweepTracking(self.sweep.home, self.sweep.name, self.sweep.about()["id"])
        tracking.begin({})
        largest = {"cpu": 2.0, "gpu": 4.0}
        gpus = 1.0 if recipe.resources.by_size else math.inf
        self.driver = Driver(self.sweep, self.ledger, tracking, view, DATA, 8, largest, gpus)

    def begin(self) -> dict[str, Any]:
        assignment = self.driver.next_assignment(f"t{len(self.ledger.entries())}")
        assert assignment is not None
        self.id = f"t{len(self.ledger.entries()) - 1}"
        return assignment

    def end(self, assignment: dict[str, Any], trial_id: str | None = None, **result: Any) -> None:
        """The trial leaves its process with a result."""
        folder = Path(assignment["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps({"seconds": 1.0, "history": [], **result}))
        self.driver.ended(trial_id or self.id, died=False)

    def complete(self, assignment: dict[str, Any], joint: float, trial_id: str | None = None, **result: Any) -> None:
        metrics = {name: joint for name in ("joint", "original_topk", "streaming_topk", "base_topk")}
        self.end(assignment, trial_id, state="complete", metrics=metrics, base_key="k", base_reused=False, **result)
