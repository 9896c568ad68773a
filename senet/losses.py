"""Multi-label losses on logits, from multi-hot targets (thesis §3.3).

Shapes: logits (N, C), float; targets (N, C), bool; result: a scalar, the mean over images.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Hinge between every true and every other label: Σ max(0, 1 − (s_true − s_other)) / C.

    It depends on differences of logits alone: adding a number to all logits of an image changes nothing.
    """
    # PyTorch wants the true class indices first, then −1: a stable sort of the labels gives both at once.
    truth, order = targets.to(torch.uint8).sort(dim=1, descending=True, stable=True)
    return F.multilabel_margin_loss(logits, torch.where(truth.bool(), order, -1))


def soft_margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of every label's sigmoid, averaged over labels."""
    return F.multilabel_soft_margin_loss(logits, targets.to(logits.dtype))


def centred(logits: Tensor) -> Tensor:
    """Logits minus their mean over the labels, image by image: what the margin loss can see of them."""
    return logits - logits.mean(dim=1, keepdim=True)


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of the centred logits to the centred logits of a teacher (N, C)."""
    return F.mse_loss(centred(logits), centred(teacher))


LOSSES: dict[str, Loss] = {"margin": margin, "soft_margin": soft_margin}
