"""The `tfreg` command."""

import argparse
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from tfreg import __version__
from tfreg.cli import compact, demo


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; `arguments` default to those of the command line."""
    parser = argparse.ArgumentParser(
        prog="tfreg",
        description="Structured weight penalties and smaller models for Keras 3 and tf_keras.",
    )
    parser.add_argument("--version", action="version", version=f"tfreg {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands")
    run_command = {"demo": _demo(commands), "compact": _compact(commands)}
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
    else:
        run_command[options.command](options)


def _demo(commands: Any) -> Callable[[argparse.Namespace], None]:
    """Adds `tfreg demo`; the function of its options that runs it."""
    command = commands.add_parser(
        "demo",
        help="train nets with and without penalties or a budget and show what these do",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = command.add_argument
    add("--epochs", type=int, default=30, help="epochs that each net is trained for")
    add("--out", type=pathlib.Path, default="tfreg-demo", metavar="DIR", help="where to save")
    add("--keras", choices=["keras", "tf_keras"], default="keras", help="the Keras to use")
    add("--seed", type=int, default=0, help="seed of the data's split and of the training")

    def run(options: argparse.Namespace) -> None:
        if options.epochs < 1:
            command.error(f"argument --epochs: must be at least 1, not {options.epochs}")
        if not 0 <= options.seed < 2**32:
            command.error(f"argument --seed: must be in [0, 2**32), not {options.seed}")
        try:
            options.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            command.error(f"argument --out: {error}")
        demo.run(options.epochs, options.out, options.keras, options.seed)

    return run


def _compact(commands: Any) -> Callable[[argparse.Namespace], None]:
    """Adds `tfreg compact`; the function of its options that runs it."""
    command = commands.add_parser(
        "compact", help="cut what is zero out of a saved model: a smaller one with equal outputs"
    )
    add = command.add_argument
    add("source", type=pathlib.Path, metavar="IN", help="a model's .keras or .h5 file")
    add("target", type=pathlib.Path, metavar="OUT", help="the file to write, .keras or .h5")
    add("--no-fold", action="store_true", help="cut zeros alone: fold no constant into a bias")
    add("--force", action="store_true", help="replace OUT if it is there")
    add(
        "--import",
        action="append",
        default=[],
        dest="modules",
        metavar="MODULE",
        help="a module that registers layers and penalties of your own; may be given again",
    )

    def run(options: argparse.Namespace) -> None:
        source, target = options.source, options.target
        if not source.is_file():
            command.error(f"argument IN: there is no file {source}")
        if target.suffix not in compact.ENDINGS:
            endings = " or ".join(compact.ENDINGS)
            command.error(f"argument OUT: must end in {endings}, not be {target}")
        if not target.parent.is_dir():
            command.error(f"argument OUT: there is no directory {target.parent}")
        if target.exists() and not (options.force and target.is_file()):
            command.error(f"argument OUT: {target} is there already; --force replaces a file")
        try:
            compact.import_modules(options.modules)
        except Exception as error:  # whatever the module raises
            command.error(f"argument --import: {type(error).__name__}: {error}")
        compact.run(source, target, fold=not options.no_fold)

    return run


if __name__ == "__main__":
    main()
