"""Weights to begin with: which are taken, how they are matched, and how each mistake reads."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from senet.calibration import Calibration
from senet.config import TrialConfig, parse_trial, read_config
from senet.data.store import Dataset
from senet.errors import InputError
from senet.initial import initial_digest, initial_state, normalised_for
from senet.modelfolder import Model, save_model
from senet.models import build_model, head_of
from senet.models.squeeze_excite import SqueezeExcite

Trial = Callable[..., TrialConfig]
CLASSES = ("ash", "beech", "cedar")


def fresh(config: TrialConfig, classes: int, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(config.model, classes)


@pytest.fixture
def folder(tmp_path: Path, trial_config: Trial) -> Path:
    """A trained senet18 of width 4."""
    config = trial_config(model={"width": 4})
    state = fresh(config, len(CLASSES), seed=0).state_dict()
    calibration = Calibration(torch.tensor(1.0), torch.tensor(0.0))
    model = Model(config, CLASSES, 24, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), state, calibration, {}, {})
    save_model(tmp_path / "trained", model)
    return tmp_path / "trained"


def state_of(config: TrialConfig, classes: tuple[str, ...] = CLASSES) -> dict[str, Tensor]:
    found = initial_state(config, classes, fresh(config, len(classes)))
    assert found is not None
    return found


def refused(config: TrialConfig, classes: tuple[str, ...] = CLASSES) -> str:
    with torch.device("meta"):
        network = build_model(config.model, len(classes))
    with pytest.raises(InputError) as caught:
        initial_state(config, classes, network)
    message = str(caught.value)
    assert message.startswith(f"`model.initial`: {config.model.initial}: ")
    assert "\n" not in message
    return message


def test_without_initial_weights_nothing_changes(trial_config: Trial, tiny: Dataset) -> None:
    config = trial_config()
    assert initial_state(config, CLASSES, fresh(config, 3)) is None
    assert normalised_for(config, tiny) is tiny
    assert initial_digest(config) is None


def test_a_model_folder_gives_everything(trial_config: Trial, folder: Path) -> None:
    config = trial_config(model={"width": 4, "initial": str(folder)}, base={"epochs": 0})
    state, trained = state_of(config), fresh(config, 3, seed=0).state_dict()
    assert list(state) == list(trained)
    for name, value in trained.items():
        assert torch.equal(state[name], value), name
    fresh(config, 3).load_state_dict(state)


def test_classes_are_matched_by_name(trial_config: Trial, folder: Path) -> None:
    config = trial_config(model={"width": 4, "initial": str(folder)})
    classes = ("cedar", "damson", "ash", "elm")
    state, ours, trained = state_of(config, classes), fresh(config, 4).state_dict(), fresh(config, 3, 0).state_dict()
    for name in ("head.weight", "head.bias"):
        assert torch.equal(state[name], torch.stack([trained[name][2], ours[name][1], trained[name][0], ours[name][3]]))
    assert torch.equal(state["stem.0.weight"], trained["stem.0.weight"])
    without_base = trial_config(model={"width": 4, "initial": str(folder)}, base={"epochs": 0})
    assert "does not know the class `damson` (2 unknown)" in refused(without_base, classes)
    assert state_of(without_base, ("beech",))["head.bias"] == trained["head.bias"][1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 8}, "does not fit the network: `stem.0.weight` has the shape (4, 3, 7, 7), not (8, 3, 7, 7)"),
        ({"name": "senet34"}, "`stages.2.conv1.weight` has the shape (8, 4, 3, 3), not (4, 4, 3, 3)"),
        ({"expansion": 2}, "there is no tensor `stages.0.attention.expand"),
        ({"name": "resnet18"}, "which has no place for the tensor `stages.0.attention.reduce"),
        ({"reduction": 1}, "`stages.0.attention.reduce.weight` has the shape (1, 4), not (4, 4)"),
    ],
)
def test_another_network_is_told(trial_config: Trial, folder: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refused(trial_config(model={"width": 4, "initial": str(folder)} | changes))


def test_what_is_no_weights_is_told(trial_config: Trial, folder: Path, tmp_path: Path) -> None:
    def trial(path: Path, **model: Any) -> TrialConfig:
        return trial_config(model={"width": 64, "name": "resnet18", "initial": str(path)} | model)

    assert "no such file or model folder" in refused(trial(tmp_path / "none.pth"))
    assert "no model folder" in refused(trial(tmp_path))
    for name in ("words.pth", "words.safetensors", "words"):
        (tmp_path / name).write_text("no weights")
        assert "is no file of weights (.pth, .pt or .safetensors)" in refused(trial(tmp_path / name))
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "epoch": 3}, tmp_path / "nested.pt")
    assert "must hold tensors by name and nothing else" in refused(trial(tmp_path / "nested.pt"))
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.pth")
    assert "there is no tensor `bn1.weight`" in refused(trial(tmp_path / "part.pth"))
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    assert "`conv1.weight` has the shape (64, 3, 3, 3), not (64, 3, 7, 7)" in refused(trial(tmp_path / "other.pth"))
    for changes in ({"name": "inception_resnet"}, {"factorised": True}, {"dimension_reduction": 2}):
        message = refused(trial(tmp_path / "part.pth", width=8, **changes))
        assert "torchvision's weights fit resnet18 to resnet152, senet18 to senet152 and vgg16" in message
    (folder / "weights.safetensors").write_bytes(b"nothing")
    assert "the model folder is damaged" in refused(trial(folder))


def test_images_are_normalised_as_the_weights_know_them(trial_config: Trial, folder: Path, tiny: Dataset) -> None:
    ours = normalised_for(trial_config(model={"initial": str(folder)}), tiny)
    assert (ours.mean, ours.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (ours.fingerprint, ours.base) == (tiny.fingerprint, tiny.base)
    file = folder / "weights.safetensors"
    theirs = normalised_for(trial_config(model={"initial": str(file)}), tiny)
    assert (theirs.mean, theirs.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_the_digest_is_that_of_the_content(trial_config: Trial, folder: Path, tmp_path: Path) -> None:
    def digest(path: Path) -> str | None:
        return initial_digest(trial_config(model={"initial": str(path)}))

    before = digest(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert digest(tmp_path / "copy") == before
    assert digest(folder / "weights.safetensors") not in (before, None)
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    assert digest(folder) != before
    # The order of the classes and the normalisation count, too.
    described = tmp_path / "copy" / "model.json"
    described.write_text(described.read_text().replace("beech", "birch"))
    assert digest(tmp_path / "copy") != before
    with pytest.raises(InputError, match=r"`model\.initial`: .*none: no such file or model folder"):
        digest(tmp_path / "none")


def test_paths_are_relative_to_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("data: x\nmodel: {initial: ../weights.pth}\n")
    config, _ = read_config(Path("c.yaml"))
    assert config.model.initial == str(tmp_path.parent / "weights.pth")
    (tmp_path / "c.yaml").write_text("data: x\nmodel: {initial: 3}\n")
    with pytest.raises(InputError, match=r"`model\.initial`: should be a valid string, but got 3"):
        read_config(Path("c.yaml"))


def torchvisions(name: str) -> nn.Module:
    """One of torchvision's networks, with weights and statistics that tell every tensor from every other."""
    from torchvision import models  # type: ignore[import-untyped]

    torch.manual_seed(0)
    network: nn.Module = getattr(models, name)(weights=None).eval()
    for key, value in network.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    return network


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        *((f"resnet{layers}", f"resnet{layers}") for layers in (18, 34, 50, 101, 152)),
        ("vgg16", "vgg16_bn"),
    ],
)
def test_torchvisions_weights_give_torchvisions_scores(name: str, theirs: str, tmp_path: Path) -> None:
    network, file = torchvisions(theirs), tmp_path / "weights.pth"
    torch.save(network.state_dict(), file)
    config = parse_trial({"data": "x", "model": {"name": name, "initial": str(file)}}, "test")
    ours, classes = fresh(config, 1000).eval(), tuple(map(str, range(1000)))
    state = initial_state(config, classes, ours)
    assert state is not None
    assert torch.equal(state["head.weight"], ours.state_dict()["head.weight"]), "the head is not theirs"
    ours.load_state_dict(state)
    head_of(ours).load_state_dict(head_of(network).state_dict())
    images = torch.randn(2, 3, 65, 97)
    with torch.inference_mode():
        wanted = network(images)
        torch.testing.assert_close(ours(images), wanted, rtol=0, atol=1e-4 * float(wanted.std()))


