"""Whatever the config says, within its types: it trains with finite numbers, or is refused with one clear line."""

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from senet.config import (
    MODELS,
    AugmentConfig,
    BaseConfig,
    ModelConfig,
    ObjectiveConfig,
    StreamingConfig,
    TrialConfig,
    parse_trial,
)
from senet.data.catalogue import check_fits, description
from senet.data.store import Dataset
from senet.device import make_runtime
from senet.errors import InputError, NonFiniteError
from senet.initial import normalised_for
from senet.loop import Report
from senet.phases import stream, train_base, with_importance
from senet.protocols import for_protocol

# The full-size networks have tests of their own: a step of theirs takes seconds here. The deepest are for the soak.
DEEPEST = [name for name in MODELS if name.endswith(("101", "152"))]
NAMES = [name for name in MODELS if not name.endswith("_full") and name not in DEEPEST]

MODEL = {
    "name": st.sampled_from(NAMES),
    "width": st.integers(4, 12),
    "stem": st.sampled_from(["se", "traditional"]),
    "expansion": st.sampled_from([1, 2, 4]),
    "expanded": st.sampled_from(["excite", "average"]),
    "expansion_nonlinearity": st.booleans(),
    "reduction": st.one_of(st.sampled_from(["sqrt", "c/log c"]), st.floats(0.1, 1000)),
    "dropout": st.floats(0, 0.9),
    "factorised": st.booleans(),
    "dimension_reduction": st.sampled_from([1, 2, 4]),
    "initial": st.none(),
}
BASE = {
    "epochs": st.sampled_from([1, 1, 1, 1, 0]),
    "batch_size": st.sampled_from([60, 1000]),
    "learning_rate": st.floats(1e-4, 0.1),
    "schedule": st.sampled_from(["step", "plateau", "cosine", "one_cycle"]),
    "milestones": st.lists(st.integers(1, 5), max_size=2),
    "patience": st.integers(0, 3),
    "momentum": st.floats(0, 0.95),
    "weight_decay": st.floats(0, 1e-2),
    "l1": st.floats(0, 1e-4),
}
STREAMING = {
    "epochs": st.integers(0, 1),
    "stages": st.sampled_from([1, 1, 2, 3, 4]),
    "batch_size": st.sampled_from([30, 1000]),
    "learning_rate": st.floats(1e-5, 0.05),
    "momentum": st.floats(0, 0.95),
    "weight_decay": st.floats(0, 1e-2),
    "l1": st.floats(0, 1e-4),
    "freeze_batchnorm": st.booleans(),
    "distillation": st.floats(0, 1),
    "head_only": st.booleans(),
    "l2_sp": st.floats(0, 1),
    "ewc": st.sampled_from([0.0, 0.0, 1.0]),
    "replay": st.sampled_from([0, 2, "all"]),
}
AUGMENT = {"shift": st.floats(0, 0.5), "flip": st.booleans(), "colour": st.floats(0, 0.9)}
TRIAL = {
    "data": st.just("tiny"),
    "seed": st.integers(0, 1000),
    "precision": st.sampled_from(["fp32", "bf16"]),
    "protocol": st.sampled_from(["streaming", "single_label", "single_target", "label_splitting"]),
    "loss": st.sampled_from(["margin", "margin_sigmoid", "soft_margin", "asymmetric", "focal"]),
    "nonfinite": st.sampled_from(["fail", "rollback"]),
    "model": st.fixed_dictionaries(MODEL),
    "augment": st.fixed_dictionaries(AUGMENT),
    "base": st.fixed_dictionaries(BASE),
    "streaming": st.fixed_dictionaries(STREAMING),
    "objective": st.fixed_dictionaries(
        {"original_weight": st.floats(0, 1), "top_k": st.sampled_from([2, 3, 4, 5, 1, 6])}
    ),
}


@pytest.mark.parametrize(
    ("config", "drawn"),
    [(ModelConfig, MODEL), (BaseConfig, BASE), (StreamingConfig, STREAMING), (TrialConfig, TRIAL),
     (AugmentConfig, AUGMENT), (ObjectiveConfig, {"original_weight", "top_k"})],
)  # fmt: skip
def test_no_key_is_left_out(config: type[BaseModel], drawn: dict[str, Any]) -> None:
    assert set(config.model_fields) == set(drawn)


def outcome(values: dict[str, Any], tiny: Dataset) -> list[Report] | str:
    """Build and train two steps of each phase. Returns the reports, or why the config was refused or failed."""
    try:
        config = parse_trial(values, "drawn")
        check_fits(config, description(tiny), "drawn")
        dataset = for_protocol(config, normalised_for(config, tiny))
        runtime = make_runtime("cpu", config.precision)
        base = train_base(config, dataset, runtime, lambda report: None)
        if config.streaming.ewc:
            base = with_importance(config, base, dataset, runtime)
        streamed = stream(config, base, dataset, runtime, lambda report: None)
    except (InputError, NonFiniteError) as refusal:
        return str(refusal)
    assert all(value.isfinite().all() for value in streamed.state.values() if value.dtype == torch.float32)
    return [{k: v for k, v in report.items() if k != "seconds"} for report in base.history + streamed.history]


def check(values: dict[str, Any], tiny: Dataset) -> None:
    """Finite numbers, or one line that names a key or the step; the same numbers when it is done again."""
    found = outcome(values, tiny)
    if isinstance(found, str):
        assert "\n" not in found
        assert found.count("`") >= 2 or found.startswith("not finite in the"), found
        event("not finite" if found.startswith("not finite") else "refused")
    else:
        event("trained")
        for report in found:
            assert all(math.isfinite(value) for value in report.values() if isinstance(value, float)), report
    assert outcome(values, tiny) == found


QUIET = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@pytest.mark.slow
@given(values=st.fixed_dictionaries(TRIAL))
@settings(max_examples=20, **QUIET)
def test_any_config_trains_or_is_refused(tiny: Dataset, values: dict[str, Any]) -> None:
    check(values, tiny)


@pytest.mark.soak
@pytest.mark.timeout(1500)
@given(values=st.fixed_dictionaries(TRIAL))
@settings(max_examples=100, **QUIET)
def test_many_configs_train_or_are_refused(tiny: Dataset, values: dict[str, Any]) -> None:
    check(values, tiny)


@pytest.mark.soak
@pytest.mark.timeout(1500)
@given(
    values=st.fixed_dictionaries(
        TRIAL
        | {
            "model": st.fixed_dictionaries(MODEL | {"name": st.sampled_from(DEEPEST)}),
            # Gradients of single images take minutes in so many layers.
            "streaming": st.fixed_dictionaries(STREAMING | {"ewc": st.just(0.0)}),
        }
    )
)
@settings(max_examples=10, **QUIET)
def test_the_deepest_networks_train_or_are_refused(tiny: Dataset, values: dict[str, Any]) -> None:
    check(values, tiny)
