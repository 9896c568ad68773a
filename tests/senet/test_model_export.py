"""The networks in ONNX, run by onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from senet.config import MODELS
from tests.senet.test_model_contract import ALL_OPTIONS, small_config, trained

# One is slow; all of them take minutes, and are part of the soak. Of networks that differ in their number of layers
# alone only the deepest has all options.
DEFAULTS: dict[str, Any] = {}
SLOW = [("senet18", DEFAULTS)]
LESS_DEEP = {"resnet34", "senet34", "resnet101", "senet101"}
CASES = [
    pytest.param(
        name,
        options,
        marks=pytest.mark.slow if (name, options) in SLOW else pytest.mark.soak,
        id=f"{name} {'all options' if options else 'defaults'}",
    )
    for name in MODELS
    for options in (
        [DEFAULTS] if name in LESS_DEEP else [ALL_OPTIONS] if name.endswith("152") else [DEFAULTS, ALL_OPTIONS]
    )
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_onnx_gives_the_same(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    import onnxruntime

    network = trained(small_config(name, **options))
    file, images = tmp_path / "network.onnx", torch.randn(3, 3, 48, 41)
    torch.onnx.export(
        network,
        (images[:2],),
        file,
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, network(images).numpy(), rtol=1e-3, atol=1e-4)
