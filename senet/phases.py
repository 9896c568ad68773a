"""The two phases of a trial: base training on single labels, then streaming of multi-label images."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from senet.checkpoint import digest, load_progress, restored
from senet.config import TrialConfig, fingerprint
from senet.data.batches import Batches
from senet.data.store import SPLITS, Dataset, ImageSet
from senet.device import Runtime
from senet.evaluation import Evaluation, Scores
from senet.initial import initial_digest, initial_state
from senet.loop import Loop, OnEpoch, Report, Task, Trained
from senet.losses import loss_of
from senet.models import build_model
from senet.models.custom import check_images_fit, source_digest
from senet.parallel import check_workers, synchronised
from senet.protocols import split_labels, stages, streaming_epochs
from senet.streaming import Strategy, importance, strategies

TRANSFER = ("backward_transfer", "stage_forgetting")
"""What reports of the streaming phase hold from the second stage on."""

# Raised when the same config would train another base: old bases are then no longer used.
_ALGORITHM = 5


def base_fingerprint(config: TrialConfig, dataset: Dataset, runtime: Runtime) -> str:
    """The key of a base: a hash of everything that decides its weights and its accuracy."""
    identity = config.base_identity()
    # Where they lie does not matter, what is in them does.
    identity["model"]["initial"] = initial_digest(config)
    source = source_digest(config.model.name) if config.model.is_custom else None
    return fingerprint([_ALGORITHM, identity, source, dataset.fingerprint, runtime.identity()])


def train_base(
    config: TrialConfig, dataset: Dataset, runtime: Runtime, on_epoch: OnEpoch, progress: Path | None = None
) -> Trained:
    """Train on the base images, from scratch or from `model.initial` (thesis §6.1).

    Args:
        on_epoch: called with a report after every epoch; what it raises ends the phase.
        progress: a file that keeps the state after every epoch; a phase that finds its own there goes on from it.

    Reports hold train_loss, train_top1, train_topk, learning_rate, for the validation images base_top1, base_topk,
    base_loss, and base_streaming_topk, the streaming accuracy before any streaming; and base_gap, which is train_topk −
    base_topk. Without epochs the initial weights are the base, and its one report has no values of training.

    Raises:
        NonFiniteError: loss, gradients or scores left the finite numbers.
        InputError: `model.initial` or the user's own network does not fit.
    """
    torch.manual_seed(config.seed)
    model = build_model(config.model, len(dataset.classes))
    if config.model.is_custom:
        check_images_fit(model, config.model, len(dataset.classes), dataset.size)
    begin = initial_state(config, dataset.classes, model)
    if begin is not None:
        model.load_state_dict(begin)
    model = synchronised(model, runtime)
    evaluation = Evaluation(config, dataset, "validation", runtime)
    loss = loss_of(config)

    def evaluate() -> dict[str, Tensor]:
        return evaluation.before(evaluation.scores(model))

    def criterion(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        return loss(logits, labels)

    task = Task(
        phase="base",
        model=model,
        train=Batches.of_split(dataset, dataset.base, "train", runtime.device),
        criterion=criterion,
        evaluate=evaluate,
        epochs=config.base.epochs,
    )
    loop = Loop(config, runtime, task, on_epoch, progress)
    return loop.run(base_fingerprint(config, dataset, runtime)) if config.base.epochs else loop.only_evaluate()


def check_streaming(config: TrialConfig, dataset: Dataset, runtime: Runtime) -> None:
    """Raise InputError where the streaming phase has too few images for its stages or for the processes that train."""
    if streaming_epochs(config):
        for images in stages(dataset.streaming, config.streaming.stages):
            batch_size, (new, _) = config.streaming.batch_size, _new_images(config, dataset, images)
            # Old images that are mixed in make a batch larger.
            size = batch_size if config.streaming.replay else min(batch_size, len(new))
            check_workers(size, runtime.workers, "`streaming.batch_size`")


def base_in_the_making(
    config: TrialConfig, dataset: Dataset, runtime: Runtime, progress: Path, epoch: int
) -> Trained | None:
    """The base that `train_base` is training with this `progress` file, if it stands at `epoch`."""
    saved = load_progress(progress, base_fingerprint(config, dataset, runtime))
    if saved is None or saved["history"][-1]["epoch"] != epoch:
        return None
    return Trained(saved["model"], saved["history"], saved["seconds"])


def stream(
    config: TrialConfig,
    base: Trained,
    dataset: Dataset,
    runtime: Runtime,
    on_epoch: OnEpoch,
    progress: Path | None = None,
) -> Trained:
    """Stream the multi-label images into a base, without its old images (thesis §6.3).

    With several stages the combinations of labels are streamed in as many groups, one after the other, each into what
    the one before has left: that is then what distillation, L2-SP and EWC hold on to.

    Arguments and errors are those of `train_base`. Reports hold train_loss (penalties included), train_top1,
    train_topk, learning_rate and, for the validation images, original_top1, original_topk, streaming_top1,
    streaming_topk, streaming_loss, streaming_map, streaming_exact_match, retention, retention_top1, forgetting,
    forgetting_top1, joint; and streaming_gap, which is train_topk − streaming_topk. With several stages also
    stage_N_topk for each, and from the second stage on backward_transfer (Lopez-Paz and Ranzato 2017) and
    stage_forgetting (Chaudhry et al. 2018), which say what a stage did to the earlier ones.
    """
    identity = fingerprint([config.model_dump(mode="json"), dataset.fingerprint, runtime.identity()])
    # What was streamed into another base is no beginning of this.
    identity += "" if progress is None else f"-{digest(base.state)}"
    count = config.streaming.stages if streaming_epochs(config) else 1
    train_groups = stages(dataset.streaming, count)
    evaluation = _StreamingEvaluation(config, base, dataset, runtime, train_groups)
    current, history = base, list[Report]()
    files = [progress and progress.with_name(f"{progress.stem}-{i}{progress.suffix}") for i in range(1, count)]
    for stage, (images, file) in enumerate(zip(train_groups, [*files, progress], strict=True), start=1):
        model = synchronised(restored(config.model, current.state, len(dataset.classes)), runtime)
        batches, used = _streaming_images(config, current, dataset, images, runtime)
        task = _streaming_task(config, runtime, model, batches, used, evaluation.of(model), history)
        loop = Loop(config, runtime, task, on_epoch, file)
        if not streaming_epochs(config):
            return dataclasses.replace(loop.only_evaluate(), importance=base.importance)
        trained = loop.run(f"{identity}-{stage}")
        history = trained.history
        evaluation.end_stage(history[-1])
        current = dataclasses.replace(trained, importance=current.importance)
        if current.importance is not None:
            current = _with_importance_of_stage(config, current, dataset, runtime, images)
    for file in files:
        if file is not None:
            file.unlink(missing_ok=True)
    return current


def with_importance(config: TrialConfig, base: Trained, dataset: Dataset, runtime: Runtime) -> Trained:
    """`base` with the importance of its weights for the base images, as elastic weight consolidation needs it."""
    found = importance(config, base.state, dataset, dataset.base, runtime)
    return dataclasses.replace(base, importance=found)


def _with_importance_of_stage(
    config: TrialConfig, trained: Trained, dataset: Dataset, runtime: Runtime, images: npt.NDArray[np.int64]
) -> Trained:
    """`trained`, what it has streamed added to the importance that its base has (Schwarz et al. 2018, without decay).

    Args:
        images: positions of the streaming images of this stage.
    """
    assert trained.importance is not None
    part = dataset.streaming
    part = ImageSet(part.images[images], part.labels[images], part.split[images])
    new = importance(config, trained.state, dataset, part, runtime)
    return dataclasses.replace(
        trained, importance={name: value + new[name] for name, value in trained.importance.items()}
    )


class _StreamingEvaluation:
    """Metrics of the streaming phase, which may have several stages."""

    def __init__(
        self,
        config: TrialConfig,
        base: Trained,
        dataset: Dataset,
        runtime: Runtime,
        groups: list[npt.NDArray[np.int64]],
    ) -> None:
        self._evaluation = Evaluation(config, dataset, "validation", runtime)
        self._base = base.history[-1]
        positions = dataset.streaming.indices("validation")
        self._groups = [np.flatnonzero(np.isin(positions, group)) for group in groups]
        self._after: list[Tensor] = []

    def of(self, model: nn.Module) -> Callable[[], dict[str, Tensor]]:
        """What evaluates `model`."""

        def evaluate() -> dict[str, Tensor]:
            scores = self._evaluation.scores(model)
            base_top1, base_topk = self._base["base_top1"], self._base["base_topk"]
            values = self._evaluation.after(scores, base_top1, base_topk, scores.calibration())
            return values | (self._by_stage(scores) if len(self._groups) > 1 else {})

        return evaluate

    def end_stage(self, report: Report) -> None:
        """Keep what every stage's images came to when a stage ended."""
        if len(self._groups) > 1:
            self._after.append(torch.tensor([report[name] for name in self._names()], dtype=torch.float64))

    def _names(self) -> list[str]:
        return [f"stage_{i}_topk" for i in range(1, len(self._groups) + 1)]

    def _by_stage(self, scores: Scores) -> dict[str, Tensor]:
        now = self._evaluation.by_group(scores, self._groups)
        values = dict(zip(self._names(), now, strict=True))
        if self._after:
            # Rows: after which stage; columns: on which stage's images.
            table, done = torch.stack(self._after).to(now.device), len(self._after)
            values["backward_transfer"] = (now[:done] - table[:, :done].diagonal()).mean()
            values["stage_forgetting"] = (table[:, :done].amax(dim=0) - now[:done]).mean()
        return values


