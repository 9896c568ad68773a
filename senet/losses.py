"""Losses on logits, from multi-hot targets: the thesis' two (§3.3), and what they are compared with.

Shapes: logits (N, C), float; targets (N, C), bool; result: a scalar, the mean over images.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.config import TrialConfig

Loss = Callable[[Tensor, Tensor], Tensor]


def margin(logits: Tensor, targets: Tensor, most: int | None = None) -> Tensor:
    """Hinge between every true and every other label: Σ max(0, 1 − (s_true − s_other)) / C.

    It depends on differences of logits alone: adding a number to all logits of an image changes nothing.

    Args:
        most: no image has more true labels; not given: C. It bounds the work where there is no CPU.
    """
    # On a GPU two threads of PyTorch's backward kernel write the gradient of a true label without waiting for each
    # other (pytorch/pytorch#84202): with more than 32 classes it may get lost.
    if logits.device.type != "cpu":
        return margin_of_pairs(logits, targets, most)
    # PyTorch wants the true class indices first, then −1: a stable sort of the labels gives both at once.
    truth, order = targets.to(torch.uint8).sort(dim=1, descending=True, stable=True)
    return F.multilabel_margin_loss(logits, torch.where(truth.bool(), order, -1))


def margin_of_pairs(logits: Tensor, targets: Tensor, most: int | None = None) -> Tensor:
    """`margin`, computed by elementary operations on (N, most, C)."""
    truth, order = targets.to(torch.uint8).sort(dim=1, descending=True, stable=True)
    truth, order = truth[:, :most], order[:, :most]
    hinges = F.relu(1 - logits.gather(1, order)[:, :, None] + logits[:, None, :])
    counted = truth.bool()[:, :, None] & ~targets[:, None, :]
    return (hinges * counted).sum(dim=(1, 2)).mean() / logits.shape[1]


def margin_sigmoid(logits: Tensor, targets: Tensor, most: int | None = None) -> Tensor:
    """The margin loss on sigmoids, as the thesis' text can be read too: scores from 0 to 1 never reach the margin."""
    return margin(torch.sigmoid(logits), targets, most)


def soft_margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of every label's sigmoid, averaged over labels."""
    return F.multilabel_soft_margin_loss(logits, targets.to(logits.dtype))


def asymmetric(
    logits: Tensor,
    targets: Tensor,
    focus_positive: float = 0.0,
    focus_negative: float = 4.0,
    clip: float = 0.05,
) -> Tensor:
    """Asymmetric loss (Ridnik et al. 2021), averaged over labels; the defaults are the paper's.

    Args:
        focus_positive, focus_negative: γ+ and γ−, exponents that let easy labels weigh less.
        clip: m; the probability of a label that is not true counts only as far as it is above m.
    """
    truth = targets.to(logits.dtype)
    probability = torch.sigmoid(logits)
    shifted = (probability - clip).clamp_min(0)
    positive = truth * (1 - probability) ** focus_positive * F.logsigmoid(logits)
    negative = (1 - truth) * shifted**focus_negative * torch.log1p(-shifted)
    return -(positive + negative).mean()


def focal(logits: Tensor, targets: Tensor, focus: float = 2.0, balance: float = 0.25) -> Tensor:
    """Focal binary cross-entropy (Lin et al. 2017), averaged over labels; the defaults are the paper's.

    Args:
        focus: γ, the exponent that lets easy labels weigh less.
        balance: α, the weight of true labels; the others have 1 − α.
    """
    truth = targets.to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    missed = torch.where(targets, torch.sigmoid(-logits), torch.sigmoid(logits))
    return (torch.where(targets, balance, 1 - balance) * missed**focus * entropy).mean()


def softmax(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the softmax; several true labels share the probability alike."""
    truth = targets.to(logits.dtype)
    return F.cross_entropy(logits, truth / truth.sum(dim=1, keepdim=True))


def centred(logits: Tensor) -> Tensor:
    """Logits minus their mean over the labels, image by image: what the margin loss can see of them."""
    return logits - logits.mean(dim=1, keepdim=True)


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of the centred logits to the centred logits of a teacher (N, C)."""
    return F.mse_loss(centred(logits), centred(teacher))


LOSSES: dict[str, Loss] = {
    "margin": margin,
    "margin_sigmoid": margin_sigmoid,
    "soft_margin": soft_margin,
    "asymmetric": asymmetric,
    "focal": focal,
}


def loss_of(config: TrialConfig) -> Loss:
    """What a trial minimises: its loss, or softmax cross-entropy in the protocols that the thesis compares with."""
    if config.protocol != "streaming":
        return softmax
    # No image has more than k labels.
    most = config.objective.top_k
    bounded: dict[str, Loss] = {
        "margin": partial(margin, most=most),
        "margin_sigmoid": partial(margin_sigmoid, most=most),
    }
    return bounded.get(config.loss, LOSSES[config.loss])
