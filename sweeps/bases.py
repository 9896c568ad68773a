"""The base store: a base that was trained once serves every trial whose base would be the same.

`bases/KEY/` holds weights.safetensors and, written last, base.json: a folder without base.json is a base in the
making, whose progress.pt a later trial goes on from. importance.safetensors joins them where it is asked for.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from senet.config import TrialConfig, fingerprint
from senet.data.store import Dataset
from senet.device import Runtime
from senet.files import write_atomically
from senet.loop import OnEpoch, Trained
from senet.phases import base_fingerprint, base_in_the_making, stream, train_base, with_importance


class BaseStore:
    """Bases below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def obtain(
        self, config: TrialConfig, dataset: Dataset, runtime: Runtime, on_epoch: OnEpoch, trainer: str
    ) -> tuple[str, Trained, bool]:
        """The base of `config`, loaded if it was trained before, else trained and kept.

        Args:
            trainer: who asks. A trial that was started again after it had trained its base still trained it.

        Returns:
            Its key, the base, and whether somebody else had trained it.
        """
        key = base_fingerprint(config, dataset, runtime)
        stored = self.load(key)
        if stored is not None:
            return key, stored, self._trainer(key) != trainer
        progress = self._folder / key / "progress.pt"
        trained = train_base(config, dataset, runtime, on_epoch, progress)
        about = {"config": config.base_identity(), "data": dataset.name, "environment": runtime.identity()}
        about["trainer"] = trainer
        self._save(key, trained, about)
        progress.unlink(missing_ok=True)
        return key, trained, False

    def with_importance(
        self, key: str, base: Trained, config: TrialConfig, dataset: Dataset, runtime: Runtime
    ) -> Trained:
        """The base of this key with the importance of its weights, computed once and kept beside it."""
        path = self._folder / key / "importance.safetensors"
        try:
            return dataclasses.replace(base, importance=load(path.read_bytes()))
        except (OSError, ValueError, SafetensorError):
            found = with_importance(config, base, dataset, runtime)
            assert found.importance is not None
            write_atomically(path, save(found.importance))
            return found

    def probe(self, config: TrialConfig, dataset: Dataset, runtime: Runtime, epoch: int) -> dict[str, float] | None:
        """What the streaming phase of `config`, a short one, makes of its base in the making: probe_joint and both
        accuracies.

        It is taken once and kept beside the base; its weights are thrown away. None where the base is not at `epoch`.
        """
        key = base_fingerprint(config, dataset, runtime)
        settings = fingerprint([config.streaming.model_dump(mode="json"), config.objective.original_weight])
        path = self._folder / key / f"probe-{epoch}-{settings}.json"
        try:
            found: dict[str, float] = json.loads(path.read_text())
            return found
        except (OSError, ValueError):
            base = base_in_the_making(config, dataset, runtime, self._folder / key / "progress.pt", epoch)
            if base is None:
                return None
            if config.streaming.ewc:
                base = with_importance(config, base, dataset, runtime)
            last = stream(config, base, dataset, runtime, lambda report: None).history[-1]
            found = {f"probe_{name}": last[name] for name in ("joint", "original_topk", "streaming_topk")}
            write_atomically(path, json.dumps(found).encode())
            return found

    def load(self, key: str) -> Trained | None:
        """The base of this key; None where there is none, or its weights are not what was written."""
        folder = self._folder / key
        try:
            about = json.loads((folder / "base.json").read_text())
            weights = (folder / "weights.safetensors").read_bytes()
            if hashlib.sha256(weights).hexdigest() != about["sha256"]:
                return None
            return Trained(load(weights), about["history"], about["seconds"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None

    def _trainer(self, key: str) -> str:
        return str(json.loads((self._folder / key / "base.json").read_text())["trainer"])

    def _save(self, key: str, trained: Trained, about: Mapping[str, object]) -> None:
        folder = self._folder / key
        weights = save(trained.state)
        described = dict(about) | {
            "sha256": hashlib.sha256(weights).hexdigest(),
            "seconds": trained.seconds,
            "history": trained.history,
        }
        write_atomically(folder / "weights.safetensors", weights)
        write_atomically(folder / "base.json", json.dumps(described, indent=2).encode())
