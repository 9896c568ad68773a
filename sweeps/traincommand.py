"""The command `sweeps train`: final training of an exported config, by one process or by several together."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.config import TrialConfig, read_config
from senet.data.catalogue import obtain_dataset
from senet.errors import InputError
from senet.home import home
from sweeps.environment import set_ray_environment
from sweeps.errors import FailedError
from sweeps.shared import Shared

if TYPE_CHECKING:
    from senet.modelfolder import Model


# In a model's folder: as what it is registered.
_REGISTERED = ".registered"


def train(arguments: Namespace) -> int:
    """Train a config in full, and register the model.

    Where it is trained and could not be registered, the same call again registers it.
    """
    if arguments.workers < 1:
        raise InputError(f"--workers {arguments.workers}: must be 1 or more")
    config, _ = read_config(arguments.config)  # A wrong config is told before torch is imported.

    from senet.modelfolder import refuse_existing
    from senet.training import model_folder
    from sweeps.registry import claim_model_name, give_back_model_name, register_model
    from sweeps.tracking import failing_clearly

    folder, shared = model_folder(home(), arguments.config, arguments.name), Shared(home())
    # Another machine may have trained a model of this name.
    shared.fetch_folder(folder, last="model.json")
    model = _unregistered(folder, config)
    if model is None:
        if shared.url is not None and folder.exists():
            raise InputError(f"{folder}: exists already, in {shared.url} as well; choose another name or delete both")
        refuse_existing(folder)
        obtain_dataset(home(), config.data)
    # What cannot be registered is told before it is trained.
    with failing_clearly(home()):
        made = claim_model_name(home(), folder.name)
    if model is None:
        try:
            model = _trained(arguments, folder)
        except FailedError as error:
            print(f"sweeps: {error}", file=sys.stderr)
            return 1
        except InputError:
            if made:
                give_back_model_name(home(), folder.name)
            raise
    # Where this was cut off before, the model may lie here alone.
    shared.pass_on_folder(folder, last="model.json")
    params = _flattened(model.config.model_dump(mode="json"))
    with failing_clearly(home()):
        registered = register_model(home(), folder, model.provenance, model.metrics, params)
    (folder / _REGISTERED).write_text(f"{registered}\n")
    shared.pass_on(folder / _REGISTERED)
    print(f"registered {registered}; look at it: sweeps ui")
    return 0


def _flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted path."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _unregistered(folder: Path, config: TrialConfig) -> "Model | None":
    """The model that was trained by this config before, and never registered."""
    from senet.modelfolder import load_model

    if not (folder / "model.json").is_file() or (folder / _REGISTERED).exists():
        return None
    model = load_model(folder)
    return model if model.config == config else None


def _trained(arguments: Namespace, folder: Path) -> "Model":
    from senet.training import train_from_file

    if arguments.workers > 1 or arguments.address is not None:
        return _train_together(arguments, folder)
    return train_from_file(arguments.config, folder, home())


def _train_together(arguments: Namespace, folder: Path) -> "Model":
    """Train on Ray, and read what its workers have written."""
    from senet.modelfolder import load_model
    from senet.parallel import check_workers
    from senet.training import dataset_of, print_epoch, print_result

    config, provenance = read_config(arguments.config)
    for phase, settings in (("base", config.base), ("streaming", config.streaming)):
        check_workers(settings.batch_size, arguments.workers, f"{arguments.config}: `{phase}.batch_size`")
    dataset_of(config, provenance, home())
    set_ray_environment(local=arguments.address is None)

    from sweeps.final import train_together
    from sweeps.run import ray_cluster

    with ray_cluster(arguments.address):
        train_together(config, provenance, folder, home(), arguments.workers, print_epoch)
    Shared(home()).fetch_folder(folder)
    model = load_model(folder)
    print_result(folder, model)
    return model
