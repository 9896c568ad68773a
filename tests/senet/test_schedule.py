"""Learning rates of the base phase."""

from pathlib import Path

import pytest
import torch

from senet.config import BaseConfig, TrialConfig
from senet.data.store import Dataset
from senet.device import Runtime
from senet.loop import Report
from senet.phases import train_base
from senet.schedule import learning_rate_at
from tests.conftest import TINY_TRIAL, merged

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow


def test_step_schedule_is_the_thesis() -> None:
    rates = [learning_rate_at(BaseConfig(), epoch * 7, 7, []) for epoch in range(15)]
    assert rates == pytest.approx([0.1] * 10 + [0.01] * 2 + [0.001] * 3)


def test_one_cycle_rises_to_the_peak_and_falls_to_nothing() -> None:
    base = BaseConfig(epochs=10, learning_rate=0.2, schedule="one_cycle")
    rates = [learning_rate_at(base, step, 10, []) for step in range(100)]
    peak = rates.index(max(rates))
    assert 28 <= peak <= 31
    assert max(rates) == pytest.approx(0.2, rel=0.05)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.005


def test_cosine_is_pytorchs() -> None:
    base = BaseConfig(epochs=4, learning_rate=0.3, schedule="cosine")
    optimizer = torch.optim.SGD([torch.zeros(())], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for step in range(40):
        assert learning_rate_at(base, step, 10, []) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        theirs.step()


def test_plateau_waits_and_then_falls() -> None:
    base = BaseConfig(schedule="plateau", patience=2, learning_rate=0.1)
    losses = [5.0, 4.0, 4.5, 4.2, 4.1, 3.0, 3.1, 3.2, 3.3]
    rates = [learning_rate_at(base, 0, 10, losses[:n]) for n in range(len(losses) + 1)]
    # Three epochs without a lower loss than 4.0, later three without one below 3.0.
    assert rates == pytest.approx([0.1] * 5 + [0.01] * 4 + [0.001])


def test_a_plateaus_decisions_survive_a_resume(tiny: Dataset, tmp_path: Path) -> None:
    changes = {"base": {"schedule": "plateau", "patience": 0, "epochs": 5, "learning_rate": 0.05}}
    config = TrialConfig.model_validate(merged(TINY_TRIAL, changes))
    runtime = Runtime(torch.device("cpu"), bf16=False)

    def stop(report: Report) -> None:
        if report["epoch"] == 3:
            raise KeyboardInterrupt

    def plain(reports: list[Report]) -> list[Report]:
        return [{key: value for key, value in report.items() if key != "seconds"} for report in reports]

    whole = train_base(config, tiny, runtime, lambda report: None)
    with pytest.raises(KeyboardInterrupt):
        train_base(config, tiny, runtime, stop, tmp_path / "progress.pt")
    resumed = train_base(config, tiny, runtime, lambda report: None, tmp_path / "progress.pt")
    assert plain(resumed.history) == plain(whole.history)
    rates = [report["learning_rate"] for report in whole.history]
    assert rates[3] < rates[0], "it had decided before the interruption, and had to remember it"
