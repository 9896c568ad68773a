"""Which pictures a trial's network got right: its streaming phase is run again on its base, which is in the store.

Base and streaming phase give the same numbers wherever they run on the same kind of machine, so that nothing but bases
must be kept of trials that nobody asks about. `hits.npz` in a trial's folder holds, for every split that was looked at,
(N,) bool for its base pictures, `SPLIT.original`, and for its streaming pictures, `SPLIT.streaming`, in the data set's
order.
"""

import io
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from senet.config import TrialConfig
from senet.data.catalogue import obtain_dataset
from senet.data.store import Split
from senet.files import write_atomically
from sweeps.shared import Shared, here
from sweeps.sweep import look_again


class Hits(NamedTuple):
    """Whether the top-k of each picture of a split was right, (N,) bool."""

    original: npt.NDArray[np.bool_]
    streaming: npt.NDArray[np.bool_]


def read_hits(folder: Path) -> dict[str, Hits]:
    """What `measure_hits` left in a trial's folder, by split; nothing where it left nothing that can be read."""
    look_again(folder)
    try:
        with np.load(folder / "hits.npz") as file:
            splits = {name.partition(".")[0] for name in file}
            return {split: Hits(file[f"{split}.original"], file[f"{split}.streaming"]) for split in splits}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}


def measure_hits(assignment: dict[str, Any]) -> None:
    """Run a trial again and write down its hits, in a worker.

    Args:
        assignment: `config`: a complete trial config; `home`; `bucket`: its URL, if it is one; `folder`: the trial's;
            `gpu`: its share; `splits`: to look at; `trainer`: who would train the base, should it have left the store.
    """
    # torch is for the worker: the driver, which only names this function, does without it.
    import torch

    from senet.checkpoint import restored
    from senet.device import make_runtime
    from senet.evaluation import Evaluation
    from senet.initial import normalised_for
    from senet.metrics import topk_hits
    from senet.phases import stream
    from senet.protocols import for_protocol
    from sweeps.bases import BaseStore

    config = TrialConfig.model_validate(assignment["config"])
    home, folder = here(assignment["home"], assignment["bucket"], assignment["folder"])
    k = config.objective.top_k
    dataset = for_protocol(config, normalised_for(config, obtain_dataset(home, config.data)))
    runtime = make_runtime("cuda" if assignment["gpu"] else "cpu", config.precision)
    runtime.hold_to(assignment["gpu"])
    bases = BaseStore(home / "bases")
    key, base, _ = bases.obtain(config, dataset, runtime, _nothing, assignment["trainer"], wait=True)
    if config.streaming.ewc:
        base = bases.with_importance(key, base, config, dataset, runtime)
    streamed = stream(config, base, dataset, runtime, _nothing)
    model = restored(config.model, streamed.state, len(dataset.classes))
    model.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    found: dict[str, npt.NDArray[np.bool_]] = {}
    splits: list[Split] = assignment["splits"]
    for split in splits:
        scores = Evaluation(config, dataset, split, runtime).scores(model)
        found[f"{split}.original"] = topk_hits(scores.base_logits, scores.base_labels, k).cpu().numpy()
        found[f"{split}.streaming"] = topk_hits(scores.logits, scores.labels, k).cpu().numpy()
    file = io.BytesIO()
    np.savez_compressed(file, **found)  # type: ignore[arg-type]
    write_atomically(folder / "hits.npz", file.getvalue())
    Shared(home).pass_on(folder / "hits.npz")


def _nothing(report: dict[str, Any]) -> None:
    """Hear a report."""
