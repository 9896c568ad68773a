"""The two phases of a trial: base training on single labels, then streaming of multi-label images.

Every epoch starts from random state of its own, made from (seed, phase, epoch), and every phase starts from weights
that were written down. So a resumed phase, and a streaming phase on a base that another trial trained, give the
numbers of an undisturbed run, bit for bit.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from senet import calibration, losses, metrics
from senet.checkpoint import load_progress, save_progress
from senet.config import TrialConfig, fingerprint
from senet.data.batches import Batches
from senet.data.store import Dataset, Split
from senet.device import Runtime
from senet.errors import NonFiniteError
from senet.models import build_model

Report = dict[str, Any]
OnEpoch = Callable[[Report], None]
State = dict[str, Tensor]

# Raised when the same config would train another base: old bases are then no longer used.
_ALGORITHM = 1

_PHASE_SEEDS = {"base": 1, "streaming": 2}


@dataclass(frozen=True)
class Trained:
    """What a phase leaves: weights on the host, one report an epoch, and the seconds that it took."""

    state: State
    history: list[Report]
    seconds: float


def base_fingerprint(config: TrialConfig, dataset: Dataset, runtime: Runtime) -> str:
    """The key of a base: a hash of everything that decides its weights and its accuracy."""
    return fingerprint([_ALGORITHM, config.base_identity(), dataset.fingerprint, runtime.identity()])


def train_base(
    config: TrialConfig, dataset: Dataset, runtime: Runtime, on_epoch: OnEpoch, progress: Path | None = None
) -> Trained:
    """Train from scratch on the base images (thesis §6.1).

    Args:
        on_epoch: called with a report after every epoch; what it raises ends the phase.
        progress: a file that keeps the state after every epoch; a phase that finds its own there goes on from it.

    Reports hold train_loss, train_top1, train_topk, and for the validation images base_top1, base_topk, and
    base_streaming_topk, the streaming accuracy before any streaming.

    Raises:
        NonFiniteError: loss or scores left the finite numbers.
    """
    torch.manual_seed(config.seed)
    model = build_model(config.model, len(dataset.classes))
    train = Batches(dataset, dataset.base, "train", runtime.device)
    evaluation = Evaluation(config, dataset, "validation", runtime)
    loss = losses.LOSSES[config.loss]

    def evaluate() -> dict[str, Tensor]:
        return evaluation.before(evaluation.scores(model))

    def criterion(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        return loss(logits, labels)

    loop = _Loop("base", config, runtime, model, train, criterion, evaluate, on_epoch, progress)
    return loop.run(base_fingerprint(config, dataset, runtime))


def stream(
    config: TrialConfig,
    base: Trained,
    dataset: Dataset,
    runtime: Runtime,
    on_epoch: OnEpoch,
    progress: Path | None = None,
) -> Trained:
    """Stream the multi-label images into a base, without its old images (thesis §6.3).

    Arguments and errors are those of `train_base`. Reports hold train_loss, train_top1, train_topk and, for the
    validation images, original_top1, original_topk, streaming_top1, streaming_topk, streaming_map,
    streaming_exact_match, retention, forgetting and joint.
    """
    model = restored(config, base.state, len(dataset.classes))
    train = Batches(dataset, dataset.streaming, "train", runtime.device)
    evaluation = Evaluation(config, dataset, "validation", runtime)
    base_topk, base_top1 = base.history[-1]["base_topk"], base.history[-1]["base_top1"]
    loss = losses.LOSSES[config.loss]
    weight = config.streaming.distillation
    teacher = _frozen_copy(config, base.state, len(dataset.classes), runtime) if weight else None

    def evaluate() -> dict[str, Tensor]:
        scores = evaluation.scores(model)
        return evaluation.after(scores, base_top1, base_topk, scores.calibration())

    def criterion(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        value = loss(logits, labels)
        if teacher is None:
            return value
        with torch.no_grad(), runtime.autocast():
            wanted = teacher(images)
        return value + weight * losses.distillation(logits, wanted.float())

    loop = _Loop("streaming", config, runtime, model, train, criterion, evaluate, on_epoch, progress)
    return loop.run(fingerprint([config.model_dump(mode="json"), dataset.fingerprint, runtime.identity()]))


class Scores(NamedTuple):
    """Logits (N, C) and labels (N, C) of a split's base images and of its streaming images."""

    base_logits: Tensor
    base_labels: Tensor
    logits: Tensor
    labels: Tensor

    def calibration(self) -> calibration.Calibration:
        """Fitted on all of them."""
        return calibration.fit(torch.cat([self.base_logits, self.logits]), torch.cat([self.base_labels, self.labels]))


