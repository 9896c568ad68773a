"""Weights to begin with, `model.initial`: those of a model folder, or torchvision's."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from senet.checkpoint import State
from senet.config import ModelConfig, TrialConfig
from senet.data.store import Dataset
from senet.errors import InputError
from senet.modelfolder import Model, load_model
from senet.models import head_of
from senet.models.resnet import LAYOUTS, TwoLayerBlock
from senet.models.squeeze_excite import SqueezeExcite
from senet.models.vgg import GROUPS

# What torchvision's weights were trained with.
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BATCHNORM = ("weight", "bias", "running_mean", "running_var")
# torchvision's older files are without it, and nothing depends on it.
_COUNTER = "num_batches_tracked"


def initial_state(config: TrialConfig, dataset_classes: Sequence[str], network: nn.Module) -> State | None:
    """The weights and statistics that the base phase of `config` begins with.

    From a model folder come all of them, those of the head class by class; from a file with torchvision's weights all
    but head and squeeze-and-excitation. Whatever does not come from there stays as it is in `network`.

    Args:
        dataset_classes: names of the classes in the order of the logits.
        network: as built from `config.model`, with fresh weights.

    Returns:
        A complete state for `network`; None without `model.initial`.

    Raises:
        InputError: there are no weights at `model.initial`, a tensor does not fit, or with `base.epochs` 0 a class is
            unknown to them.
    """
    path = _path(config)
    if path is None:
        return None
    source, fresh = f"`model.initial`: {path}", network.state_dict()
    if path.is_dir():
        model = _load_folder(path)
        known, loaded = model.classes, _from_folder(model, dataset_classes, network, source)
    else:
        known, loaded = (), _from_torchvision(_load_file(path), config.model, network, source)
    unknown = [name for name in dataset_classes if name not in known]
    if config.base.epochs == 0 and unknown:
        raise InputError(
            f"{source}: does not know the class `{unknown[0]}` ({len(unknown)} unknown),"
            " which it must where `base.epochs` is 0"
        )
    return fresh | {name: value.to(fresh[name].dtype) for name, value in loaded.items()}


def normalised_for(config: TrialConfig, dataset: Dataset) -> Dataset:
    """`dataset` with the mean and the standard deviation that `model.initial` was trained with. Raises InputError."""
    path = _path(config)
    if path is None:
        return dataset
    if path.is_dir():
        model = _load_folder(path)
        return dataclasses.replace(dataset, mean=model.mean, std=model.std)
    return dataclasses.replace(dataset, mean=_IMAGENET_MEAN, std=_IMAGENET_STD)


def initial_digest(config: TrialConfig) -> str | None:
    """SHA-256, in hex, of the file at `model.initial`, or of the folder's weights, classes and normalisation.

    None without `model.initial`. Raises InputError where it is missing.
    """
    path = _path(config)
    if path is None:
        return None
    if not path.is_dir():
        return _file_digest(path)
    digests = [_file_digest(path / name) for name in ("weights.safetensors", "model.json")]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _path(config: TrialConfig) -> Path | None:
    if config.model.initial is None:
        return None
    path = Path(config.model.initial)
    if not path.exists():
        raise InputError(f"`model.initial`: {path}: no such file or model folder")
    return path


def _file_digest(path: Path) -> str:
    try:
        about = path.stat()
        return _digest(path, about.st_size, about.st_mtime_ns)
    except OSError as error:
        raise InputError(f"`model.initial`: {path}: cannot be read: {error.strerror}") from None


@lru_cache
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    """Of a file's content, which is read again only when size or time of the file change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_folder(path: Path) -> Model:
    try:
        return load_model(path)
    except InputError as error:
        raise InputError(f"`model.initial`: {error}") from None


def _load_file(path: Path) -> State:
    """Tensors by name; loading executes no code."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (
        *(OSError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, EOFError),
        *(UnpicklingError, SafetensorError),
    ):
        raise InputError(f"`model.initial`: {path}: is no file of weights (.pth, .pt or .safetensors)") from None
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError(f"`model.initial`: {path}: must hold tensors by name and nothing else, as torchvision's do")
    return loaded


def _from_folder(model: Model, classes: Sequence[str], network: nn.Module, source: str) -> State:
    """All tensors; of the head's rows those of the classes that the folder knows."""
    fresh, head = network.state_dict(), _names_within(network, [head_of(network)])
    rows = len(model.classes)
    wanted = {name: (rows, *value.shape[1:]) if name in head else tuple(value.shape) for name, value in fresh.items()}
    _check(model.state, wanted, source)
    state = dict(model.state)
    for name in head:
        state[name] = fresh[name].clone()
        for row, known in enumerate(classes):
            if known in model.classes:
                state[name][row] = model.state[name][model.classes.index(known)]
    return state


