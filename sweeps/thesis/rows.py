"""The rows of the thesis' tables, what the thesis published in them, and the recipes that run them.

Source of every number in `ROWS`: A. R. Huang, *Scalable Large Scale Visual Recognition Using Multi-Label Image
Classification*, M.Eng. thesis, MIT, 2019, tables 1 (single-label networks), 2 (losses), 3 and 4 (base, original and
streaming accuracy) and 5 (seconds per epoch on a Tesla K80), on Stanford Dogs and ten mixed breeds.
"""

import json
from dataclasses import dataclass

from senet.config import TrialConfig
from senet.errors import InputError
from sweeps.config import Recipe, load_recipe
from sweeps.space import Value

# More than any grid has: `thesis_recipe` puts the right number in its place.
_MANY_TRIALS = 10**6


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the thesis has for a row; None where it has nothing."""

    base_top1: float | None = None
    """percent, like the next three"""
    base_top5: float | None = None
    original_top5: float | None = None
    streaming_top5: float | None = None
    base_seconds: float | None = None
    """of an epoch, like the next"""
    streaming_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network of the thesis' grid."""

    key: str
    """its name in files"""
    tables: tuple[int, ...]
    """the tables that it stands in"""
    model: str
    variant: str
    name: str
    """`model.name` of its config, as the next four are `protocol`, `loss`, `model.expansion` and `model.reduction`"""
    protocol: str = "streaming"
    loss: str = "margin"
    expansion: int = 1
    reduction: float | str = 16
    published: Published = Published()

    @property
    def label(self) -> str:
        """Model and variant."""
        return f"{self.model}, {self.variant}"

    def settings(self) -> dict[str, Value]:
        """What tells its config from the others', by dotted path; only the widths depend on the recipe."""
        return {
            "protocol": self.protocol,
            "loss": self.loss,
            "model.name": self.name,
            "model.expansion": self.expansion,
            "model.reduction": self.reduction,
        }


def _published(*numbers: float | None) -> Published:
    """A row of tables 3 to 5: base top-1, base, original and streaming top-5, seconds of an epoch base, streaming."""
    base_top1, base_top5, original, streaming, base_seconds, streaming_seconds = numbers
    return Published(
        base_top1=base_top1,
        base_top5=base_top5,
        original_top5=original,
        streaming_top5=streaming,
        base_seconds=base_seconds,
        streaming_seconds=streaming_seconds,
    )


_ALL = (3, 4, 5)

