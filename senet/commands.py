"""What each command of `senet` does. torch is imported by the commands that need it."""

import json
import shutil
import sys
from argparse import Namespace
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.config import fingerprint, read_config
from senet.errors import InputError
from senet.home import home
from senet.yamlfile import parse_yaml

if TYPE_CHECKING:
    from senet.config import StreamingConfig
    from senet.modelfolder import Model


def list_datasets(arguments: Namespace) -> int:
    """Print the prepared data sets."""
    from senet.data.catalogue import prepared_manifests
    from senet.data.integrity import read_manifest

    found = prepared_manifests(home())
    for path in found:
        try:
            about = read_manifest(path.parent)
        except InputError as error:
            # One that is damaged does not hide the others.
            print(error)
            continue
        images, policy = about["images"], about["source"].get("policy")
        fitted = f" by {policy}" if policy else ""
        print(
            f"{path.parent.name}: {len(about['classes'])} classes, {about['size']} px{fitted}, "
            f"base {images['base']} images, streaming {images['streaming']}, {about['kind']}, split "
            f"{about['split']['name']}, fingerprint {about['fingerprint']}"
        )
    if not found:
        print(f"no data sets in {home() / 'datasets'}")
    return 0


def import_dataset(arguments: Namespace) -> int:
    """Prepare a data set from folders."""
    from senet.data.catalogue import dataset_folder
    from senet.data.folder import import_folders
    from senet.data.store import check_name

    target = dataset_folder(home(), check_name(arguments.name, "the data set's name"))
    report = import_folders(target, arguments.base, arguments.stream, **_import_options(arguments))
    print("\n".join(report.lines()))
    # The recipe's three of three classes would always be right.
    fewer = " --set objective.top_k=2" if report.classes == 3 else ""
    print(f"wrote {target}; search on it: sweeps run photos --set data={arguments.name}{fewer}")
    return 0


def collect(arguments: Namespace) -> int:
    """Download pictures of mixes, and apply what a person chose among them."""
    from senet.data.collect.run import collect as collect_pictures
    from senet.data.store import check_name

    folder, again = arguments.output, f"senet data collect {arguments.spec}"
    if folder is None:
        name = check_name(arguments.spec.stem, f"{arguments.spec}: give --output, or the file's name")
        folder = home() / "collected" / name
    else:
        again += f" --output {folder}"
    folder = folder.resolve()
    summary = collect_pictures(arguments.spec, folder, arguments.choices, print)
    print("\n".join(summary.lines()))
    if summary.empty:
        print(f"senet: {folder}: no picture was got", file=sys.stderr)
        return 1
    print(f"look through {folder / 'contact-sheet.html'}, save, and call: {again} --choices ~/Downloads/choices.json")
    print(f"then: senet data import NAME --base DIR --stream {folder / 'mixes'}")
    return 0


def import_stanford_dogs(arguments: Namespace) -> int:
    """Prepare Stanford Dogs."""
    from senet.data.catalogue import dataset_folder
    from senet.data.stanford_dogs import import_stanford_dogs
    from senet.data.store import check_name

    if arguments.lists is not None and arguments.split is not None:
        raise InputError("--split and --lists: the lists are a split, `official`; give one of them")
    target = dataset_folder(home(), check_name(arguments.name, "the data set's name"))
    report = import_stanford_dogs(
        target, arguments.path, stream=arguments.stream, lists=arguments.lists, **_import_options(arguments)
    )
    print("\n".join(report.lines()))
    print(f"wrote {target}")
    return 0


def _import_options(arguments: Namespace) -> dict[str, Any]:
    """What all imports are told."""
    return {
        "size": arguments.size,
        "seed": arguments.seed,
        "replace": arguments.replace,
        "kind": "several objects" if arguments.several_objects else "one object of mixed kind",
        "policy": arguments.policy,
        "split": arguments.split or "default",
        "aliases": arguments.aliases,
    }


def verify_dataset(arguments: Namespace) -> int:
    """Compare a data set with its checksums."""
    from senet.data.catalogue import dataset_folder
    from senet.data.integrity import read_manifest, verify_files

    folder = dataset_folder(home(), arguments.name)
    manifest = read_manifest(folder)
    total = verify_files(folder, manifest)
    print(
        f"{folder}: all {len(manifest['checksums'])} files ({total / 1e6:.1f} MB) are as they were written, "
        f"fingerprint {manifest['fingerprint']}"
    )
    return 0


def copy_dataset(arguments: Namespace) -> int:
    """Copy a data set to an address, where machines without a common folder find it."""
    from senet.data.catalogue import dataset_folder, is_url
    from senet.data.remote import send_dataset

    if is_url(arguments.name):
        raise InputError(f"{arguments.name}: must be the name of a prepared data set; see `senet data list`")
    copied = send_dataset(dataset_folder(home(), arguments.name), arguments.url)
    print(f"{'copied to' if copied else 'is there already:'} {arguments.url}; in a recipe: data: {arguments.url}")
    return 0


