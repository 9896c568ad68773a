"""Networks of the user's own, named `package.module:attribute` in `model.name`."""

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from senet.config import ModelConfig
from senet.errors import InputError


def build_custom(config: ModelConfig, classes: int) -> nn.Module:
    """Import what `model.name` names and call it with `config` and `classes`.

    It must return an nn.Module that maps images (N, 3, H, W) to logits (N, classes). Its last layer is its attribute
    `head`, or else its last nn.Linear. Modules are looked for in the current directory as well.

    Raises:
        InputError: with the reason, in one line.
    """
    module_name, _, attribute = config.name.partition(":")
    with _current_directory_importable():
        # The user's code may raise anything, here and where it is called.
        try:
            make = attrgetter(attribute)(importlib.import_module(module_name))
        except (Exception, SystemExit) as error:
            raise _refused(config.name, f"cannot be imported: {_one_line(error)}") from error
        if not callable(make):
            raise _refused(config.name, f"must be callable, but is a {type(make).__name__}")
        try:
            network = make(config, classes)
        except (Exception, SystemExit) as error:
            raise _refused(config.name, f"called with the config and {classes} classes: {_one_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise _refused(config.name, f"must return a torch.nn.Module, but returned a {type(network).__name__}")
    if any(map(is_lazy, network.parameters())):
        raise _refused(config.name, "must know the sizes of its layers, but has a lazy one (torch.nn.Lazy…)")
    return network


def logits_of(network: nn.Module, config: ModelConfig, classes: int, images: Tensor) -> Tensor:
    """Call a network of the user's own, and look at what it gives.

    Args:
        images: (N, 3, H, W).

    Returns:
        Logits (N, classes).

    Raises:
        InputError: it raises, or gives something else.
    """
    try:
        logits = network(images)
    except (Exception, SystemExit) as error:
        called = f"called with {images.device.type} images {tuple(images.shape)}"
        raise _refused(config.name, f"{called}: {_one_line(error)}") from error
    wanted = (len(images), classes)
    if not isinstance(logits, Tensor):
        raise _refused(config.name, f"must give logits {wanted}, but gave a {type(logits).__name__}")
    if tuple(logits.shape) != wanted:
        raise _refused(config.name, f"must give logits {wanted}, but gave a tensor {tuple(logits.shape)}")
    return logits


def check_images_fit(network: nn.Module, config: ModelConfig, classes: int, size: int) -> None:
    """Try a network of the user's own, on the host and in evaluation mode, on two empty images of side `size`.

    Raises InputError where it does not map them to logits; the network is left in training mode, otherwise unchanged.
    """
    with torch.no_grad():
        logits_of(network.eval(), config, classes, torch.zeros(2, 3, size, size))
    network.train()


def source_digest(name: str) -> str:
    """SHA-256, in hex, of the source file of the module in `name`, `package.module:attribute`.

    It tells one version of a network from another. What that file imports is not part of it. Raises InputError.
    """
    with _current_directory_importable():
        # This imports the packages around the module, which may raise anything.
        try:
            found = importlib.util.find_spec(name.partition(":")[0])
        except (Exception, SystemExit) as error:
            raise _refused(name, f"cannot be imported: {_one_line(error)}") from error
    if found is None:
        raise _refused(name, "there is no such module")
    if not found.has_location or found.origin is None:
        raise _refused(name, "the module has no source file")
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    """The current directory comes first in the search for modules, as under `python -m`."""
    here = os.getcwd()
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    # A file may be younger than what the import system remembers of its directory.
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def _refused(name: str, reason: str) -> InputError:
    return InputError(f"`model.name`: {name}: {reason}")


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
