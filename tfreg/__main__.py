"""The `tfreg` command."""

import argparse
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tfreg import __version__
from tfreg.cli import compact, demo, files, report

EXAMPLES_OF_COMPACT = """\
examples:
  tfreg compact large.keras small.keras
  tfreg compact large.h5 small.keras --import my_layers
  tfreg compact model.keras model.keras --force

Exit status: 0; 1 for a failure, with a line on standard error; 2 for arguments that are wrong.
"""
EXAMPLES_OF_REPORT = """\
examples:
  tfreg report model.keras
  tfreg report model.keras --plot norms.png
  tfreg report large.keras --compare small.keras
  tfreg report elsewhere.h5 --penalty group_lasso --axis output
  tfreg report model.keras --json | jq .multiply_adds_after

Exit status: 0; 1 for a failure, with a line on standard error; 2 for arguments that are wrong.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; `arguments` default to those of the command line."""
    parser = argparse.ArgumentParser(
        prog="tfreg",
        description="Structured weight penalties and smaller models for Keras 3 and tf_keras.",
    )
    parser.add_argument("--version", action="version", version=f"tfreg {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands")
    run_command = {
        "demo": _demo(commands),
        "compact": _compact(commands),
        "report": _report(commands),
    }
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return
    try:
        run_command[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


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
        "compact",
        help="cut what is zero out of a saved model: a smaller one with equal outputs",
        description="Cuts what is zero out of a saved model: a smaller one with equal outputs.",
        epilog=EXAMPLES_OF_COMPACT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("source", type=pathlib.Path, metavar="IN", help="a model's .keras or .h5 file")
    add("target", type=pathlib.Path, metavar="OUT", help="the file to write, .keras or .h5")
    add("--no-fold", action="store_true", help="cut zeros alone: fold no constant into a bias")
    add("--force", action="store_true", help="replace OUT if it is there")
    _add_import(command)

    def run(options: argparse.Namespace) -> None:
        source, target = options.source, options.target
        if target.suffix not in files.ENDINGS:
            endings = " or ".join(files.ENDINGS)
            command.error(f"argument OUT: must end in {endings}, not be {target}")
        try:
            if not target.parent.is_dir():
                command.error(f"argument OUT: there is no directory {target.parent}")
            if target.exists() and not (options.force and target.is_file()):
                command.error(f"argument OUT: {target} is there already; --force replaces a file")
        except OSError as error:
            command.error(f"argument OUT: {error}")
        _import(options.modules, command)
        compact.run(source, target, fold=not options.no_fold)

    return run


def _report(commands: Any) -> Callable[[argparse.Namespace], None]:
    """Adds `tfreg report`; the function of its options that runs it."""
    command = commands.add_parser(
        "report",
        help="show what penalties did to a saved model, and what compact would leave",
        description="Shows what penalties did to a saved model, and what compact would leave.",
        epilog=EXAMPLES_OF_REPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("model", type=pathlib.Path, metavar="MODEL", help="a model's .keras or .h5 file")
    add("--json", action="store_true", help="print JSON, and nothing else, on standard output")
    add("--plot", type=pathlib.Path, metavar="FILE", help="draw the norms into a picture")
    add(
        "--compare",
        type=pathlib.Path,
        metavar="OTHER",
        help="compare MODEL, before, with the model of this file, after; --plot draws the latter",
    )
    add("--penalty", metavar="NAME", help="put this penalty over all kernels first")
    add(
        "--axis",
        type=report.axis_of,
        help="that of --penalty: a number, several as in --axis=0,1, or a name such as output",
    )
    add("--factor", type=float, help="that of --penalty (default: its own)")
    add(
        "--tolerance",
        type=float,
        default=1e-3,
        help="groups count as small up to this share of the largest norm (default: %(default)s)",
    )
    themes = ["light", "dark"]
    add("--theme", choices=themes, default="light", help="that of --plot (default: %(default)s)")
    _add_import(command)

    def run(options: argparse.Namespace) -> None:
        if not 0 <= options.tolerance < 1:
            command.error(f"argument --tolerance: must be in [0, 1), not {options.tolerance}")
        _import(options.modules, command)
        penalty = None
        if options.penalty is not None:
            try:
                penalty = report.penalty_named(options.penalty, options.axis, options.factor)
            except (TypeError, ValueError) as error:
                command.error(f"argument --penalty: {error}")
        for name in ("axis", "factor"):
            if penalty is None and getattr(options, name) is not None:
                command.error(f"argument --{name}: goes with --penalty alone")
        report.run(
            options.model,
            options.compare,
            penalty,
            options.tolerance,
            options.json,
            options.plot,
            options.theme,
        )

    return run


def _add_import(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--import",
        action="append",
        default=[],
        dest="modules",
        metavar="MODULE",
        help="a module that registers layers and penalties of your own; may be given again",
    )


def _import(modules: list[str], command: argparse.ArgumentParser) -> None:
    try:
        files.import_modules(modules)
    except (Exception, SystemExit) as error:  # whatever the module raises
        command.error(f"argument --import: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
