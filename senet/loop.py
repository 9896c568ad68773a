"""The training loop that both phases share: epochs, non-finite values, progress, reports.

Every epoch starts from random state of its own, made from (seed, phase, epoch), and every phase starts from weights
that were written down. So a resumed phase, and a streaming phase on a base that another trial trained, give the
numbers of an undisturbed run, bit for bit.

Several processes may run it together (`senet.parallel`): each computes its part of every batch.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from senet import metrics
from senet.checkpoint import State, host_state, load_progress, save_progress
from senet.config import BaseConfig, StreamingConfig, TrialConfig
from senet.data.batches import Batches
from senet.device import Runtime, reproducible
from senet.errors import NonFiniteError
from senet.parallel import check_workers, decided, replicated, same_buffers, told, total
from senet.schedule import learning_rate_at

Report = dict[str, Any]
OnEpoch = Callable[[Report], None]

_PHASE_SEEDS = {"base": 1, "streaming": 2}

# An update larger than this is as good as infinite: it would leave the finite numbers within a few steps.
_LARGEST_UPDATE = 1e30

# Numbers that lie in 256 bytes, as which torch's allocators align.
_ALIGNED = 64

# So often a phase may go back and try a tenth of its learning rate.
_ROLLBACKS = 3


@dataclass(frozen=True)
class Trained:
    """What a phase leaves: weights on the host, one report an epoch, and the seconds that it took."""

    state: State
    history: list[Report]
    seconds: float
    importance: State | None = None
    """how much each weight matters to what was learned (`senet.streaming.importance`); known where it is asked for"""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one run of the loop trains, and on what."""

    phase: str
    """base or streaming"""
    model: nn.Module
    train: Batches
    criterion: Callable[[Tensor, Tensor, Tensor], Tensor]
    """images (B, 3, H, W), logits (B, C), labels (B, C) → what is minimised, a scalar"""
    evaluate: Callable[[], dict[str, Tensor]]
    """metrics on the validation images, left on the device"""
    frozen: Sequence[nn.Module] = ()
    """parts that stay in evaluation mode"""
    earlier: list[Report] = field(default_factory=list)
    """reports of the same phase's earlier stages"""
    epochs: int
    """of the whole phase, all stages"""


