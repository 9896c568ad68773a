"""Accuracy of a network on the base and the streaming images of a split."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from senet import calibration, metrics
from senet.config import TrialConfig
from senet.data.batches import Batches
from senet.data.store import Dataset, Split
from senet.device import Runtime, reproducible
from senet.losses import loss_of
from senet.parallel import gathered


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
        self._objective, self._loss = config.objective, loss_of(config)
        self._runtime = runtime
        self._base = Batches.of_split(dataset, dataset.base, split, runtime.device)
        self._streaming = Batches.of_split(dataset, dataset.streaming, split, runtime.device)

    def scores(self, model: nn.Module) -> Scores:
        """What the model says about the split."""
        base, streaming = (predict(model, batches, self._runtime) for batches in (self._base, self._streaming))
        return Scores(base, self._base.labels, streaming, self._streaming.labels)

    def before(self, scores: Scores) -> dict[str, Tensor]:
        """Metrics of a base."""
        values = _accuracy("base", scores.base_logits, scores.base_labels, self._objective.top_k)
        values["base_loss"] = self._finite_loss(scores.base_logits, scores.base_labels)
        if len(scores.labels):
            hits = metrics.topk_hits(scores.logits, scores.labels, self._objective.top_k)
            values["base_streaming_topk"] = hits.double().mean()
        return values

    def after(
        self, scores: Scores, base_top1: float, base_topk: float, calibrated: calibration.Calibration
    ) -> dict[str, Tensor]:
        """Metrics after streaming, given the base's accuracy on the same split.

        A split without streaming images has no streaming metrics, and its joint is the original accuracy.

        Args:
            calibrated: turns logits into probabilities for the exact match.
        """
        k, w = self._objective.top_k, self._objective.original_weight
        values = _accuracy("original", scores.base_logits, scores.base_labels, k)
        original, original_top1 = values["original_topk"], values["original_top1"]
        # A base that knows nothing has nothing to retain.
        values["retention"] = original / base_topk if base_topk > 0 else torch.zeros_like(original)
        values["retention_top1"] = original_top1 / base_top1 if base_top1 > 0 else torch.zeros_like(original)
        values["forgetting"] = base_topk - original
        values["forgetting_top1"] = base_top1 - original_top1
        if not len(scores.labels):
            return values | {"joint": original}
        values |= _accuracy("streaming", scores.logits, scores.labels, k)
        values["streaming_loss"] = self._finite_loss(scores.logits, scores.labels)
        values["streaming_map"] = metrics.mean_average_precision(scores.logits, scores.labels)
        values["streaming_exact_match"] = metrics.exact_match(calibrated.probabilities(scores.logits), scores.labels)
        values["joint"] = w * original + (1 - w) * values["streaming_topk"]
        return values

    def _finite_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, NaN where a score is not finite: a hinge of NaN would be zero."""
        return torch.where(logits.isfinite().all(), self._loss(logits, labels), torch.nan)

    def by_group(self, scores: Scores, groups: list[npt.NDArray[np.intp]]) -> Tensor:
        """Streaming top-k of every group of streaming images, (G,), double; groups are positions in the split."""
        hits = metrics.topk_hits(scores.logits, scores.labels, self._objective.top_k).double()
        return torch.stack([hits[torch.from_numpy(group).to(hits.device)].mean() for group in groups])


@torch.inference_mode()
def predict(model: nn.Module, batches: Batches, runtime: Runtime) -> Tensor:
    """Logits (N, C) in fp32 of all images of a split, in their order; the model is left in evaluation mode.

    Of several processes each computes a part, and all get the whole.
    """
    model.eval()
    own = runtime.part(len(batches))
    with runtime.autocast(), reproducible():
        found = [model(images).float() for images in batches.evaluation(part=own)] if own.start < own.stop else []
    # Where there is no image there are no logits either, but they have their shape.
    logits = torch.cat([torch.zeros((0, batches.labels.shape[1]), device=batches.device), *found])
    return gathered(logits, own, len(batches), runtime)


def _accuracy(prefix: str, logits: Tensor, labels: Tensor, k: int) -> dict[str, Tensor]:
    return {
        f"{prefix}_top1": metrics.top1_hits(logits, labels).double().mean(),
        f"{prefix}_topk": metrics.topk_hits(logits, labels, k).double().mean(),
    }
