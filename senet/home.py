"""Where a run writes: data sets, bases, sweeps and tracking lie below one folder."""

import os
from pathlib import Path


def home() -> Path:
    """The folder that everything is written below: `SWEEPS_HOME`, else `./mlruns`; absolute."""
    return Path(os.environ.get("SWEEPS_HOME") or "mlruns").resolve()
