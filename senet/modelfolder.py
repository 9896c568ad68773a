"""A trained model as a folder: weights, config, classes, preprocessing, calibration, metrics.

weights.safetensors      all weights and batch-norm statistics; loading executes no code
importance.safetensors   where elastic weight consolidation is used: how much each weight matters
config.yaml              the complete trial config
model.json               classes, preprocessing, calibration, provenance, what was streamed
metrics.json             accuracy on the validation and the test split
"""

import json
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from senet.calibration import Calibration
from senet.checkpoint import State, restored
from senet.config import TrialConfig, parse_trial
from senet.data.store import POLICIES, Policy
from senet.errors import InputError
from senet.yamlfile import read_mapping

FORMAT = 2
"""Raised where what is in a folder changes its meaning; 1 had its calibration on centred logits."""

_WEIGHTS, _IMPORTANCE = "weights.safetensors", "importance.safetensors"


@dataclass(frozen=True)
class Model:
    """Everything that a model folder holds."""

    config: TrialConfig
    classes: tuple[str, ...]
    size: int
    """side of the square images that it was trained on, pixels"""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    state: State
    calibration: Calibration
    metrics: dict[str, dict[str, float]]
    """by split, then by name"""
    provenance: dict[str, Any]
    importance: State | None = None
    """how much each weight matters to the images seen so far, where elastic weight consolidation is used"""
    policy: Policy = "crop"
    """how pictures are fitted to the size"""

    def network(self) -> nn.Module:
        """The network with its weights, in evaluation mode, on the host."""
        return restored(self.config.model, self.state, len(self.classes)).eval()


def save_model(folder: Path, model: Model) -> None:
    """Write `model` at `folder`, whole or not at all.

    Raises:
        InputError: something is there already.
    """
    refuse_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (temporary / _WEIGHTS).write_bytes(save(model.state))
        if model.importance is not None:
            (temporary / _IMPORTANCE).write_bytes(save(model.importance))
        (temporary / "config.yaml").write_text(yaml.safe_dump(model.config.model_dump(mode="json"), sort_keys=False))
        described = {
            "format": FORMAT,
            "classes": list(model.classes),
            "preprocessing": {
                "size": model.size,
                "policy": model.policy,
                "mean": list(model.mean),
                "std": list(model.std),
            },
            "calibration": {"scale": float(model.calibration.scale), "bias": float(model.calibration.bias)},
            "provenance": model.provenance,
        }
        (temporary / "model.json").write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", "utf-8")
        (temporary / "metrics.json").write_text(json.dumps(model.metrics, indent=2) + "\n")
        temporary.chmod(0o755)
        for weights in temporary.glob("*.safetensors"):
            weights.chmod(0o644)
        try:
            temporary.rename(folder)
        except OSError:
            # Somebody else was faster.
            refuse_existing(folder)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(folder: Path) -> None:
    """Raise InputError if `folder` exists: nothing is overwritten."""
    if folder.exists():
        raise InputError(f"{folder}: exists already; choose another name or delete it first")


def load_model(folder: Path) -> Model:
    """Read a model folder. Raises InputError where it is missing or damaged."""
    if not (folder / "model.json").is_file():
        raise InputError(f"{folder}: no model folder (it would hold model.json); `senet train` makes one")
    config = parse_trial(read_mapping(folder / "config.yaml"), str(folder / "config.yaml"))
    try:
        described = json.loads((folder / "model.json").read_text("utf-8"))
        if described["format"] != FORMAT:
            raise InputError(
                f"{folder}: was written by another version (format {described['format']!r}, this one reads {FORMAT});"
                " train it again"
            )
        preprocessing, calibration = described["preprocessing"], described["calibration"]
        _check_described(described["classes"], preprocessing, calibration)
        model = Model(
            config=config,
            classes=tuple(described["classes"]),
            size=preprocessing["size"],
            policy=preprocessing.get("policy", "crop"),
            mean=tuple(preprocessing["mean"]),
            std=tuple(preprocessing["std"]),
            state=load_file(folder / _WEIGHTS),
            importance=load_file(folder / _IMPORTANCE) if (folder / _IMPORTANCE).exists() else None,
            calibration=Calibration(torch.tensor(calibration["scale"]), torch.tensor(calibration["bias"])),
            metrics=json.loads((folder / "metrics.json").read_text()),
            provenance=described["provenance"],
        )
        model.network()
        if not all(value.isfinite().all() for value in model.state.values()):
            raise ValueError(f"{_WEIGHTS}: there are weights that are no finite numbers")
    except KeyError as error:
        raise InputError(f"{folder}: the model folder is damaged: model.json: {error} is missing") from None
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        # PyTorch says in the first line that weights do not fit, and in the next one which.
        reason = " ".join(str(error).split("\n")[:2]).replace("\t", "")
        raise InputError(f"{folder}: the model folder is damaged: {reason}") from None
    return model


def _check_described(classes: Any, preprocessing: Any, calibration: Any) -> None:
    """Raise ValueError where what model.json says cannot be used."""
    if not (isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)):
        raise ValueError("model.json: `classes` must be a list of names")
    if len(set(classes)) < len(classes):
        raise ValueError("model.json: `classes` names one twice")
    size = preprocessing["size"]
    if type(size) is not int or size < 1:
        raise ValueError(f"model.json: `size` must be a number of pixels, but is {size!r}")
    policy = preprocessing.get("policy", "crop")
    if policy not in POLICIES:
        raise ValueError(f"model.json: `policy` must be one of {', '.join(POLICIES)}, but is {policy!r}")
    for name in ("scale", "bias"):
        if type(calibration[name]) is not float or not math.isfinite(calibration[name]):
            raise ValueError(f"model.json: `{name}` must be a finite number, but is {calibration[name]!r}")
    for name in ("mean", "std"):
        values = preprocessing[name]
        if not (isinstance(values, list) and [type(value) for value in values] == 3 * [float]):
            raise ValueError(f"model.json: `{name}` must be three numbers")
        if not all(math.isfinite(value) and (name == "mean" or value > 0) for value in values):
            raise ValueError(f"model.json: `{name}` must be three finite numbers, and `std` above 0")
