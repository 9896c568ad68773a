"""The fit of scale and bias against the least cross-entropy that a general optimiser finds."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import softplus

from senet.calibration import fit, log_odds


def least(x: Tensor, wanted: Tensor) -> float:
    """Of scale · x + bias."""

    def loss(numbers: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = numbers[0] * x + numbers[1]
        slope = (torch.sigmoid(z) - wanted) / len(x)
        return float((softplus(z) - wanted * z).mean()), np.array([float((slope * x).sum()), float(slope.sum())])

    return float(minimize(loss, np.zeros(2), jac=True, options={"gtol": 1e-9}).fun)


@pytest.mark.parametrize("classes", [3, 24, 120])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize(("noise", "gap"), [(0.3, 1.0), (1.0, 3.0), (1.0, 0.1)])
def test_it_is_the_best_fit(classes: int, scale: float, noise: float, gap: float) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (300,), generator=generator)
    targets = torch.nn.functional.one_hot(labels, classes).bool()
    logits = scale * (noise * torch.randn(300, classes, generator=generator) + gap * targets)
    found = fit(logits, targets)
    assert found.scale > 0 or gap < noise, "a higher score is no smaller probability"
    x, truth = log_odds(logits).flatten(), targets.flatten()
    positives, negatives = int(truth.sum()), int((~truth).sum())
    wanted = torch.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2)).double()
    z = found.scale.double() * x + found.bias.double()
    assert float((softplus(z) - wanted * z).mean()) <= 1.01 * least(x / x.std(), wanted) + 1e-6
