"""The command `sweeps train`: final training of an exported config, by one process or by several together."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from senet.config import read_config
from senet.errors import InputError
from senet.home import home
from sweeps.environment import set_ray_environment
from sweeps.errors import FailedError
from sweeps.shared import Shared

if TYPE_CHECKING:
    from senet.modelfolder import Model


def train(arguments: Namespace) -> int:
    """Train a config in full, and register the model."""
    if arguments.workers < 1:
        raise InputError(f"--workers {arguments.workers}: must be 1 or more")
    read_config(arguments.config)  # A wrong config is told before torch is imported.

    from senet.training import model_target, train_from_file
    from sweeps.tracking import failing_clearly, register_model

    folder = model_target(home(), arguments.config, arguments.name)
    if arguments.workers == 1 and arguments.address is None:
        model = train_from_file(arguments.config, folder, home())
        Shared(home()).pass_on_folder(folder)
    else:
        try:
            model = _train_together(arguments, folder)
        except FailedError as error:
            print(f"sweeps: {error}", file=sys.stderr)
            return 1
    config = model.config.model_dump(mode="json")
    with failing_clearly(home()):
        registered = register_model(home(), folder, model.provenance, model.metrics, config)
    print(f"registered {registered}; look at it: sweeps ui")
    return 0


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