class Loop:
    """Trains a task for its epochs."""

    def __init__(
        self, config: TrialConfig, runtime: Runtime, task: Task, on_epoch: OnEpoch, progress: Path | None
    ) -> None:
        self._config, self._runtime, self._task = config, runtime, task
        self._settings: BaseConfig | StreamingConfig = config.base if task.phase == "base" else config.streaming
        self._on_epoch, self._progress = on_epoch, progress
        self._model = task.model.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._statistics = _shared_statistics(self._model, runtime.device)
        self._steps = task.train.steps(self._settings.batch_size)
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        # Momentum begins at zero, so that a first step that is masked leaves a value behind.
        self._momentum = [torch.zeros_like(p) for p in self._parameters] if self._settings.momentum else []
        self._first_bad = torch.zeros((), dtype=torch.int64)
        # What computes the network in training, and this process's part of a batch.
        self._replica, self._share = self._model, 1.0

    def run(self, identity: str) -> Trained:
        """All epochs that are still to do; `identity` tells this task's progress from another's."""
        history = list(self._task.earlier)
        seconds = history[-1]["seconds"] if history else 0.0
        saved = told(load_progress(self._progress, identity), self._runtime)
        if saved is not None:
            self._model.load_state_dict(saved["model"])
            for buffer, value in zip(self._momentum, saved["momentum"], strict=True):
                buffer.copy_(value)
            history, seconds = saved["history"], saved["seconds"]
            for report in history[len(self._task.earlier) :]:
                self._on_epoch(report)
        self._join()
        first, last = len(self._task.earlier) + 1, len(self._task.earlier) + self._settings.epochs
        for epoch in range(len(history) + 1, last + 1):
            start = time.perf_counter()
            with reproducible():
                values = self._finite_epoch(epoch, first, history)
            seconds += time.perf_counter() - start
            report = self._report(epoch, seconds, values)
            history.append(report)
            if self._progress is not None and epoch < self._task.epochs:
                state = {"model": self._model.state_dict(), "momentum": self._momentum}
                save_progress(self._progress, state | {"identity": identity, "history": history, "seconds": seconds})
            self._on_epoch(report)
        return Trained(host_state(self._model), history, seconds)

    def _join(self) -> None:
        """Become one of several processes that train together, if it is one."""
        if self._runtime.workers > 1:
            size = min(self._settings.batch_size, len(self._task.train))
            check_workers(size, self._runtime.workers, f"`{self._task.phase}.batch_size`")
            self._share = len(range(size)[self._runtime.part(size)]) / size
            self._replica = replicated(self._model, self._runtime)

    def only_evaluate(self) -> Trained:
        """No training: one report, of epoch 0, about the network as it is."""
        start = time.perf_counter()
        values = {name: float(value) for name, value in self._task.evaluate().items()}
        seconds = time.perf_counter() - start
        report = self._report(0, seconds, values)
        self._on_epoch(report)
        return Trained(host_state(self._model), [report], seconds)

    def _report(self, epoch: int, seconds: float, values: dict[str, float]) -> Report:
        about = {"phase": self._task.phase, "epoch": epoch, "epochs": self._task.epochs, "seconds": seconds}
        return about | values

    def _finite_epoch(self, epoch: int, first: int, history: list[Report]) -> dict[str, float]:
        """An epoch without a non-finite value, after going back if the config says so and there was one."""
        rollbacks = int(history[-1].get("rollbacks", 0)) if history else 0
        while True:
            start = self._snapshot() if self._config.nonfinite == "rollback" else None
            problem, values = self._one_epoch(epoch, first, history, 0.1**rollbacks)
            if problem is None:
                # A rate that had to be lowered stays lowered.
                return values | ({"rollbacks": rollbacks} if rollbacks else {})
            if start is None or rollbacks == _ROLLBACKS:
                went_back = f", after going back {rollbacks} times" if rollbacks else ""
                raise NonFiniteError(
                    f"not finite in the {self._task.phase} phase, {problem}{went_back}: lower the rate"
                )
            rollbacks += 1
            self._restore(start)

    def _one_epoch(
        self, epoch: int, first: int, history: list[Report], scale: float
    ) -> tuple[str | None, dict[str, float]]:
        """Train and evaluate; the device is read once, at the end.

        Returns:
            Where it left the finite numbers, if it did, and the epoch's values.
        """
        seed = (self._config.seed * 4 + _PHASE_SEEDS[self._task.phase]) * 100_003 + epoch
        # What is dropped of one process's images says nothing of what is dropped of another's.
        torch.manual_seed(seed + self._runtime.rank * 2**52)
        self._model.train()
        for module in self._task.frozen:
            module.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self._runtime.device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=self._runtime.device)
        rates = []
        epoch_batches = self._task.train.training(
            self._settings.batch_size, self._config.augment, seed, self._runtime.part
        )
        with closing(epoch_batches) as batches:
            for step, (images, labels) in enumerate(batches):
                rates.append(scale * self._rate((epoch - first) * self._steps + step, history))
                sums += self._step(images, labels, rates[-1], step)
        same_buffers(self._model, self._runtime)
        names = ("train_loss", "train_top1", "train_topk")
        values = dict(zip(names, sums / self._steps, strict=True)) | self._task.evaluate()
        # Of nothing there is no largest value.
        kept = self._model.state_dict().values()
        weights = [v for v in kept if v.numel() and (v.is_floating_point() or v.is_complex())]
        weights_finite = torch.nn.utils.get_total_norm(weights, math.inf).isfinite()
        found = torch.stack([*(value.double() for value in values.values()), weights_finite, self._first_bad])
        *numbers, finite, bad = decided(found, self._runtime).tolist()
        result = dict(zip(values, numbers, strict=True))
        phase = self._task.phase
        result |= {f"{phase}_gap": result["train_topk"] - result[f"{phase}_topk"], "learning_rate": rates[-1]}
        if bad >= 0:
            return f"epoch {epoch}, step {int(bad) + 1}, learning rate {rates[int(bad)]:.3g}", result
        if not finite or not all(map(math.isfinite, numbers)):
            return f"epoch {epoch}, on the validation images, learning rate {rates[-1]:.3g}", result
        return None, result

    def _rate(self, step: int, history: list[Report]) -> float:
        if isinstance(self._settings, StreamingConfig):
            return self._settings.learning_rate
        return learning_rate_at(self._settings, step, self._steps, [report["base_loss"] for report in history])

    def _step(self, images: Tensor, labels: Tensor, rate: float, step: int) -> Tensor:
        """One update, masked where loss, gradients or update are not finite: weights, momentum and batch-norm
        statistics then stay as they were, and the first such step is kept, all on the device.

        Returns loss, top-1 and top-k of the whole batch before the update, (3,).
        """
        before = self._statistics.clone()
        with self._runtime.autocast():
            logits = self._replica(images)
        logits = logits.float()
        loss = self._task.criterion(images, logits, labels)
        if self._settings.l1:
            loss = loss + self._settings.l1 * torch.stack([p.abs().sum() for p in self._parameters]).sum()
        self._model.zero_grad(set_to_none=True)
        # Of several processes' gradients the mean is taken, whose parts of the batch may differ by an image.
        weight = torch.full_like(loss, self._share * self._runtime.workers)
        loss.backward(weight)  # type: ignore[no-untyped-call]
        values = self._values(loss, logits, labels)
        used = [i for i, p in enumerate(self._parameters) if p.grad is not None]
        gradients = [self._parameters[i].grad for i in used]
        bad = ~(values[0].isfinite() & (rate * torch.nn.utils.get_total_norm(gradients) < _LARGEST_UPDATE))
        with torch.no_grad():
            # The optimizer as a function: the class would load PyTorch's compiler, for seconds in every process. The
            # fused kernel leaves weights and momentum alone where `found_inf` is one.
            sgd(
                [self._parameters[i] for i in used],
                gradients,
                [self._momentum[i] if self._momentum else None for i in used],
                fused=True,
                found_inf=bad.float(),
                lr=rate,
                momentum=self._settings.momentum,
                weight_decay=self._settings.weight_decay,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
        torch.where(bad, before, self._statistics, out=self._statistics)
        self._first_bad = torch.where(bad & (self._first_bad < 0), step, self._first_bad)
        return torch.where(bad, 0.0, values)

    @torch.no_grad()
    def _values(self, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss, top-1 and top-k of the whole batch, (3,), from those of this process's part."""
        top1 = metrics.top1_hits(logits, labels).double().mean()
        topk = metrics.topk_hits(logits, labels, self._config.objective.top_k).double().mean()
        return total(self._share * torch.stack([loss.double(), top1, topk]), self._runtime)

    def _snapshot(self) -> tuple[State, list[Tensor]]:
        weights = {name: value.clone() for name, value in self._model.state_dict().items()}
        return weights, [buffer.clone() for buffer in self._momentum]

    def _restore(self, snapshot: tuple[State, list[Tensor]]) -> None:
        weights, momentum = snapshot
        self._model.load_state_dict(weights)
        for buffer, value in zip(self._momentum, momentum, strict=True):
            buffer.copy_(value)


def batchnorms(model: nn.Module) -> list[nn.Module]:
    """All batch-norm layers of a network."""
    kinds = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
    return [m for m in model.modules() if isinstance(m, kinds)]


def _shared_statistics(model: nn.Module, device: torch.device) -> Tensor:
    """All batch-norm statistics of `model` moved into one vector, so that one operation keeps or restores them all."""
    found = [
        (module, name)
        for module in batchnorms(model)
        for name in ("running_mean", "running_var")
        if getattr(module, name) is not None
    ]
    # Each begins where a tensor of its own might begin: kernels may count on that.
    sizes = [getattr(module, name).numel() for module, name in found]
    starts = list(accumulate((math.ceil(size / _ALIGNED) * _ALIGNED for size in sizes), initial=0))
    vector = torch.zeros(starts[-1], device=device)
    for (module, name), start, size in zip(found, starts, sizes, strict=False):
        setattr(module, name, vector[start : start + size].copy_(getattr(module, name)))
    return vector
