"""What one trial is: frozen, validated, fingerprinted."""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from senet.errors import InputError, first_problem

ADAPTIVE_REDUCTIONS = ("sqrt", "c/log c")

Fraction = Annotated[float, Field(ge=0, le=1)]


class Config(BaseModel):
    """Base of every config: immutable, strict about types, closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )


MODELS = (
    *(f"{family}{layers}" for family in ("resnet", "senet") for layers in (18, 34, 50, 101, 152)),
    "vgg16",
    "inception_resnet",
    "inception_senet",
    "inception_resnet_full",
    "inception_senet_full",
)


class ModelConfig(Config):
    """The network (thesis §4.2, §5, §6.2)."""

    name: str = "senet18"
    """architecture, or the import path `package.module:function` of one of your own, called with this config and the
    number of classes; in `senet…` every residual block, in `inception_senet…` every Inception module, ends in a
    squeeze-and-excitation block"""
    width: PositiveInt = 64
    """channels of the first stage; ResNets and VGG go on with 2, 4 and 8 times as many, Inception with 3 and 6 times
    (the full-size Inception networks have channels of their own)"""
    stem: Literal["se", "traditional"] = "se"
    """what Inception networks begin with: a squeeze-and-excitation block, or Inception-v4's many branches"""
    expansion: Literal[1, 2, 4] = 1
    """1×1 expansion of the channels that are squeezed"""
    expanded: Literal["excite", "average"] = "excite"
    """what becomes of the expanded channels: all enter the excitation, or they are averaged back in groups first"""
    expansion_nonlinearity: bool = False
    """batch-norm and ReLU after the 1×1 expansion, which then cannot be computed on the pooled vector"""
    reduction: float | str = 16
    """ratio r of the excitation, whose hidden layer has max(1, round(C / r)) units: a number, `sqrt` (r = √C)
    or `c/log c` (r = C / log2 C)"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """fraction of features that are dropped before the last layer, in training"""
    factorised: bool = False
    """3×3 filters as 3×1 and 1×3"""
    dimension_reduction: Literal[1, 2, 4] = 1
    """1×1 convolution before 3×3 filters that divides their input channels by this"""
    initial: str | None = None
    """weights to begin with: a model folder, or a file with torchvision's weights; not given: from scratch"""

    @field_validator("reduction")
    @classmethod
    def _known_reduction(cls, value: float | str) -> float | str:
        if (isinstance(value, str) and value not in ADAPTIVE_REDUCTIONS) or (not isinstance(value, str) and value <= 0):
            raise ValueError(f"must be a positive number or one of {', '.join(ADAPTIVE_REDUCTIONS)}")
        return value

    @field_validator("name")
    @classmethod
    def _known_name(cls, value: str) -> str:
        module, colon, attribute = value.partition(":")
        if colon and all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
            return value
        if value not in MODELS:
            raise ValueError(f"must be one of {', '.join(MODELS)}, or an import path package.module:function")
        return value

    @property
    def is_custom(self) -> bool:
        """Whether the network is the user's own."""
        return ":" in self.name

    def unused(self) -> set[str]:
        """Keys that make no difference to this network: configs that differ in these alone share one base."""
        if self.is_custom:
            return set()
        inception = self.name.startswith("inception")
        found = {"width"} if self.name.endswith("_full") else set()
        if not inception:
            found.add("stem")
        squeezes = "senet" in self.name or (inception and self.stem == "se")
        if not squeezes:
            found |= {"expansion", "expanded", "expansion_nonlinearity", "reduction"}
        elif self.expansion == 1:
            found |= {"expanded", "expansion_nonlinearity"}
        return found


class BaseConfig(Config):
    """The base phase: single-label images, from scratch."""

    epochs: Annotated[int, Field(ge=0, le=100_000)] = 15
    """passes over the base training images; 0 needs `model.initial`, which is then the base"""
    batch_size: Annotated[int, Field(ge=2)] = 100
    """images a step; an incomplete last batch is left out"""
    learning_rate: PositiveFloat = 0.1
    """largest learning rate of SGD"""
    schedule: Literal["step", "plateau", "cosine", "one_cycle"] = "step"
    """`step`: a tenth at every milestone; `plateau`: a tenth when the validation loss has not fallen for `patience`
    epochs; `cosine`: down to zero; `one_cycle`: up to the learning rate and down to zero, step by step"""
    milestones: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = (10, 12)
    """epochs after which the `step` schedule divides the learning rate by ten"""
    patience: NonNegativeInt = 2
    """epochs without a lower validation loss that the `plateau` schedule bears"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """momentum of SGD"""
    weight_decay: NonNegativeFloat = 5e-4
    """L2 penalty of SGD"""
    l1: NonNegativeFloat = 0.0
    """weight of the sum of all weights' absolute values"""


