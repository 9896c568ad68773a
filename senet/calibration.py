"""From scores to probabilities: one scale and one bias, fitted on validation data (Platt 1999).

The margin loss fixes only differences of an image's logits, so a sigmoid of its raw logits is no probability. Here
p = sigmoid(scale · log-odds + bias), the log-odds being those of a softmax: how far a score is above all others of the
image together. How far it is above their mean says less: of a sure image and an unsure one it makes the same.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_ITERATIONS = 25
# Of a Newton step so much is tried: far from the optimum the whole of it may lead away.
_PARTS = (1.0, 0.5, 0.25, 2.0**-4, 2.0**-7, 2.0**-12)


@dataclass(frozen=True)
class Calibration:
    """The fitted numbers, 0-dimensional tensors on the scores' device."""

    scale: Tensor
    bias: Tensor

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (N, C) → probabilities (N, C)."""
        return torch.sigmoid(self.scale * log_odds(logits) + self.bias).to(logits.dtype)


def log_odds(logits: Tensor) -> Tensor:
    """Log-odds of every label in a softmax, log p − log(1 − p): logits (N, C) → (N, C), double, always finite."""
    log_p = torch.log_softmax(logits.double(), dim=1).clamp_max(-1e-12)
    return log_p - torch.log(-torch.expm1(log_p))


def fit(logits: Tensor, targets: Tensor) -> Calibration:
    """Scale and bias of least cross-entropy, with Platt's smoothed targets, by Newton's method.

    Args:
        logits: (N, C), float.
        targets: (N, C), bool.

    A fixed number of steps on the device: nothing is read by the host.
    """
    scores = log_odds(logits).flatten()
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
        step_scale = (c * gradient_scale - b * gradient_bias) / determinant
        step_bias = (a * gradient_bias - b * gradient_scale) / determinant
        tried = [(scale, bias), *((scale - part * step_scale, bias - part * step_bias) for part in _PARTS)]
        best = torch.stack([_cross_entropy(s * x + b, wanted) for s, b in tried]).nan_to_num(torch.inf).argmin()
        # An index of no dimension would be read by the host.
        scale, bias = (torch.stack(values).index_select(0, best[None])[0] for values in zip(*tried, strict=True))
    return Calibration((scale / spread).float(), bias.float())


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    return (torch.nn.functional.softplus(logits) - wanted * logits).mean()