@pytest.mark.slow
def test_squeezes_stay_fresh_and_old_files_will_do(tmp_path: Path) -> None:
    theirs = {k: v for k, v in torchvisions("resnet34").state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(theirs, tmp_path / "weights.safetensors")
    model = {"name": "senet34", "initial": str(tmp_path / "weights.safetensors")}
    config = parse_trial({"data": "x", "model": model}, "test")
    state, network = state_of(config), fresh(config, 3)
    ours = network.state_dict()
    squeezes = [name for name, module in network.named_modules() if isinstance(module, SqueezeExcite)]
    kept = [name for name in ours if name.startswith(tuple(squeezes))]
    assert len(kept) == 4 * len(squeezes) == 4 * 16
    for name in (*kept, "head.weight", "head.bias", "stem.1.num_batches_tracked"):
        assert torch.equal(state[name], ours[name]), name
    assert torch.equal(state["stages.3.shortcut.2.running_var"], theirs["layer2.0.downsample.1.running_var"])

    def other(**changes: Any) -> str:
        return refused(parse_trial({"data": "x", "model": model | changes}, "test"))

    assert "does not fit the network, which has no place for the tensor `layer" in other(name="resnet18")
    assert "`layer1.0.conv1.weight` has the shape (64, 64, 3, 3), not (64, 64, 1, 1)" in other(name="senet50")
    assert "`conv1.weight` has the shape (64, 3, 7, 7), not (32, 3, 7, 7)" in other(width=32)
    without_base = parse_trial({"data": "x", "model": model, "base": {"epochs": 0}}, "test")
    assert "does not know the class `ash` (3 unknown)" in refused(without_base)
