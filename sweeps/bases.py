"""The base store: a base that was trained once serves every trial whose base would be the same.

A base is trained under a lease, so that of all that want it, in this sweep or others, on this machine or those that
share its disk, one trains it. Machines that share a bucket have no leases between them: of several that train the same
base the first to complete it wins. What lies where, and what can be removed, is in `sweeps.inventory`.
"""

import dataclasses
import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from senet.config import TrialConfig, fingerprint
from senet.data.store import Dataset
from senet.device import Runtime
from senet.files import aside, write_atomically
from senet.loop import OnEpoch, Report, Trained
from senet.phases import base_fingerprint, base_in_the_making, stream, train_base, with_importance
from sweeps.inventory import Inventory, quota, weights_path
from sweeps.lease import DEFAULT, BaseHeld, Lease, LeaseHeld, LeaseLost, Timing, take_lease
from sweeps.shared import Shared


class BaseStore:
    """Bases below one folder."""

    def __init__(self, folder: Path, timing: Timing = DEFAULT) -> None:
        self._folder, self._timing = folder, timing
        self._shared = Shared(folder.parent)

    def obtain(
        self,
        config: TrialConfig,
        dataset: Dataset,
        runtime: Runtime,
        on_epoch: OnEpoch,
        trainer: str,
        wait: bool = False,
    ) -> tuple[str, Trained, bool]:
        """The base of `config`, loaded if it was trained before, else trained and kept.

        Args:
            trainer: who asks. A trial that was started again after it had trained its base still trained it.
            wait: while somebody else trains the base, wait; until it is there, or he gives up or dies.

        Returns:
            Its key, the base, and whether somebody else had trained it.

        Raises:
            BaseHeld: somebody else trains it, and `wait` is not set; also if he has taken it over, because this
                process was stopped for too long.
        """
        key = base_fingerprint(config, dataset, runtime)
        while (stored := self.load(key)) is None:
            try:
                with take_lease(self._folder / key, trainer, self._timing) as lease:
                    # Between the look and the lease somebody may have finished it.
                    if self.load(key) is None:
                        return key, self._train(key, config, dataset, runtime, on_epoch, trainer, lease), False
            except LeaseHeld as held:
                if not wait:
                    raise BaseHeld(key, held.holder) from None
                time.sleep(self._timing.poll_seconds)
            except LeaseLost:
                if self.load(key) is not None:
                    # What was written here after the other's clearing up.
                    _clear_up(self._folder / key)
        return key, stored, self._trainer(key) != trainer

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
        streaming = config.streaming.model_dump(mode="json")
        settings = fingerprint([config.protocol, streaming, config.objective.original_weight])
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
        if self._shared.url is not None and not (folder / "base.json").exists():
            self._fetch(folder)
        try:
            about = json.loads((folder / "base.json").read_text())
            weights = weights_path(folder, about).read_bytes()
            if hashlib.sha256(weights).hexdigest() != about["sha256"]:
                return None
            base = Trained(load(weights), about["history"], about["seconds"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None
        # Bases that may only be read are as good.
        with suppress(OSError):
            (folder / "used").write_bytes(b"\n")
        return base

    def _fetch(self, folder: Path) -> None:
        """Get a base from the bucket if it is complete there, else what somebody has left of it in the making."""
        if self._shared.read(folder / "base.json") is not None:
            self._shared.fetch_folder(folder, last="base.json")
        elif not (folder / "progress.pt").exists():
            self._shared.fetch(folder / "progress.pt")

    def _trainer(self, key: str) -> str:
        return str(json.loads((self._folder / key / "base.json").read_text())["trainer"])

    def _train(
        self,
        key: str,
        config: TrialConfig,
        dataset: Dataset,
        runtime: Runtime,
        on_epoch: OnEpoch,
        trainer: str,
        lease: Lease,
    ) -> Trained:
        """Train a base, or go on with it, and keep it. Raises LeaseLost if somebody else does so meanwhile."""
        folder = self._folder / key
        about = {"config": config.base_identity(), "data": dataset.name, "environment": runtime.identity()}
        about["trainer"] = trainer

        def on_own_epoch(report: Report) -> None:
            if not lease.held():
                raise LeaseLost
            if (folder / "progress.pt").exists():
                self._shared.pass_on(folder / "progress.pt")
            on_epoch(report)

        try:
            write_atomically(folder / "making.json", json.dumps(about, indent=2).encode())
            self._shared.pass_on(folder / "making.json")
            trained = train_base(config, dataset, runtime, on_own_epoch, folder / "progress.pt")
            self._publish(folder, trained, about, lease)
        except OSError:
            # Files that another holder's clearing up has taken away are no error.
            if lease.held():
                raise
            raise LeaseLost from None
        return trained

    def _publish(self, folder: Path, trained: Trained, about: dict[str, Any], lease: Lease) -> None:
        """Make a base complete, unless it is: the first to complete it wins. Raises LeaseLost for the others."""
        weights = save(trained.state)
        checksum = hashlib.sha256(weights).hexdigest()
        # Named by what is in them: whoever else writes here writes other files, or the same.
        path = folder / f"weights-{checksum[:16]}.safetensors"
        about |= {"weights": path.name, "sha256": checksum, "seconds": trained.seconds, "history": trained.history}
        text = json.dumps(about, indent=2).encode()
        Inventory(self._folder, self._timing).make_room(len(weights) + len(text), quota())
        if not lease.held() or self.load(folder.name) is not None:
            raise LeaseLost
        # If there is one it belongs to a base that is damaged.
        (folder / "base.json").unlink(missing_ok=True)
        write_atomically(path, weights)
        if not _write_first(folder / "base.json", text):
            raise LeaseLost
        self._shared.pass_on(path, folder / "base.json")
        for name in ("making.json", "progress.pt"):
            self._shared.remove(folder / name)
        _clear_up(folder)


def _write_first(path: Path, content: bytes) -> bool:
    """Put `content` at `path` whole, unless there is a file; returns whether there was none."""
    temporary = aside(path)
    try:
        with temporary.open("xb") as file:
            file.write(content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:
            # Some shares have no hard links; a look before the renaming is then nearly as good.
            if path.exists():
                return False
            os.replace(temporary, path)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _clear_up(folder: Path) -> None:
    """Remove what a complete base no longer needs, also what processes that were killed have left."""
    weights = weights_path(folder, json.loads((folder / "base.json").read_text()))
    left = ("making.json", "progress.pt", "probe-*.json", ".progress.pt-*", ".weights-*", "weights*.safetensors")
    for pattern in left:
        for path in folder.glob(pattern):
            if path != weights:
                path.unlink(missing_ok=True)
