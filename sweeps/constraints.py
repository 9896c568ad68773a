"""What a network may cost: told, and kept, before anything is trained."""

from dataclasses import asdict

from senet.config import ModelConfig
from senet.data.catalogue import Description
from senet.errors import InputError
from sweeps.config import Recipe
from sweeps.samplers import random_draws
from sweeps.search import TRIES
from sweeps.space import Params, Space


class Constraints:
    """The constraints of a recipe, for the images and classes of its data set. Without any, everything fits."""

    def __init__(self, recipe: Recipe, space: Space, data: Description) -> None:
        self._recipe, self._space, self._data = recipe, space, data
        self._bounds = recipe.constraints.given()
        self._counted: dict[ModelConfig, dict[str, int] | str] = {}

    def fits(self, params: Params) -> bool:
        """Whether the network of a configuration exists for these images, and lies within all constraints."""
        if not self._bounds:
            return True
        try:
            return not self._outside(self._figures(params))
        except InputError:
            return False

    def relative_cost(self, params: Params) -> float:
        """FLOPs of a configuration's network over those of the network that the recipe's `config` has.

        One that does not exist for these images costs as much: its trial will say why it fails.
        """
        try:
            return self._figures(params)["flops"] / self._figures({})["flops"]
        except InputError:
            return 1.0

    def memory_size(self, params: Params) -> tuple[int, int]:
        """What decides the memory of a configuration: its parameters, and the activations of its larger batch.

        A network that does not exist for these images needs none: its trial will say why it fails.
        """
        config = self._space.config(params)
        try:
            figures = self._figures(params)
        except InputError:
            return 0, 0
        return figures["parameters"], figures["activations"] * max(config.base.batch_size, config.streaming.batch_size)

    def check(self, source: str) -> None:
        """Raise InputError where an enqueued configuration does not fit, or no random one where such are needed."""
        if not self._bounds:
            return
        first = self._recipe.first_configurations(self._space, source)
        for i, params in enumerate(first):
            try:
                figures = self._figures(params)
            except InputError as error:
                raise InputError(f"{source}: `enqueue[{i}]`: {error}") from None
            for name in self._outside(figures):
                raise InputError(
                    f"{source}: `enqueue[{i}]`: has {figures[name]:,} {name}, outside of `constraints.{name}`,"
                    f" {self._described(name)}"
                )
        search = self._recipe.search
        if search.trials > len(first) * search.replicates:
            self._check_space(source)

    def _check_space(self, source: str) -> None:
        seen: list[dict[str, int]] = []
        problem = ""
        for params in random_draws(self._space, self._recipe.search.seed, TRIES):
            try:
                figures = self._figures(params)
            except InputError as error:
                problem = str(error)
                continue
            if not self._outside(figures):
                return
            seen.append(figures)
        found = [
            f"{name} are from {min(f[name] for f in seen):,} to {max(f[name] for f in seen):,},"
            f" but must be in {self._described(name)}"
            for name in self._bounds
            if seen
        ]
        raise InputError(
            f"{source}: `constraints`: no random configuration of `space` fits: {'; '.join(found) or problem}"
        )

    def _figures(self, params: Params) -> dict[str, int]:
        """What is constrained of a configuration's network, counted once. Raises InputError."""
        model = self._space.config(params).model
        if not model.is_custom:
            # Neither makes a difference.
            model = model.model_copy(update={"dropout": 0.0, "initial": None})
        if model not in self._counted:
            self._counted[model] = self._count(model)
        found = self._counted[model]
        if isinstance(found, str):
            raise InputError(found)
        return found

    def _count(self, model: ModelConfig) -> dict[str, int] | str:
        """The figures, or why there are none."""
        # Counting imports torch, which the driver does without where nothing is constrained.
        from senet.complexity import complexity

        try:
            counted = complexity(model, len(self._data.classes), self._data.size)
        except InputError as error:
            return str(error)
        return asdict(counted)

    def _outside(self, figures: dict[str, int]) -> list[str]:
        """The constraints that are not kept."""
        return [name for name, (least, most) in self._bounds.items() if not least <= figures[name] <= most]

    def _described(self, name: str) -> str:
        least, most = self._bounds[name]
        return f"[{least:,.15g}, {most:,.15g}]"
