"""From scores to probabilities: one scale and one bias, fitted on validation data (Platt 1999).

The margin loss fixes only differences of logits, so a sigmoid of its raw logits is no probability. Here
p = sigmoid(scale · centred logit + bias), where centred means minus the image's mean over labels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from senet.losses import centred

_ITERATIONS = 25


@dataclass(frozen=True)
class Calibration:
    """The fitted numbers, 0-dimensional tensors on the scores' device."""

    scale: Tensor
    bias: Tensor

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (N, C) → probabilities (N, C)."""
        return torch.sigmoid(self.scale * centred(logits) + self.bias)


def fit(logits: Tensor, targets: Tensor) -> Calibration:
    """Scale and bias of least cross-entropy, with Platt's smoothed targets, by Newton's method.

    Args:
        logits: (N, C), float.
        targets: (N, C), bool.

    A fixed number of steps on the device: nothing is read by the host.
    """
    scores = centred(logits).double().flatten()
    truth = targets.flatten()
    positives = truth.sum().double()
    negatives = truth.numel() - positives
    # Smoothed targets keep the optimum finite where the classes can be separated.
    wanted = torch.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    spread = scores.std().clamp_min(1e-12)
    x = scores / spread
    scale = torch.zeros_like(positives)
    bias = torch.log((positives + 1) / (negatives + 1))
    for _ in range(_ITERATIONS):
        p = torch.sigmoid(scale * x + bias)
        error, weight = p - wanted, p * (1 - p)
        gradient_scale, gradient_bias = (error * x).mean(), error.mean()
        a, b, c = (weight * x * x).mean() + 1e-9, (weight * x).mean(), weight.mean() + 1e-9
        determinant = a * c - b * b
        scale = scale - ((c * gradient_scale - b * gradient_bias) / determinant).clamp(-1, 1)
        bias = bias - ((a * gradient_bias - b * gradient_scale) / determinant).clamp(-1, 1)
    return Calibration((scale / spread).float(), bias.float())
