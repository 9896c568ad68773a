"""Accuracy of single- and multi-label predictions, computed where the logits are.

Shapes: logits and probabilities (N, C), float; labels (N, C), bool; results are 0-dimensional tensors from 0 to 1,
so that a caller reads all of them from the device at once.
"""

import torch
from torch import Tensor


def top1_hits(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) bool: the highest score, the first of equal ones, is a true label."""
    return labels.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1)


def topk_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """(N,) bool: every true label is among the k highest scores; of equal scores the first labels count as higher.

    For one label this is ordinary top-k. The thesis does not define it for several; this is our choice.
    """
    # Unlike `topk`, a stable sort agrees with `argmax` about equal scores.
    highest = logits.argsort(dim=1, descending=True, stable=True)[:, :k]
    found = labels.gather(1, highest).sum(dim=1)
    return found == labels.sum(dim=1)


def mean_average_precision(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over classes of the average precision; a class without a true image is left out.

    Equal scores keep the images' order.
    """
    order = logits.argsort(dim=0, descending=True, stable=True)
    hits = labels.gather(0, order).double()
    ranks = torch.arange(1, len(logits) + 1, device=logits.device, dtype=torch.float64)[:, None]
    positives = hits.sum(dim=0)
    precision = (hits.cumsum(dim=0) / ranks * hits).sum(dim=0) / positives.clamp_min(1)
    present = positives > 0
    return (precision * present).sum() / present.sum().clamp_min(1)


def exact_match(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Fraction of images whose labels of probability above one half are exactly the true ones."""
    return ((probabilities > 0.5) == labels).all(dim=1).double().mean()


def calibration_error(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Expected calibration error over all labels of all images.

    Most labels are not true, and easily known not to be: `top1_calibration_error` is the harder measure.
    """
    return _expected_error(probabilities.flatten(), labels.flatten())


def top1_calibration_error(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Expected calibration error of every image's likeliest label (Guo et al. 2017)."""
    return _expected_error(probabilities.amax(dim=1), top1_hits(probabilities, labels))


def _expected_error(confidence: Tensor, truth: Tensor, bins: int = 10) -> Tensor:
    """Mean |confidence − frequency| in `bins` bins of equal width, each weighted by its size: (M,), (M,) → scalar."""
    flat = confidence.double()
    index = (flat * bins).long().clamp_max(bins - 1)
    zeros = torch.zeros(bins, dtype=torch.float64, device=flat.device)
    gap = zeros.index_add(0, index, flat) - zeros.index_add(0, index, truth.double())
    return gap.abs().sum() / flat.numel()
