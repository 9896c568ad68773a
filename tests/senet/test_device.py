"""What a process may take of a GPU, and what it says it took."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from senet.data.source import _uploaded, make_source
from senet.device import CONTEXT_BYTES, Runtime
from senet.errors import InputError


def test_a_cpu_has_no_shares() -> None:
    runtime = Runtime(torch.device("cpu"), bf16=False)
    runtime.hold_to(0.25)
    assert runtime.peak_memory() is None


@pytest.mark.parametrize(("share", "fraction"), [(0.25, 0.25 - 1 / 16), (1, 1.0), (2, 1.0)])
def test_a_gpu_is_held_to_its_share(monkeypatch: pytest.MonkeyPatch, share: float, fraction: float) -> None:
    """What is asked of torch, in which order: there may be no GPU here."""
    asked: list[tuple[str, object]] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append(("empty", None)))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda part, index: asked.append(("fraction", (part, index)))
    )
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: asked.append(("reset", device)))
    total = SimpleNamespace(total_memory=16 * CONTEXT_BYTES)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: total)
    device = torch.device("cuda", 1)
    Runtime(device, bf16=False).hold_to(share)
    assert asked == [("empty", None), ("fraction", (fraction, 1)), ("reset", device)]


def test_a_share_without_room_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    total = SimpleNamespace(total_memory=16 * CONTEXT_BYTES)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: total)
    with pytest.raises(InputError, match="holds no more than a CUDA context"):
        Runtime(torch.device("cuda", 0), bf16=False).hold_to(0.05)


def test_what_a_process_uses_is_more_than_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    total = SimpleNamespace(total_memory=16 * CONTEXT_BYTES)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: total)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * CONTEXT_BYTES)
    used = Runtime(torch.device("cuda"), bf16=False).peak_memory()
    assert used == {"bytes": 3 * CONTEXT_BYTES, "fraction": 0.25}


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
@pytest.mark.parametrize(("free", "share", "place"), [(2000, 1.0, "device"), (2000, 0.2, "host"), (450, 1.0, "host")])
def test_images_lie_on_the_gpu_where_they_fit_beside_a_model(
    monkeypatch: pytest.MonkeyPatch, device: str, free: int, share: float, place: str
) -> None:
    """What torch would answer on a GPU; which device it accepts for a question is for itself to say."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_getMemoryFraction", lambda index: share, raising=False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2000))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    monkeypatch.setattr("senet.data.source.Resident", lambda *_: "device")
    monkeypatch.setattr("senet.data.source.Fed", lambda *_: "host")
    pixels = np.zeros((5, 4, 4, 3), dtype=np.uint8)
    assert make_source(pixels, np.arange(2), torch.device(device)) == place


def test_no_images_are_uploaded_as_none() -> None:
    nothing = np.zeros((0, 4, 4, 3), dtype=np.uint8)
    assert _uploaded(nothing, np.arange(0), torch.device("meta")).shape == (0, 4, 4, 3)