class Evaluation:
    """Original and streaming accuracy of a model on one split."""

    def __init__(self, config: TrialConfig, dataset: Dataset, split: Split, runtime: Runtime) -> None:
        self._objective = config.objective
        self._runtime = runtime
        self._base = Batches(dataset, dataset.base, split, runtime.device)
        self._streaming = Batches(dataset, dataset.streaming, split, runtime.device)

    def scores(self, model: nn.Module) -> Scores:
        """What the model says about the split."""
        base, streaming = (predict(model, batches, self._runtime) for batches in (self._base, self._streaming))
        return Scores(base, self._base.labels, streaming, self._streaming.labels)

    def before(self, scores: Scores) -> dict[str, Tensor]:
        """Metrics of a base."""
        values = _accuracy("base", scores.base_logits, scores.base_labels, self._objective.top_k)
        hits = metrics.topk_hits(scores.logits, scores.labels, self._objective.top_k)
        return values | {"base_streaming_topk": hits.double().mean()}

    def after(
        self, scores: Scores, base_top1: float, base_topk: float, calibrated: calibration.Calibration
    ) -> dict[str, Tensor]:
        """Metrics after streaming, given the base's accuracy on the same split.

        Args:
            calibrated: turns logits into probabilities for the exact match.
        """
        k, w = self._objective.top_k, self._objective.original_weight
        values = _accuracy("original", scores.base_logits, scores.base_labels, k)
        values |= _accuracy("streaming", scores.logits, scores.labels, k)
        values["streaming_map"] = metrics.mean_average_precision(scores.logits, scores.labels)
        values["streaming_exact_match"] = metrics.exact_match(calibrated.probabilities(scores.logits), scores.labels)
        original, original_top1 = values["original_topk"], values["original_top1"]
        # A base that knows nothing has nothing to retain.
        values["retention"] = original / base_topk if base_topk > 0 else torch.zeros_like(original)
        values["retention_top1"] = original_top1 / base_top1 if base_top1 > 0 else torch.zeros_like(original)
        values["forgetting"] = base_topk - original
        values["joint"] = w * original + (1 - w) * values["streaming_topk"]
        return values


@torch.inference_mode()
def predict(model: nn.Module, batches: Batches, runtime: Runtime) -> Tensor:
    """Logits (N, C) in fp32 of all images of a split, in their order; the model is left in evaluation mode."""
    model.eval()
    with runtime.autocast():
        return torch.cat([model(images).float() for images in batches.evaluation()])


def restored(config: TrialConfig, state: State, classes: int) -> nn.Module:
    """The network of `config` with the weights of `state`."""
    model = build_model(config.model, classes)
    model.load_state_dict(state)
    return model