def _from_torchvision(found: State, config: ModelConfig, network: nn.Module, source: str) -> State:
    """All tensors but head and squeeze-and-excitation, matched by the order in which both define their layers."""
    names, head = _torchvision_names(config, source)
    squeezes = [module for module in network.modules() if isinstance(module, SqueezeExcite)]
    ours = network.state_dict()
    for name in _names_within(network, [*squeezes, head_of(network)]):
        del ours[name]
    ours = {name: value for name, value in ours.items() if not name.endswith(_COUNTER)}
    found = {name: value for name, value in found.items() if not name.startswith(head) and not name.endswith(_COUNTER)}
    pairs = dict(zip(names, ours, strict=True))
    _check(found, {theirs: tuple(ours[name].shape) for theirs, name in pairs.items()}, source)
    return {name: found[theirs] for theirs, name in pairs.items()}


def _torchvision_names(config: ModelConfig, source: str) -> tuple[list[str], str]:
    """Torchvision's names of all tensors but head and counters, and what the head's begin with. Raises InputError."""
    layers = config.name.removeprefix("resnet").removeprefix("senet")
    known = config.name == "vgg16" or (layers.isdecimal() and int(layers) in LAYOUTS)
    if not known or config.factorised or config.dimension_reduction > 1:
        raise InputError(
            f"{source}: torchvision's weights fit resnet18 to resnet152, senet18 to senet152 and vgg16, without"
            f" `factorised` and `dimension_reduction`; for this {config.name} give a model folder"
        )
    return (_vgg_names(), "classifier.6.") if config.name == "vgg16" else (_resnet_names(int(layers)), "fc.")


def _resnet_names(layers: int) -> list[str]:
    block, counts = LAYOUTS[layers]
    names = _with_batchnorm(["conv1.weight"], "bn1")
    for stage, count in enumerate(counts, start=1):
        for position in range(count):
            prefix = f"layer{stage}.{position}"
            for i in range(1, 3 if block is TwoLayerBlock else 4):
                names += _with_batchnorm([f"{prefix}.conv{i}.weight"], f"{prefix}.bn{i}")
            if position == 0 and (stage > 1 or block.widening > 1):
                names += _with_batchnorm([f"{prefix}.downsample.0.weight"], f"{prefix}.downsample.1")
    return names


def _vgg_names() -> list[str]:
    names, layer = [], 0
    for _, count in GROUPS:
        for _ in range(count):
            convolution = [f"features.{layer}.weight", f"features.{layer}.bias"]
            names += _with_batchnorm(convolution, f"features.{layer + 1}")
            # Convolution, batch-norm and ReLU have a number each, and so has the pooling after a group.
            layer += 3
        layer += 1
    return names + [f"classifier.{layer}.{kind}" for layer in (0, 3) for kind in ("weight", "bias")]


def _with_batchnorm(convolution: Iterable[str], batchnorm: str) -> list[str]:
    return [*convolution, *(f"{batchnorm}.{kind}" for kind in _BATCHNORM)]


def _names_within(network: nn.Module, parts: Iterable[nn.Module]) -> list[str]:
    """Names in the network's state of all tensors of some of its modules."""
    wanted = set(parts)
    return [
        f"{prefix}.{name}"
        for prefix, module in network.named_modules()
        if module in wanted
        for name in module.state_dict()
    ]


def _check(found: State, wanted: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise InputError for the first tensor of `found` that is missing, of another shape than wanted, or not wanted."""
    for name, shape in wanted.items():
        if name not in found:
            raise InputError(f"{source}: does not fit the network: there is no tensor `{name}`")
        if tuple(found[name].shape) != shape:
            raise InputError(
                f"{source}: does not fit the network: `{name}` has the shape {tuple(found[name].shape)}, not {shape}"
            )
    for name in found:
        if name not in wanted:
            raise InputError(f"{source}: does not fit the network, which has no place for the tensor `{name}`")
