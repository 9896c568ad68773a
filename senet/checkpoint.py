"""Weights of networks, and a training phase's state on disk: written atomically, loaded without executing code."""

import hashlib
import os
import uuid
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from senet.config import ModelConfig
from senet.models import build_model

State = dict[str, Tensor]


def host_state(model: nn.Module) -> State:
    """A copy of all weights and statistics on the host, contiguous."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in model.state_dict().items()}


def restored(config: ModelConfig, state: State, classes: int) -> nn.Module:
    """The network of `config` with the weights of `state`."""
    model = build_model(config, classes)
    model.load_state_dict(state)
    return model


def digest(state: State) -> str:
    """SHA-256 of all weights and statistics, with their names."""
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def save_progress(path: Path, state: dict[str, Any]) -> None:
    """Save tensors and plain values. The file is either the old or the new one, never half of it.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # On a shared disk another machine may have a process of the same number.
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
        os.replace(temporary, path)
    except RuntimeError as error:
        # PyTorch hides what the disk said behind a message of its own.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def load_progress(path: Path | None, identity: str) -> dict[str, Any] | None:
    """The state at `path` if it belongs to `identity`, else None.

    A file that cannot be read is no reason to stop: the phase then begins anew.
    """
    if path is None or not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, EOFError, UnpicklingError):
        return None
    return state if isinstance(state, dict) and state.get("identity") == identity else None