ROWS = (
    Row(key="single-label-senet18", tables=(1,), model="SENet-18", variant="softmax", name="senet18",
        protocol="single_label", published=Published(base_top1=44.7, base_top5=79.7)),
    Row(key="single-label-resnet18", tables=(1,), model="ResNet-18", variant="softmax", name="resnet18",
        protocol="single_label", published=Published(base_top1=42.1, base_top5=75.8)),
    Row(key="single-label-vgg16", tables=(1,), model="VGG-16", variant="softmax", name="vgg16",
        protocol="single_label", published=Published(base_top1=41.3, base_top5=73.6)),
    Row(key="resnet18-soft-margin", tables=(2,), model="ResNet-18", variant="soft margin", name="resnet18",
        loss="soft_margin", published=Published(base_top1=37.6, base_top5=69.3)),
    Row(key="senet18-soft-margin", tables=(2,), model="SENet-18", variant="soft margin", name="senet18",
        loss="soft_margin", published=Published(base_top1=38.8, base_top5=64.7)),
    Row(key="resnet18", tables=(2, *_ALL), model="ResNet-18", variant="normal", name="resnet18",
        published=_published(41.1, 77.4, 56.2, 27.3, 403.7, 20.9)),
    Row(key="senet18", tables=(2, *_ALL), model="SENet-18", variant="normal (16x)", name="senet18",
        published=_published(44.8, 87.8, 76.3, 69.8, 417.2, 25.3)),
    Row(key="senet18-2x-expand", tables=_ALL, model="SENet-18", variant="2x expand", name="senet18",
        expansion=2, published=_published(45.4, 90.3, 84.3, 76.7, 421.4, 26.7)),
    Row(key="senet18-4x-expand", tables=_ALL, model="SENet-18", variant="4x expand", name="senet18",
        expansion=4, published=_published(44.3, 89.1, 63.7, 92.6, 425.6, 24.2)),
    Row(key="senet18-8x-reduction", tables=_ALL, model="SENet-18", variant="8x reduction", name="senet18",
        reduction=8, published=_published(47.9, 88.6, 79.6, 89.3, 408.2, 25.8)),
    Row(key="senet18-32x-reduction", tables=_ALL, model="SENet-18", variant="32x reduction", name="senet18",
        reduction=32, published=_published(44.1, 86.4, 85.8, 71.9, 406.4, 20.6)),
    Row(key="senet18-sqrt-reduction", tables=_ALL, model="SENet-18", variant="sqrt reduction", name="senet18",
        reduction="sqrt", published=_published(43.6, 85.9, 82.3, 71.6, 402.7, 19.7)),
    Row(key="senet18-2x-expand-32x-reduce", tables=_ALL, model="SENet-18", variant="2x expand, 32x reduce",
        name="senet18", expansion=2, reduction=32, published=_published(None, 86.8, 86.2, 75.4, None, None)),
    Row(key="inception-narrow", tables=_ALL, model="Inception-ResNet", variant="48", name="inception_resnet",
        published=_published(38.3, 74.2, 76.9, 69.2, 305.6, 16.8)),
    Row(key="inception-wide", tables=_ALL, model="Inception-ResNet", variant="96", name="inception_resnet",
        published=_published(41.2, 76.1, 69.1, 74.4, 587.4, 37.1)),
    Row(key="single-target-resnet18", tables=_ALL, model="ResNet-18", variant="single-target, retrained",
        name="resnet18", protocol="single_target", published=_published(None, None, None, None, 395.7, 394.3)),
)  # fmt: skip
"""in the order of the recipes' `enqueue`"""


def thesis_recipe(data: str | None, settings: list[str]) -> tuple[Recipe, str, str]:
    """The recipe of the grid, with as many trials as it has configurations and seeds, so that none is sampled.

    Args:
        data: the data set for the thesis' own sizes; None: the small grid on the embedded data.
        settings: `key=value` overrides.

    Returns:
        What `load_recipe` does.

    Raises:
        InputError: the recipe is wrong, or an override makes its configurations others than the thesis'.
    """
    for setting in settings:
        if setting.startswith("search.trials="):
            raise InputError(f"--set {setting}: follows from the thesis' configurations and `search.replicates`")
    chosen = [] if data is None else [f"data={json.dumps(data)}"]
    overrides = [*chosen, *settings, f"search.trials={_MANY_TRIALS}"]
    recipe, name, source = load_recipe("thesis-small" if data is None else "thesis", overrides)
    _check_rows(recipe, source)
    search = recipe.search.model_copy(update={"trials": len(ROWS) * recipe.search.replicates})
    return recipe.model_copy(update={"search": search}), name, source


def _check_rows(recipe: Recipe, source: str) -> None:
    """Raise InputError where the recipe's configurations are not those of the rows."""
    space = recipe.parsed_space(source)
    given = recipe.first_configurations(space, source)
    if len(given) != len(ROWS):
        raise InputError(f"{source}: `enqueue`: must hold the thesis' {len(ROWS)} configurations, but got {len(given)}")
    for i, (row, params) in enumerate(zip(ROWS, given, strict=True)):
        config = space.config(params).model_dump()
        for path, wanted in row.settings().items():
            group, _, key = path.rpartition(".")
            found = (config[group] if group else config)[key]
            if found != wanted:
                raise InputError(
                    f"{source}: `enqueue[{i}]`: `{path}` must be {wanted!r} for {row.label}, but got {found!r}"
                )


def row_configs(recipe: Recipe) -> dict[str, TrialConfig]:
    """Every row's config with the first seed, by key."""
    space = recipe.parsed_space("recipe")
    given = recipe.first_configurations(space, "recipe")
    return {row.key: space.config(params) for row, params in zip(ROWS, given, strict=True)}
