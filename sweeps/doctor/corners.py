"""The smallest and the largest configuration of a space, and what the largest needs of a disk."""

from collections.abc import Callable

from senet.complexity import Complexity, complexity
from senet.config import ModelConfig, TrialConfig
from senet.data.catalogue import Description
from senet.errors import InputError
from sweeps.config import Recipe
from sweeps.constraints import Constraints
from sweeps.plan import expected_bases
from sweeps.samplers import random_draws
from sweeps.search import TRIES
from sweeps.space import Params, extremes

_BYTES = 4
# Weights and their momentum, of the base and of the streaming phase.
_COPIES = 4


class Corners:
    """Finds the ends of a space by the memory that training takes: one parameter after the other is moved to where it
    needs least, or most, among what the recipe's constraints admit."""

    def __init__(self, recipe: Recipe, data: Description) -> None:
        self._recipe, self._data = recipe, data
        self._space = recipe.parsed_space("recipe")
        self._constraints = Constraints(recipe, self._space, data)
        self._counted: dict[ModelConfig, Complexity | None] = {}

    def smallest(self) -> TrialConfig:
        """The configuration that needs least memory."""
        return self._corner(min)

    def largest(self) -> TrialConfig:
        """The configuration that needs most memory."""
        return self._corner(max)

    def disk_bytes(self, concurrency: int) -> int:
        """What bases and unfinished trials take, were every network as large as the largest."""
        copies = expected_bases(self._recipe, self._space) + _COPIES * concurrency
        return self.parameters(self.largest()) * _BYTES * copies

    def parameters(self, config: TrialConfig) -> int:
        """Weights and biases of a configuration's network; 0 where it cannot be counted."""
        counted = self._complexity(config.model)
        return 0 if counted is None else counted.parameters

    def _corner(self, choose: Callable[..., Params]) -> TrialConfig:
        params = self._start()
        for path, distribution in self._space.distributions.items():
            moved = [
                self._space.only_active(self._space.defaults() | params | {path: value})
                for value in extremes(distribution)
            ]
            known = [p for p in [params, *moved] if self._constraints.fits(p) and self._memory(p) is not None]
            params = choose(known or [params], key=lambda p: self._memory(p) or 0)
        return self._space.config(params)

    def _start(self) -> Params:
        first = self._recipe.first_configurations(self._space, "recipe")
        if first:
            return first[0]
        defaults = self._space.only_active(self._space.defaults())
        drawn = random_draws(self._space, self._recipe.search.seed, TRIES)
        return next((params for params in [defaults, *drawn] if self._constraints.fits(params)), defaults)

    def _memory(self, params: Params) -> int | None:
        """Numbers that a training step keeps: activations of a batch, weights, gradients, momentum.

        None where the network cannot be counted, or does not exist for these images.
        """
        config = self._space.config(params)
        counted = self._complexity(config.model)
        if counted is None:
            return None
        batch = max(config.base.batch_size, config.streaming.batch_size)
        return counted.activations * batch + 3 * counted.parameters

    def _complexity(self, model: ModelConfig) -> Complexity | None:
        if model not in self._counted:
            try:
                self._counted[model] = complexity(model, len(self._data.classes), self._data.size)
            except InputError:
                self._counted[model] = None
        return self._counted[model]
