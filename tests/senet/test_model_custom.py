"""Networks of the user's own."""

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from senet.complexity import complexity
from senet.config import ModelConfig, TrialConfig
from senet.data.store import Dataset
from senet.device import Runtime
from senet.errors import InputError
from senet.models import build_model, head_of
from senet.models.custom import source_digest
from senet.phases import train_base

# They train, or wait: together they take longer than a quick gate may.
pytestmark = pytest.mark.slow

NETWORK = """
from torch import nn

class Tiny(nn.Module):
    def __init__(self, config, classes):
        super().__init__()
        self.convolution = nn.Conv2d(3, config.width, 3)
        self.last = nn.Linear(config.width, classes)

    def forward(self, images):
        return self.last(self.convolution(images).mean(dim=(2, 3)))

class Outer:
    inner = Tiny

number = 3

def late(config, classes):
    from users_helper import tiny
    return tiny(config, classes)

def wrong(config, classes):
    raise ValueError("no such\\nwidth")

def leaves(config, classes):
    raise SystemExit(3)

def nothing(config, classes):
    return None

def lazy(config, classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

class Broken(Tiny):
    def forward(self, images):
        logits = super().forward(images)
        if self.wrong == "raises":
            raise ValueError("no such\\nsize")
        return {"tuple": (logits,), "shape": logits[:, :2]}[self.wrong]

def broken(wrong):
    def make(config, classes):
        network = Broken(config, classes)
        network.wrong = wrong
        return network
    return make

raises, gives_tuple, gives_two = broken("raises"), broken("tuple"), broken("shape")
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes files into the current directory, from which Python does not import by itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)

    def write_file(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    yield write_file
    for name in set(sys.modules) - before:
        if name.startswith("users_"):
            del sys.modules[name]


@pytest.mark.parametrize("attribute", ["Tiny", "Outer.inner", "late"])
@pytest.mark.parametrize("module", ["users_network", "users_package.network"])
def test_a_network_of_ones_own(write: Callable[[str, str], None], module: str, attribute: str) -> None:
    write(f"{module.replace('.', '/')}.py", NETWORK)
    write("users_helper.py", f"from {module} import Tiny as tiny\n")
    path = list(sys.path)
    network = build_model(ModelConfig(name=f"{module}:{attribute}", width=6), 4)
    assert sys.path == path
    assert network(torch.randn(2, 3, 9, 9)).shape == (2, 4)
    assert head_of(network) is network.last
    assert isinstance(network.last, nn.Linear)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("users_missing:net", "cannot be imported: ModuleNotFoundError: No module named 'users_missing'"),
        (
            "users_network:absent",
            "cannot be imported: AttributeError: module 'users_network' has no attribute 'absent'",
        ),
        ("users_broken:net", "cannot be imported: ZeroDivisionError: division by zero"),
        ("users_exits:net", "cannot be imported: SystemExit: 4"),
        ("users_network:number", "must be callable, but is a int"),
        ("users_network:wrong", "called with the config and 4 classes: ValueError: no such width"),
        ("users_network:leaves", "called with the config and 4 classes: SystemExit: 3"),
        ("users_network:nothing", "must return a torch.nn.Module, but returned a NoneType"),
        ("users_network:lazy", "must know the sizes of its layers, but has a lazy one (torch.nn.Lazy…)"),
    ],
)
def test_a_wrong_network_is_refused_in_one_line(write: Callable[[str, str], None], name: str, reason: str) -> None:
    write("users_network.py", NETWORK)
    write("users_broken.py", "1 / 0\n")
    write("users_exits.py", "raise SystemExit(4)\n")
    with pytest.raises(InputError) as refused:
        build_model(ModelConfig(name=name), 4)
    assert str(refused.value) == f"`model.name`: {name}: {reason}"


@pytest.mark.parametrize(
    ("attribute", "trained", "counted"),
    [
        ("raises", "called with cpu images (2, 3, 24, 24): ValueError: no such size",
         "called with meta images (1, 3, 24, 24): ValueError: no such size"),
        ("gives_tuple", "must give logits (2, 6), but gave a tuple", "must give logits (1, 6), but gave a tuple"),
        ("gives_two", "must give logits (2, 6), but gave a tensor (2, 2)",
         "must give logits (1, 6), but gave a tensor (1, 2)"),
    ],
)  # fmt: skip
def test_what_gives_no_logits_is_refused_before_it_is_trained_or_counted(
    write: Callable[[str, str], None],
    trial_config: Callable[..., TrialConfig],
    tiny: Dataset,
    attribute: str,
    trained: str,
    counted: str,
) -> None:
    write("users_network.py", NETWORK)
    config = trial_config(model={"name": f"users_network:{attribute}"})
    with pytest.raises(InputError) as refused:
        train_base(config, tiny, Runtime(torch.device("cpu"), bf16=False), lambda report: None)
    assert str(refused.value) == f"`model.name`: users_network:{attribute}: {trained}"
    with pytest.raises(InputError) as refused:
        complexity(config.model, len(tiny.classes), tiny.size)
    assert str(refused.value) == f"`model.name`: users_network:{attribute}: {counted}"


@pytest.mark.parametrize("module", ["users_network", "users_package.network"])
def test_the_digest_tells_versions_apart(write: Callable[[str, str], None], module: str) -> None:
    file = f"{module.replace('.', '/')}.py"
    digests = []
    for text in (NETWORK, NETWORK + "# another version\n"):
        write(file, text)
        digests.append(source_digest(f"{module}:Tiny"))
        assert digests[-1] == hashlib.sha256(text.encode()).hexdigest()
        # It is the file's, whether the module was imported or not.
        build_model(ModelConfig(name=f"{module}:Tiny"), 4)
        assert source_digest(f"{module}:Tiny") == digests[-1]
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("users_missing:net", "there is no such module"),
        ("users_missing.inside:net", "cannot be imported: ModuleNotFoundError: No module named 'users_missing'"),
        ("sys:net", "the module has no source file"),
        ("users_package:net", "the module has no source file"),
    ],
)
def test_no_digest_without_a_source_file(write: Callable[[str, str], None], name: str, reason: str) -> None:
    write("users_package/network.py", NETWORK)
    with pytest.raises(InputError) as refused:
        source_digest(name)
    assert str(refused.value) == f"`model.name`: {name}: {reason}"
