"""What a process may take of a GPU, and what it says it took."""

import pytest
import torch

from senet.device import Runtime


def test_a_cpu_has_no_shares() -> None:
    runtime = Runtime(torch.device("cpu"), bf16=False)
    runtime.hold_to(0.25)
    assert runtime.peak_memory() is None


@pytest.mark.parametrize(("share", "fraction"), [(0.25, 0.25), (1, 1.0), (2, 1.0)])
def test_a_gpu_is_held_to_its_share(monkeypatch: pytest.MonkeyPatch, share: float, fraction: float) -> None:
    """What is asked of torch, in which order: there may be no GPU here."""
    asked: list[tuple[str, object]] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append(("empty", None)))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda part, index: asked.append(("fraction", (part, index)))
    )
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: asked.append(("reset", device)))
    device = torch.device("cuda", 1)
    Runtime(device, bf16=False).hold_to(share)
    assert asked == [("empty", None), ("fraction", (fraction, 1)), ("reset", device)]
