"""The training loop: what a non-finite step does, going back, penalties, and how often the host looks at the device."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from senet.config import TrialConfig
from senet.data.store import Dataset
from senet.device import Runtime
from senet.errors import NonFiniteError
from senet.loop import Loop, Report, Task, Trained
from senet.losses import margin
from senet.phases import stream, train_base

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

MakeConfig = Callable[..., TrialConfig]
CPU = Runtime(torch.device("cpu"), bf16=False)


def ignore(report: Report) -> None:
    """Hear nothing."""


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    labels = torch.eye(4, dtype=torch.bool)[torch.arange(8) % 4]
    return torch.randn(8, 3, 8, 8, generator=generator), labels


class Scripted:
    """Training batches from a list; those of one epoch can be told from those of a repeated one."""

    def __init__(self, epochs: list[list[tuple[Tensor, Tensor]]]) -> None:
        self._epochs = list(epochs)

    def steps(self, batch_size: int) -> int:
        return len(self._epochs[0])

    def training(self, *_: object) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self._epochs.pop(0)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


def run(config: TrialConfig, epochs: list[list[tuple[Tensor, Tensor]]], model: nn.Module) -> Trained:
    task = Task(
        phase="streaming",
        model=model,
        train=Scripted(epochs),  # type: ignore[arg-type]
        criterion=lambda images, logits, labels: margin(logits, labels),
        evaluate=lambda: {"streaming_topk": torch.tensor(0.5)},
        epochs=config.streaming.epochs,
    )
    return Loop(config, CPU, task, ignore, None).run("test")


def nan_batch(which: str) -> tuple[Tensor, Tensor]:
    images, labels = batch(99)
    return (images * float("nan"), labels) if which == "nan" else (images * 1e38, labels)


@pytest.fixture
def streaming(trial_config: MakeConfig) -> Callable[..., TrialConfig]:
    def make(epochs: int = 1, **changes: Any) -> TrialConfig:
        knobs = {"epochs": epochs, "learning_rate": 0.1, "momentum": 0.9, "batch_size": 8}
        return trial_config(streaming=knobs | changes.pop("streaming", {}), **changes)

    return make


class TestNonFinite:
    """A step that leaves the finite numbers."""

    @pytest.mark.parametrize("which", ["nan", "overflow"])
    @pytest.mark.parametrize("position", [0, 1, 3])
    def test_it_leaves_no_trace_in_weights_momentum_or_statistics(
        self, streaming: Callable[..., TrialConfig], which: str, position: int
    ) -> None:
        good = [batch(i) for i in range(3)]
        with_it, without = network(), network()
        with pytest.raises(NonFiniteError):
            run(streaming(), [[*good[:position], nan_batch(which), *good[position:]]], with_it)
        run(streaming(), [good], without)
        for name, value in without.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                assert torch.equal(value, with_it.state_dict()[name]), name

    def test_it_is_found_in_a_buffer_that_no_step_shows(self, streaming: Callable[..., TrialConfig]) -> None:
        model = network()
        model.register_buffer("kept", torch.tensor([1.0, float("nan")]))
        with pytest.raises(NonFiniteError, match="epoch 1, on the validation images"):
            run(streaming(), [[batch(0)]], model)

    @pytest.mark.parametrize("kept", [torch.empty(0), torch.tensor([1j]), torch.tensor([3]), torch.tensor([True])])
    def test_it_is_not_found_in_a_buffer_of_another_kind(
        self, streaming: Callable[..., TrialConfig], kept: Tensor
    ) -> None:
        model = network()
        model.register_buffer("kept", kept)
        assert len(run(streaming(), [[batch(0)]], model).history) == 1

    def test_epoch_step_and_rate_are_named(self, streaming: Callable[..., TrialConfig]) -> None:
        epochs = [[batch(0), batch(1)], [batch(2), nan_batch("nan")]]
        wanted = "not finite in the streaming phase, epoch 2, step 2, learning rate 0.1: lower the rate"
        with pytest.raises(NonFiniteError, match=wanted):
            run(streaming(epochs=2), epochs, network())

    def test_going_back_repeats_the_epoch_with_a_tenth_of_the_rate(self, streaming: Callable[..., TrialConfig]) -> None:
        good = [[batch(0), batch(1)], [batch(2), batch(3)], [batch(4), batch(5)]]
        bad = [batch(2), nan_batch("nan")]
        repeated, model = network(), network()
        config = streaming(epochs=3, nonfinite="rollback")
        history = run(config, [good[0], bad, good[1], good[2]], repeated).history
        assert [report.get("rollbacks", 0) for report in history] == [0, 1, 1]
        assert [report["learning_rate"] for report in history] == pytest.approx([0.1, 0.01, 0.01])
        # The same by hand: an epoch at the rate, then two at its tenth with the momentum kept.
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        for number, epoch in enumerate(good):
            optimizer.param_groups[0]["lr"] = 0.1 if number == 0 else 0.01
            for images, labels in epoch:
                optimizer.zero_grad()
                margin(model(images), labels).backward()
                optimizer.step()
        for name, value in model.state_dict().items():
            torch.testing.assert_close(repeated.state_dict()[name], value, rtol=1e-4, atol=1e-6)

    def test_going_back_ends_after_three_times(self, streaming: Callable[..., TrialConfig]) -> None:
        with pytest.raises(NonFiniteError, match=r"step 1, learning rate 0.0001, after going back 3 times"):
            run(streaming(nonfinite="rollback"), [[nan_batch("nan")]] * 5, network())


class TestHost:
    """How often the host looks at the device."""

    class Looks(TorchDispatchMode):
        """Counts operations whose result the host waits for."""

        def __init__(self) -> None:
            super().__init__()
            self.seen: Counter[str] = Counter()

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = str(function.overloadpacket)
            if name.split(".")[-1] in ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "item"):
                self.seen[name] += 1
            return function(*args, **(kwargs or {}))

    def test_not_once_a_step(self, streaming: Callable[..., TrialConfig]) -> None:
        counts = []
        for steps in (2, 12):
            with self.Looks() as looks:
                run(streaming(nonfinite="rollback"), [[batch(i) for i in range(steps)]], network())
            counts.append(looks.seen)
        assert counts[0] == counts[1]

    @pytest.mark.parametrize("phase", ["base", "streaming"])
    def test_not_once_a_step_in_the_phases(self, trial_config: MakeConfig, tiny: Dataset, phase: str) -> None:
        knobs = {"distillation": 0.1, "l2_sp": 0.1, "l1": 1e-6}
        base = train_base(trial_config(base={"epochs": 1}), tiny, CPU, ignore)
        counts = []
        for batch_size in (20, 5):
            config = trial_config(
                base={"epochs": 1, "batch_size": batch_size}, streaming={"epochs": 1, "batch_size": batch_size} | knobs
            )
            with self.Looks() as looks:
                if phase == "base":
                    train_base(config, tiny, CPU, ignore)
                else:
                    stream(config, base, tiny, CPU, ignore)
            counts.append(looks.seen)
        assert counts[0] == counts[1]


def test_l1_draws_weights_to_zero(trial_config: MakeConfig, tiny: Dataset) -> None:
    def size(weight: float) -> float:
        state = train_base(trial_config(base={"l1": weight}), tiny, CPU, ignore).state
        return sum(float(value.abs().sum()) for name, value in state.items() if name.endswith("weight"))

    assert size(1e-2) < 0.8 * size(0.0)