class StreamingConfig(Config):
    """The streaming phase: multi-label images alone, on top of a base."""

    epochs: Annotated[int, Field(ge=0, le=100_000)] = 4
    """passes over the streaming training images, in each stage; 0: the base stays as it is"""
    stages: PositiveInt = 1
    """streams one after the other: the combinations of labels are shared out among so many"""
    batch_size: Annotated[int, Field(ge=2)] = 100
    """images a step; an incomplete last batch is left out"""
    learning_rate: PositiveFloat = 0.003
    """learning rate of SGD, constant"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """momentum of SGD"""
    weight_decay: NonNegativeFloat = 5e-4
    """L2 penalty of SGD"""
    l1: NonNegativeFloat = 0.0
    """weight of the sum of all weights' absolute values"""
    freeze_batchnorm: bool = False
    """keep the base's batch-norm statistics, and use them, while streaming"""
    distillation: NonNegativeFloat = 0.0
    """weight of the squared distance between the per-image centred logits and the base model's (in later stages those
    of the stage before); 0: none"""
    head_only: bool = False
    """train the last layer alone; all else stays as the base has it, batch-norm statistics too"""
    l2_sp: NonNegativeFloat = 0.0
    """weight of half the squared distance between the weights and the base's, or in later stages those that the stage
    before has left (L2-SP); 0: none"""
    ewc: NonNegativeFloat = 0.0
    """the same distance, every weight counted as much as it matters to the base (elastic weight consolidation)"""
    replay: NonNegativeInt | Literal["all"] = 0
    """REFERENCE that looks at old images: base training images of each class that are trained on again; `all`: joint
    training"""


class AugmentConfig(Config):
    """Random changes of training images."""

    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """largest shift in each direction, as a fraction of the side; the border is repeated"""
    flip: bool = True
    """mirror left and right with probability one half"""
    colour: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """largest change of brightness, contrast and saturation, each by a factor from 1 − colour to 1 + colour; 0: none"""


class ObjectiveConfig(Config):
    """What is wanted: joint = w · original top-k + (1 − w) · streaming top-k."""

    original_weight: Fraction = 0.7
    """w, the weight of the base set's accuracy after streaming"""
    top_k: PositiveInt = 5
    """k: an image counts if every true label is among the k highest scores"""


class TrialConfig(Config):
    """One trial, complete: the same config, seed and kind of machine give the same numbers."""

    data: Annotated[str, Field(min_length=1)]
    """name of the prepared data set"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """seed of weights, order and augmentation"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto` is bf16 autocast where the hardware computes in it, else fp32"""
    model: ModelConfig = ModelConfig()
    """the network"""
    protocol: Literal["streaming", "single_label", "single_target", "label_splitting"] = "streaming"
    """`streaming`: the thesis' two phases. To compare with, all by cross-entropy of the softmax: `single_label`: the
    base phase alone; `single_target`: trained from scratch on all images, each combination of labels a class of its
    own; `label_splitting`: streams every image once for each of its labels"""
    loss: Literal["margin", "margin_sigmoid", "soft_margin", "asymmetric", "focal"] = "margin"
    """multi-label loss: hinge between true and other labels, on logits or on sigmoids; binary cross-entropy; asymmetric
    loss; focal loss"""
    nonfinite: Literal["fail", "rollback"] = "fail"
    """where loss or gradients leave the finite numbers: fail, or go back to the last good epoch with a tenth of the
    learning rate"""
    augment: AugmentConfig = AugmentConfig()
    """random changes of training images, in both phases"""
    base: BaseConfig = BaseConfig()
    """the base phase"""
    streaming: StreamingConfig = StreamingConfig()
    """the streaming phase"""
    objective: ObjectiveConfig = ObjectiveConfig()
    """what is wanted"""

    @model_validator(mode="after")
    def _base_exists(self) -> "TrialConfig":
        if self.base.epochs == 0 and self.model.initial is None:
            raise ValueError("`base.epochs` is 0, which needs `model.initial`, a base that is trained already")
        return self

    def base_identity(self) -> dict[str, Any]:
        """Everything of this config that influences its base; data and precision are known where it is trained."""
        left_out: dict[str, Any] = {
            "data": True,
            "precision": True,
            "streaming": True,
            "objective": {"original_weight"},
        }
        identity = self.model_dump(mode="json", exclude=left_out)
        defaults = ModelConfig().model_dump(mode="json")
        identity["model"] |= {key: defaults[key] for key in self.model.unused()}
        if self.protocol != "streaming":
            identity["loss"] = "softmax"
        if self.protocol != "single_target":
            # The classes are others there; all other protocols have the same base phase.
            identity["protocol"] = "streaming"
        return identity


def fingerprint(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_trial(values: dict[str, Any], source: str) -> TrialConfig:
    """Validate `values`. Raises InputError, one line that names `source`, key and value."""
    try:
        return TrialConfig.model_validate(values)
    except ValidationError as error:
        raise first_problem(error, source, TrialConfig) from None


def with_absolute_paths(values: dict[str, Any]) -> dict[str, Any]:
    """A trial config, complete or partial and not yet validated, whose `model.initial` is the same from everywhere."""
    model = values.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("initial"), str):
        return values
    return values | {"model": model | {"initial": os.path.abspath(os.path.expanduser(model["initial"]))}}


def read_config(path: Path) -> tuple[TrialConfig, dict[str, Any]]:
    """A trial config and its provenance, which may be empty; paths are relative to the current directory.

    Raises:
        InputError: the file is missing or wrong.
    """
    # Whoever trains a config that is at hand needs no PyYAML.
    from senet.yamlfile import read_mapping

    values = read_mapping(path)
    if "space" in values:
        raise InputError(f"{path}: is a recipe, not the config of one trial; search by it: sweeps run {path}")
    provenance = values.pop("provenance", {})
    if not isinstance(provenance, dict):
        raise InputError(f"{path}: `provenance`: must be a mapping, but got {provenance!r}")
    try:
        json.dumps(provenance)
    except TypeError as error:
        raise InputError(f"{path}: `provenance`: must hold plain numbers and words: {error}") from None
    return parse_trial(with_absolute_paths(values), str(path)), provenance
