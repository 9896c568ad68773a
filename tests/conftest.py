"""What many tests share: a tiny data set, a config that trains on it in a second, a browser."""

import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from senet.config import TrialConfig, parse_trial
from senet.data.breeds import BreedsSpec, prepare_breeds
from senet.data.store import Dataset, open_dataset

TINY = BreedsSpec(
    breeds=6,
    mixes=3,
    train_per_breed=20,
    validation_per_breed=10,
    test_per_breed=10,
    train_per_mix=20,
    validation_per_mix=10,
    test_per_mix=10,
    size=24,
    difficulty=0.5,
)

TINY_TRIAL: dict[str, Any] = {
    "data": "tiny",
    "precision": "fp32",
    "model": {"width": 8},
    "base": {"epochs": 3, "batch_size": 20, "learning_rate": 0.05, "schedule": "one_cycle"},
    "streaming": {"epochs": 2, "batch_size": 20, "learning_rate": 0.01},
    "objective": {"top_k": 2},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate-goldens", action="store_true", help="write tests/goldens anew instead of comparing")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch  # here, so that the process that only deals out the tests starts at once

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six breeds and three mixes of 24 pixels."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    prepare_breeds(folder, TINY)
    return open_dataset(folder)


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with nested `changes`."""
    result = dict(values)
    for key, value in changes.items():
        result[key] = merged(result.get(key, {}), value) if isinstance(value, dict) else value
    return result


@pytest.fixture
def trial_config() -> Callable[..., TrialConfig]:
    """Makes the tiny trial's config with changes."""
    return lambda **changes: parse_trial(merged(TINY_TRIAL, changes), "test")


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 100 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty SWEEPS_HOME."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SWEEPS_HOME", str(folder))
    return folder


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Headless Chromium that saves into `downloads`."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver on this machine")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
        *("disable-background-networking", "disable-component-update", "window-size=1600,1200"),
        f"user-data-dir={tmp_path / 'chromium'}",
    ):
        options.add_argument(f"--{argument}")
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    window = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield window
    window.quit()


def refusal(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command prints that must end with exit code 2 and a single line on standard error."""
    capsys.readouterr()
    try:
        code = main(list(arguments))
    except SystemExit as stop:
        code = int(str(stop.code))
    captured = capsys.readouterr()
    assert code == 2, captured
    assert captured.err.count("\n") == 1, captured.err
    return captured