def draw_breeds(arguments: Namespace) -> int:
    """Draw a data set of breeds."""
    from senet.data.breeds import BreedsSpec, prepare_breeds
    from senet.data.catalogue import dataset_folder
    from senet.data.store import check_name

    target = dataset_folder(home(), check_name(arguments.name, "the data set's name"))
    options = {field.name: getattr(arguments, field.name) for field in fields(BreedsSpec)}
    spec = BreedsSpec(**{name: value for name, value in options.items() if value is not None})
    prepare_breeds(target, spec, arguments.replace)
    print(f"wrote {target}: {spec.breeds} breeds, {spec.mixes} mixes, {spec.size} px")
    return 0


def train(arguments: Namespace) -> int:
    """Train a config in full."""
    read_config(arguments.config)  # A wrong config is told before torch is imported.

    from senet.training import model_target, train_from_file

    folder = model_target(home(), arguments.config, arguments.name)
    train_from_file(arguments.config, folder, home(), arguments.seed)
    return 0


def stream(arguments: Namespace) -> int:
    """Stream further multi-label images into a model."""
    from senet.data.catalogue import obtain_dataset
    from senet.data.store import check_name
    from senet.device import make_runtime
    from senet.final import has_base_pictures_of, stream_model
    from senet.modelfolder import load_model, refuse_existing, save_model
    from senet.training import print_epoch, print_result, progress_folder, stoppable

    model = load_model(arguments.model)
    streaming = _streaming_config(arguments, model)
    named = home() / "models" / check_name(arguments.name, "--name") if arguments.name else None
    if named:
        refuse_existing(named)
    dataset = obtain_dataset(home(), arguments.dataset)
    runtime = make_runtime("auto", model.config.precision)
    # Without a name others may be streaming into the same model.
    key = fingerprint([streaming.model_dump(mode="json"), dataset.fingerprint])
    progress = progress_folder(home() / "models" / f"{arguments.name or arguments.model.resolve().name}-{key}")
    with stoppable(progress):
        streamed = stream_model(model, streaming, dataset, runtime, print_epoch, progress)
    if named:
        save_model(named, streamed)
    folder = named or _save_numbered(arguments.model, streamed)
    shutil.rmtree(progress, ignore_errors=True)
    print_result(folder, streamed)
    if not has_base_pictures_of(model, dataset):
        print(
            f"warning: the base pictures of `{dataset.name}`, or their split, are not those that {arguments.model} was "
            "trained on: base and original accuracy are those on other pictures, or on pictures of its training",
            file=sys.stderr,
        )
    return 0


def _streaming_config(arguments: Namespace, model: "Model") -> "StreamingConfig":
    """How the model streams, as the command line changes it."""
    from senet.config import parse_trial

    options = {name: getattr(arguments, name) for name in ("learning_rate", "epochs", "distillation")}
    given = {name: value for name, value in options.items() if value is not None}
    values = model.config.model_dump(mode="json")
    for setting in arguments.settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise InputError(f"--set {setting}: must be key=value, such as l2_sp=0.1")
        given[key] = parse_yaml(text, f"--set {setting}")
    values["streaming"] |= given
    return parse_trial(values, "command line").streaming


def predict(arguments: Namespace) -> int:
    """Print the labels of images."""
    from senet.data.pictures import printable
    from senet.device import make_runtime
    from senet.modelfolder import load_model
    from senet.predict import predict_files

    if arguments.top < 1:
        raise InputError(f"--top must be 1 or more, but got {arguments.top}")
    model = load_model(arguments.model)
    for prediction in predict_files(model, arguments.images, make_runtime("auto", model.config.precision)):
        file = printable(prediction.file)
        if arguments.json:
            described: dict[str, Any] = {"file": file, "labels": prediction.labels()}
            print(json.dumps(described | {"probabilities": prediction.probabilities}, ensure_ascii=False))
            continue
        shown = list(prediction.probabilities.items())[: arguments.top]
        print(f"{file}: " + ", ".join(f"{label} {probability:.2f}" for label, probability in shown))
    return 0


def _save_numbered(parent: Path, model: "Model") -> Path:
    """Write what was streamed into `parent` under its name with the first number that is free, and return the folder.

    The number is given at the end: others may be streaming into the same model.
    """
    from senet.modelfolder import save_model

    number = 2
    while True:
        folder = home() / "models" / f"{parent.resolve().name}-{number}"
        # Until it is written somebody may take the number.
        with suppress(InputError):
            save_model(folder, model)
            return folder
        number += 1
