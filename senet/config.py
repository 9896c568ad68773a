"""What one trial is: frozen, validated, fingerprinted."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
)

from senet.errors import InputError, first_problem
from senet.yamlfile import read_mapping

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


class ModelConfig(Config):
    """The network (thesis §4.2)."""

    name: Literal["resnet18", "senet18"] = "senet18"
    """architecture; `senet18` is `resnet18` with a squeeze-and-excitation block in every residual block"""
    width: PositiveInt = 64
    """channels of the first stage; the four stages have 1, 2, 4 and 8 times as many"""
    expansion: Literal[1, 2, 4] = 1
    """1×1 expansion of the channels that are squeezed (senet18 only)"""
    reduction: float | str = 16
    """ratio r of the excitation, whose hidden layer has max(1, round(C / r)) units: a number, `sqrt` (r = √C)
    or `c/log c` (r = C / log2 C) (senet18 only)"""

    @field_validator("reduction")
    @classmethod
    def _known_reduction(cls, value: float | str) -> float | str:
        if (isinstance(value, str) and value not in ADAPTIVE_REDUCTIONS) or (not isinstance(value, str) and value <= 0):
            raise ValueError(f"must be a positive number or one of {', '.join(ADAPTIVE_REDUCTIONS)}")
        return value


class BaseConfig(Config):
    """The base phase: single-label images, from scratch."""

    epochs: PositiveInt = 15
    """passes over the base training images"""
    batch_size: Annotated[int, Field(ge=2)] = 100
    """images a step; an incomplete last batch is left out"""
    learning_rate: PositiveFloat = 0.1
    """largest learning rate of SGD"""
    schedule: Literal["step", "one_cycle"] = "step"
    """`step`: a tenth at every milestone; `one_cycle`: up to the learning rate and down to zero, step by step"""
    milestones: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = (10, 12)
    """epochs after which the `step` schedule divides the learning rate by ten"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """momentum of SGD"""
    weight_decay: NonNegativeFloat = 5e-4
    """L2 penalty of SGD"""


class StreamingConfig(Config):
    """The streaming phase: multi-label images alone, on top of a base."""

    epochs: PositiveInt = 4
    """passes over the streaming training images"""
    batch_size: Annotated[int, Field(ge=2)] = 100
    """images a step; an incomplete last batch is left out"""
    learning_rate: PositiveFloat = 0.003
    """learning rate of SGD, constant"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """momentum of SGD"""
    weight_decay: NonNegativeFloat = 5e-4
    """L2 penalty of SGD"""
    freeze_batchnorm: bool = False
    """keep the base's batch-norm statistics, and use them, while streaming"""
    distillation: NonNegativeFloat = 0.0
    """weight of the squared distance between the per-image centred logits and the base model's; 0: none"""


class AugmentConfig(Config):
    """Random changes of training images."""

    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """largest shift in each direction, as a fraction of the side; the border is repeated"""
    flip: bool = True
    """mirror left and right with probability one half"""


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
    loss: Literal["margin", "soft_margin"] = "margin"
    """multi-label loss on logits: hinge between true and other labels, or binary cross-entropy"""
    augment: AugmentConfig = AugmentConfig()
    """random changes of training images, in both phases"""
    base: BaseConfig = BaseConfig()
    """the base phase"""
    streaming: StreamingConfig = StreamingConfig()
    """the streaming phase"""
    objective: ObjectiveConfig = ObjectiveConfig()
    """what is wanted"""

    def base_identity(self) -> dict[str, Any]:
        """Everything of this config that influences its base; data and precision are known where it is trained."""
        left_out: dict[str, Any] = {
            "data": True,
            "precision": True,
            "streaming": True,
            "objective": {"original_weight"},
        }
        identity = self.model_dump(mode="json", exclude=left_out)
        if self.model.name == "resnet18":
            # There is no squeeze to expand or reduce: configs that differ in these share one base.
            identity["model"] |= {"expansion": 1, "reduction": 16}
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
        raise first_problem(error, source) from None


def read_config(path: Path) -> tuple[TrialConfig, dict[str, Any]]:
    """A trial config and its provenance, which may be empty. Raises InputError."""
    values = read_mapping(path)
    provenance = values.pop("provenance", {})
    if not isinstance(provenance, dict):
        raise InputError(f"{path}: `provenance`: must be a mapping, but got {provenance!r}")
    try:
        json.dumps(provenance)
    except TypeError as error:
        raise InputError(f"{path}: `provenance`: must hold plain numbers and words: {error}") from None
    return parse_trial(values, str(path)), provenance
