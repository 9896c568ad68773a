"""Whether a recipe and a data set go together: asked before anything is trained."""

from senet.data.catalogue import Description, check_fits
from senet.data.store import Dataset
from senet.errors import InputError
from senet.protocols import stages, streaming_epochs
from sweeps.config import Recipe
from sweeps.constraints import Constraints
from sweeps.space import Space, extremes

_STAGES = "streaming.stages"


def check_recipe(recipe: Recipe, source: str, data: Description) -> None:
    """Raise InputError where the recipe does not fit what is known of its data set."""
    space = recipe.parsed_space(source)
    if not data.labels:
        raise InputError(
            f"{source}: data set `{data.name}` has no streaming pictures, which a sweep ranks by; import it with "
            f"--stream, or train one config on it: senet train"
        )
    check_fits(space.config({}), data, source)
    Constraints(recipe, space, data).check(source)
    _check_networks(recipe, space, data, source)


def check_stages(recipe: Recipe, source: str, dataset: Dataset) -> None:
    """Raise InputError where the data set has too few streaming pictures for as many stages as there may be."""
    space = recipe.parsed_space(source)
    config = space.config({})
    counts = [config.streaming.stages]
    if _STAGES in space.distributions:
        counts = [int(count) for count in extremes(space.distributions[_STAGES])]
    if streaming_epochs(config):
        try:
            stages(dataset.streaming, max(counts))
        except InputError as error:
            raise InputError(f"{source}: {error}") from None


def _check_networks(recipe: Recipe, space: Space, data: Description, source: str) -> None:
    """Raise InputError where a network of the user's own, or a `model.initial`, of what is tried first does not fit."""
    first = [space.config(params) for params in recipe.first_configurations(space, source)] or [space.config({})]
    configs = {c.model: c for c in first if c.model.is_custom or c.model.initial is not None}
    if not configs:
        return

    import torch

    from senet.initial import initial_state
    from senet.models import build_model
    from senet.models.custom import check_images_fit

    for model, config in configs.items():
        try:
            with torch.device("cpu" if model.is_custom else "meta"):
                network = build_model(model, len(data.classes))
            if model.is_custom:
                check_images_fit(network, model, len(data.classes), data.size)
            initial_state(config, data.classes, network)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