def _new_images(
    config: TrialConfig, dataset: Dataset, images: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Positions and labels of what is trained on among the streaming images at the positions `images`."""
    streaming = dataset.streaming
    new = images[streaming.split[images] == SPLITS.index("train")]
    labels = streaming.labels[new]
    return split_labels(new, labels) if config.protocol == "label_splitting" else (new, labels)


def _streaming_images(
    config: TrialConfig, base: Trained, dataset: Dataset, images: npt.NDArray[np.int64], runtime: Runtime
) -> tuple[Batches, list[Strategy]]:
    """The training images among those at the positions `images`, the old ones that a strategy adds, the strategies."""
    streaming, old_images = dataset.streaming, dataset.base
    used = strategies(config, base, len(dataset.classes), runtime)
    new, labels = _new_images(config, dataset, images)
    old = np.concatenate([np.empty(0, np.int64), *(strategy.old_images(old_images) for strategy in used)])
    if not len(old):
        return Batches(dataset, streaming.images, labels, runtime.device, new), used
    pixels = np.concatenate([streaming.images[new], old_images.images[old]])
    return Batches(dataset, pixels, np.concatenate([labels, old_images.labels[old]]), runtime.device), used


def _streaming_task(
    config: TrialConfig,
    runtime: Runtime,
    model: nn.Module,
    train: Batches,
    used: list[Strategy],
    evaluate: Callable[[], dict[str, Tensor]],
    earlier: list[Report],
) -> Task:
    """One stage of streaming `train` into `model`."""
    loss = loss_of(config)
    # Weights are noted where they will be trained.
    model.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    frozen = [module for strategy in used for module in strategy.attach(model)]

    def criterion(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        value = loss(logits, labels)
        for strategy in used:
            value = value + strategy.penalty(images, logits)
        return value

    return Task(
        phase="streaming",
        model=model,
        train=train,
        criterion=criterion,
        evaluate=evaluate,
        frozen=frozen,
        earlier=earlier,
        epochs=streaming_epochs(config) * config.streaming.stages,
    )
