"""Learning rates of the base phase; the streaming phase has one rate throughout."""

import math
from collections.abc import Sequence

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from senet.config import BaseConfig


def learning_rate_at(base: BaseConfig, step: int, steps_per_epoch: int, losses: Sequence[float]) -> float:
    """Learning rate of one step.

    Args:
        step: counts from 0 over the whole phase.
        losses: validation loss after each epoch so far. The plateau schedule decides from these alone, so a phase
            that is resumed decides as it would have.
    """
    if base.schedule == "step":
        epoch = step // steps_per_epoch
        return float(base.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in base.milestones))
    if base.schedule == "plateau":
        return _after_plateaus(base, losses)
    if base.schedule == "cosine":
        # Half a cosine without restarts (Loshchilov and Hutter 2017).
        return base.learning_rate * 0.5 * (1 + math.cos(math.pi * step / (base.epochs * steps_per_epoch)))
    # Linear to the peak over three tenths of the phase, then linear to zero (Smith and Topin 2018).
    position = (step + 1) / (base.epochs * steps_per_epoch + 1)
    return base.learning_rate * (position / 0.3 if position < 0.3 else (1 - position) / 0.7)


def _after_plateaus(base: BaseConfig, losses: Sequence[float]) -> float:
    """What PyTorch's ReduceLROnPlateau makes of the losses so far."""
    optimizer = torch.optim.SGD([torch.zeros(())], lr=base.learning_rate)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.1, patience=base.patience)
    for loss in losses:
        scheduler.step(loss)
    return float(optimizer.param_groups[0]["lr"])