def host_state(model: nn.Module) -> State:
    """A copy of all weights and statistics on the host, contiguous."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in model.state_dict().items()}


def _frozen_copy(config: TrialConfig, state: State, classes: int, runtime: Runtime) -> nn.Module:
    model = restored(config, state, classes).eval().requires_grad_(False)
    return model.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _accuracy(prefix: str, logits: Tensor, labels: Tensor, k: int) -> dict[str, Tensor]:
    return {
        f"{prefix}_top1": metrics.top1_hits(logits, labels).double().mean(),
        f"{prefix}_topk": metrics.topk_hits(logits, labels, k).double().mean(),
    }


def learning_rate_at(config: TrialConfig, phase: str, step: int, steps_per_epoch: int) -> float:
    """Learning rate of one step of a phase; `step` counts from 0 over the whole phase."""
    if phase == "streaming":
        return config.streaming.learning_rate
    base = config.base
    if base.schedule == "step":
        epoch = step // steps_per_epoch
        return float(base.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in base.milestones))
    # Linear to the peak over three tenths of the phase, then linear to zero (Smith and Topin 2018).
    position = (step + 1) / (base.epochs * steps_per_epoch + 1)
    return base.learning_rate * (position / 0.3 if position < 0.3 else (1 - position) / 0.7)


class _Loop:
    """Epochs of one phase: train, evaluate, report, keep progress."""

    def __init__(
        self,
        phase: str,
        config: TrialConfig,
        runtime: Runtime,
        model: nn.Module,
        train: Batches,
        criterion: Callable[[Tensor, Tensor, Tensor], Tensor],
        evaluate: Callable[[], dict[str, Tensor]],
        on_epoch: OnEpoch,
        progress: Path | None,
    ) -> None:
        settings = config.base if phase == "base" else config.streaming
        self._phase, self._config, self._runtime = phase, config, runtime
        self._epochs, self._batch_size = settings.epochs, settings.batch_size
        self._model = model.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._train, self._criterion, self._evaluate = train, criterion, evaluate
        self._on_epoch, self._progress = on_epoch, progress
        self._steps = train.steps(settings.batch_size)
        self._optimizer = torch.optim.SGD(
            self._model.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self._frozen: Iterable[nn.Module] = ()
        if phase == "streaming" and config.streaming.freeze_batchnorm:
            self._frozen = [m for m in self._model.modules() if isinstance(m, nn.BatchNorm2d)]

    def run(self, identity: str) -> Trained:
        """All epochs that are still to do; `identity` tells this phase's progress from another's."""
        history: list[Report] = []
        seconds = 0.0
        saved = load_progress(self._progress, identity)
        if saved is not None:
            self._model.load_state_dict(saved["model"])
            self._optimizer.load_state_dict(saved["optimizer"])
            history, seconds = saved["history"], saved["seconds"]
            for report in history:
                self._on_epoch(report)
        for epoch in range(len(history) + 1, self._epochs + 1):
            start = time.perf_counter()
            with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
                values = self._one_epoch(epoch)
            seconds += time.perf_counter() - start
            report = {"phase": self._phase, "epoch": epoch, "epochs": self._epochs, "seconds": seconds, **values}
            history.append(report)
            if self._progress is not None and epoch < self._epochs:
                state = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}
                save_progress(self._progress, state | {"identity": identity, "history": history, "seconds": seconds})
            self._on_epoch(report)
        return Trained(host_state(self._model), history, seconds)

    def _one_epoch(self, epoch: int) -> dict[str, float]:
        """Train and evaluate; the device is read once, at the end."""
        seed = (self._config.seed * 4 + _PHASE_SEEDS[self._phase]) * 100_003 + epoch
        torch.manual_seed(seed)
        self._model.train()
        for module in self._frozen:
            module.eval()
        k = self._config.objective.top_k
        sums = torch.zeros(3, dtype=torch.float64, device=self._runtime.device)
        rate = 0.0
        batches = self._train.training(self._batch_size, self._config.augment, seed)
        for number, (images, labels) in enumerate(batches, start=(epoch - 1) * self._steps):
            rate = learning_rate_at(self._config, self._phase, number, self._steps)
            sums += self._step(images, labels, rate, k)
        names = ("train_loss", "train_top1", "train_topk")
        values = dict(zip(names, sums / self._steps, strict=True)) | self._evaluate()
        weights_finite = torch.stack([value.isfinite().all() for value in self._model.state_dict().values()]).all()
        *numbers, finite = torch.stack([*(value.double() for value in values.values()), weights_finite]).tolist()
        result = dict(zip(values, numbers, strict=True))
        if not finite or not all(map(math.isfinite, numbers)):
            raise NonFiniteError(
                f"not finite in the {self._phase} phase, epoch {epoch}, learning rate {rate:.3g}: lower the rate"
            )
        return result | {"learning_rate": rate}

    def _step(self, images: Tensor, labels: Tensor, rate: float, k: int) -> Tensor:
        """One update. Returns loss, top-1 and top-k of the batch before it, (3,)."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with self._runtime.autocast():
            logits = self._model(images)
        logits = logits.float()
        loss = self._criterion(images, logits, labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        with torch.no_grad():
            top1 = metrics.top1_hits(logits, labels).double().mean()
            return torch.stack([loss.double(), top1, metrics.topk_hits(logits, labels, k).double().mean()])
