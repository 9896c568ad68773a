"""Configs and YAML: what is accepted, how errors read, what a base depends on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from senet.config import TrialConfig, fingerprint, parse_trial, read_config
from senet.errors import InputError
from senet.yamlfile import parse_yaml, read_mapping


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": "x", "modle": {}}, "f.yaml: unknown key `modle`"),
        ({"data": "x", "model": {"widht": 3}}, "f.yaml: unknown key `model.widht`"),
        ({"data": "x", "model": {"width": 0}}, "f.yaml: `model.width`: should be greater than 0, but got 0"),
        ({"data": "x", "model": {"width": "wide"}}, "f.yaml: `model.width`: should be a valid integer, but got 'wide'"),
        ({"data": "x", "base": {"epochs": 1.5}}, "f.yaml: `base.epochs`: should be a valid integer, but got 1.5"),
        ({"data": "x", "base": {"epochs": True}}, "f.yaml: `base.epochs`: should be a valid integer, but got True"),
        (
            {"data": "x", "model": {"reduction": "cube"}},
            "f.yaml: `model.reduction`: must be a positive number or one of sqrt, c/log c, but got 'cube'",
        ),
        ({"data": "x", "model": {"expansion": 3}}, "f.yaml: `model.expansion`: should be 1, 2 or 4, but got 3"),
        ({"data": "x", "base": {"learning_rate": float("nan")}}, "f.yaml: `base.learning_rate`: should be"),
        ({}, "f.yaml: `data` is missing"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_trial(values, "f.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_config_cannot_be_changed() -> None:
    config = TrialConfig(data="x")
    with pytest.raises(ValidationError):
        config.seed = 3  # type: ignore[misc]


def test_every_field_says_what_it_is() -> None:
    def described(model: Any) -> None:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            if hasattr(field.annotation, "model_fields"):
                described(field.annotation)

    described(TrialConfig)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"streaming": {"learning_rate": 0.5}}, True),
        ({"streaming": {"distillation": 0.5}}, True),
        ({"objective": {"original_weight": 0.1}}, True),
        ({"objective": {"top_k": 3}}, False),
        ({"seed": 1}, False),
        ({"loss": "soft_margin"}, False),
        ({"model": {"expansion": 4}}, False),
        ({"base": {"weight_decay": 0.0}}, False),
        ({"augment": {"flip": False}}, False),
    ],
)
def test_what_a_base_depends_on(trial_config: Callable[..., TrialConfig], change: dict[str, Any], same: bool) -> None:
    one, other = trial_config().base_identity(), trial_config(**change).base_identity()
    assert (fingerprint(one) == fingerprint(other)) is same


def test_a_resnet_has_nothing_to_reduce(trial_config: Callable[..., TrialConfig]) -> None:
    one = trial_config(model={"name": "resnet18", "reduction": 8})
    other = trial_config(model={"name": "resnet18", "reduction": "sqrt", "expansion": 4})
    assert one.base_identity() == other.base_identity()


def test_numbers_as_people_write_them() -> None:
    assert parse_yaml("[1e-3, 1E3, 2.5e+2, .5e1, -1e-2, 3, 1.5, e3, 1e]", "f") == [
        *(1e-3, 1e3, 250.0, 5.0, -0.01, 3, 1.5),
        *("e3", "1e"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "line 2 is not valid YAML: the key `a` stands twice"),
        ("a: [1,\n", "line 2 is not valid YAML"),
        ("- 1\n", "must hold a mapping of keys to values, but holds list"),
        ("", "must hold a mapping"),
        ("a: !!python/object/apply:os.system ['true']\n", "line 1 is not valid YAML: could not determine"),
        ("\tb: 1", "line 1 is not valid YAML"),
    ],
)
def test_broken_yaml_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_mapping(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_mapping(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_mapping(tmp_path / "binary.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_mapping(tmp_path)


def test_provenance_is_told_apart_from_the_config(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    path.write_text("data: x\nseed: 4\nprovenance: {sweep: s, trial: 3}\n")
    config, provenance = read_config(path)
    assert (config.seed, provenance) == (4, {"sweep": "s", "trial": 3})
    path.write_text("data: x\nprovenance: yes\n")
    with pytest.raises(InputError, match="`provenance`: must be a mapping"):
        read_config(path)
