"""The command `senet`: data sets, training, streaming, prediction. Needs neither Ray nor MLflow."""

import argparse
import sys
from pathlib import Path

from senet.command import Commands, Parser, run_command


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv`; returns the exit code."""
    return run_command("senet", lambda: _dispatch(_parser().parse_args(argv)))


def _dispatch(arguments: argparse.Namespace) -> int:
    from senet import commands

    action = getattr(commands, arguments.action)
    result: int = action(arguments)
    return result


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="senet",
        description="Train a squeeze-and-excitation network on single-label images, stream multi-label images into "
        "it, and use it.",
        epilog="Everything is written below ./mlruns, or below SWEEPS_HOME. Exit codes: 0 done, 1 the run failed, "
        "2 the input was wrong.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_data(commands.add_parser("data", help="prepare and look at data sets"))

    train = commands.add_parser("train", help="train a config in full: base phase, streaming phase, test")
    train.add_argument("config", type=Path, help="a trial config, such as `sweeps export` writes")
    train.add_argument("--name", help="the model's name; else the file's")
    train.add_argument("--seed", type=int, help="instead of the config's seed")
    train.set_defaults(action="train")

    stream = commands.add_parser("stream", help="stream the multi-label images of a data set into a trained model")
    stream.add_argument("model", type=Path, help="a model folder")
    stream.add_argument("dataset", help="the data set's name")
    stream.add_argument("--name", help="the new model's name; else the model's, with a number")
    stream.add_argument("--learning-rate", type=float, help="instead of the model's streaming learning rate")
    stream.add_argument("--epochs", type=int, help="instead of the model's streaming epochs")
    stream.add_argument("--distillation", type=float, help="instead of the model's distillation weight")
    stream.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
                        help="any other key of `streaming`, such as l2_sp=0.1; may be repeated")  # fmt: skip
    stream.set_defaults(action="stream")

    predict = commands.add_parser("predict", help="print the labels of images, with their probabilities")
    predict.add_argument("model", type=Path, help="a model folder")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    predict.add_argument("--json", action="store_true", help="print one JSON object an image, with all labels")
    predict.add_argument("--top", type=int, default=3, help="labels to print for an image (default: 3)")
    predict.set_defaults(action="predict")
    return parser


def _add_data(data: Parser) -> None:
    commands = data.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="the prepared data sets")
    listing.set_defaults(action="list_datasets")

    folders = commands.add_parser("import", help="prepare a data set from folders of images")
    folders.add_argument("name", help="the data set's name")
    folders.add_argument(
        "--base", type=Path, required=True, metavar="DIR", help="single-label images, a folder a class"
    )
    folders.add_argument("--stream", type=Path, required=True, metavar="DIR_OR_CSV",
                         help="multi-label images: a folder a+b a combination, or a CSV of file,labels")  # fmt: skip
    _add_import_options(folders, size=96, policy="crop")
    folders.set_defaults(action="import_dataset")

    _add_collect(commands)

    dogs = commands.add_parser("import-stanford-dogs", help="prepare Stanford Dogs, as it is published")
    dogs.add_argument("path", type=Path, metavar="PATH", help="images.tar, or the folder that holds Images")
    dogs.add_argument("--name", default="stanford_dogs", help="the data set's name (default: stanford_dogs)")
    dogs.add_argument("--stream", type=Path, metavar="DIR_OR_CSV",
                      help="multi-label images, as for import; without them nothing can be streamed")  # fmt: skip
    dogs.add_argument("--lists", type=Path, metavar="TAR", help="lists.tar: test on the published test images")
    _add_import_options(dogs, size=300, policy="thesis")
    dogs.set_defaults(action="import_stanford_dogs")

    verify = commands.add_parser("verify", help="compare a data set with its checksums")
    verify.add_argument("name", help="the data set's name")
    verify.set_defaults(action="verify_dataset")

    copy = commands.add_parser("copy", help="copy a data set to an address, for machines without a common folder")
    copy.add_argument("name", help="the data set's name")
    copy.add_argument("url", metavar="URL", help="s3://bucket/folder, gs://bucket/folder or file:///folder")
    copy.set_defaults(action="copy_dataset")

    _add_breeds(commands)


def _add_collect(commands: Commands) -> None:
    collect = commands.add_parser("collect", help="download pictures of mixes, for you to look through")
    collect.add_argument("spec", type=Path, help="a YAML file: mixes and their sources, see docs/collecting.md")
    collect.add_argument("--output", type=Path, metavar="DIR", help="the collection; else collected/SPEC below mlruns")
    collect.add_argument("--choices", type=Path, metavar="FILE",
                         help="what the contact sheet saved; else choices.json in the collection")  # fmt: skip
    collect.set_defaults(action="collect")


def _add_breeds(commands: Commands) -> None:
    breeds = commands.add_parser("breeds", help="draw dog breeds and mixes of them")
    breeds.add_argument("name", help="the data set's name")
    for option, text in (
        ("breeds", "number of breeds"),
        ("mixes", "number of mixed breeds"),
        ("skip-mixes", "mixed breeds to leave out first: so many as an earlier data set of this seed has"),
        ("train-per-breed", "training images of a breed"),
        ("validation-per-breed", "validation images of a breed"),
        ("test-per-breed", "test images of a breed"),
        ("train-per-mix", "training images of a mix"),
        ("validation-per-mix", "validation images of a mix"),
        ("test-per-mix", "test images of a mix"),
        ("size", "side of the images, pixels"),
        ("seed", "of the drawing"),
    ):
        breeds.add_argument(f"--{option}", type=int, help=text)
    breeds.add_argument("--difficulty", type=float, help="how much the images of a breed vary")
    breeds.add_argument("--replace", action="store_true", help="overwrite a data set of this name")
    breeds.set_defaults(action="draw_breeds")


def _add_import_options(parser: argparse.ArgumentParser, size: int, policy: str) -> None:
    """What every import of image files can be told."""
    add = parser.add_argument
    add("--size", type=int, default=size, help=f"side of the prepared images, pixels (default: {size})")
    add("--policy", choices=["crop", "squash", "pad", "thesis"], default=policy,
        help="how an image becomes a square: its centre; both sides scaled; borders; or the thesis' rule, which drops "
        f"what has a side under 250 pixels and gives borders up to 300 (default: {policy})")  # fmt: skip
    add("--split", choices=["default", "thesis"],
        help="60 %% train, 20 %% validation, 20 %% test; or the thesis': 20 %% are both of the latter")  # fmt: skip
    add("--alias", dest="aliases", action="append", default=[], metavar="LABEL=CLASS",
        help="another name of a class among the multi-label images; may be repeated")  # fmt: skip
    add("--seed", type=int, default=0, help="of the splits (default: 0)")
    add(
        "--several-objects",
        action="store_true",
        help="a multi-label image shows several objects, not one of mixed kind",
    )
    add("--replace", action="store_true", help="overwrite a data set of this name")


if __name__ == "__main__":
    sys.exit(main())
