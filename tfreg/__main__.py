"""The `tfreg` command."""

import argparse
import pathlib
from collections.abc import Sequence

from tfreg import __version__
from tfreg.cli import demo


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; `arguments` default to those of the command line."""
    parser = argparse.ArgumentParser(
        prog="tfreg", description="Structured weight penalties for Keras 3 and tf_keras."
    )
    parser.add_argument("--version", action="version", version=f"tfreg {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands")
    command = commands.add_parser(
        "demo",
        help="train small nets with and without penalties and show what these do",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = command.add_argument
    add("--epochs", type=int, default=30, help="epochs that each net is trained for")
    add("--out", type=pathlib.Path, default="tfreg-demo", metavar="DIR", help="where to save")
    add("--keras", choices=["keras", "tf_keras"], default="keras", help="the Keras to use")
    add("--seed", type=int, default=0, help="seed of the data's split and of the training")
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return
    if options.epochs < 1:
        command.error(f"argument --epochs: must be at least 1, not {options.epochs}")
    if not 0 <= options.seed < 2**32:
        command.error(f"argument --seed: must be in [0, 2**32), not {options.seed}")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        command.error(f"argument --out: {error}")
    demo.run(options.epochs, options.out, options.keras, options.seed)


if __name__ == "__main__":
    main()
